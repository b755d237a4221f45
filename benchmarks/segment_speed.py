"""Time and memory of segmentation, beside MONAI's sliding windows over the published network in the same run.

    python benchmarks/segment_speed.py [SCAN] [--cohort 20] [--output speed.json]

Without a scan, a simulated one of 181 x 217 x 181 voxels of 1 mm is taken. Each call is a process of its own,
from the command to the files. A cohort is one call for so many copies of the scan; its rate is compared with
that of single calls. Seconds are of one machine; ratios within one run mean something elsewhere.
"""

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from anystroke.anatomy.tissues.mni import mni_anatomy
from anystroke.core.memory import keep_pages
from anystroke.core.rng import stream
from anystroke.core.volume import Volume
from anystroke.models.architectures.catalogue import residual_unet
from anystroke.models.checkpoints import open_network, shipped_models
from anystroke.simulation.generator import Generator
from anystroke.simulation.settings import SynthesisSettings
from anystroke.tasks.segmentation.config import SegmentationConfig

SHAPE = (181, 217, 181)
WINDOW = 192
HEAD = (96, 112, 96)


def call(scans: list[Path], *options: str) -> float:
    """Segment scans in a new process; return its seconds."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "anystroke", "segment", *map(str, scans), "-o", folder, *options]
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return time.perf_counter() - started


def sliding_windows(scan: Volume) -> float:
    """Return the seconds of MONAI's inferer with the published network, without flips or files."""
    from monai.inferers.inferer import SlidingWindowInferer

    network = residual_unet(6).eval()
    inferer = SlidingWindowInferer((WINDOW,) * 3, 1, overlap=0.5, mode="gaussian", sigma_scale=0.125)
    image = torch.nn.functional.pad(
        scan.data[None], [v for n in reversed(scan.shape) for v in (0, max(0, WINDOW - n))]
    )
    started = time.perf_counter()
    with torch.inference_mode():
        inferer(image, network)
    return time.perf_counter() - started


def passes(rounds: int = 8) -> dict[str, float]:
    """Return how long one pass of each shipped model takes, in units of the default's; passes alternate."""
    image = torch.randn(1, 1, *HEAD)
    networks = {name: open_network(name, SegmentationConfig).network.eval() for name in shipped_models()}
    ratios: dict[str, list[float]] = {name: [] for name in networks}
    with torch.inference_mode():
        for network in networks.values():
            network(image)
        for _ in range(rounds):
            seconds = {}
            for name, network in networks.items():
                started = time.perf_counter()
                network(image)
                seconds[name] = time.perf_counter() - started
            for name in networks:
                ratios[name].append(seconds[name] / seconds["default"])
    return {name: round(statistics.median(values), 2) for name, values in ratios.items()}


def simulated(path: Path) -> None:
    """Write a simulated scan without lesion."""
    settings = SynthesisSettings(spacing=1.0, shapes=(SHAPE,), weighting="T1w")
    sample = Generator(settings)(mni_anatomy(), [], rng=stream(5, "speed"))
    Volume(sample.image[None], sample.affine).save(path)


def main() -> None:
    """Run the benchmark and print one line per figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("scan", type=Path, nargs="?")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cohort", type=int, default=0, help="scans of one call; 0 for none")
    parser.add_argument("--paper", action="store_true", help="time the published processing as well")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    keep_pages()
    found: dict[str, Any] = {"threads": torch.get_num_threads(), "pass_over_default": passes()}
    for name, ratio in found["pass_over_default"].items():
        print(f"one pass of {name}: {ratio:.2f} of the default's time", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.scan or Path(folder) / "scan.nii.gz"
        if arguments.scan is None:
            simulated(path)
        scan = Volume.load(path)
        found["shape"], found["spacing"] = scan.shape, [round(s, 3) for s in scan.spacing]
        for name, options in (("default", ("--no-report",)), ("with_report", ())):
            seconds = [call([path], *options) for _ in range(arguments.repeats)]
            found[f"{name}_seconds"] = round(min(seconds), 2)
            print(
                f"{name}: fastest {min(seconds):.1f} s of {', '.join(f'{s:.1f}' for s in seconds)}",
                flush=True,
            )
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        found["default_peak_gib"] = round(peak, 2)
        print(f"peak memory {peak:.2f} GiB", flush=True)
        windows = sliding_windows(scan)
        found["monai_windows_seconds"] = round(windows, 2)
        found["windows_over_default"] = round(windows / found["default_seconds"], 2)
        print(f"MONAI's windows with the published network, no flips, no files: {windows:.1f} s", flush=True)
        if arguments.paper:
            found["paper_one_pass_seconds"] = round(
                call([path], "--preset", "paper-one-pass", "--no-report"), 1
            )
            print(f"--preset paper-one-pass: {found['paper_one_pass_seconds']} s", flush=True)
        if arguments.cohort:
            copies = [
                Path(folder) / f"sub-{i:02d}_T1w{''.join(path.suffixes[-2:])}"
                for i in range(arguments.cohort)
            ]
            for copy in copies:
                shutil.copyfile(path, copy)
            together = call(copies, "--no-report")
            ratio = found["default_seconds"] * arguments.cohort / together
            found["cohort"] = {
                "scans": arguments.cohort,
                "seconds": round(together, 1),
                "rate_over_single_calls": round(ratio, 2),
            }
            print(
                f"{arguments.cohort} scans in one call: {together:.1f} s, {ratio:.2f} times the rate",
                flush=True,
            )
    if arguments.output:
        arguments.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
