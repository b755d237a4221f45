from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from anystroke.core.config import ConfigError
from anystroke.core.rng import stream
from anystroke.learning.augmentation.apply import TAIL
from anystroke.learning.recipe import RandomContrastPart, SimulatedPart
from anystroke.learning.shipped_recipes import RECIPES
from anystroke.learning.targets import TARGET_SCHEMES
from anystroke.models.architectures.catalogue import build_network
from anystroke.simulation.healthy import NOTHING
from anystroke.simulation.settings import SynthesisSettings
from anystroke.tasks.pretraining.recipe import PretrainingSettings
from anystroke.tasks.registry import load_any_recipe
from anystroke.tasks.segmentation.recipe import TrainingSettings, load_recipe, parse_recipe

TOY = """
name = "toy"
[[sources]]
kind = "simulated"
synthesis.preset = "paper"
[[sources]]
kind = "random_contrasts"
share = 2
augmentation = "tail"
[optimiser]
steps = 5
"""


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    path = tmp_path / "toy.toml"
    path.write_text(TOY)
    return path


def test_shipped_recipes_are_valid_and_named_like_their_files() -> None:
    recipes = sorted(
        path
        for folder in ("", "compared", "compared/stage", "downstream")
        for path in (RECIPES / folder).glob("*.toml")
    )
    assert len(recipes) > 20
    for recipe in recipes:
        settings = load_any_recipe(recipe)
        assert settings.name == recipe.stem
        assert stream(settings.seed, "x")


def test_a_recipe_of_an_estimator_is_none_of_a_segmentation() -> None:
    with pytest.raises(ConfigError, match="load_any_recipe"):
        load_recipe(RECIPES / "estimator.toml")


PUBLISHED = ("baseline", "synth", "synth+real", "qatlas", "qsynth", "qsynth+real")


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_recipes_have_the_published_values(name: str) -> None:
    settings = load_recipe(RECIPES / f"{name}.toml")
    options = settings.optimiser
    assert (options.learning_rate, options.power, options.clip) == (1e-4, 0.9, 12.0)
    assert (options.steps, options.batch, options.weight_decay) == (700_000, 1, 0.01)
    assert settings.grid.shapes == ((192, 192, 192),)
    assert settings.grid.spacing == 1.0
    assert [part.share for part in settings.sources] == [1] * len(settings.sources)
    count = sum(
        p.numel()
        for p in build_network(settings.architecture, len(TARGET_SCHEMES[settings.classes])).parameters()
    )
    assert count == (18_615_295 if settings.classes == "lesion" else 18_623_079)
    assert len(settings.sources) == 1 + name.endswith("+real")
    small = load_recipe(RECIPES / f"{name}-small.toml")
    assert small.optimiser.steps <= 300
    assert [part.kind for part in small.sources] == [part.kind for part in settings.sources]


def test_published_pretraining_has_the_published_values() -> None:
    settings = load_any_recipe(RECIPES / "pretraining-published.toml")
    assert isinstance(settings, PretrainingSettings)
    options, views, loss = settings.optimiser, settings.views, settings.loss
    assert (options.steps, options.batch, options.learning_rate) == (60_000, 8, 1e-3)
    assert (options.power, options.clip) == (0.9, 12.0)
    assert (settings.grid.spacing, settings.grid.shapes) == (1.0, ((96, 96, 96),))
    assert (views.kind, views.margin, views.equalised) == ("two_sequences", 1.2, True)
    assert (views.bias_coefficient, views.ringing_strength, views.noise_sd) == ((0, 0.3), (0, 0.8), (0, 0.2))
    assert (views.hole_count, views.hole_side, views.largest_hole) == ((1, 10), 5, 0.25)
    assert (views.spatial.deformation, views.spatial.flip, views.spatial.flips) == (0.8, 1.0, 3)
    assert (loss.kind, loss.temperature, loss.redundancy, loss.reconstruction) == ("nt_xent", 0.5, 0.005, 1)


def test_sources_are_read_by_their_kind(toy: Path) -> None:
    first, second = load_recipe(toy).sources
    assert isinstance(first, SimulatedPart)
    assert first.synthesis.preset == "paper"
    assert isinstance(second, RandomContrastPart)
    assert (second.share, second.augmentation) == (2, TAIL)


