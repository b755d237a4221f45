from pathlib import Path
from typing import Any

import pytest
import torch

from anystroke.anatomy.lesions.bank import LesionSettings
from anystroke.anatomy.tissues.mni import mni_anatomy
from anystroke.core.config import ConfigError
from anystroke.core.rng import stream
from anystroke.core.volume import Grid, Volume
from anystroke.learning.sources.simulated import SimulatedSource
from anystroke.learning.targets import TARGET_SCHEMES
from anystroke.models.architectures.catalogue import build_network
from anystroke.models.checkpoints import CheckpointError, save_model
from anystroke.simulation.cohorts import Pack
from anystroke.simulation.settings import SynthesisSettings
from anystroke.tasks.segmentation.predict import Model
from anystroke.tasks.segmentation.recipe import load_recipe, parse_recipe
from anystroke.tasks.segmentation.second_look import with_log_odds
from anystroke.tasks.segmentation.second_look_cases import SecondLookCases, first_probability
from stand_in import CONFIG

LESION = len(TARGET_SCHEMES["tissues"]) - 1
SHAPE = (64, 64, 64)


@pytest.fixture(scope="module")
def cases() -> SecondLookCases:
    settings = SynthesisSettings(
        spacing=1.0, weighting="DWI", lesions=LesionSettings(absent=0.0), cut=0.0, large_voxels=0.0
    )
    return SecondLookCases(
        SimulatedSource(Pack([mni_anatomy()], []), settings), (128, 160, 128), "small", 0.1
    )


def test_a_case_depends_on_its_stream_alone_and_its_channels_show_the_same_place(
    cases: SecondLookCases,
) -> None:
    first = cases.scan(SHAPE, 0, rng=stream(4, "a"))
    others = [cases.scan(SHAPE, number, rng=stream(4, "a")) for number in (2, 3, 4)]
    cases.scan(SHAPE, 1, rng=stream(4, "b"))
    again = cases.case(SHAPE, rng=stream(4, "a"))
    assert first.image.shape == (2, *SHAPE)
    assert first.target.shape == SHAPE
    assert torch.equal(again.image, first.image)
    assert torch.equal(again.target, first.target)
    assert not all(torch.equal(each.image, first.image) for each in others)
    assert abs(float(first.image[0][first.image[0] > first.image[0].min()].std()) - 1) < 0.3
    assert float(first.image[1].abs().max()) <= 2.31


def test_what_the_first_network_says_lies_where_it_says_it() -> None:
    """The log-odds beside the image are those of the whole head, wherever the part was cut."""
    model = Model.open("small")
    settings = SynthesisSettings(spacing=1.0, weighting="T1w", cut=0.0)
    source = SimulatedSource(Pack([mni_anatomy()], []), settings)
    head = source.case((128, 160, 128), rng=stream(2, "head")).image
    probability = first_probability(Volume(head[None], torch.eye(4)), model.network, model.config)
    place = torch.eye(4, dtype=torch.float64)
    place[:3, 3] = torch.tensor([20.0, 40.0, 30.0])
    both = with_log_odds(torch.zeros(1, *SHAPE), probability, Grid(SHAPE, place))
    there = probability.resample_to(torch.eye(4), (128, 160, 128)).data[0, 20:84, 40:104, 30:94]
    assert torch.allclose(torch.sigmoid(3 * both[1]), there.clamp(1e-3, 1 - 1e-3), atol=1e-5)


def test_the_first_network_sees_the_exponential_of_adc_maps_alone() -> None:
    model = Model.open("default")
    settings = SynthesisSettings(spacing=2.0, weighting="ADC", cut=0.0)
    image = (
        SimulatedSource(Pack([mni_anatomy()], []), settings).case((80, 96, 80), rng=stream(2, "head")).image
    )
    scan = Volume(image[None], torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0])))
    unknown, known = (
        first_probability(scan, model.network, model.config, adc=adc).data for adc in (False, True)
    )
    assert float((known - unknown).abs().max()) > 0.001
    plain = model.config.model_copy(update={"adc_exponential": 0.0})
    assert torch.equal(first_probability(scan, model.network, plain, adc=True).data, unknown)


def test_what_is_told_beside_the_image_is_changed_in_many_ways(cases: SecondLookCases) -> None:
    """Parts of one head are told other things, and some of them nothing."""
    told = [cases.scan(SHAPE, number, rng=stream(6, "a")).image[1] for number in range(24)]
    silent = [bool(each.max() == each.min()) for each in told]
    assert 1 <= sum(silent) <= 12
    spread = [float(each.mean()) for each, nothing in zip(told, silent, strict=True) if not nothing]
    assert max(spread) - min(spread) > 0.3


def _recipe(**changes: Any) -> str:
    values = {"architecture": "small_second_look_unet", "kind": "second_look", "channels": 1} | changes
    return (
        f'name = "x"\narchitecture = "{values["architecture"]}"\n'
        f'[[sources]]\nkind = "{values["kind"]}"\n{values.get("more", "")}'
        f"\n[buffer]\nchannels = {values['channels']}\n"
    )


def test_recipes_of_second_networks() -> None:
    assert parse_recipe(_recipe()).sources[0].kind == "second_look"
    shipped = load_recipe(Path("second-look"))
    assert {part.kind for part in shipped.sources} == {"second_look"}
    assert all(part.synthesis.large_voxels == 0.45 for part in shipped.sources if part.kind == "second_look")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "small_unet"}, "expected an architecture among small_second_look_unet"),
        ({"kind": "simulated"}, "expected an architecture among small_second_look_unet"),
        ({"channels": 0}, "buffer.channels = 1"),
        ({"more": "[validation]\npatients = 3"}, "cannot be judged alone"),
    ],
)
def test_recipes_that_do_not_fit_together(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_recipe(_recipe(**changes))


def test_a_second_network_alone_is_no_model(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"architecture": "small_second_look_unet"})
    save_model(tmp_path / "second", build_network("small_second_look_unet", 3, seed=1), config)
    with pytest.raises(CheckpointError, match="is a second network"):
        Model.open(tmp_path / "second")


def test_a_second_network_has_no_temperature_of_the_model_that_it_started_from() -> None:
    settings = parse_recipe('start_from = "small"\n' + _recipe())
    common = {
        "name": "x",
        "architecture": "small_second_look_unet",
        "spacing": 1.0,
        "divisor": 16,
    }
    assert Model.open("small").config.temperature != 1
    assert settings.open_task().config(common).temperature == 1
