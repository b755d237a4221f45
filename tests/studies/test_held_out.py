import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from anystroke.anatomy.lesions.bank import save_bank
from anystroke.anatomy.tissues.anatomies import save_anatomies
from anystroke.commands.main import main
from anystroke.core.tables import read_rows
from anystroke.evaluation.metrics.calibration import Reliability, reliability
from anystroke.io.results import ResultError
from anystroke.models.checkpoints import write_atomically
from anystroke.simulation.cohorts import Cohort, Member, Pack, no_masks
from anystroke.simulation.generator import Generator, Sample
from anystroke.simulation.settings import SynthesisSettings
from anystroke.studies.held_out import run as held_out
from anystroke.studies.held_out.judge import HeldOutDesign, HeldOutError, PatientRow, judge_sample
from anystroke.studies.held_out.summary import (
    coverage,
    false_volumes,
    group_scores,
    lesion_coverage,
    markdown,
    summary,
)
from anystroke.tasks.segmentation.predict import Model
from phantoms import ellipsoid_anatomy, sphere_lesion
from stand_in import stand_in_model

DESIGN = HeldOutDesign(cases=1, healthy=1)
KEYS = [
    "model", "steps", "dice", "false_positive_ml_without_lesion", "interval", "lesion_interval",
    "calibration", "seconds", "cases", "without_lesion",
]  # fmt: skip


def _row(dice: float | None, **facts: Any) -> PatientRow:
    row: PatientRow = {
        "weighting": "FLAIR", "stage": "acute", "anatomy": "a", "lesions": [], "truth_ml": 10.0,
        "contrast_to_noise": 3.0, "predicted_ml": 9.0, "interval_ml": [5.0, 12.0],
        "lesion_intervals_ml": [[1.0, 4.0, 2.0], [0.0, 1.0, 0.0]], "dice": dice, "lesion_f1": dice,
    }  # fmt: skip
    return row | facts


def test_a_summary_has_every_patient_in_its_groups() -> None:
    rows = [
        _row(0.8),
        _row(0.6, stage="chronic", truth_ml=60.0),
        _row(0.0, weighting="T1w", contrast_to_noise=0.5),
        _row(0.4, truth_ml=2.0),
    ]
    found = summary(rows)
    assert (found["all"]["n"], found["all"]["unseen"], found["all"]["missed"]) == (4, 1, 1)
    assert found["all"]["mean"] == pytest.approx(0.45)
    assert found["all"]["median"] == pytest.approx(0.5)
    for groups, weight in (
        ("by_weighting", 1),
        ("by_stage", 1),
        ("by_size_ml", 1),
        ("by_contrast_to_noise", 1),
    ):
        assert sum(each["n"] for each in found[groups].values()) == 4 * weight
    assert found["by_size_ml"]["1-5"]["n"] == found["by_size_ml"][">50"]["n"] == 1
    assert found["by_contrast_to_noise"]["0-1"] == {"n": 1, "unseen": 1}
    assert found["visible"]["n"] == sum(each["n"] for each in found["visible_by_size_ml"].values()) == 3
    assert found["by_weighting_and_stage"]["FLAIR acute"]["n"] == 2
    assert found["by_weighting_and_size_ml"]["T1w 5-20"]["n"] == 1
    assert "| FLAIR | 3 | 0.60 |" in markdown(found)
    assert group_scores([], lambda _: True) == {"n": 0, "unseen": 0}


def test_volumes_and_their_intervals() -> None:
    healthy = [_row(None, truth_ml=0.0, predicted_ml=ml, interval_ml=[0.0, ml]) for ml in (0.0, 1.0, 5.0)]
    assert false_volumes([]) is None
    false = false_volumes(healthy)
    assert false is not None
    assert (false["n"], false["median"], false["q3"], false["max"]) == (3, 1.0, 5.0, 5.0)
    assert false["by_weighting"] == {"FLAIR": 1.0}
    known = coverage([*healthy, _row(0.5, truth_ml=20.0)])
    assert known == {"n": 4, "coverage": 0.75, "without_lesion": 1.0, "median_width_ml": 3.0}
    assert coverage([_row(0.5, interval_ml=None)]) is None
    assert lesion_coverage([_row(0.5)]) == {
        "n": 2, "coverage": 1.0, "of_no_lesion": 0.5, "median_width_ml": 2.0
    }  # fmt: skip


