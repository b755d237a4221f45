from pathlib import Path

import pytest

from anystroke.core.config import ConfigError, StrictModel, apply_overrides, read_toml, validate


class Inner(StrictModel):
    learning_rate: float = 0.1


class Outer(StrictModel):
    steps: int
    inner: Inner = Inner()


def _write(folder: Path, text: str) -> Path:
    path = folder / "settings.toml"
    path.write_text(text, encoding="utf-8")
    return path


def _load(path: Path, model: type[Outer], overrides: list[str] | None = None) -> Outer:
    data = read_toml(path)
    apply_overrides(data, overrides or [])
    return validate(data, model, source=str(path))


def test_reads_values_and_overrides(tmp_path: Path) -> None:
    path = _write(tmp_path, "steps = 3\n[inner]\nlearning_rate = 0.5\n")
    assert _load(path, Outer) == Outer(steps=3, inner=Inner(learning_rate=0.5))
    changed = _load(path, Outer, ["inner.learning_rate=0.25", "steps=7"])
    assert changed == Outer(steps=7, inner=Inner(learning_rate=0.25))


def test_unknown_key_names_the_nearest(tmp_path: Path) -> None:
    path = _write(tmp_path, "steps = 3\n[inner]\nlerning_rate = 0.5\n")
    with pytest.raises(
        ConfigError, match=r"unknown key 'inner.lerning_rate'; did you mean 'inner.learning_rate'"
    ):
        _load(path, Outer)


@pytest.mark.parametrize(
    ("text", "message"),
    [("steps = 'many'", "'steps'.*'many'"), ("", "'steps': field required"), ("steps = ", "not valid TOML")],
)
def test_bad_files_are_refused_in_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _load(_write(tmp_path, text), Outer)


def test_missing_file_and_bad_override(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is none"):
        _load(tmp_path / "none.toml", Outer)
    path = _write(tmp_path, "steps = 3")
    with pytest.raises(ConfigError, match=r"section.key=value"):
        _load(path, Outer, ["steps"])
    with pytest.raises(ConfigError, match="which is a value"):
        _load(path, Outer, ["steps.more=1"])
