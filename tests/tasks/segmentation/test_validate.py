import csv
import math
from pathlib import Path

import pytest
import torch

from anystroke.core.volume import Volume
from anystroke.learning.run_log import append_rows
from anystroke.simulation.cohorts import Pack
from anystroke.tasks.segmentation.predict import Model
from anystroke.tasks.segmentation.validate import (
    JudgedPatient,
    Score,
    judge,
    simulated_patients,
    summarise_scores,
)
from phantoms import ellipsoid_anatomy, sphere_lesion
from stand_in import stand_in_model


@pytest.fixture(autouse=True)
def _flat_heads_are_scans(monkeypatch: pytest.MonkeyPatch) -> None:
    """The heads of these tests have flat regions, as label maps do."""
    monkeypatch.setattr("anystroke.io.inputs.reason_by_voxels", lambda _: None)


def _patients(count: int, healthy: int, seed: int = 1) -> list[JudgedPatient]:
    drawn = simulated_patients(
        Pack([ellipsoid_anatomy()], [sphere_lesion(radius=18)]),
        count=count,
        healthy=healthy,
        seed=seed,
        weightings=("T1w", "FLAIR"),
        spacing=8.0,
    )
    return list(drawn)


def test_patients_show_every_combination_and_are_always_the_same() -> None:
    patients = _patients(12, 2)
    combinations = {tuple(p.groups.values())[1:] for p in patients[:12]}
    assert len(combinations) == 12
    assert all(float(p.truth.sum()) * 0.512 >= 1 for p in patients[:12])
    assert not any(bool(p.truth.any()) for p in patients[12:])
    assert {p.groups["set"] for p in patients[12:]} == {"healthy"}
    again = _patients(12, 2)
    assert all(
        torch.equal(a.scan.data, b.scan.data) and torch.equal(a.truth, b.truth)
        for a, b in zip(patients, again, strict=True)
    )
    assert not torch.equal(patients[0].scan.data, _patients(1, 0, seed=2)[0].scan.data)


def test_there_must_be_something_to_validate_with() -> None:
    with pytest.raises(ValueError, match="got 0 and 0"):
        list(simulated_patients(Pack([], []), count=1, healthy=0, seed=1, weightings=("T1w",)))


def test_judging_a_bright_lesion(stand_in: Model) -> None:
    image = torch.full((48, 48, 48), 100.0)
    image[:4] = image[-4:] = 0
    truth = torch.zeros(48, 48, 48, dtype=torch.bool)
    truth[20:28, 20:28, 20:28] = True
    image[truth] = 1000.0
    affine = torch.diag(torch.tensor([2.0, 2, 2, 1], dtype=torch.float64))
    patient = JudgedPatient(Volume(image[None], affine), truth, {"set": "simulated"})
    [score] = judge(stand_in, [patient])
    assert score.truth == pytest.approx(512 * 0.008)
    assert score.dice > 0.8
    assert score.f1 == 1


@pytest.fixture
def stand_in() -> Model:
    return stand_in_model()


def test_summaries_keep_lesions_and_healthy_apart() -> None:
    scores = [
        Score({"set": "simulated", "weighting": "T1w"}, 0.8, 1.0, 9.0, 10.0),
        Score({"set": "simulated", "weighting": "T1w"}, 0.0, 0.0, 0.0, 4.0),
        Score({"set": "simulated", "weighting": "DWI"}, 0.4, 0.5, 5.0, 2.0),
        Score({"set": "healthy", "weighting": "T1w"}, math.nan, math.nan, 0.5, 0.0),
    ]
    rows = {(row["set"], row["group"]): row for row in summarise_scores(scores)}
    total = rows["simulated", "all"]
    assert (total["scans"], total["missed"]) == (3, 1)
    assert total["median_dice"] == pytest.approx(0.4)
    assert total["mean_f1"] == pytest.approx(0.5)
    assert total["median_volume_error_ml"] == pytest.approx(3.0)
    assert rows["simulated", "weighting T1w"]["mean_dice"] == pytest.approx(0.4)
    healthy = rows["healthy", "all"]
    assert healthy["median_volume_error_ml"] == pytest.approx(0.5)
    assert math.isnan(float(healthy["median_dice"]))


