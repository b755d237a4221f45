"""How likely parts of a mask are lesions, and which of them stay."""

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
    assert (signs["parts"], signs["highest"]) == (math.log1p(1), signs["peak"])
    assert signs["mirrored"] == pytest.approx(math.log(0.01 / 0.99), abs=1e-2)
    assert signs["against_around"] > 3
    assert signs["against_mirror"] > 3
    assert signs["at_border"] < 0.1
    assert 0.4 < signs["thin"] < 0.75


def test_signs_do_not_depend_on_the_voxels() -> None:
    fine, coarse = _signs(1.0), _signs(2.0)
    for name in NAMES:
        assert fine[name] == pytest.approx(coarse[name], abs=0.25), name


def test_what_lies_at_the_border_or_on_both_sides_is_seen() -> None:
    assert _signs(2.0, at=(-55.0, 0.0, 0.0))["at_border"] > 0.4
    inside, middle = _signs(2.0), _signs(2.0, at=(0.0, 10.0, 0.0))
    assert middle["mirrored"] > inside["mirrored"] + 5
    assert middle["against_mirror"] < 0.5
    assert _signs(2.0, radius=4.0)["thin"] > inside["thin"]


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


def _looked_at(model: PartModel | None, **options: Any) -> tuple[Tensor, tuple[float, ...]]:
    scan = phantom(axial_affine(2.0, 2.0, 2.0, shape=SHAPE), SHAPE)
    second = SecondNetwork(
        DivisibleUNet(SaysAgain(), 16, inputs=2), CONFIG.model_copy(update={"spacing": 1.0})
    )
    config = WITH_BRAIN.model_copy(update={"parts": model})
    found = predict(scan, Brightest(), config, second_network=second, device="cpu", **options)
    return found.mask.data > 0, tuple(part.probability for part in found.parts)


def test_each_part_of_the_mask_has_a_probability() -> None:
    truth = lesion_truth(axial_affine(2.0, 2.0, 2.0, shape=SHAPE), SHAPE)
    mask, [chance] = _looked_at(_model(volume=1.0))
    assert dice(mask[0], truth[0]) > 0.7
    ml = float(mask.sum()) * 0.008
    assert chance == pytest.approx(ml / (1 + ml), rel=1e-3)
    as_before, unknown = _looked_at(None)
    assert torch.equal(as_before, mask)
    assert unknown == ()


def test_parts_are_judged_where_it_was_learnt() -> None:
    for options in ({"threshold": 0.4}, {"second_look": False}):
        mask, parts = _looked_at(_model(volume=-1.0), **options)
        assert bool(mask.any())
        assert parts == ()


def test_parts_that_are_too_small_have_no_probability() -> None:
    mask, parts = _looked_at(_model(volume=1.0), min_volume=1000.0)
    assert (bool(mask.any()), parts) == (False, ())


def test_the_table_of_lesions_says_how_likely_each_is() -> None:
    scan = phantom(axial_affine(2.0, 2.0, 2.0, shape=SHAPE), SHAPE)
    second = SecondNetwork(
        DivisibleUNet(SaysAgain(), 16, inputs=2), CONFIG.model_copy(update={"spacing": 1.0})
    )
    for model, said in ((_model(parts=0.0), "0.50"), (None, "n/a")):
        config = WITH_BRAIN.model_copy(update={"parts": model})
        result = segment(scan, Model(Brightest(), config, "0" * 64, second), device="cpu")
        rows = Findings.of(result).rows()
        assert len(rows) == ndimage.label(result.mask.data[0].numpy(), np.ones((3, 3, 3)))[1] == 1
        assert rows[0]["lesion_probability"] == said
