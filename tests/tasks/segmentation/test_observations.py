import json
from pathlib import Path

import pytest
import torch

from anystroke.core.volume import Volume
from anystroke.models.volume_interval import VolumeErrors
from anystroke.tasks.segmentation import observations
from anystroke.tasks.segmentation.difficulties import DIFFICULTIES, draw_patient
from anystroke.tasks.segmentation.observations import PatientSet, failure, observe, observe_all
from anystroke.tasks.segmentation.predict import Model, segment
from anystroke.tasks.segmentation.validate import JudgedPatient
from stand_in import axial_affine, phantom, stand_in_model

SHAPE = (48, 56, 48)
AFFINE = axial_affine(4.0, 4.0, 4.0, shape=SHAPE)


def _box(*sides: slice) -> torch.Tensor:
    mask = torch.zeros(20, 20, 20, dtype=torch.bool)
    mask[sides] = True
    return mask


LESION = _box(slice(2, 6), slice(2, 6), slice(2, 6))  # 64 voxels
ELSEWHERE = _box(slice(12, 17), slice(12, 17), slice(12, 16))  # 100 voxels
NOTHING = torch.zeros_like(LESION)


def _patient(truth: torch.Tensor, ignored: torch.Tensor | None = None) -> JudgedPatient:
    return JudgedPatient(Volume(torch.rand(1, 20, 20, 20), torch.eye(4)), truth, {}, ignored)


@pytest.mark.parametrize(
    ("mask", "truth", "ignored", "voxel_ml", "failed"),
    [
        (LESION, LESION, None, 0.1, False),
        (NOTHING, LESION, None, 0.1, True),  # missed
        (NOTHING, NOTHING, None, 0.1, False),
        (ELSEWHERE, NOTHING, None, 0.05, True),  # 5 ml
        (ELSEWHERE, NOTHING, None, 0.049, False),
        (LESION | ELSEWHERE, LESION, None, 0.05, True),  # Dice 0.56, but 5 ml are wrong
        (LESION | ELSEWHERE, LESION, None, 0.04, False),
        (NOTHING, NOTHING, LESION, 0.1, False),  # nobody could see it
        (ELSEWHERE, NOTHING, ELSEWHERE, 0.1, False),
    ],
)
def test_what_fails(
    mask: torch.Tensor, truth: torch.Tensor, ignored: torch.Tensor | None, voxel_ml: float, failed: bool
) -> None:
    assert failure(mask, _patient(truth, ignored), voxel_ml=voxel_ml)[0] is failed


def test_right_parts_do_not_count_as_false_however_large() -> None:
    whole = torch.ones_like(LESION)
    failed, overlap, false_ml = failure(whole, _patient(LESION), voxel_ml=0.1)
    assert overlap is not None
    assert (failed, false_ml) == (True, 0.0)  # of its Dice alone
    assert overlap < 0.3


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Patients of the phantom instead of simulated ones; the numbers of those that were made."""
    numbers: list[int] = []

    def patient(*_: object, number: int, **__: object) -> JudgedPatient:
        numbers.append(number)
        groups = {"anatomy": f"head {number}"}
        return JudgedPatient(phantom(AFFINE, SHAPE), torch.zeros(SHAPE, dtype=torch.bool), groups)

    monkeypatch.setattr(observations, "draw_patient", patient)
    monkeypatch.setattr(PatientSet, "load", lambda _: ([], []))
    return numbers


def test_observations_go_on_where_they_were(tmp_path: Path, made: list[int]) -> None:
    kept, model = tmp_path / "kept.jsonl", stand_in_model()
    first = observe_all(model, PatientSet(tmp_path, 2, seed=1), kept=kept)
    kept.write_text(kept.read_text() + '{"of": [1, ')  # killed while it wrote
    again = observe_all(model, PatientSet(tmp_path, 3, seed=1), kept=kept)
    assert made == [0, 1, 2]
    assert again[:2] == first
    assert again[0].groups == {"anatomy": "head 0"}
    assert again[0].failed
    assert len(observe_all(model, PatientSet(tmp_path, 3, seed=1), kept=kept)) == 3
    assert made == [0, 1, 2]
    for other in (PatientSet(tmp_path, 1, seed=2), PatientSet(tmp_path, 1, seed=1, held_out=True)):
        observe_all(model, other, kept=kept)
    assert made == [0, 1, 2, 0, 0]
    assert all(json.loads(line) for line in kept.read_text().splitlines())


def test_the_width_of_the_interval_is_a_sign_and_no_reason() -> None:
    wide = VolumeErrors(rate=0.9, edges=(), low=(-3.0,), high=(3.0,), patients=100)
    plain = stand_in_model()
    model = Model(plain.network, plain.config.model_copy(update={"volume_errors": wide}), plain.sha256)
    patient = JudgedPatient(phantom(AFFINE, SHAPE), torch.zeros(SHAPE, dtype=torch.bool), {})
    assert any("too wide" in reason for reason in segment(patient.scan, model, device="cpu").reasons)
    found = observe(model, patient)
    assert not any("too wide" in reason for reason in found.reasons)
    assert found.signs["interval"] > observe(plain, patient).signs["interval"]


def test_shares_of_difficulties_add_up() -> None:
    assert sum(share for share, _ in DIFFICULTIES.values()) == pytest.approx(1)


def test_patients_need_anatomies_and_masks() -> None:
    with pytest.raises(ValueError, match="got 0 and 0"):
        draw_patient([], [], number=0, seed=1)
