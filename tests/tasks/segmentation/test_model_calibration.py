import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from anystroke.core.volume import Volume
from anystroke.evaluation.metrics.overlap import dice
from anystroke.io.labelled import LabelledScan
from anystroke.tasks.segmentation import calibrate as model_calibration
from anystroke.tasks.segmentation.calibrate import CalibrationError, Choices, calibrate, calibrate_on_scans
from anystroke.tasks.segmentation.config import SegmentationConfig
from anystroke.tasks.segmentation.lesions_found import ComparedPart
from anystroke.tasks.segmentation.mask import keep_certain, predict
from anystroke.tasks.segmentation.part_probability import PartModel
from anystroke.tasks.segmentation.predict import Model
from anystroke.tasks.segmentation.second_look import SecondNetwork
from anystroke.tasks.segmentation.small_parts import SmallParts, mask_at
from anystroke.tasks.segmentation.validate import JudgedPatient

SPREAD = 3.0
OVERCONFIDENCE = 2.5


class TooSure(nn.Module):
    """Knows the log-odds of each voxel from its standardised intensity, and doubles them and more."""

    def forward(self, image: Tensor) -> Tensor:
        lesion = OVERCONFIDENCE * (SPREAD * image - 4.0)
        return torch.cat([torch.zeros_like(lesion), lesion], dim=1)


def _model(**changes: object) -> Model:
    config = SegmentationConfig(
        name="sure", architecture="none", classes=("background", "lesion"), spacing=4.0, divisor=8
    )
    return Model(TooSure(), config.model_copy(update=changes), sha256="")


def _patients(*_: object, count: int, healthy: int, seed: int, **__: object) -> Iterator[JudgedPatient]:
    generator = torch.Generator().manual_seed(seed)
    affine = torch.diag(torch.tensor([4.0, 4, 4, 1], dtype=torch.float64))
    for number in range(count + healthy):
        image = torch.randn(1, 32, 32, 32, generator=generator)
        odds = SPREAD * image[0] - 4.0
        truth = torch.rand(odds.shape, generator=generator) < torch.sigmoid(odds)
        if number >= count:
            image, truth = image.clamp(max=0.5), torch.zeros_like(truth)
        yield JudgedPatient(Volume(image, affine), truth, {})


@pytest.fixture(autouse=True)
def _no_simulation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_calibration, "simulated_patients", _patients)
    monkeypatch.setattr(model_calibration, "load_pack", lambda _: None)


def test_the_temperature_undoes_overconfidence(tmp_path: Path) -> None:
    told: list[str] = []
    found = calibrate(
        _model(threshold=0.95), tmp_path, patients=50, on_patient=lambda what, *_: told.append(what)
    )
    assert found.temperature in (2.0, 2.5, 3.0)
    assert found.log_loss[1] < 0.8 * found.log_loss[0]
    assert found.mean_dice[1] > found.mean_dice[0]
    assert found.threshold < 0.95
    assert (found.patients, told.count("simulated"), told.count("segmented")) == (50, 50, 50)


def test_what_was_chosen_goes_into_the_configuration(tmp_path: Path) -> None:
    model = _model()
    found = calibrate(model, tmp_path, patients=50)
    config = found.applied_to(model.config)
    assert (config.temperature, config.threshold) == (found.temperature, found.threshold)
    assert config.volume_errors is not None
    assert config.volume_errors.patients == 50
    assert config.lesion_errors == found.lesion_errors
    assert config.training["calibration"]["patients"] == 50
    again = calibrate(Model(model.network, config, ""), tmp_path, patients=50)
    assert again.log_loss[0] == again.log_loss[1] == found.log_loss[1]


def test_what_is_given_is_kept_and_measured(tmp_path: Path) -> None:
    free = calibrate(_model(), tmp_path, patients=50)
    kept = calibrate(_model(), tmp_path, patients=50, choices=Choices(temperatures=(1.0,), thresholds=(0.4,)))
    assert (kept.temperature, kept.threshold) == (1.0, 0.4)
    assert kept.log_loss[0] == kept.log_loss[1] > free.log_loss[1]
    config = _model(threshold=0.4, certain=kept.certain).config
    again = calibrate(
        Model(TooSure(), config, ""),
        tmp_path,
        patients=50,
        choices=Choices((1.0,), (0.4,), (kept.certain,)),
    )
    assert again.mean_dice == (kept.mean_dice[1], kept.mean_dice[1])
    assert again.volume_errors == kept.volume_errors != free.volume_errors


