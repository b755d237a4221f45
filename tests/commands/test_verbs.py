"""Every verb is documented, and the example in its help can be called."""

import inspect
import re
import shlex
from pathlib import Path

import pytest
import typer

from anystroke.commands.main import app
from anystroke.commands.segment import as_bids_app

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
TEXTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def _examples(verb: str) -> list[str]:
    told = inspect.cleandoc(COMMANDS[verb].callback.__doc__ or "")
    found = re.search(r"^Examples?: (anystroke .+?)(?:\n\n|\Z)", told, re.MULTILINE | re.DOTALL)
    return [" ".join(found.group(1).split())] if found else []


@pytest.mark.parametrize("verb", sorted(COMMANDS))
def test_the_example_of_a_verb_is_a_call_of_it(verb: str) -> None:
    command = COMMANDS[verb]
    if hasattr(command, "commands"):  # a group: its verbs have the examples
        return
    [example] = _examples(verb)
    program, *words = shlex.split(example)
    assert (program, words[0]) == ("anystroke", verb)
    words = as_bids_app(words, list(COMMANDS))
    assert command.make_context(verb, words[1:]).info_name == verb


@pytest.mark.parametrize("verb", sorted(COMMANDS))
def test_a_verb_is_documented(verb: str) -> None:
    pattern = re.compile(rf"anystroke {re.escape(verb)}\b")
    assert [path.name for path in TEXTS if pattern.search(path.read_text(encoding="utf-8"))]