def test_overrides_reach_into_the_list_of_sources(toy: Path) -> None:
    settings = load_recipe(toy, ["sources.1.share=7", "optimiser.steps=9", "loss.l2_steps=3"])
    assert settings.sources[1].share == 7
    assert (settings.optimiser.steps, settings.loss.l2_steps) == (9, 3)
    with pytest.raises(ConfigError, match="needs a number from 0 to 1 where it has '2'"):
        load_recipe(toy, ["sources.2.share=7"])


def test_bases_give_what_a_recipe_does_not(toy: Path) -> None:
    (toy.parent / "short.toml").write_text("[optimiser]\nsteps = 3\nbatch = 2\n")
    path = toy.parent / "both.toml"
    path.write_text('base = ["toy.toml", "short.toml"]\nname = "both"\n[optimiser]\nbatch = 4\n')
    settings = load_recipe(path)
    assert (settings.name, settings.optimiser.steps, settings.optimiser.batch) == ("both", 3, 4)
    assert len(settings.sources) == 2
    path.write_text('base = "toy.toml"\nname = "one"\n[[sources]]\nkind = "simulated"\n')
    assert len(load_recipe(path).sources) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            TOY.replace("preset", "presset"),
            "unknown key 'sources.0.*presset'; did you mean 'sources.0.*preset'",
        ),
        (TOY.replace('"simulated"', '"simulate"'), "simulate"),
        ('name = "x"\nsources = []\n', "at least one source"),
        ('architecture = "unet"\n' + TOY, "expected one of wide_unet.*it is 'unet'"),
        (TOY.replace("tail", "tale"), "tail"),
        (
            TOY.replace("steps = 5", 'steps = 5\nmade_on = "device"'),
            "only simulated sources without augmentation.*kind 'random_contrasts'",
        ),
        (
            TOY.replace("steps = 5", "steps = 5\nmade_at_once = 8"),
            "made_at_once = 1.*got 8",
        ),
        (TOY.replace("steps = 5", "steps = 0"), "optimiser.steps.*greater than 0"),
        (TOY + "[grid]\nshapes = [[32, 32, 32], [48, 48, 48]]\n", "2 shapes and 1 weights"),
    ],
)
def test_mistakes_are_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_recipe(text)


COMMON = """
[synthesis]
texture = 0.2
lesions.absent = 0.4
fat_suppression = { DWI = 0.5 }
"""


def _simulated(settings: TrainingSettings) -> list[SynthesisSettings]:
    return [part.synthesis for part in settings.sources if isinstance(part, SimulatedPart)]


def test_common_settings_reach_simulated_sources_whose_own_win() -> None:
    own = 'synthesis.preset = "paper"\nsynthesis.texture = 0.9\nsynthesis.lesions.several = 0.1\n'
    text = TOY.replace('synthesis.preset = "paper"\n', own) + '[[sources]]\nkind = "simulated"\n' + COMMON
    settings = parse_recipe(text)
    first, last = _simulated(settings)
    assert (first.preset, first.texture, first.lesions.several) == ("paper", 0.9, 0.1)
    assert (last.preset, last.texture, last.lesions.several) == ("realistic", 0.2, None)
    assert (first.lesions.absent, last.lesions.absent) == (0.4, 0.4)
    assert first.fat_suppression == last.fat_suppression == {"DWI": 0.5}
    assert settings.sources[1] == parse_recipe(TOY).sources[1]
    plain = TrainingSettings.model_validate(settings.model_dump(mode="json"))
    assert plain == settings


def test_common_settings_of_the_nearest_recipe_win_over_its_bases_and_overrides_over_both(toy: Path) -> None:
    toy.write_text(TOY + COMMON)
    path = toy.parent / "near.toml"
    path.write_text('base = "toy.toml"\nname = "near"\n[synthesis]\ntexture = 0.3\nlesions.several = 0.7\n')
    (looks,) = _simulated(load_recipe(path))
    assert (looks.texture, looks.lesions.absent, looks.lesions.several) == (0.3, 0.4, 0.7)
    changes = ["synthesis.texture=0.1", 'synthesis.preset="realistic"', "sources.0.synthesis.cut=0.9"]
    (looks,) = _simulated(load_recipe(path, changes))
    assert (looks.texture, looks.preset, looks.cut) == (0.1, "paper", 0.9)