class Restrained(nn.Module):
    """A second network that takes less for lesion than the first."""

    def forward(self, image: Tensor) -> Tensor:
        lesion = SPREAD * image - 5.5
        return torch.cat([torch.zeros_like(lesion), lesion], dim=1)


def test_what_is_measured_has_had_its_second_look(tmp_path: Path) -> None:
    alone = _model(threshold=0.4, certain=0.6)
    model = Model(alone.network, alone.config, "", SecondNetwork(Restrained(), alone.config))
    choices = Choices((1.0,), (0.4,), (0.6,))
    first = calibrate(alone, tmp_path, patients=50, choices=choices)
    both = calibrate(model, tmp_path, patients=50, choices=choices)
    assert both.volume_errors is not None
    assert both.volume_errors != first.volume_errors
    assert both.log_loss == first.log_loss
    masks = [
        (
            predict(patient.scan, model.network, model.config, second_network=model.second_network).mask.data[
                0
            ]
            > 0,
            patient.truth,
        )
        for patient in _patients(count=40, healthy=0, seed=2027)
    ]
    mean = sum(float(dice(mask, truth)) for mask, truth in masks) / len(masks)
    assert list(both.mean_dice) == pytest.approx([mean, mean], abs=1e-4)
    assert mean != pytest.approx(first.mean_dice[1], abs=1e-3)


def test_threshold_and_certainty_are_those_of_the_first_network(tmp_path: Path) -> None:
    alone = _model()
    model = Model(alone.network, alone.config, "", SecondNetwork(Restrained(), alone.config))
    choices = Choices(thresholds=(0.2, 0.4), certainties=(0.0, 0.5))
    first, both = (calibrate(each, tmp_path, patients=50, choices=choices) for each in (alone, model))
    assert (both.threshold, both.certain) == (first.threshold, first.certain)
    assert both.score[1] != first.score[1]


def test_what_is_ignored_counts_nowhere() -> None:
    [patient] = _patients(count=1, healthy=0, seed=1)
    ignored = torch.zeros_like(patient.truth)
    ignored[16:] = True
    seen = JudgedPatient(patient.scan, patient.truth & ~ignored, {}, ignored)
    probability = torch.rand(ignored.shape, generator=torch.Generator().manual_seed(1))
    half = JudgedPatient(patient.scan, patient.truth[:16], {})
    expected = model_calibration._log_loss(probability[:16], half)
    assert model_calibration._log_loss(probability, seen) == pytest.approx(expected)
    apart = probability.clone()
    apart[15] = 0
    nothing = apart.masked_fill(ignored, 0)
    found = model_calibration._judged_masks(apart, seen, 0.064)
    assert found == model_calibration._judged_masks(nothing, seen, 0.064)
    assert found != model_calibration._judged_masks(apart, patient, 0.064)


@pytest.mark.parametrize("small_parts", [None, SmallParts(below_ml=3.0, certain=0.8, threshold=0.6)])
def test_masks_of_all_thresholds_are_judged_as_a_single_one_is(small_parts: SmallParts | None) -> None:
    [ill, healthy] = _patients(count=1, healthy=1, seed=2)
    for patient in (ill, healthy):
        probability = torch.sigmoid(SPREAD * patient.scan.data[0] - 6.0)
        found = model_calibration._judged_masks(probability, patient, 0.064, small_parts)
        for i, threshold in enumerate(model_calibration.THRESHOLDS):
            for j, certain in enumerate(model_calibration.CERTAINTIES):
                marked = mask_at(probability, threshold, small_parts, voxel_ml=0.064)
                mask = keep_certain(marked[None], probability[None], certain)[0]
                expected = model_calibration._judged(mask, patient, 0.064)
                sure = float(probability[mask].mean()) if mask.any() else 0.0
                assert found[i][j] == pytest.approx((*expected, sure))


