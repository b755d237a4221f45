"""Learning which parts of masks are lesions."""

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from anystroke.commands.main import main
from anystroke.core.volume import Volume
from anystroke.models.architectures.catalogue import DivisibleUNet
from anystroke.models.checkpoints import find_model, load_config
from anystroke.tasks.segmentation import part_fit
from anystroke.tasks.segmentation.config import SegmentationConfig
from anystroke.tasks.segmentation.part_fit import (
    FEWEST_PARTS,
    ObservedParts,
    PartFitError,
    fit_parts,
    learn_parts,
)
from anystroke.tasks.segmentation.part_probability import PART_SIGNS
from anystroke.tasks.segmentation.predict import Model
from anystroke.tasks.segmentation.second_look import SecondNetwork
from anystroke.tasks.segmentation.validate import JudgedPatient
from stand_in import CONFIG, Brightest, SaysAgain, axial_affine, lesion_truth, phantom

NAMES = list(PART_SIGNS)
SHAPE = (90, 100, 90)


def _observed(count: int, *, seed: int = 1, useful: float = 2.0) -> list[ObservedParts]:
    """Patients of four parts each, of which those of high contrast are lesions."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        signs = rng.normal(size=(4, len(NAMES)))
        odds = useful * signs[:, NAMES.index("against_around")]
        right = rng.random(4) < 1 / (1 + np.exp(-odds))
        found.append(ObservedParts(signs, right, np.ones(4, dtype=bool)))
    return found


def test_what_tells_parts_is_found_and_judged_on_others() -> None:
    model = fit_parts(_observed(300))
    weights = dict(zip(model.signs, model.weights, strict=True))
    assert weights.pop("against_around") > 1.5
    assert max(abs(value) for value in weights.values()) < 0.4
    assert 0.8 < model.auc < 0.95
    assert (model.patients, model.parts) == (300, 1200)
    nothing = fit_parts(_observed(300, useful=0.0))
    assert nothing.auc == pytest.approx(0.5, abs=0.05)


def test_the_probabilities_are_calibrated() -> None:
    model = fit_parts(_observed(600))
    others = _observed(600, seed=2)
    chances = np.concatenate([model.probabilities(one.signs) for one in others])
    right = np.concatenate([one.right for one in others])
    for low in (0.0, 0.25, 0.5, 0.75):
        some = (chances >= low) & (chances < low + 0.25)
        assert right[some].mean() == pytest.approx(chances[some].mean(), abs=0.06)


def test_what_is_ignored_teaches_nothing() -> None:
    patients = _observed(200)
    wrong = [
        replace(one, signs=-50 * np.ones_like(one.signs), counted=np.zeros(4, bool)) for one in patients[:50]
    ]
    assert fit_parts([*patients, *wrong]).weights == fit_parts(patients).weights


def test_a_sign_that_never_differs_says_nothing() -> None:
    patients = _observed(100)
    for one in patients:
        one.signs[:, NAMES.index("mirrored")] = math.log(0.001 / 0.999)
    model = fit_parts(patients)
    assert "mirrored" not in model.signs
    assert len(model.signs) == len(NAMES) - 1


def test_too_few_parts_are_refused() -> None:
    with pytest.raises(PartFitError, match=f"expected {FEWEST_PARTS} parts that are lesions"):
        fit_parts(_observed(12))


def _with_second() -> Model:
    second = SecondNetwork(
        DivisibleUNet(SaysAgain(), 16, inputs=2), CONFIG.model_copy(update={"spacing": 1.0})
    )
    config = CONFIG.model_copy(update={"brain": ("tissue",), "certain_together": 0.5})
    return Model(Brightest(), config, "0" * 64, second)


def _patient() -> JudgedPatient:
    affine = axial_affine(2.0, 2.0, 2.0, shape=SHAPE)
    scan, truth = phantom(affine, SHAPE), lesion_truth(affine, SHAPE)[0]
    image = scan.data.clone()
    image[0, 60:64, 50:54, 45:49] = 300.0
    return JudgedPatient(Volume(image, affine), truth, {})


def test_parts_of_a_mask_are_right_or_wrong() -> None:
    patient = _patient()
    found = part_fit.observe_parts(_with_second(), patient)
    assert sorted(found.right.tolist()) == [False, True]
    assert found.counted.all()
    ignored = torch.zeros_like(patient.truth)
    ignored[58:66, 48:56, 43:51] = True
    seen = part_fit.observe_parts(_with_second(), replace(patient, ignored=ignored))
    assert seen.counted.tolist() == seen.right.tolist()


def test_learning_goes_on_where_it_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = _observed(60)
    made: list[int] = []

    def observe(_: Model, patient: JudgedPatient) -> ObservedParts:
        made.append(int(patient.groups["number"]))
        return seen[made[-1]]

    def patients(*_: object, **__: object) -> Iterator[JudgedPatient]:
        nothing = Volume(torch.zeros(1, 2, 2, 2), torch.eye(4))
        return (JudgedPatient(nothing, nothing.data[0] > 0, {"number": str(k)}) for k in range(60))

    monkeypatch.setattr(part_fit, "observe_parts", observe)
    monkeypatch.setattr(part_fit, "fitting_patients", patients)
    monkeypatch.setattr(part_fit, "load_pack", lambda _: None)
    monkeypatch.setattr(part_fit, "content_sha256", str)
    kept = tmp_path / "observed.jsonl"
    model = _with_second()
    whole = learn_parts(model, tmp_path, patients=60, seed=1, kept=kept)
    lines = kept.read_text().splitlines(keepends=True)
    kept.write_text("".join(lines[:20]) + lines[20][:30])
    made.clear()
    assert learn_parts(model, tmp_path, patients=60, seed=1, kept=kept) == whole
    assert made == list(range(20, 60))
    made.clear()
    learn_parts(model, tmp_path, patients=60, seed=2, kept=kept)
    assert made == list(range(60))
    assert len({json.dumps(json.loads(line)["of"]) for line in kept.read_text().splitlines()}) == 2


def test_a_model_that_looks_once_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PartFitError, match="no second network"):
        learn_parts(replace(_with_second(), second_network=None), tmp_path, patients=60, seed=1)
    with pytest.raises(PartFitError, match="at least 50 patients"):
        learn_parts(_with_second(), tmp_path, patients=49, seed=1)


def test_the_command_learns_parts_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(find_model("small"), tmp_path / "model"))
    data = tmp_path / "data"
    data.mkdir()
    arguments = ["calibrate", str(folder), "--data", str(data), "--only-parts"]
    for name in ("anatomies", "lesions"):
        (data / f"{name}.safetensors").touch()
    for wrong, said in (
        (["--only-risk"], "give either --only-risk or --only-parts"),
        (["--threshold", "0.5"], "without --only-risk and --only-parts"),
        ([], "has no second network"),
    ):
        assert main([*arguments, *wrong]) == 2
        assert said in " ".join(capsys.readouterr().err.split())
    for wrong, said in (
        (["--only-parts", "--scans", str(data)], "--only-parts learns of simulated patients"),
        (["--part-patients", "80", "--data", str(data)], "--part-patients are those of --only-parts"),
    ):
        assert main(["calibrate", str(folder), *wrong]) == 2
        assert said in " ".join(capsys.readouterr().err.split())
    estimator = Path(shutil.copytree(find_model("estimator"), tmp_path / "estimator"))
    assert main(["calibrate", str(estimator), "--data", str(data), "--only-parts"]) == 2
    assert "this one estimates maps" in " ".join(capsys.readouterr().err.split())
    learnt = fit_parts(_observed(100))
    monkeypatch.setattr(part_fit, "learn_parts", lambda *_, **__: learnt)
    before = load_config(folder, SegmentationConfig)
    assert main(arguments) == 0
    assert load_config(folder, SegmentationConfig) == before.model_copy(update={"part_model": learnt})
    assert f"{learnt.right} of 400 parts of 100 masks are lesions" in capsys.readouterr().out
