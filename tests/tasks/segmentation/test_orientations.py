"""One head in every storage order, tilted, and in thick slices must give one and the same lesion."""

import itertools
import pathlib
from dataclasses import replace

import pytest
import torch

from anystroke.core.volume import Volume
from anystroke.models.checkpoints import shipped_models
from anystroke.tasks.segmentation.predict import Model, segment
from stand_in import axial_affine, dice, lesion_truth, phantom, rotation, stand_in_model

SHAPE = (58, 66, 48)
AFFINE = axial_affine(3.0, 3.1, 3.5, shape=SHAPE)
ORIENTATIONS = [
    "".join(letters)
    for pairs in itertools.permutations(("RL", "AP", "SI"))
    for letters in itertools.product(*pairs)
]


@pytest.fixture(scope="module")
def canonical() -> Volume:
    return segment(phantom(AFFINE, SHAPE), stand_in_model(), device="cpu").probability


def test_there_are_48_orientations() -> None:
    assert len(set(ORIENTATIONS)) == 48


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_storage_order_does_not_matter(orientation: str, canonical: Volume) -> None:
    scan = phantom(AFFINE, SHAPE).reorient(orientation)
    result = segment(scan, stand_in_model(), device="cpu")
    assert result.mask.orientation == orientation
    assert result.mask.shape == scan.shape
    assert torch.equal(result.mask.affine, scan.affine)
    back = result.probability.reorient("RAS")
    assert torch.equal(back.data, canonical.data)
    assert torch.equal(result.mask.reorient("RAS").data.bool(), canonical.data >= 0.5)


@pytest.mark.parametrize(
    ("turn", "spacing", "shape"),
    [
        ((18.0, 25.0), (3.0, 3.1, 3.5), (70, 76, 60)),
        ((0.0, 0.0), (2.0, 2.0, 5.0), (86, 100, 36)),
        ((-12.0, 8.0), (2.0, 5.0, 2.0), (90, 42, 88)),
    ],
    ids=["oblique", "5 mm axial", "5 mm oblique coronal"],
)
def test_other_grids_give_the_same_lesion(
    turn: tuple[float, float],
    spacing: tuple[float, float, float],
    shape: tuple[int, int, int],
    canonical: Volume,
) -> None:
    affine = rotation(*turn) @ axial_affine(*spacing, shape=shape)
    fine = phantom(AFFINE, SHAPE)
    scan = fine.resample_to(affine, shape, antialias=True)
    result = segment(scan, stand_in_model(), device="cpu")
    assert torch.equal(result.mask.affine, scan.affine)
    back = result.probability.resample_to(AFFINE, SHAPE)
    assert dice(back.data >= 0.5, canonical.data >= 0.5) >= 0.95
    assert dice(result.mask.data, lesion_truth(affine, shape)) >= 0.93


@pytest.mark.slow
@pytest.mark.real_data
def test_the_shipped_model_is_indifferent_to_geometry(data_dir: pathlib.Path) -> None:
    if "default" not in shipped_models():
        pytest.skip("no default model is shipped yet")
    model = Model.open("default")
    scan = Volume.load(data_dir / "scans" / "stroke_tutorial" / "T2w.nii")
    golden = segment(scan, model)
    assert golden.lesion_count > 0
    for orientation in ORIENTATIONS:
        result = segment(scan.reorient(orientation), model)
        back = result.mask.reorient(scan.orientation)
        assert dice(back.data, golden.mask.data) >= 0.999, orientation
    # Slices of 5 mm show a real scan's details otherwise; the stand-in above reaches 0.95 with them. A second
    # network draws more details at 1 mm than it can see there (the first network alone agrees at 0.89).
    cases = (
        ((10.0, 15.0), (1.0, 1.0, 1.0), 0.95),
        ((5.0, -8.0), (1.0, 1.0, 1.0), 0.95),
        ((0.0, 0.0), (1.0, 1.0, 5.0), 0.8),
    )
    for turn, spacing, least in cases:
        affine, shape = _covering(scan, turn, spacing)
        resampled = scan.resample_to(affine, shape, antialias=True)
        mask = segment(resampled, model).mask
        back = replace(mask, data=mask.data.float()).resample_to(scan.affine, scan.shape)
        assert dice(back.data >= 0.5, golden.mask.data) >= least, (turn, spacing)


def _covering(
    scan: Volume, turn: tuple[float, float], spacing: tuple[float, float, float]
) -> tuple[torch.Tensor, tuple[int, int, int]]:
    """Lay a turned grid with other voxels over a scan, about its middle."""
    x, y, z = (
        round(n * old / new * 1.1) for n, old, new in zip(scan.shape, scan.spacing, spacing, strict=True)
    )
    middle = torch.tensor([*((n - 1) / 2 for n in scan.shape), 1.0], dtype=torch.float64)
    affine = rotation(*turn) @ axial_affine(*spacing, shape=(x, y, z))
    affine[:3, 3] += (scan.affine @ middle)[:3]
    return affine, (x, y, z)
