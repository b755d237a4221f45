import csv
import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from anystroke.anatomy.tissues.anatomies import load_anatomies
from anystroke.learning.run import Devices, train
from anystroke.learning.run_log import read_log
from anystroke.learning.sources.packing import sources_of
from anystroke.learning.stream import Batch, CaseStream, StreamSettings
from anystroke.learning.supply import stream_settings
from anystroke.learning.trainer import LossError, StartError, Trainer, TrainingError
from anystroke.models.checkpoints import open_network
from anystroke.models.image_features import FEATURES
from anystroke.models.model_space import normalise_intensity
from anystroke.simulation.replay import regenerate
from anystroke.tasks.segmentation import task
from anystroke.tasks.segmentation.config import SegmentationConfig
from anystroke.tasks.segmentation.losses import LossSettings
from anystroke.tasks.segmentation.recipe import TrainingSettings
from phantoms import sphere_lesion
from processes import run_in_processes

SHAPE = (32, 32, 32)


def _settings(
    architecture: str = "tiny_unet", shape: tuple[int, int, int] = SHAPE, **options: object
) -> TrainingSettings:
    optimiser = {"steps": 4, "checkpoint_every": 2, "workers": 0, "precision": "float32"} | options
    return TrainingSettings.model_validate(
        {
            "name": "test",
            "architecture": architecture,
            "grid": {"spacing": 8.0, "shapes": [shape]},
            "sources": [{"kind": "simulated"}],
            "optimiser": optimiser,
        }
    )


def _batches(settings: TrainingSettings, run: Path, count: int) -> list[Batch]:
    drawn = StreamSettings((1,), settings.grid.shapes, settings.grid.shape_weights, settings.seed)
    return list(islice(CaseStream(sources_of(settings, run / "data"), drawn), count))


def _losses(folder: Path) -> list[tuple[int, float]]:
    return [(int(row["step"]), float(row["loss"])) for row in read_log(folder)]