def test_common_settings_hold_for_estimators_too(tmp_path: Path) -> None:
    path = tmp_path / "both.toml"
    path.write_text(f'base = "{(RECIPES / "estimator.toml").as_posix()}"\n[synthesis]\nvisible_from = 3.5\n')
    settings = load_any_recipe(path)
    assert [p.synthesis.visible_from for p in settings.sources if isinstance(p, SimulatedPart)] == [3.5]


@pytest.mark.parametrize(
    ("common", "message"),
    [
        ("textur = 1", "unknown key 'synthesis.textur'; did you mean 'synthesis.texture'"),
        (
            "lesions.absentt = 1",
            "unknown key 'synthesis.lesions.absentt'; did you mean 'synthesis.lesions.absent'",
        ),
        ("visible_from = -1", "'synthesis.visible_from': .*greater than or equal to 0, but it is -1"),
    ],
)
def test_mistakes_in_common_settings_are_named_where_they_stand(common: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_recipe(f"{TOY}[synthesis]\n{common}\n")


def test_common_settings_need_a_simulated_source() -> None:
    text = 'name = "x"\n[[sources]]\nkind = "random_contrasts"\n[synthesis]\ntexture = 1\n'
    with pytest.raises(ConfigError, match="'synthesis' is for sources of the kind 'simulated'"):
        parse_recipe(text)


STAGE = {
    "no-distortion": ("synthesis.echo_planar",),
    "lesions-alike": ("synthesis.lesions",),
    "unseen-taught": ("synthesis.visible_from",),
    "no-healthy-structures": ("synthesis.healthy", "synthesis.surface_coils", "synthesis.uneven_slices"),
    "no-lesion-wise": ("loss",),
    "clipped": ("grid.normalisation",),
    "diffusion-not-computed": ("synthesis.diffusion",),
    "another-seed": ("seed",),
}


@pytest.mark.parametrize("name", STAGE)
def test_recipes_of_the_stage_differ_in_one_thing(name: str) -> None:
    everything = load_recipe(RECIPES / "compared" / "stage" / "everything.toml").model_dump()
    without = load_recipe(RECIPES / "compared" / "stage" / f"{name}.toml").model_dump()
    assert without.pop("name") == name
    assert everything.pop("name") == "everything"
    assert without != everything
    for key in STAGE[name]:
        for recipe in (without, everything):
            _forget(recipe, key)
    assert without == everything


def _forget(recipe: dict[str, Any], key: str) -> None:
    *sections, last = key.split(".")
    places = recipe["sources"] if sections[:1] == ["synthesis"] else [recipe]
    for place in places:
        for section in sections:
            place = place[section]
        del place[last]


def test_what_the_stage_leaves_out_is_left_out_of_every_source() -> None:
    def looks(name: str) -> list[SynthesisSettings]:
        return _simulated(load_recipe(RECIPES / "compared" / "stage" / f"{name}.toml"))

    assert len(looks("everything")) == 6
    for each in looks("no-healthy-structures"):
        assert (each.healthy, each.surface_coils, each.uneven_slices) == (NOTHING, 0, 0)
    for each in looks("no-distortion"):
        assert (each.echo_planar.diffusion, each.echo_planar.gradient_echo) == (0, 0)
    for each in looks("lesions-alike"):
        assert replace(each.lesions.habit("DWI"), reason="") == replace(each.lesions.habit(), reason="")
        assert each.lesions.absent == 0.25
    assert all(each.visible_from == 0 for each in looks("unseen-taught"))
    assert not any(each.diffusion.computed for each in looks("diffusion-not-computed"))


def test_bases_that_lead_nowhere(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('base = "b.toml"\n')
    with pytest.raises(ConfigError, match=r"b\.toml, or a recipe of that name.*but there is none"):
        load_recipe(path)
    (tmp_path / "b.toml").write_text('base = "a.toml"\n')
    with pytest.raises(ConfigError, match="lead back to itself"):
        load_recipe(path)
    path.write_text("base = 3\n")
    with pytest.raises(ConfigError, match="it is 3"):
        load_recipe(path)
