"""A cohort run whose process is killed in the middle, and what an unprivileged user without a home can do."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from anystroke.core.files import sha256
from stand_in import axial_affine, phantom

SHAPE = (48, 56, 40)
AFFINE = axial_affine(4.0, 4.0, 4.5, shape=SHAPE)
COUNT = 6

PROGRAM = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    from anystroke.tasks.segmentation import files as batch
    from stand_in import stand_in_model

    real = batch.segment
    def slow(*a, **k):
        time.sleep(float(sys.argv[3]))
        print("network", flush=True)
        return real(*a, **k)
    batch.segment = slow
    on_cpu = batch.SegmentOptions(device="cpu")
    inputs = sorted(Path(sys.argv[1]).glob("*.nii.gz"))
    for outcome in batch.segment_files(inputs, sys.argv[2], stand_in_model(), on_cpu):
        print(outcome.status, flush=True)
    """
)


def _environment(**changes: str) -> dict[str, str]:
    tests = Path(__file__).resolve().parents[2]
    paths = [str(tests), str(tests.parent / "src"), os.environ.get("PYTHONPATH", "")]
    kept = {key: value for key, value in os.environ.items() if key not in ("HOME", "USER", "LOGNAME")}
    return kept | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"} | changes


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_killed_in_the_middle_and_run_again(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for i in range(COUNT):
        phantom(AFFINE, SHAPE).save(tmp_path / "in" / f"s{i}.nii.gz")
    before = {path.name: sha256(path) for path in (tmp_path / "in").iterdir()}
    out = tmp_path / "out"
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "in"), str(out)]
    process = subprocess.Popen([*command, "0.3"], env=_environment(), stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list(out.glob("*_mask.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = {path.name: path.stat().st_mtime_ns for path in out.glob("*_mask.json")}
    assert 2 <= len(finished) < COUNT
    again = subprocess.run([*command, "0"], env=_environment(), capture_output=True, text=True, check=True)
    words = again.stdout.split()
    assert words.count("kept") == len(finished)
    assert words.count("network") == COUNT - len(finished)
    assert words.count("done") == COUNT - len(finished)
    masks = {path.name: path.stat().st_mtime_ns for path in out.glob("*_mask.json")}
    assert len(masks) == COUNT
    assert finished.items() <= masks.items()
    assert not list(out.glob(".anystroke-*"))
    assert len((out / "volumes.tsv").read_text().splitlines()) == 1 + COUNT
    assert {path.name: sha256(path) for path in (tmp_path / "in").iterdir()} == before
