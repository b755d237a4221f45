"""Measure what the images of a training are like, and write that into a model's configuration.

    python benchmarks/image_range.py whole-heads runs/default/data src/anystroke/weights/default

For models of a training that did not do so at its end; the cases are those that would have followed.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from anystroke.learning.sources.packing import sources_of
from anystroke.learning.stream import CaseStream
from anystroke.learning.supply import RANGE_CASES, stream_settings
from anystroke.models.checkpoints import load_config, save_config
from anystroke.models.image_features import image_features, image_range
from anystroke.models.model_space import normalise_intensity
from anystroke.tasks.segmentation.config import SegmentationConfig
from anystroke.tasks.segmentation.recipe import TrainingSettings, load_recipe


def measure(settings: TrainingSettings, data: Path, count: int) -> Iterator[dict[str, float]]:
    """Simulate cases and measure their images."""
    cases = CaseStream(sources_of(settings, data), stream_settings(settings))
    start = time.perf_counter()
    first = settings.optimiser.steps * settings.optimiser.accumulate
    done = 0
    for number in range(first, first + count):
        for case in cases.cases(number):
            image = normalise_intensity(case.image, settings.grid.normalisation)
            yield image_features(image, spacing=settings.grid.spacing)
            done += 1
            if done % 20 == 0:
                print(f"{done} cases, {time.perf_counter() - start:.0f} s", flush=True)
            if done == count:
                return


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("data", type=Path, help="the run's packed data")
    parser.add_argument("model", type=Path, help="model folder whose config.json gets the range")
    parser.add_argument("--cases", type=int, default=RANGE_CASES)
    arguments = parser.parse_args()
    found = image_range(list(measure(load_recipe(arguments.recipe), arguments.data, arguments.cases)))
    config = load_config(arguments.model, SegmentationConfig)
    save_config(arguments.model, config.model_copy(update={"image_range": found}))
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
