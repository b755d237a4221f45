"""How many torch operations a simulated case takes: one at a time and in batches, as on a GPU.

    python benchmarks/operations.py --data runs/default/data           # 24 cases of 48^3 voxels of 3 mm
    python benchmarks/operations.py --data runs/default/data --full    # 96 x 112 x 96 of 2 mm

A GPU starts each operation anew, which takes longer than what it computes for one case. The script counts
them with the CPU as the device and without compiled loops: operations on fields (1,000 numbers or more), on
small tensors, and numbers that Python waits for. Views cost nothing and do not count. Small tensors mostly
lie on the CPU where fields are on a GPU.
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from anystroke.core import gathering
from anystroke.core.compiled import as_on_a_card
from anystroke.simulation.batches import Order, generate_batch
from anystroke.simulation.cohorts import load_pack
from anystroke.simulation.generator import Generator
from anystroke.simulation.settings import SynthesisSettings

_FIELD = 1000
# Matrices of interpolation and smoothing are made on the CPU, in double precision.
_EXACT_FIELD = 100_000
_VIEWS = frozenset(
    {"view", "slice", "select", "expand", "transpose", "permute", "unsqueeze", "squeeze", "t", "alias"}
    | {"as_strided", "unbind", "split", "split_with_sizes", "_unsafe_view", "detach", "_reshape_alias"}
    | {"unfold", "lift_fresh", "empty", "empty_like", "new_empty"}
)


class _Counting(TorchDispatchMode):
    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name == "_local_scalar_dense":
            self.found["waits"] += 1
        elif name not in _VIEWS:
            leaves = [leaf for leaf in tree_leaves((args, result)) if isinstance(leaf, Tensor)]
            exact = all(leaf.dtype == torch.float64 for leaf in leaves)
            largest = max((leaf.numel() for leaf in leaves), default=0)
            self.found["fields" if largest >= (_EXACT_FIELD if exact else _FIELD) else "small"] += 1
        return result


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Count the operations of a block, with those of the jobs that it does together.

    Yields:
        ``fields``, ``small`` and ``waits``, rising.
    """
    found: Counter[str] = Counter()

    class CountedThread(Thread):
        def run(self) -> None:
            # A dispatch mode belongs to a thread.
            with _Counting(found):
                super().run()

    before, gathering.Thread = gathering.Thread, CountedThread  # type: ignore[attr-defined]
    try:
        with _Counting(found):
            yield found
    finally:
        gathering.Thread = before  # type: ignore[attr-defined]


def operations_per_case(work: Callable[[], int]) -> float:
    """Return the operations on fields for each case that a way of making cases takes.

    Args:
        work: Makes cases; returns how many.
    """
    with counted() as found:
        made = work()
    return found["fields"] / made


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="data folder of a run")
    parser.add_argument("--full", action="store_true", help="96 x 112 x 96 voxels of 2 mm")
    parser.add_argument("--cases", type=int, default=24)
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 4, 8, 24])
    options = parser.parse_args()
    torch.set_num_threads(1)
    shape, spacing = ((96, 112, 96), 2.0) if options.full else ((48, 48, 48), 3.0)
    patients = load_pack(options.data)
    generator = Generator(SynthesisSettings(shapes=(shape,), spacing=spacing), patients.masks)
    anatomies = patients.anatomies[:4]
    orders = [Order(anatomies[key % len(anatomies)], 1000 + key) for key in range(options.cases)]
    print("| at once | fields | small | waits | seconds, counting |\n|---|---|---|---|---|")
    with as_on_a_card():
        for at_once in options.at_once:
            started = time.perf_counter()
            with counted() as found:
                for first in range(0, len(orders), at_once):
                    generate_batch(generator, orders[first : first + at_once])
            each = [found[kind] / len(orders) for kind in ("fields", "small", "waits")]
            seconds = (time.perf_counter() - started) / len(orders)
            print(f"| {at_once} | {' | '.join(f'{v:.0f}' for v in each)} | {seconds:.2f} |", flush=True)


if __name__ == "__main__":
    main()
