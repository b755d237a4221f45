"""Generators of TorchIO and MONAI to compare speeds with.

Both give a label map a random deformation, one Gaussian per label, bias field, noise and lower resolution.
"""

from collections.abc import Callable
from pathlib import Path

import torch

from anystroke.core.fields import GridShape
from anystroke.core.volume import Volume
from anystroke.simulation.cohorts import load_pack


def label_map(data: Path, spacing: float) -> Volume:
    """Return the labels of the first anatomy of packed data on voxels of about the size of the cases'."""
    field = load_pack(data).anatomies[0].tissues
    if hasattr(field, "labels"):
        labels = field.labels
    else:
        labels = (field.shares.argmax(0) + 1) * (field.shares.sum(0) > 0.5)
    voxel = abs(float(torch.linalg.det(field.affine[:3, :3]))) ** (1 / 3)
    step = max(round(spacing / voxel), 1)
    return Volume(
        labels[::step, ::step, ::step].int()[None],
        field.affine @ torch.diag(torch.tensor([step] * 3 + [1.0])).double(),
    )


def torchio_pipeline(labels: Volume, shape: GridShape) -> Callable[[int], None]:
    """Return TorchIO's labels-to-image pipeline with the changes that its documentation names for MR.

    Args:
        labels: int, 0 is background.
        shape: Voxels of what is made, as large as those of the labels.

    Raises:
        ImportError: There is no TorchIO.
    """
    import torchio

    data = labels.data.to(torch.int16)
    transform = torchio.Compose(
        [
            torchio.CropOrPad(shape),
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


def monai_pipeline(labels: Volume, shape: GridShape) -> Callable[[int], None]:
    """Return a MONAI pipeline: one Gaussian per label, and the same kinds of change.

    Args:
        labels: int, 0 is background.
        shape: Voxels of what is made, as large as those of the labels.

    Raises:
        ImportError: There is no MONAI.
    """
    from monai import transforms

    count = int(labels.data.max()) + 1
    data = labels.data.float()
    spatial = transforms.Rand3DElastic(
        sigma_range=(5, 7),
        magnitude_range=(50, 150),
        prob=1.0,
        rotate_range=(0.26,) * 3,
        scale_range=(0.15,) * 3,
        spatial_size=shape,
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