@pytest.fixture
def stand_in() -> Model:
    return stand_in_model()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    save_anatomies([ellipsoid_anatomy()], folder / "held_out_anatomies.safetensors")
    save_bank([sphere_lesion()], folder / "held_out_lesions.safetensors")
    return folder


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Small patients, and a judge who sees nothing; names what was judged."""
    told: list[str] = []
    generator = Generator(SynthesisSettings(spacing=8.0, shapes=((24, 28, 24),)))
    blank = generator.generate(ellipsoid_anatomy(), [], key=1)

    def scan(*_: object, key: int, record: dict[str, Any]) -> Sample:
        return replace(blank, record=record)

    def cohort(pack: Pack, design: HeldOutDesign) -> Cohort:
        names = [
            *(f"FLAIR-{n}" for n in range(design.cases)),
            *(f"healthy-{n}" for n in range(design.healthy)),
        ]
        members = [
            Member(
                lambda *_, key, name=name: replace(blank, record={"name": name}), (name,), lesions=no_masks
            )
            for name in names
        ]
        return Cohort(pack.anatomies, members, 1)

    def judge(model: Model, sample: Sample) -> tuple[PatientRow, Reliability]:
        name = sample.record["name"]
        told.append(name)
        row = _row(None, truth_ml=0.0) if name.startswith("healthy") else _row(0.5 + 0.1 * int(name[-1]))
        return row, reliability(np.array([0.2, 0.9]), np.array([False, True]))

    monkeypatch.setattr(held_out, "held_out_cohort", cohort)
    monkeypatch.setattr(held_out, "judge_sample", judge)
    return told


def test_patients_are_judged_once_and_kept(
    data: Path, judged: list[str], stand_in: Model, tmp_path: Path
) -> None:
    models = {"one": stand_in, "two": replace(stand_in, sha256="2" * 64)}

    def stop(text: str) -> None:
        if text == "one: FLAIR-1":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        held_out.run_held_out(models, data, tmp_path, HeldOutDesign(2, 1), on_step=stop)
    assert judged == ["FLAIR-0", "FLAIR-0", "FLAIR-1"]
    made = held_out.run_held_out(models, data, tmp_path, HeldOutDesign(2, 1))
    assert judged[3:] == ["FLAIR-1", "healthy-0", "healthy-0"]
    result = json.loads((tmp_path / "two" / "held_out.json").read_text(encoding="utf-8"))
    assert list(result) == KEYS
    assert [row["dice"] for row in result["cases"]] == [0.5, 0.6]
    assert result["calibration"]["voxels"] == [0, 0, 3, 0, 0, 0, 0, 0, 0, 3]
    assert len(read_rows(made.table)) == 6
    assert made.picture.stat().st_size > 1000
    other = {"one": replace(stand_in, sha256="3" * 64)}
    with pytest.raises(ResultError, match="of another model; use --overwrite"):
        held_out.run_held_out(other, data, tmp_path, HeldOutDesign(2, 1))
    held_out.run_held_out(other, data, tmp_path, HeldOutDesign(1, 0), overwrite=True)
    assert judged[6:] == ["FLAIR-0"]


def test_data_that_were_packed_again_are_the_same_data(
    data: Path, judged: list[str], stand_in: Model, tmp_path: Path
) -> None:
    held_out.run_held_out({"one": stand_in}, data, tmp_path / "found", HeldOutDesign(1, 0))
    again = tmp_path / "data"
    for path in data.iterdir():
        for number in range(8):
            with safe_open(path, framework="pt") as file:
                write_atomically(again / path.name, {"data": file.get_tensor("data")}, file.metadata())
            if (again / path.name).read_bytes() != path.read_bytes():
                break
            assert number < 7
    held_out.run_held_out({"one": stand_in}, again, tmp_path / "found", HeldOutDesign(1, 0))
    assert judged == ["FLAIR-0"]


def test_processes_that_share_patients_find_the_same(data: Path, stand_in: Model, tmp_path: Path) -> None:
    found = []
    for jobs in (1, 2):
        told: list[str] = []
        made = held_out.run_held_out(
            {"one": stand_in}, data, tmp_path / str(jobs), HeldOutDesign(1, 0), jobs=jobs, on_step=told.append
        )
        assert told == [f"one: {weighting}-0" for weighting in ("T1w", "T2w", "FLAIR", "DWI", "ADC")]
        found.append({key: value for key, value in made.results["one"].items() if key != "seconds"})
        assert len(list((tmp_path / str(jobs) / "one" / "patients").iterdir())) == 5
    assert found[0] == found[1]


def test_a_scan_is_segmented_and_compared(stand_in: Model) -> None:
    settings = SynthesisSettings(spacing=4.0, shapes=((48, 56, 48),), weighting="FLAIR", cut=0.0)
    sample = Generator(settings).generate(ellipsoid_anatomy(), [sphere_lesion()], key=5)
    row, trust = judge_sample(stand_in, sample)
    assert row["weighting"] == "FLAIR"
    assert row["lesions"] == ["sphere"]
    assert 0 <= row["dice"] <= 1
    assert row["truth_ml"] == pytest.approx(float((sample.target == 4).sum()) * 0.064)
    assert trust.true.sum() == float((sample.target == 4).sum())
    assert json.loads(json.dumps(row)) == row
    healthy = Generator(settings).generate(ellipsoid_anatomy(), [], key=5)
    row, _ = judge_sample(stand_in, healthy)
    assert (row["dice"], row["lesion_f1"], row["contrast_to_noise"], row["truth_ml"]) == (
        None,
        None,
        None,
        0.0,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--held-out", "DATA", "--patients", "2"], "leave out --patients"),
        (["--held-out", "DATA", "--preset", "brats"], "leave out --patients"),
        (["--cases", "2"], "add --held-out DATA"),
        (["--held-out", "DATA", "--cases", "0", "--healthy", "0"], "both 0"),
        (["--held-out", "nowhere"], "nowhere lacks held_out_anatomies.safetensors"),
    ],
)
def test_wrong_usage(
    arguments: list[str], message: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(data) if each == "DATA" else each for each in arguments]
    assert main(["benchmark", "default", "-o", str(tmp_path / "out"), *given]) == 2
    assert message in capsys.readouterr().err


def test_the_command(
    data: Path, judged: list[str], stand_in: Model, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(Model, "open", lambda _: stand_in)
    out = tmp_path / "out"
    arguments = [
        "benchmark",
        "default",
        "--held-out",
        str(data),
        "--cases",
        "3",
        "--healthy",
        "2",
        "-o",
        str(out),
    ]
    assert main(arguments) == 0
    told = capsys.readouterr().out
    assert "default: median Dice 0.600 of 3 scans, 0 missed" in told
    assert "median false volume 9.00 ml of 2 scans without" in told
    assert (out / "default" / "held_out.md").read_text(encoding="utf-8").startswith("| simulated scans")
    assert main(arguments) == 0
    assert len(judged) == 5


def test_a_folder_that_held_nothing_out_is_refused(stand_in: Model, tmp_path: Path) -> None:
    with pytest.raises(HeldOutError, match="lacks held_out_anatomies"):
        held_out.run_held_out({"one": stand_in}, tmp_path, tmp_path / "out", DESIGN)
    assert not (tmp_path / "out").exists()
