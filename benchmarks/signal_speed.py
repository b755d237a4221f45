"""Time the signal of every sequence beside moving the same maps through memory.

For each sequence, at 192^3 in float32: reading four maps and writing one image (in the same cache-sized
blocks, with one addition per map, into reused memory), the protocol's signal without and with a transmit
field, and their ratio. The two are timed in turns, so that other load on the machine falls on both. Run:

    python benchmarks/signal_speed.py [--size 192] [--threads 2] [--repeats 15]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from anystroke.acquisition.base import Protocol
from anystroke.acquisition.fast.blocks import in_blocks
from anystroke.acquisition.presets.preset import load_preset
from anystroke.core.memory import keep_pages
from anystroke.core.rng import stream
from anystroke.qmri.tissue_priors import MAPS, load_table

TISSUES = ("white_matter", "cortical_grey_matter", "ventricular_csf", "chronic_core", "background")


def brain_maps(size: int) -> dict[str, Tensor]:
    """Maps of the size of a brain scan, with the tissues' own values in random places."""
    draw = load_table().sample(stream(0), TISSUES)
    rng = torch.Generator().manual_seed(0)
    tissue = torch.randint(len(TISSUES), (size, size, size), generator=rng)
    maps = {name: draw.mean[:, column][tissue].contiguous() for column, name in enumerate(MAPS)}
    return {name: one.mul_(1.0 + 0.05 * torch.rand(one.shape, generator=rng)) for name, one in maps.items()}


def milliseconds(function: Callable[[], object]) -> float:
    """Time one call."""
    start = time.perf_counter()
    function()
    return (time.perf_counter() - start) * 1e3


def memory_pass(maps: dict[str, Tensor]) -> Tensor:
    """Read four maps and write one image."""
    four = {name: maps[name] for name in MAPS[:4]}

    def add(block: dict[str, Tensor]) -> Tensor:
        first, second, third, fourth = block.values()
        return torch.add(first, second).add_(third).add_(fourth)

    return in_blocks(add, four)


def one_of_each() -> dict[str, Protocol]:
    """The first protocol that the realistic preset draws of each name."""
    preset = load_preset("realistic")
    drawn = (entry.draw(stream(1, entry.name)) for entry in preset.entries)
    protocols: dict[str, Protocol] = {}
    for protocol in drawn:
        protocols.setdefault(protocol.name, protocol)
    return protocols


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_pages()
    maps = brain_maps(arguments.size)
    b1_plus = torch.linspace(0.8, 1.2, arguments.size).expand(maps["r1"].shape).contiguous()
    threads, repeats = arguments.threads, arguments.repeats
    print(f"{arguments.size}^3 float32, {threads} threads, median (least) of {repeats}, ms")
    print(f"{'':22}{'memory':>16}{'signal':>16}{'ratio':>8}{'with B1+':>16}{'ratio':>8}")
    for name, protocol in one_of_each().items():
        calls: list[Callable[[], object]] = [
            lambda: memory_pass(maps),
            lambda p=protocol: p.signal(maps),  # type: ignore[misc]
            lambda p=protocol: p.signal(maps, b1_plus=b1_plus),  # type: ignore[misc]
        ]
        for call in calls:
            call()
        rounds = [[milliseconds(call) for call in calls] for _ in range(arguments.repeats)]
        medians = [statistics.median(column) for column in zip(*rounds, strict=True)]
        least = [min(column) for column in zip(*rounds, strict=True)]
        cells = [f"{middle:8.1f} ({low:5.1f})" for middle, low in zip(medians, least, strict=True)]
        print(
            f"{name:22}{cells[0]:>16}{cells[1]:>16}{medians[1] / medians[0]:8.2f}"
            f"{cells[2]:>16}{medians[2] / medians[0]:8.2f}"
        )


if __name__ == "__main__":
    main()