def test_the_score_is_of_dice_and_f1_less_false_volume() -> None:
    scores = [
        Score({"set": "simulated", "weighting": "T1w"}, 0.8, 1.0, 9.0, 10.0),
        Score({"set": "simulated", "weighting": "DWI"}, 0.4, 0.2, 5.0, 2.0),
        Score({"set": "real"}, 0.4, 0.2, 5.0, 2.0),
    ]
    healthy = [
        Score({"set": "healthy", "weighting": weighting}, math.nan, math.nan, volume, 0.0)
        for weighting, volume in (("T1w", 0.0), ("DWI", 3.0))
    ]
    plain = {(row["set"], row["group"]): row["score"] for row in summarise_scores(scores)}
    assert plain["simulated", "all"] == pytest.approx((0.6 + 0.6) / 2)
    rows = {(row["set"], row["group"]): row["score"] for row in summarise_scores([*scores, *healthy])}
    assert rows["simulated", "all"] == pytest.approx(0.6 - 0.5 * 0.75 / 2)
    assert rows["simulated", "weighting T1w"] == pytest.approx(0.9 - 0.1875)
    assert rows["real", "all"] == pytest.approx(0.3)
    assert math.isnan(float(rows["healthy", "all"]))


def test_masks_where_nobody_could_see_are_neither_right_nor_false(stand_in: Model) -> None:
    image = torch.full((48, 48, 48), 100.0)
    image[:4] = image[-4:] = 0
    truth, unseen = torch.zeros(2, 48, 48, 48, dtype=torch.bool)
    truth[20:28, 20:28, 20:28] = True
    unseen[32:42, 8:18, 32:42] = True
    image[truth | unseen] = 1000.0
    affine = torch.diag(torch.tensor([2.0, 2, 2, 1], dtype=torch.float64))
    scan = Volume(image[None], affine)
    [blamed] = judge(stand_in, [JudgedPatient(scan, truth, {"set": "simulated"})])
    [spared] = judge(stand_in, [JudgedPatient(scan, truth, {"set": "simulated"}, unseen)])
    assert blamed.f1 == pytest.approx(2 / 3)
    assert spared.f1 == 1
    assert blamed.volume > 8
    assert spared.volume == pytest.approx(spared.truth, rel=0.5)
    assert spared.dice > blamed.dice + 0.2


def test_the_rim_of_what_is_ignored_is_no_false_lesion() -> None:
    truth, unseen = torch.zeros(2, 16, 16, 16, dtype=torch.bool)
    unseen[2:6, 2:6, 2:6] = True
    truth[7:9, 2:6, 2:6] = True
    patient = JudgedPatient(Volume(torch.zeros(1, 16, 16, 16), torch.eye(4)), truth, {}, unseen)
    rim, false, bridge = torch.zeros(3, 16, 16, 16, dtype=torch.bool)
    rim[2:6, 2:6, 1:6] = True
    assert not bool(patient.judged(rim).any())
    false[2:6, 2:6, 5:12] = True
    assert torch.equal(patient.judged(false), false & ~unseen)
    bridge[2:9, 2:6, 2:6] = True
    assert torch.equal(patient.judged(bridge), bridge & ~unseen)
    empty = torch.zeros_like(rim)
    assert not bool(patient.judged(empty).any())


def test_a_table_forgets_what_a_resumed_run_does_again(tmp_path: Path) -> None:
    path = tmp_path / "validation.csv"
    rows: list[dict[str, str | int | float]] = [{"set": "simulated", "group": "all", "mean_dice": 0.5}]
    for step in (10, 20, 30, 20):
        append_rows(path, step, rows)
    with path.open(newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["10", "20"]
