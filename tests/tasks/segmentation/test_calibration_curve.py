import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from anystroke.core.volume import Volume
from anystroke.evaluation.metrics.calibration import reliability
from anystroke.tasks.segmentation.calibration_curve import CalibrationCurve, LogOddsCounts
from anystroke.tasks.segmentation.predict import Segmentation, segment
from anystroke.tasks.segmentation.small_parts import SmallParts
from anystroke.tasks.segmentation.together import fuse
from stand_in import axial_affine, phantom, stand_in_model

CURVE = CalibrationCurve(said=(-5.0, -1.0, 0.0, 4.0), meant=(-7.0, 0.0, 1.0, 3.5))
SHAPE = (48, 56, 40)
SCAN = phantom(axial_affine(4.0, 4.0, 4.0, shape=SHAPE), SHAPE)


def _said(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return what a network says of voxels, faint ones too often and others too rarely, and the truth."""
    rng = torch.Generator().manual_seed(seed)
    odds = 10 * torch.rand(count, 1, 1, generator=rng) - 7
    truth = torch.rand(count, 1, 1, generator=rng) < torch.sigmoid(odds + 0.9 - 1.8 * (odds < -3))
    return torch.sigmoid(odds), truth


def _segmented(*, curved: bool, threshold: float | None = None) -> Segmentation:
    model = stand_in_model()
    curve = CURVE if curved else None
    config = model.config.model_copy(update={"calibrated_alone": curve})
    return segment(SCAN, replace(model, config=config), device="cpu", threshold=threshold)


def test_a_curve_that_was_fitted_holds_for_other_voxels() -> None:
    counts = LogOddsCounts()
    for seed in range(4):
        counts.add(*_said(20_000, seed))
    curve = counts.curve()
    assert curve is not None
    said, truth = _said(20_000, 9)
    before = reliability(said, truth).expected_calibration_error()
    after = reliability(curve.calibrated(said), truth).expected_calibration_error()
    assert before > 0.1
    assert after < 0.02
    assert curve.meant[0] < curve.said[0]


def test_a_curve_can_be_gone_back() -> None:
    for probability in (1e-4, 0.01, 0.3, 0.6, 0.97, 0.999):
        meant = float(CURVE.calibrated(torch.tensor(probability, dtype=torch.float64)))
        assert CURVE.said_for(meant) == pytest.approx(probability, rel=1e-6)


def test_what_is_ignored_or_outside_does_not_count() -> None:
    said, truth = _said(20_000, 1)
    counts, fewer = LogOddsCounts(), LogOddsCounts()
    counts.add(said, truth)
    outside = torch.zeros(500, 1, 1)
    more, wrong = torch.cat([said, outside, 0.5 + outside]), torch.cat([truth, outside > 0, outside == 0])
    fewer.add(more, wrong, torch.cat([truth & False, outside > 0, outside == 0]))
    assert counts.curve() == fewer.curve()


def test_a_few_voxels_of_one_kind_do_not_mean_certainty() -> None:
    said, truth = _said(20_000, 1)
    counts = LogOddsCounts()
    counts.add(said, truth)
    sure = torch.full((150, 1, 1), 0.995)
    counts.add(sure, sure > 0)
    curve = counts.curve()
    assert curve is not None
    assert float(curve.calibrated(torch.tensor(0.995))) < 0.999


def test_without_lesions_there_is_no_curve() -> None:
    counts = LogOddsCounts()
    said, truth = _said(20_000, 1)
    counts.add(said, truth & False)
    assert counts.curve() is None


@pytest.mark.parametrize(
    ("said", "meant", "message"),
    [
        ((0.0, 1.0), (0.0, 1.0), "3 or more, got 2 and 2"),
        ((0.0, 1.0, 2.0), (0.0, 1.0), "got 3 and 2"),
        ((0.0, 1.0, 2.0), (0.0, 1.0, 1.0), "rise from point to point"),
    ],
)
def test_a_curve_that_does_not_rise_is_refused(
    said: tuple[float, ...], meant: tuple[float, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        CalibrationCurve(said=said, meant=meant)


def test_the_mask_stays_and_its_threshold_is_said_in_what_probabilities_mean() -> None:
    plain, curved = _segmented(curved=False), _segmented(curved=True)
    assert torch.equal(plain.mask.data, curved.mask.data)
    assert plain.interval == curved.interval
    assert float((plain.probability.data - curved.probability.data).abs().max()) > 0.1
    assert curved.prediction.threshold == plain.threshold
    said = torch.tensor(plain.threshold, dtype=torch.float64)
    assert curved.threshold == pytest.approx(float(CURVE.calibrated(said)))
    assert torch.equal(curved.probability.data >= curved.threshold, curved.mask.data > 0)


def test_a_threshold_that_is_asked_for_is_of_what_probabilities_mean() -> None:
    curved = _segmented(curved=True, threshold=0.3)
    assert curved.threshold == pytest.approx(0.3)
    assert torch.equal(curved.mask.data > 0, curved.probability.data >= 0.3)
    assert curved.mask.data.sum() > _segmented(curved=False, threshold=0.3).mask.data.sum()


def test_the_threshold_that_is_written_gives_the_same_mask_and_what_goes_with_it() -> None:
    model = stand_in_model()
    small = SmallParts(below_ml=100.0, certain=0.5, threshold=0.9)
    changes = {"calibrated_alone": CURVE, "small_parts": small, "threshold": 0.15}
    curved = replace(model, config=model.config.model_copy(update=changes))
    own = segment(SCAN, curved, device="cpu")
    for threshold in (own.threshold, float(f"{own.threshold:.6g}")):
        again = segment(SCAN, curved, device="cpu", threshold=threshold)
        assert torch.equal(again.mask.data, own.mask.data)
        assert again.prediction.threshold == 0.15
    lower = segment(SCAN, curved, device="cpu", threshold=0.99 * own.threshold)
    assert float(lower.mask.data.sum()) > float(own.mask.data.sum())


def test_images_that_are_processed_in_another_way_are_not_calibrated() -> None:
    model = stand_in_model()
    curved = replace(model, config=model.config.model_copy(update={"calibrated_alone": CURVE}))
    found = segment(SCAN, curved, device="cpu", preset="paper-one-pass", threshold=0.3)
    assert found.prediction.curve is None
    assert found.threshold == found.prediction.threshold == 0.3


def test_files_hold_what_probabilities_mean(tmp_path: Path) -> None:
    found = _segmented(curved=True)
    mask = found.save(tmp_path)
    written = Volume.load(next(tmp_path.rglob("*probseg.nii.gz"))).data
    assert float((written - found.probability.data).abs().max()) < 0.002
    facts = json.loads(mask.with_name(mask.name.replace("mask.nii.gz", "mask.json")).read_text())
    assert facts["Threshold"] == pytest.approx(found.threshold)


def test_contrasts_of_different_curves_have_one_threshold() -> None:
    curved = _segmented(curved=True, threshold=0.3)
    fused = fuse([curved, _segmented(curved=False, threshold=0.3)]).fused
    assert torch.equal(fused[0].mask.data, fused[1].mask.data)
    assert [each.threshold for each in fused] == [0.3, 0.3]
    assert torch.equal(fused[0].probability.data, fused[1].probability.data)


def test_contrasts_are_fused_as_networks_say_them() -> None:
    [together, _] = fuse([_segmented(curved=True)] * 2).fused
    assert torch.equal(together.mask.data, _segmented(curved=False).mask.data)
    assert torch.allclose(together.probability.data, _segmented(curved=True).probability.data, atol=1e-3)
