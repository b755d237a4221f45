"""What the program writes, as hashes: two states of the code behave the same if their hashes are the same.

    python benchmarks/behaviour.py OUT.json [--against OTHER.json] [--only segment simulate] [--keep FOLDER]

Runs the commands of `COMMANDS` as a user would, in a folder of their own, on patients that `anystroke
simulate` makes of the package's own brain, and hashes each file that they write (see ``fingerprints``).
With --against it prints what differs, is missing or is new, and exits with 1 if anything is. The package
is that of this checkout, or of --source. Every process has one thread, so that sums are taken in one
order; hashes of two machines, or of two versions of torch, may differ.
"""

import argparse
import json
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from fingerprints import fingerprint

SOURCE = Path(__file__).resolve().parents[1] / "src"
FAILED = "(failed)"
_THREADS = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)  # fmt: skip
_TIME = re.compile(r"\d{8}T\d{6}(?:-\d+)?")
_RECIPE = """name = "tiny"
architecture = "tiny_unet"
{task}[grid]
spacing = 4.0
shapes = [[32, 32, 32]]
[data]
package = 6
held_out_lesions = 0.5
[[sources]]
kind = "simulated"
{source}
[optimiser]
steps = 3
batch = 2
checkpoint_every = 2
workers = 0
precision = "float32"
[validation]
every = 3
patients = 1
"""
_T1W, _FLAIR = "simulate/sub-0001/anat/sub-0001_T1w.nii.gz", "simulate/sub-0001/anat/sub-0001_FLAIR.nii.gz"
_PATIENT = ("patient/sub-01_T1w.nii.gz", "patient/sub-01_FLAIR.nii.gz")
_TRUTH = "simulate/derivatives/anystroke-truth/sub-0001/anat/sub-0001_label-L_mask.nii.gz"


@dataclass(frozen=True)
class Command:
    """One call of the program.

    Attributes:
        name: Of the call; also the folder that it writes, below the common one.
        arguments: From the verb on, without ``-o``; paths are relative to the common folder.
        after: Names of the calls whose files it reads.
        files: Texts that it reads, by path.
        copies: Files that it reads under another name, by the new path.
    """

    name: str
    arguments: str
    after: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    copies: Mapping[str, str] = field(default_factory=dict)


COMMANDS = (
    Command("simulate", "simulate --weighting T1w,FLAIR --shape 80,96,80 --seed 7 --maps"),
    Command("benchmark", "benchmark small threshold --patients 1 --sequence FLAIR --threads 1"),
    Command(
        "train",
        "train tiny.toml --accelerator cpu --minutes 0",
        files={"tiny.toml": _RECIPE.format(task="", source="")},
    ),
    Command(
        "train-qmri",
        "train tiny-qmri.toml --accelerator cpu --minutes 0",
        files={
            "tiny-qmri.toml": _RECIPE.format(
                task='task = "qmri"\n', source='synthesis = { preset = "estimator" }'
            )
        },
    ),
    Command(
        "simulate-nnunet/Dataset501_Stroke",
        "simulate --weighting DWI,ADC --stage acute --format nnunet --all-classes"
        " --shape 64,76,64 --spacing 3 --seed 11",
    ),
    Command(
        "segment",
        f"segment {_T1W} --tissues --uncertainty --write-fmriprep-roi --threads 1",
        after=("simulate",),
    ),
    Command(
        "segment-small",
        f"segment {' '.join(_PATIENT)} --model small --together --flip --min-volume 0.1 --no-report"
        " --threads 1",
        after=("simulate",),
        copies=dict(zip(_PATIENT, (_T1W, _FLAIR), strict=True)),
    ),
    Command("estimate-qmri", f"estimate-qmri {_T1W} --simulate flair,t2w --threads 1", after=("simulate",)),
    Command(
        "evaluate",
        "evaluate pairs.tsv --preset isles22",
        after=("simulate", "segment", "segment-small"),
        files={
            "pairs.tsv": f"id\tprediction\ttruth\tsequence\n"
            f"one\tsegment/sub-0001_space-orig_label-L_desc-T1w_mask.nii.gz\t{_TRUTH}\tT1w\n"
            f"two\tsegment-small/sub-01_space-orig_label-L_desc-FLAIRFused_mask.nii.gz\t{_TRUTH}\tFLAIR\n"
        },
    ),
    Command("evaluate-qsynth", "evaluate pairs.tsv --preset qsynth", after=("evaluate",)),
    Command("compare", "compare benchmark/scores/small benchmark/scores/threshold", after=("benchmark",)),
)


