from pathlib import Path

import pytest

from anystroke.commands.main import main
from anystroke.core.config import ConfigError
from anystroke.learning.shipped_recipes import find_recipe, recipe_comment, shipped_recipes
from anystroke.tasks.registry import load_any_recipe


def test_a_recipe_is_found_by_its_name_wherever_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_any_recipe(Path("qsynth-small")).name == "qsynth-small"
    assert load_any_recipe(Path("compared/stage/clipped.toml")).name == "clipped"
    own = tmp_path / "qsynth-small"
    own.write_text('base = "synth-small"\nname = "own"\n')
    assert load_any_recipe(Path("qsynth-small")).name == "own"
    with pytest.raises(ConfigError, match=r"did you mean 'qsynth-small'\?"):
        find_recipe("qsynth-smal")


def test_each_recipe_says_what_it_is() -> None:
    for name, path in shipped_recipes().items():
        assert len(recipe_comment(path)) > 10, name
    assert not [name for name in shipped_recipes() if name.startswith("parts")]


def test_a_copy_can_be_changed_and_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["recipes", "--copy", "qsynth-small"]) == 0
    copied = tmp_path / "qsynth-small.toml"
    copied.write_text(copied.read_text() + "seed = 5\n")
    settings = load_any_recipe(Path("qsynth-small.toml"))
    assert (settings.seed, settings.optimiser.steps) == (5, 300)
    assert main(["recipes", "--copy", "qsynth-small"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert main(["recipes"]) == 0
    assert "estimator-longer" in capsys.readouterr().out
