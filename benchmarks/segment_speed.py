"""Time and memory of the whole command on one scan, beside one bare network pass in the same run.

python benchmarks/segment_speed.py SCAN [--model default]
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from anystroke.learning.networks import residual_unet
from anystroke.volume import Volume


def published_pass(side: int) -> float:
    """Return the seconds of one pass of the published 18.6 M network over one window."""
    network = residual_unet(6).eval()
    window = torch.zeros(1, 1, side, side, side)
    with torch.no_grad():
        network(window)
        started = time.perf_counter()
        network(window)
    return time.perf_counter() - started


def main() -> None:
    """Run the benchmark and print one line per figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scan", type=Path)
    parser.add_argument("--model", default="default")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    scan = Volume.load(arguments.scan)
    print(
        f"scan {scan.shape}, {tuple(round(s, 2) for s in scan.spacing)} mm, {torch.get_num_threads()} threads"
    )
    seconds = []
    for _ in range(arguments.repeats):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "anystroke", "segment", str(arguments.scan), "-o", folder]
            started = time.perf_counter()
            subprocess.run([*command, "--model", arguments.model], check=True, stdout=subprocess.DEVNULL)
            seconds.append(time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    fastest = min(seconds)
    window = published_pass(128)
    print(
        f"command: fastest {fastest:.1f} s of {', '.join(f'{s:.1f}' for s in seconds)}; peak {peak:.2f} GiB"
    )
    print(f"one 128^3 window of the published network: {window:.1f} s; ratio {fastest / window:.1f}")


if __name__ == "__main__":
    main()
