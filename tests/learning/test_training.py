import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from anystroke.anatomy.anatomies import load_anatomies, save_anatomies
from anystroke.anatomy.lesions import save_bank
from anystroke.inference.preprocessing import normalise_intensity
from anystroke.learning import training
from anystroke.learning.checkpoints import load_model
from anystroke.learning.sampling import SimulatedCases, case_loader
from anystroke.learning.training import (
    DataSettings,
    LossError,
    OptimiserSettings,
    Trainer,
    TrainingError,
    TrainingSettings,
    load_recipe,
    train,
)
from anystroke.rng import stream
from anystroke.synthesis import SynthesisSettings, regenerate
from phantoms import ellipsoid_anatomy, sphere_lesion

SYNTHESIS = SynthesisSettings(spacing=8.0, shapes=((32, 32, 32),))


def _settings(**options: object) -> TrainingSettings:
    optimiser = {"steps": 4, "checkpoint_every": 2, "workers": 0, "precision": "float32"} | options
    return TrainingSettings(
        name="test",
        data=DataSettings(anatomies=(), lesions=()),
        synthesis=SYNTHESIS,
        optimiser=OptimiserSettings.model_validate(optimiser),
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    bare = replace(ellipsoid_anatomy(head=False), name="bare")
    save_anatomies([ellipsoid_anatomy(), bare], tmp_path / "data" / "anatomies.safetensors")
    save_bank([sphere_lesion()], tmp_path / "data" / "lesions.safetensors")
    return tmp_path


def _losses(folder: Path) -> list[tuple[int, float]]:
    with (folder / "log.csv").open(newline="") as file:
        return [(int(row["step"]), float(row["loss"])) for row in csv.DictReader(file)]


def test_a_run_leaves_a_model_a_log_and_pictures_and_resumes(run: Path) -> None:
    model = train(_settings(), run)
    assert [step for step, _ in _losses(run)] == [1, 2, 3, 4]
    assert sorted(p.name for p in (run / "samples").iterdir()) == ["step_000002.png", "step_000004.png"]
    assert load_model(model)[1].training["steps"] == 4
    with pytest.raises(TrainingError, match="--resume"):
        train(_settings(), run)
    train(_settings(steps=6), run, resume=True)
    assert [step for step, _ in _losses(run)] == [1, 2, 3, 4, 5, 6]


def test_resuming_gives_the_losses_of_a_run_without_break(run: Path) -> None:
    whole = Trainer(_settings(steps=8), run)
    cases = iter(SimulatedCases(run / "data", SYNTHESIS, seed=1))
    batches = [tuple(part[None] for part in next(cases)) for _ in range(4)]
    expected = [whole.train_step(*batch) for batch in batches[:2]]
    whole.save()
    resumed = Trainer(_settings(steps=8), run)
    resumed.resume()
    assert resumed.step == 2
    expected_after = [whole.train_step(*batch) for batch in batches[2:]]
    assert [resumed.train_step(*batch) for batch in batches[2:]] == expected_after
    assert all(torch.equal(whole.average[k], resumed.average[k]) for k in whole.average)
    assert expected_after != expected


def test_cases_do_not_depend_on_the_number_of_workers(run: Path) -> None:
    alone = iter(case_loader(SimulatedCases(run / "data", SYNTHESIS, seed=1, first=2), batch=2, workers=0))
    shared = iter(case_loader(SimulatedCases(run / "data", SYNTHESIS, seed=1, first=2), batch=2, workers=1))
    for _ in range(2):
        for first, second in zip(next(alone), next(shared), strict=True):
            assert torch.equal(first, second)


def test_the_rate_warms_up_and_falls_to_zero(run: Path) -> None:
    trainer = Trainer(_settings(steps=100, warm_up=10, learning_rate=1.0), run)
    rates = []
    for trainer.step in range(101):
        rates.append(trainer.learning_rate)
    assert rates[0] == pytest.approx(0.1)
    assert rates.index(max(rates)) == 9
    assert rates[50] == pytest.approx(0.5**0.9)
    assert rates[100] == 0


def test_a_loss_that_is_not_finite_stops_and_leaves_the_weights(run: Path) -> None:
    trainer = Trainer(_settings(), run)
    before = {key: value.clone() for key, value in trainer.network.state_dict().items()}
    image = torch.full((1, 1, 32, 32, 32), float("nan"))
    with pytest.raises(TrainingError, match="step 0 is nan"):
        trainer.train_step(image, torch.zeros(1, 32, 32, 32, dtype=torch.int64))
    assert all(torch.equal(before[key], value) for key, value in trainer.network.state_dict().items())


def test_the_cases_of_a_loss_that_is_not_finite_are_kept(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(_settings(steps=2), run)

    def broken(*_: object, **__: object) -> torch.Tensor:
        return torch.tensor(float("inf"))

    monkeypatch.setattr(training, "deep_supervision", broken)
    with pytest.raises(LossError, match=r"step_000002_cases\.json"):
        train(_settings(steps=4, batch=1), run, resume=True)
    [record] = json.loads((run / "step_000002_cases.json").read_text())
    sample = regenerate(record, load_anatomies(run / "data" / "anatomies.safetensors"), [sphere_lesion()])
    cases = iter(SimulatedCases(run / "data", SYNTHESIS, seed=1, first=2))
    assert torch.equal(normalise_intensity(sample.image)[None], next(cases)[0])
    assert load_model(run / "model")[1].training["steps"] == 2


def test_another_architecture_cannot_be_resumed(run: Path) -> None:
    Trainer(_settings().model_copy(update={"architecture": "residual_unet"}), run).save()
    other = Trainer(_settings(), run)
    with pytest.raises(TrainingError, match="another architecture"):
        other.resume()


@pytest.mark.slow
def test_one_case_can_be_learnt_by_heart(run: Path) -> None:
    trainer = Trainer(_settings(steps=150, warm_up=5, learning_rate=3e-3), run)
    image, target = next(iter(SimulatedCases(run / "data", SYNTHESIS, seed=4)))
    assert bool((target == 4).any())
    for _ in range(150):
        trainer.train_step(image[None], target[None])
    trainer.network.eval()
    with torch.no_grad():
        found = trainer.network(image[None]).argmax(1)[0] == 4
    truth = target == 4
    assert 2 * float((found & truth).sum()) / float(found.sum() + truth.sum()) > 0.9


def test_shipped_recipes_are_valid() -> None:
    recipes = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))
    assert recipes
    for recipe in recipes:
        settings = load_recipe(recipe)
        assert settings.name == recipe.stem
        assert stream(settings.seed, "x")
