"""Time the generator beside TorchIO and MONAI, in one process, on one anatomy.

Every contestant makes one labelled head scan of 192^3 voxels of 1 mm with a random deformation, intensities,
bias field, noise and lower resolution. TorchIO and MONAI draw one Gaussian per label; the generator has
quantitative maps, a lesion, a protocol and its signal equation besides. What one takes is given as a multiple
of what the generator takes, so that the machine's speed cancels.

    pip install torchio
    python benchmarks/synthesis_speed.py LABELS.nii.gz --lesion MASK.nii.gz
"""

import argparse
import ctypes
import gc
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from anystroke.anatomy.anatomies import build_anatomy
from anystroke.anatomy.label_maps import load_label_map
from anystroke.anatomy.lesions import blob_lesion, load_masks
from anystroke.anatomy.registration import stored_registration
from anystroke.inference.preprocessing import normalise_intensity
from anystroke.memory import keep_pages
from anystroke.rng import stream
from anystroke.synthesis import Generator
from anystroke.synthesis_settings import SynthesisSettings
from anystroke.volume import Volume

SIDE = 192


def peak_memory(number: int) -> float:
    """Return how far one sample lifts the memory of a fresh process above what its inputs take, in GiB."""
    command = [sys.executable, *sys.argv, "--memory-of", str(number)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(printed.split()[-1])


def _rise(work: Callable[[int], None]) -> float:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    # Lets the kernel forget the peak so far.
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    work(1)
    return (_status("VmHWM") - before) / 2**20


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def median_seconds(work: Callable[[int], None], count: int) -> float:
    """Return the median time of the calls after the first."""
    work(0)
    times = []
    for number in range(1, count + 1):
        started = time.perf_counter()
        work(number)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def torchio_pipeline(labels: Volume) -> Callable[[int], None]:
    """Return TorchIO's labels-to-image pipeline with the changes that its documentation names for MR."""
    import torchio

    data = labels.data.to(torch.int16)
    transform = torchio.Compose(
        [
            torchio.CropOrPad((SIDE,) * 3),
            torchio.RandomAffine(scales=0.15, degrees=15, translation=10, image_interpolation="nearest"),
            torchio.RandomElasticDeformation(num_control_points=7, max_displacement=7.5),
            torchio.RandomLabelsToImage(label_key="label", image_key="image"),
            torchio.RandomBiasField(),
            torchio.RandomNoise(std=(0.01, 0.05)),
            torchio.RandomAnisotropy(downsampling=(2, 6)),
            torchio.ZNormalization(),
        ]
    )

    def work(number: int) -> None:
        torch.manual_seed(number)
        label = torchio.LabelMap(tensor=data, affine=labels.affine.numpy())
        transform(torchio.Subject(label=label))

    return work


def monai_pipeline(labels: Volume) -> Callable[[int], None]:
    """Return a MONAI pipeline: one Gaussian per label, and the same kinds of change."""
    from monai import transforms

    count = int(labels.data.max()) + 1
    data = labels.data.float()
    spatial = transforms.Rand3DElastic(
        sigma_range=(5, 7),
        magnitude_range=(50, 150),
        prob=1.0,
        rotate_range=(0.26,) * 3,
        scale_range=(0.15,) * 3,
        spatial_size=(SIDE,) * 3,
        mode="nearest",
        padding_mode="zeros",
    )
    intensity = transforms.Compose(
        [
            transforms.RandBiasField(degree=3, coeff_range=(0.0, 0.1), prob=1.0),
            transforms.RandSimulateLowResolution(prob=1.0, zoom_range=(0.3, 0.9)),
            transforms.RandGaussianNoise(prob=1.0, std=0.05),
            transforms.NormalizeIntensity(),
        ]
    )

    def work(number: int) -> None:
        spatial.set_random_state(number)
        intensity.set_random_state(number)
        generator = torch.Generator().manual_seed(number)
        means, sds = torch.rand((2, count), generator=generator)
        label = spatial(data).long()
        image = means[label] + 0.1 * sds[label] * torch.randn(label.shape, generator=generator)
        intensity(image)

    return work


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
        "TorchIO, 192^3": torchio_pipeline(labels),
        "MONAI, 192^3": monai_pipeline(labels),
    }
    if arguments.memory_of is not None:
        print(_rise(list(contestants.values())[arguments.memory_of]))
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
