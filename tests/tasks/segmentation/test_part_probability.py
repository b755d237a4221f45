"""How likely parts of a mask are lesions."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy import ndimage
from torch import Tensor

from anystroke.core.volume import Volume
from anystroke.evaluation.metrics.overlap import dice
from anystroke.models.architectures.catalogue import DivisibleUNet
from anystroke.tasks.segmentation import part_probability
from anystroke.tasks.segmentation.findings import Findings
from anystroke.tasks.segmentation.mask import predict
from anystroke.tasks.segmentation.part_probability import PART_SIGNS, PartModel, find_parts
from anystroke.tasks.segmentation.predict import Model, segment
from anystroke.tasks.segmentation.second_look import SecondNetwork
from stand_in import CONFIG, Brightest, SaysAgain, axial_affine, lesion_truth, phantom

NAMES = list(PART_SIGNS)
WITH_BRAIN = CONFIG.model_copy(update={"brain": ("tissue",), "certain_together": 0.5})


def _model(**weights: float) -> PartModel:
    names = tuple(weights)
    return PartModel(
        signs=names,
        mean=(0.0,) * len(names),
        sd=(1.0,) * len(names),
        weights=tuple(weights.values()),
        intercept=0.0,
        patients=100,
        parts=200,
        right=100,
        auc=0.9,
    )


def _ball(at: tuple[float, float, float], radius: float, spacing: float, side: int) -> Tensor:
    """A ball (X, Y, Z) bool about a place in mm from the middle of a cubic grid."""
    line = (torch.arange(side) - (side - 1) / 2) * spacing
    squares = [(line - place) ** 2 for place in at]
    return squares[0][:, None, None] + squares[1][:, None] + squares[2] < radius**2


def _signs(
    spacing: float, at: tuple[float, float, float] = (-30.0, 0.0, 0.0), radius: float = 10.0
) -> dict[str, float]:
    """Measure the signs of a bright ball in a round brain of radius 60 mm."""
    side = round(144 / spacing)
    affine = axial_affine(spacing, spacing, spacing, shape=(side, side, side))
    ball, brain = _ball(at, radius, spacing, side), _ball((0, 0, 0), 60, spacing, side)
    texture = torch.randn(side, side, side, generator=torch.Generator().manual_seed(1))
    scan = Volume((100.0 * brain + 10.0 * texture * brain + 50.0 * ball)[None], affine)
    lesion = Volume((0.01 + 0.89 * ball)[None], affine)
    first = Volume((0.01 + 0.59 * ball)[None], affine)
    grid = axial_affine(3.0, 3.0, 3.0, shape=(48, 48, 48))
    healthy = Volume(
        (_ball((0, 0, 0), 60, 3.0, 48) & ~_ball(at, radius, 3.0, 48))[None].to(torch.uint8), grid
    )
    found = find_parts(ball, lesion, first, healthy, scan)
    assert len(found) == 1
    return dict(zip(NAMES, found.signs[0].tolist(), strict=True))


def test_signs_are_what_they_say() -> None:
    signs = _signs(2.0)
    ml = 4 / 3 * math.pi
    assert signs["peak"] == pytest.approx(math.log(0.9 / 0.1), abs=1e-3)
    assert signs["first_peak"] == pytest.approx(math.log(0.6 / 0.4), abs=1e-3)
    assert signs["volume"] == pytest.approx(math.log(ml), abs=0.1)
    assert signs["suspected"] == pytest.approx(math.log1p(ml), abs=0.1)
    assert (signs["count"], signs["highest"]) == (math.log1p(1), signs["peak"])
    assert signs["mirrored"] == pytest.approx(math.log(0.01 / 0.99), abs=1e-2)
    assert signs["against_around"] > 3
    assert signs["against_mirror"] > 3
    assert signs["at_border"] < 0.1
    assert signs["depth"] == pytest.approx(math.log(10), abs=0.15)


def test_signs_do_not_depend_on_the_voxels() -> None:
    for radius in (4.0, 10.0):
        fine, coarse = _signs(1.0, radius=radius), _signs(2.0, radius=radius)
        for name in NAMES:
            assert fine[name] == pytest.approx(coarse[name], abs=0.3), name


def test_what_lies_at_the_border_is_small_or_on_both_sides_is_seen() -> None:
    assert _signs(2.0, at=(-55.0, 0.0, 0.0))["at_border"] > 0.4
    assert _signs(2.0, radius=4.0)["depth"] < _signs(2.0)["depth"]
    side = 72
    affine = axial_affine(2.0, 2.0, 2.0, shape=(side, side, side))
    brain = _ball((0, 0, 0), 60, 2.0, side)
    left, right = (_ball((x, 0, 0), 8, 2.0, side) for x in (-30, 30))
    scan = Volume((100.0 * brain + 50.0 * (left | right))[None], affine)
    lesion = Volume((0.01 + 0.89 * (left | right))[None], affine)
    healthy = Volume((brain & ~left & ~right)[None].to(torch.uint8), affine)
    found = find_parts(left | right, lesion, lesion, healthy, scan)
    assert found.signs[:, NAMES.index("mirrored")] == pytest.approx([math.log(9)] * 2, abs=1e-3)
    assert found.signs[:, NAMES.index("against_mirror")] == pytest.approx([0, 0])


def test_an_empty_mask_has_no_parts() -> None:
    lesion = Volume(torch.zeros(1, 40, 40, 40), axial_affine(2.0, 2.0, 2.0, shape=(40, 40, 40)))
    nothing = find_parts(lesion.data[0] > 0.5, lesion, lesion, lesion, lesion)
    assert (len(nothing), nothing.signs.shape) == (0, (0, len(NAMES)))
    assert _model(volume=1.0).probabilities(nothing.signs).shape == (0,)


def test_a_brain_that_is_not_there_and_a_scan_without_contrast_have_signs_too() -> None:
    affine = axial_affine(2.0, 2.0, 2.0, shape=(40, 40, 40))
    lesion = Volume(_ball((0, 0, 0), 10, 2.0, 40)[None].float(), affine)
    no_brain = Volume(torch.zeros(1, 40, 40, 40, dtype=torch.uint8), affine)
    constant = Volume(torch.ones(1, 40, 40, 40), affine)
    found = find_parts(lesion.data[0] > 0.5, lesion, lesion, no_brain, constant)
    assert np.isfinite(found.signs).all()
    assert found.signs[0, NAMES.index("at_border")] == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"signs": ("volume", "peak")}, "expected 2 means"),
        ({"signs": ("colour",)}, "got colour"),
        ({"sd": (0.0,)}, "above 0"),
    ],
)
def test_a_damaged_part_model_is_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        PartModel.model_validate(_model(volume=1.0).model_dump() | changes)


SHAPE = (90, 100, 90)
FINE = CONFIG.model_copy(update={"spacing": 1.0})
SECOND = SecondNetwork(DivisibleUNet(SaysAgain(), 16, inputs=2), FINE)


def _looked_at(model: PartModel | None, **options: Any) -> tuple[Tensor, tuple[float, ...] | None]:
    scan = phantom(axial_affine(2.0, 2.0, 2.0, shape=SHAPE), SHAPE)
    config = WITH_BRAIN.model_copy(update={"part_model": model})
    found = predict(scan, Brightest(), config, second_network=SECOND, device="cpu", **options)
    parts = None if found.parts is None else tuple(part.probability for part in found.parts)
    return found.mask.data > 0, parts


def test_each_part_of_the_mask_has_a_probability() -> None:
    truth = lesion_truth(axial_affine(2.0, 2.0, 2.0, shape=SHAPE), SHAPE)
    mask, parts = _looked_at(_model(volume=1.0))
    assert parts is not None
    assert dice(mask[0], truth[0]) > 0.7
    ml = float(mask.sum()) * 0.008
    assert parts == pytest.approx([ml / (1 + ml)], rel=1e-3)
    as_before, unknown = _looked_at(None)
    assert torch.equal(as_before, mask)
    assert unknown is None


def test_parts_are_judged_where_it_was_learnt() -> None:
    for options in ({"threshold": 0.4}, {"second_look": False}, {"min_volume": 0.001}):
        mask, parts = _looked_at(_model(volume=-1.0), **options)
        assert bool(mask.any())
        assert parts is None


def test_several_parts_keep_their_own_probabilities() -> None:
    affine = axial_affine(2.0, 2.0, 2.0, shape=SHAPE)
    scan = phantom(affine, SHAPE)
    image = scan.data.clone()
    # The smaller part comes first in the grid, and the larger one is numbered first.
    image[0, 20:26, 40:44, 45:49] = 300.0
    config = WITH_BRAIN.model_copy(update={"part_model": _model(volume=1.0), "certain_together": 0.3})
    result = segment(Volume(image, affine), Model(Brightest(), config, "0" * 64, SECOND), device="cpu")
    rows = Findings.of(result).rows()
    assert len(rows) == 2
    for row in rows:
        ml = float(str(row["volume_ml"]))
        assert float(str(row["lesion_probability"])) == pytest.approx(ml / (1 + ml), abs=0.006)


@pytest.mark.parametrize("axes", [(-1, 1, 1), (-1, -1, 1), (1, 1, -1)])
def test_signs_do_not_depend_on_the_order_of_voxels(axes: tuple[int, int, int]) -> None:
    side, spacing = 60, 2.4
    affine = axial_affine(spacing, spacing, spacing, shape=(side,) * 3)
    ball, brain = _ball((-30, 8, 4), 9, spacing, side), _ball((0, 0, 0), 60, spacing, side)
    texture = torch.randn(side, side, side, generator=torch.Generator().manual_seed(1))
    scan = Volume((100.0 * brain + 10.0 * texture * brain + 50.0 * ball)[None], affine)
    lesion = Volume((0.01 + 0.89 * ball)[None], affine)
    healthy = Volume((brain & ~ball)[None].to(torch.uint8), affine)
    turned = [k for k, sign in enumerate(axes) if sign < 0]

    def other(volume: Volume) -> Volume:
        flipped = volume.affine.clone()
        for k in turned:
            flipped[:3, 3] += flipped[:3, k] * (side - 1)
            flipped[:3, k] *= -1
        return Volume(volume.data.flip([k + 1 for k in turned]), flipped)

    one = find_parts(ball, lesion, lesion, healthy, scan)
    two = find_parts(ball.flip(turned), other(lesion), other(lesion), healthy, other(scan))
    assert one.signs == pytest.approx(two.signs, abs=0.15)


def test_a_part_in_the_middle_is_not_its_own_mirror_image() -> None:
    assert _signs(2.0, at=(2.0, 10.0, 0.0))["mirrored"] < -4


def test_huge_parts_are_looked_at_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _signs(0.75, radius=20.0)
    monkeypatch.setattr(part_probability, "_LARGE_BOX", 1000)
    monkeypatch.setattr(part_probability, "_STEP_MM", 1.5)
    coarse = _signs(0.75, radius=20.0)
    for name in NAMES:
        assert coarse[name] == pytest.approx(whole[name], abs=0.15), name


def test_the_table_of_lesions_says_how_likely_each_is() -> None:
    scan = phantom(axial_affine(2.0, 2.0, 2.0, shape=SHAPE), SHAPE)
    for model, said in ((_model(count=0.0), "0.50"), (None, "n/a")):
        config = WITH_BRAIN.model_copy(update={"part_model": model})
        result = segment(scan, Model(Brightest(), config, "0" * 64, SECOND), device="cpu")
        rows = Findings.of(result).rows()
        assert len(rows) == ndimage.label(result.mask.data[0].numpy(), np.ones((3, 3, 3)))[1] == 1
        assert rows[0]["lesion_probability"] == said