def test_a_run_leaves_a_model_a_log_and_pictures_and_resumes(run: Path) -> None:
    model = train(_settings(), run)
    assert [step for step, _ in _losses(run)] == [1, 2, 3, 4]
    assert sorted(p.name for p in (run / "samples").iterdir()) == ["step_000002.png", "step_000004.png"]
    assert open_network(model, SegmentationConfig).config.training["steps"] == 4
    with pytest.raises(StartError, match="--resume"):
        train(_settings(), run)
    train(_settings(steps=6), run, resume=True)
    assert [step for step, _ in _losses(run)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("loss", [{"lesion_wise": 1.0}, {"false_parts": 0.5}])
def test_a_run_counts_lesions_and_false_parts_one_by_one(run: Path, loss: dict[str, float]) -> None:
    plain, settings = _settings("small_unet"), _settings("small_unet")
    settings = settings.model_copy(update={"loss": LossSettings.model_validate(loss)})
    assert stream_settings(plain).cells is None
    cells = stream_settings(settings).cells
    assert cells is not None
    assert (cells.lesion, cells.spacing) == (4, 8.0)
    stream = CaseStream(sources_of(settings, run / "data"), stream_settings(settings))
    batch = next(each for each in stream if bool((each.target == 4).any()))
    assert batch.cells is not None
    assert bool((batch.cells[batch.target == 4] > 0).all())
    assert Trainer(settings, run).train_step(batch) > Trainer(plain, run).train_step(batch)
    with pytest.raises(ValueError, match="need batches with cells"):
        Trainer(settings, run).train_step(Batch(batch.image, batch.target))
    train(settings, run)
    assert [step for step, _ in _losses(run)] == [1, 2, 3, 4]


@pytest.mark.parametrize("architecture", ["tiny_unet", "residual_unet"])
def test_resuming_gives_the_losses_of_a_run_without_break(run: Path, architecture: str) -> None:
    """The published network has dropout, whose random numbers must go on as well."""
    settings = _settings(architecture, (64, 32, 32), steps=8)
    whole = Trainer(settings, run)
    batches = _batches(settings, run, 4)
    expected = [whole.train_step(batch) for batch in batches[:2]]
    whole.save()
    resumed = Trainer(settings, run)
    resumed.resume()
    assert resumed.step == 2
    expected_after = [whole.train_step(batch) for batch in batches[2:]]
    torch.rand(7)
    assert [resumed.train_step(batch) for batch in batches[2:]] == expected_after
    assert all(torch.equal(whole.average[k], resumed.average[k]) for k in whole.average)
    assert expected_after != expected


def _gradients(run: Path, ranks: int, batch: int) -> None:
    """Compute the gradients of one step in one of several processes; the first writes them down."""
    settings = _settings(batch=batch, precision="float64")
    fabric = Devices(accelerator="cpu").fabric(settings)
    fabric.launch()
    assert fabric.world_size == ranks
    made = Trainer(settings, run, fabric)
    cases = CaseStream(
        sources_of(settings, run / "data"),
        StreamSettings((1,), settings.grid.shapes, (1.0,), settings.seed, batch),
        first=3,
        rank=fabric.global_rank,
        ranks=ranks,
    )
    fabric.backward(made._loss(*next(iter(cases)), number=0))
    if fabric.global_rank == 0:
        gradients = {k: p.grad.contiguous() for k, p in made.module.named_parameters() if p.grad is not None}
        save_file(gradients, run / f"gradients_{ranks}.safetensors")


def test_two_processes_have_the_gradients_of_one_with_twice_the_batch(run: Path) -> None:
    run_in_processes(_gradients, run, 2, 1, ranks=2)
    _gradients(run, 1, 2)
    two, one = (load_file(run / f"gradients_{k}.safetensors") for k in (2, 1))
    assert one.keys() == two.keys()
    assert max(float(gradient.abs().max()) for gradient in one.values()) > 1e-3
    for name, gradient in one.items():
        assert float((two[name] - gradient).norm()) <= 1e-5 * float(gradient.norm()) + 1e-12, name


def test_gradients_accumulate_over_batches(run: Path) -> None:
    settings = _settings()
    batches = _batches(settings, run, 2)
    both, alone = Trainer(settings, run), Trainer(settings, run)
    gradients: list[list[Tensor]] = []
    for chosen in batches:
        alone.network.zero_grad()
        alone.fabric.backward(alone._loss(*chosen, number=0))
        gradients.append([p.grad.clone() for p in alone.module.parameters() if p.grad is not None])
    both.train_step(*batches)
    scale = None
    for parameter, first, second in zip(both.module.parameters(), *gradients, strict=True):
        assert parameter.grad is not None
        expected = (first + second) / 2
        if scale is None:
            scale = float(parameter.grad.norm() / expected.norm())
        assert torch.allclose(parameter.grad, scale * expected, rtol=1e-3, atol=1e-6)


def test_a_grid_that_the_network_cannot_halve_is_refused(run: Path) -> None:
    with pytest.raises(StartError, match=r"multiples of 8.*\(36, 32, 32\)"):
        Trainer(_settings(shape=(36, 32, 32)), run)
    with pytest.raises(StartError, match=r"\(32, 32, 32\).*a single voxel"):
        Trainer(_settings("residual_unet"), run)


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
    before = {key: value.clone() for key, value in trainer.module.state_dict().items()}
    image = torch.full((1, 1, 32, 32, 32), float("nan"))
    with pytest.raises(TrainingError, match="step 0 is nan"):
        trainer.train_step(Batch(image, torch.zeros(1, 32, 32, 32, dtype=torch.uint8)))
    assert all(torch.equal(before[key], value) for key, value in trainer.module.state_dict().items())


def test_the_cases_of_a_loss_that_is_not_finite_are_kept(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(_settings(steps=2), run)

    def broken(*_: object, **__: object) -> torch.Tensor:
        return torch.tensor(float("inf"))

    monkeypatch.setattr(task, "deep_supervision", broken)
    with pytest.raises(LossError, match=r"step_000002_cases_0\.json"):
        train(_settings(steps=4), run, resume=True)
    [record] = json.loads((run / "step_000002_cases_0.json").read_text())
    sample = regenerate(record, load_anatomies(run / "data" / "anatomies.safetensors"), [sphere_lesion()])
    image = _batches(_settings(), run, 3)[2].image
    assert torch.equal(normalise_intensity(sample.image)[None, None], image)
    assert open_network(run / "model", SegmentationConfig).config.training["steps"] == 2


def test_another_architecture_cannot_be_resumed(run: Path) -> None:
    Trainer(_settings("small_unet"), run).save()
    other = Trainer(_settings(), run)
    with pytest.raises(StartError, match="another architecture"):
        other.resume()


def test_one_case_can_be_learnt_by_heart(run: Path) -> None:
    trainer = Trainer(_settings("small_unet", steps=150, warm_up=5, learning_rate=3e-3), run)
    image, target, _ = _batches(_settings(), run, 5)[4]
    assert bool((target == 4).any())
    for _ in range(150):
        trainer.train_step(Batch(image, target))
    trainer.module.eval()
    with torch.no_grad():
        found = trainer.module(image).argmax(1) == 4
    truth = target == 4
    assert 2 * float((found & truth).sum()) / float(found.sum() + truth.sum()) > 0.9


def test_validation_is_written_and_the_best_network_kept(run: Path) -> None:
    settings = _settings(steps=4)
    wanted: dict[str, Any] = {"every": 2, "patients": 2, "healthy": 1, "weightings": ["T1w"]}
    settings = TrainingSettings.model_validate(settings.model_dump() | {"validation": wanted})
    train(settings, run)
    with (run / "validation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["step"], row["set"]) for row in rows} == {
        (step, of) for step in ("2", "4") for of in ("simulated", "healthy")
    }
    assert [row["scans"] for row in rows if (row["set"], row["group"]) == ("simulated", "all")] == ["2", "2"]
    assert open_network(run / "best", SegmentationConfig).config.training["steps"] in (2, 4)
    usual = open_network(run / "model", SegmentationConfig).config.image_range
    assert set(usual) == set(FEATURES)
    assert all(low <= high for low, high in usual.values())
    assert open_network(run / "best", SegmentationConfig).config.image_range == usual
    page = (run / "report.html").read_text()
    assert "weighting T1w" in page
    assert (run / "curves.png").stat().st_size > 5000


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["plain_unet", "mde", "mded"])
def test_published_networks_are_trained_and_go_on(run: Path, architecture: str) -> None:
    settings = _settings(architecture, (64, 64, 32), steps=2, checkpoint_every=1, batch=1, learning_rate=1e-4)
    first = Trainer(settings, run)
    [one, two] = _batches(settings, run, 2)
    first.train_step(one)
    first.save()
    expected = first.train_step(two)
    again = Trainer(settings, run)
    again.resume()
    assert again.train_step(two) == expected
