from pathlib import Path

import pytest
from structure import (
    Package,
    argument_counts,
    between_rooms,
    contract_lines,
    cycles,
    figures,
    imports,
    main,
    names_that_mean_two_things,
    table,
)

FILES = {
    "__init__.py": "from pack.models.nets import Net\n",
    "loose.py": "import typing\nfrom pack import models\n\n\nclass Case:\n    x = 1\n",
    "models/__init__.py": "",
    "models/nets.py": "def load():\n    from pack.learning.loop import run\n\n\nclass Net: ...\n",
    "learning/__init__.py": "from .loop import run\n",
    "learning/loop.py": (
        "from typing import TYPE_CHECKING\n"
        "from ..models import nets\n"
        "if TYPE_CHECKING:\n    from pack.tasks.one import recipe\n"
        "Net = nets.Net\n"
        "_HIDDEN = SAME = 1\n"
        "def run(self, a, *, b, **c): ...\n"
        "class Case: ...\n"
    ),
    "tasks/__init__.py": "",
    "tasks/one/__init__.py": "",
    "tasks/one/recipe.py": "_HIDDEN = SAME = 1\nfrom pack.learning import loop\nclass Recipe: one: int\n",
    "tasks/two/__init__.py": "",
    "tasks/two/recipe.py": "class Recipe:\n    two: int\n_HIDDEN = 2\n",
    "commands.py": "import typer\n\n\ndef run(): ...\n",
}
CONTRACT = """[[tool.importlinter.contracts]]
layers = ["a | b", "c"]
ignore_imports = ["d -> e"]
[[tool.importlinter.contracts]]
type = "forbidden"
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / "src" / "pack" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "pyproject.toml").write_text(CONTRACT)
    (tmp_path / "tests" / "deep").mkdir(parents=True)
    (tmp_path / "tests" / "deep" / "test_it.py").write_text("def test_a(): ...\n\n\ndef helper(): ...\n")
    return tmp_path


def test_imports_within_functions_and_relative_ones_count_but_not_those_for_annotations(root: Path) -> None:
    graph = imports(Package.read(root))
    assert graph["pack.loose"] == {"pack.models"}
    assert graph["pack.models.nets"] == {"pack.learning.loop"}
    assert graph["pack.learning"] == {"pack.learning.loop"}
    assert graph["pack.learning.loop"] == {"pack.models.nets"}
    assert cycles(graph) == [["pack.learning.loop", "pack.models.nets"]]
    assert cycles(between_rooms(graph)) == [["pack.learning", "pack.models"]]


def test_a_chain_is_no_cycle() -> None:
    assert cycles({"a": frozenset("b"), "b": frozenset("c"), "c": frozenset()}) == []
    assert cycles({"a": frozenset("b"), "b": frozenset("c"), "c": frozenset("a")}) == [["a", "b", "c"]]


def test_arguments_without_self_but_with_those_behind_stars(root: Path) -> None:
    counts = argument_counts(Package.read(root))
    assert counts["learning/loop.py:7 run"] == 3
    assert counts["models/nets.py:1 load"] == 0


def test_names_of_siblings_verbs_copies_and_what_is_hidden_do_not_mean_two_things(root: Path) -> None:
    assert names_that_mean_two_things(Package.read(root)) == {"Case": ["pack.learning.loop", "pack.loose"]}
    (root / "src" / "pack" / "Recipe.py").write_text("class Recipe: ...\n")
    found = names_that_mean_two_things(Package.read(root))
    assert found["Recipe"] == ["pack.Recipe", "pack.tasks.one.recipe", "pack.tasks.two.recipe"]


def test_figures_of_two_checkouts_stand_side_by_side(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = figures(Package.read(root), copies=False)
    assert contract_lines(root) == (2, 1)
    assert (found["modules at the top"], found["folders at the top"]) == ("2", "3")
    assert found["lines of a file: largest"] == "8 (learning/loop.py)"
    assert (found["test functions"], found["pairs of near copies"]) == ("1", "not measured")
    main([str(root), "--against", str(root), "--names", "--quick"])
    said = capsys.readouterr().out
    assert said.startswith(table({"before": found, "after": found}))
    assert "\n  Case: pack.learning.loop, pack.loose\n" in said


def test_two_packages_are_refused(root: Path) -> None:
    (root / "src" / "other").mkdir()
    (root / "src" / "other" / "__init__.py").touch()
    with pytest.raises(ValueError, match="one package"):
        Package.read(root)