def test_patients_with_something_ignored_calibrate_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half_ignored(
        *_: object, count: int, healthy: int, seed: int, **__: object
    ) -> Iterator[JudgedPatient]:
        for patient in _patients(count=count, healthy=healthy, seed=seed):
            ignored = torch.zeros_like(patient.truth)
            ignored[16:] = True
            yield JudgedPatient(patient.scan, patient.truth & ~ignored, {}, ignored)

    monkeypatch.setattr(model_calibration, "simulated_patients", half_ignored)
    found = calibrate(_model(), tmp_path, patients=50)
    assert found.temperature in (2.0, 2.5, 3.0)
    assert found.log_loss[1] < found.log_loss[0]
    assert found.false_volume is not None
    assert 0 <= found.false_volume[1] < 32**3 * 0.064 / 2


def test_few_patients_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 50 patients to calibrate with, got 49"):
        calibrate(_model(), tmp_path, patients=49)


def test_errors_of_single_lesions_are_those_of_the_chosen_mask() -> None:
    right, larger, false = (
        ComparedPart(peak, 0.5, 3.0, true) for peak, true in [(0.9, 3), (0.9, 7), (0.2, 0)]
    )
    parts = [right] * 30 + [larger] * 30 + [false] * 60
    found = model_calibration._lesion_errors(parts, 0.6)
    assert found is not None
    assert found.patients == 60
    assert min(found.low) == 0.0
    assert max(found.high) == pytest.approx(math.log(2), abs=1e-5)
    everything = model_calibration._lesion_errors(parts, 0.0)
    assert everything is not None
    assert min(everything.low) == pytest.approx(-math.log(4), abs=1e-5)
    assert model_calibration._lesion_errors(parts[:39], 0.0) is None


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> list[LabelledScan]:
    """Labelled scans that are read from memory; every fourth has no lesion."""
    known = list(_patients(count=30, healthy=10, seed=3))
    found = [LabelledScan(f"p{number}", Path(f"{number}.nii"), Path("m.nii")) for number in range(len(known))]
    monkeypatch.setattr(
        model_calibration, "real_patients", lambda asked: iter([known[int(s.name[1:])] for s in asked])
    )
    return found


def test_few_scans_choose_the_temperature_alone(scans: list[LabelledScan]) -> None:
    model = _model(threshold=0.95, certain=0.1)
    found = calibrate_on_scans(model, scans[:8] + scans[30:33])
    assert found.temperature in (2.0, 2.5, 3.0)
    assert (found.threshold, found.certain, found.volume_errors) == (0.95, 0.1, None)
    assert found.mean_dice[0] == found.mean_dice[1]
    assert found.patients == 11
    assert found.applied_to(model.config).volume_errors is None


def test_more_scans_choose_thresholds_and_intervals(scans: list[LabelledScan]) -> None:
    found = calibrate_on_scans(_model(threshold=0.95), scans)
    assert found.threshold < 0.95
    assert found.mean_dice[1] > found.mean_dice[0]
    assert found.volume_errors is not None
    assert found.volume_errors.patients == 40
    without_healthy = calibrate_on_scans(_model(threshold=0.95), scans[:25])
    assert (without_healthy.false_volume, without_healthy.volume_errors) == (None, None)
    assert without_healthy.threshold < 0.95


def test_scans_that_were_learnt_from_or_too_few_are_refused(scans: list[LabelledScan]) -> None:
    with pytest.raises(CalibrationError, match=r"expected at least 5 scans with a lesion.*got 4"):
        calibrate_on_scans(_model(), scans[:4] + scans[30:])
    with pytest.raises(CalibrationError, match="learnt from 2 of these scans, such as p1"):
        calibrate_on_scans(_model(training={"finetuned_on": ["p1", "p3"]}), scans[:8])


def test_what_was_learnt_of_parts_stays_while_masks_do() -> None:
    parts = PartModel(
        signs=(), mean=(), sd=(), weights=(), intercept=0.0, patients=1, parts=1, right=1, auc=0.5
    )
    config = _model(part_model=parts).config
    found = calibrate(_model(), Path(), patients=50, choices=Choices((1.0,), (0.5,), (0.0,)))
    chosen = (found.temperature, found.threshold, found.certain)
    assert chosen == (config.temperature, config.threshold, config.certain)
    assert found.applied_to(config).part_model == parts
    assert found.applied_to(config.model_copy(update={"threshold": 0.4})).part_model is None
