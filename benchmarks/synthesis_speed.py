"""Time the generator beside TorchIO and MONAI, in one process, on one anatomy.

Every contestant makes one labelled head scan of 192^3 voxels of 1 mm with a random deformation, intensities,
bias field, noise and lower resolution. TorchIO and MONAI draw one Gaussian per label; the generator has
quantitative maps, a lesion, a protocol and its signal equation besides. What one takes is given as a multiple
of what the generator takes, so that the machine's speed cancels.

    pip install torchio
    python benchmarks/synthesis_speed.py LABELS.nii.gz --lesion MASK.nii.gz
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from other_generators import monai_pipeline, torchio_pipeline
from peak_memory import rise

from anystroke.anatomy.lesions.bank import blob_lesion, load_masks
from anystroke.anatomy.registration.affine import stored_registration
from anystroke.anatomy.tissues.anatomies import build_anatomy
from anystroke.anatomy.tissues.label_maps import load_label_map
from anystroke.core.memory import keep_pages
from anystroke.core.rng import stream
from anystroke.core.volume import Volume
from anystroke.models.model_space import normalise_intensity
from anystroke.simulation.generator import Generator
from anystroke.simulation.settings import SynthesisSettings

SIDE = 192
_SHAPE = (SIDE, SIDE, SIDE)


def peak_memory(number: int) -> float:
    """Return how far one sample lifts the memory of a fresh process above what its inputs take, in GiB."""
    command = [sys.executable, *sys.argv, "--memory-of", str(number)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(printed.split()[-1].replace("None", "nan"))


def median_seconds(work: Callable[[int], None], count: int) -> float:
    """Return the median time of the calls after the first."""
    work(0)
    times = []
    for number in range(1, count + 1):
        started = time.perf_counter()
        work(number)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def own_pipeline(source: Path, lesion: Path | None, *, side: int, spacing: float) -> Callable[[int], None]:
    """Return the generator with its default settings, a lesion in every sample."""
    labels, scheme = load_label_map(source)
    anatomy = build_anatomy(labels, scheme, stored_registration(source).affine, name="anatomy")
    if lesion is None:
        masks = [blob_lesion(centre=(-40.0, -10.0, 15.0), volume_ml=40, rng=stream(1, "lesion"))]
    else:
        masks = load_masks([lesion])
    generator = Generator(SynthesisSettings(shapes=((side,) * 3,), spacing=spacing))

    def work(number: int) -> None:
        sample = generator(anatomy, masks, rng=stream(1, "sample", number))
        normalise_intensity(sample.image)

    return work


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("labels", type=Path)
    parser.add_argument("--lesion", type=Path)
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    keep_pages()
    raw = Volume.load(arguments.labels, dtype=torch.int32).reorient("RAS")
    _, index = raw.data.unique(return_inverse=True)
    labels = Volume(index, raw.affine)
    source, lesion = arguments.labels, arguments.lesion
    contestants: dict[str, Callable[[int], None]] = {
        "anystroke, 192^3, 1 mm": own_pipeline(source, lesion, side=SIDE, spacing=1.0),
        "anystroke, 96^3, 2 mm": own_pipeline(
            arguments.labels, arguments.lesion, side=SIDE // 2, spacing=2.0
        ),
        "TorchIO, 192^3": torchio_pipeline(labels, _SHAPE),
        "MONAI, 192^3": monai_pipeline(labels, _SHAPE),
    }
    if arguments.memory_of is not None:
        print(rise(partial(list(contestants.values())[arguments.memory_of], 1)))
        return
    base = None
    print(f"{torch.get_num_threads()} threads\n\n| generator | s | ratio | GiB |\n|---|---|---|---|")
    for number, (name, work) in enumerate(contestants.items()):
        seconds = median_seconds(work, arguments.count)
        memory = peak_memory(number)
        base = base or seconds
        print(f"| {name} | {seconds:.2f} | {seconds / base:.2f} | {memory:.2f} |", flush=True)


if __name__ == "__main__":
    main()
