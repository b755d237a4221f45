"""Does the network wait for its cases, and how fast are steps beside nnU-Net's plain U-Net?

    python benchmarks/training_speed.py --data runs/default/data --steps 20

Cases are made by worker processes while the network learns, as in any training. Rates are of one run on one
machine: only their ratio means something elsewhere.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from anystroke.learning.case_stream import Batch, CaseStream, StreamSettings, stream_loader
from anystroke.learning.recipes import TrainingSettings
from anystroke.learning.sources import sources_of
from anystroke.learning.trainer import Trainer
from anystroke.memory import keep_pages


def settings(architecture: str, side: int) -> TrainingSettings:
    """Return a recipe with cubes of so many voxels of 2 mm."""
    return TrainingSettings.model_validate(
        {
            "name": "speed",
            "architecture": architecture,
            "grid": {"spacing": 2.0, "shapes": [[side] * 3]},
            "sources": [{"kind": "simulated"}],
        }
    )


def waiting(data: Path, *, side: int, steps: int, workers: int) -> tuple[dict[str, float], list[Batch]]:
    """Train the default network; return rate and share of waiting, and the batches it saw last."""
    recipe = settings("compact_unet", side)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(recipe, Path(folder))
        drawn = StreamSettings((1,), recipe.grid.shapes, (1.0,), recipe.seed)
        batches = iter(stream_loader(CaseStream(sources_of(recipe, data), drawn), workers=workers))
        kept = [next(batches) for _ in range(3)]
        for batch in kept:
            trainer.train_step(batch)
        waited = 0.0
        start = time.perf_counter()
        for _ in range(steps):
            before = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - before
            trainer.train_step(batch)
        total = time.perf_counter() - start
    return {"steps_per_second": steps / total, "waiting_percent": 100 * waited / total}, kept


def rate(architecture: str, batches: Sequence[Batch], *, side: int, steps: int) -> float:
    """Return the steps per second of an architecture on batches that are there already."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(settings(architecture, side), Path(folder))
        trainer.train_step(batches[0])
        start = time.perf_counter()
        for number in range(steps):
            trainer.train_step(batches[number % len(batches)])
        return steps / (time.perf_counter() - start)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="data folder of a run")
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    keep_pages()
    found, batches = waiting(options.data, side=options.side, steps=options.steps, workers=options.workers)
    few = max(2, options.steps // 5)
    rates = {
        name: rate(name, batches, side=options.side, steps=few)
        for name in ("compact_unet", "small_unet", "residual_unet", "plain_unet")
    }
    relative = {name: value / rates["plain_unet"] for name, value in rates.items()}
    print(
        json.dumps({**found, "threads": torch.get_num_threads(), "rate_over_plain_unet": relative}, indent=1)
    )


if __name__ == "__main__":
    main()