def chosen(names: Sequence[str]) -> tuple[Command, ...]:
    """Return the commands of these names, and those whose files they read.

    Raises:
        ValueError: There is no such command.
    """
    known = {command.name: command for command in COMMANDS}
    wanted, open_names = set[str](), list(names)
    while open_names:
        name = open_names.pop()
        if name not in known:
            raise ValueError(f"expected some of {', '.join(known)}, got {name}")
        wanted.add(name)
        open_names += known[name].after
    return tuple(command for command in COMMANDS if command.name in wanted)


def call(command: Command, folder: Path, source: Path) -> dict[str, str]:
    """Run a command in a process of its own, and hash what it wrote.

    Args:
        command: What to run.
        folder: The common folder.
        source: Folder that holds the package.

    Returns:
        The SHA-256 of each file, by its path below the common folder; of a command that failed, an entry
        ``(failed)`` with the last line that it printed.
    """
    for name, text in command.files.items():
        (folder / name).write_text(text, encoding="utf-8")
    for name, source_name in command.copies.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / source_name, folder / name)
    output = folder / command.name
    output.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | dict.fromkeys(_THREADS, "1")
    environment |= {"PYTHONPATH": str(source), "MPLBACKEND": "Agg", "CUDA_VISIBLE_DEVICES": ""}
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "anystroke", *shlex.split(command.arguments), "-o", command.name],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    print(f"{command.name}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    if done.returncode:
        said = [line for line in done.stdout.splitlines() if line.strip()] or [
            f"exit status {done.returncode}"
        ]
        return {f"{command.name}/{FAILED}": said[-1].strip()}
    return hashed(output, command.name)


def hashed(folder: Path, name: str) -> dict[str, str]:
    """Return the SHA-256 of each file of a folder by ``name/path``.

    Times in a file's name are left out of the path; event files of TensorBoard are not hashed.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        f"{name}/{_TIME.sub('...', path.relative_to(folder).as_posix())}": fingerprint(path)
        for path in files
        if not path.name.startswith("events.out.tfevents.")
    }


def run(commands: Sequence[Command], folder: Path, source: Path, processes: int = 2) -> dict[str, str]:
    """Run commands, each after those whose files it reads, and return the hashes of all that they wrote."""
    calls: dict[str, Future[dict[str, str]]] = {}

    def wait_and_call(command: Command) -> dict[str, str]:
        for name in command.after:
            if f"{name}/{FAILED}" in calls[name].result():
                return {f"{command.name}/{FAILED}": f"it reads what {name} writes, which failed"}
        return call(command, folder, source)

    with ThreadPoolExecutor(processes) as pool:
        for command in commands:
            calls[command.name] = pool.submit(wait_and_call, command)
        return {path: one for each in calls.values() for path, one in each.result().items()}


def differences(found: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """Say in a line each what another state wrote otherwise, what is missing here, and what is new here.

    Example:
        >>> differences({"a": "1", "b": "2"}, {"a": "3", "c": "4"})
        ['differs: a', 'new: b', 'missing: c']
    """
    lines = [f"differs: {path}" for path in sorted(found) if path in other and found[path] != other[path]]
    lines += [f"new: {path}" for path in sorted(found.keys() - other.keys())]
    return [*lines, *(f"missing: {path}" for path in sorted(other.keys() - found.keys()))]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the commands, write their hashes and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("output", type=Path, help="JSON of the hashes")
    parser.add_argument("--against", type=Path, help="JSON of another state")
    parser.add_argument("--only", nargs="+", default=[one.name for one in COMMANDS], help="some commands")
    parser.add_argument("--keep", type=Path, help="new folder for the files; a temporary one without it")
    parser.add_argument("--source", type=Path, default=SOURCE, help="folder that holds the package")
    parser.add_argument("--processes", type=int, default=2, help="commands at one time")
    options = parser.parse_args(arguments)
    commands = chosen(options.only)
    other = json.loads(options.against.read_text(encoding="utf-8")) if options.against else None
    if options.keep:
        options.keep.mkdir(parents=True)
    with nullcontext(options.keep) if options.keep else tempfile.TemporaryDirectory() as folder:
        found = run(commands, Path(folder), options.source.resolve(), options.processes)
    options.output.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    failed = [
        f"failed: {path.removesuffix('/' + FAILED)}: {said}" for path, said in found.items() if FAILED in path
    ]
    if other is not None:
        names = tuple(f"{command.name}/" for command in commands)
        other = {path: one for path, one in other.items() if path.startswith(names)}
    changed = [] if other is None else differences(found, other)
    for line in [*failed, *changed]:
        print(line)
    cpu = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{cpu.ru_utime + cpu.ru_stime:.0f} s of one core", file=sys.stderr)
    compared = "" if other is None else f", {len(changed)} other than in {options.against}"
    print(f"{len(found)} files of {len(commands)} commands{compared}")
    return 1 if failed or changed else 0


if __name__ == "__main__":
    sys.exit(main())
