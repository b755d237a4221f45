from pathlib import Path

import pytest

from anystroke.config import ConfigError
from anystroke.learning.augmentation import TAIL
from anystroke.learning.estimator_recipes import load_any_recipe
from anystroke.learning.networks import build_network
from anystroke.learning.recipes import RandomContrastPart, SimulatedPart, load_recipe, parse_recipe
from anystroke.learning.targets import SCHEMES
from anystroke.rng import stream

RECIPES = Path(__file__).parents[2] / "recipes"
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
    recipes = sorted([*RECIPES.glob("*.toml"), *RECIPES.glob("compared/*.toml")])
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
        p.numel() for p in build_network(settings.architecture, len(SCHEMES[settings.classes])).parameters()
    )
    assert count == (18_615_295 if settings.classes == "lesion" else 18_623_079)
    assert len(settings.sources) == 1 + name.endswith("+real")
    small = load_recipe(RECIPES / f"{name}-small.toml")
    assert small.optimiser.steps <= 300
    assert [part.kind for part in small.sources] == [part.kind for part in settings.sources]


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
        ('architecture = "unet"\n' + TOY, "expected one of compact_unet.*it is 'unet'"),
        (TOY.replace("tail", "tale"), "tail"),
        (TOY.replace("steps = 5", "steps = 0"), "optimiser.steps.*greater than 0"),
        (TOY + "[grid]\nshapes = [[32, 32, 32], [48, 48, 48]]\n", "2 shapes and 1 weights"),
    ],
)
def test_mistakes_are_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_recipe(text)


def test_bases_that_lead_nowhere(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('base = "b.toml"\n')
    with pytest.raises(ConfigError, match=r"b\.toml, but there is none"):
        load_recipe(path)
    (tmp_path / "b.toml").write_text('base = "a.toml"\n')
    with pytest.raises(ConfigError, match="lead back to itself"):
        load_recipe(path)
    path.write_text("base = 3\n")
    with pytest.raises(ConfigError, match="it is 3"):
        load_recipe(path)
