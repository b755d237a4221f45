from pathlib import Path

import pytest

from anystroke.tasks.segmentation.kept_rows import KeptRowsError, add_row, read_rows


def test_rows_of_the_same_are_read_and_a_last_line_that_was_cut_off_goes(tmp_path: Path) -> None:
    kept = tmp_path / "rows"
    assert read_rows(kept, ["a"]) == {}
    add_row(kept, ["a"], 3, {"value": 1.5})
    add_row(kept, ["b"], 4, {"value": 2.5})
    whole = kept.read_text()
    for rest in ("", "{", '{"of', whole.splitlines()[0][:-3]):
        kept.write_text(whole + rest)
        assert read_rows(kept, ["a"]) == {3: {"value": 1.5}}
        assert kept.read_text() == whole


@pytest.mark.parametrize(
    "text", ["something else", "{}\n", "[1]\n3", "1\n", '{"of": [], "number": 1}\nnotes']
)
def test_another_file_is_refused_and_stays(tmp_path: Path, text: str) -> None:
    other = tmp_path / "other"
    other.write_text(text)
    with pytest.raises(KeptRowsError, match="name another file"):
        read_rows(other, [])
    assert other.read_text() == text
