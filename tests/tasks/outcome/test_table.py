import math
from pathlib import Path

import numpy as np
import pytest

from anystroke.tasks.outcome.table import (
    OutcomeError,
    apply_target,
    as_number,
    choose_columns,
    encode,
    read_table,
    read_target,
)


def _table(path: Path, rows: list[str], header: str = "participant_id\tage\tsex\tnihss") -> Path:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rows = [f"sub-{k}\t{60 + k}\t{'MF'[k % 2]}\t{k % 13}" for k in range(30)]
    return _table(tmp_path / "t.tsv", rows)


def test_numbers_as_people_write_them() -> None:
    assert as_number("89+") == 89
    assert as_number(">89") == 89
    assert as_number("1,5") == 1.5
    assert math.isnan(as_number("N/A"))
    with pytest.raises(ValueError, match="could not"):
        as_number("old")


def test_ids_twice_are_named(tmp_path: Path) -> None:
    path = _table(tmp_path / "t.tsv", ["a\t1\tM\t1", "a\t2\tM\t2"])
    with pytest.raises(OutcomeError, match=r"1 ids more than once \(a\)"):
        read_table(path)


def test_csv_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("participant_id,age\na,1\nb,2\n")
    assert read_table(path).cells("age") == ["1", "2"]


def test_a_table_without_ids(tmp_path: Path) -> None:
    path = _table(tmp_path / "t.tsv", ["1\t2"], "age\tnihss")
    with pytest.raises(OutcomeError, match="participant_id"):
        read_table(path)


def test_columns_known_only_afterwards_are_left_out(tmp_path: Path) -> None:
    header = "participant_id\tage\trankin_discharge\trace\tnihss\twords"
    rows = [f"s{k}\t{k}\t{k % 6}\t{'wb'[k % 2]}\t{k}\ttext {k}" for k in range(20)]
    columns, notes = choose_columns(read_table(_table(tmp_path / "t.tsv", rows, header)), "nihss", None)
    assert [column.name for column in columns] == ["age"]
    assert len(notes) == 3
    with pytest.raises(OutcomeError, match="is text with 20 levels"):
        choose_columns(read_table(tmp_path / "t.tsv"), "nihss", ["words"])
    with pytest.raises(OutcomeError, match="predict itself"):
        choose_columns(read_table(tmp_path / "t.tsv"), "nihss", ["nihss"])
    with pytest.raises(OutcomeError, match="expected the column 'height'"):
        choose_columns(read_table(tmp_path / "t.tsv"), "nihss", ["height"])


def test_levels_become_columns(table: Path) -> None:
    rows = read_table(table)
    columns, _ = choose_columns(rows, "nihss", ["age", "sex"])
    x = encode(rows, columns)
    assert [name for column in columns for name in column.features] == ["age", "sex=M"]
    assert x[:, 1].tolist() == [1.0, 0.0] * 15
    other = rows.only(["sub-0"])
    strange = type(other)(other.ids, ({**other.rows[0], "sex": "diverse", "age": "n/a"},), other.source)
    assert np.isnan(encode(strange, columns)).all()


def test_text_where_numbers_were(table: Path) -> None:
    rows = read_table(table)
    columns, _ = choose_columns(rows, "nihss", ["age"])
    wrong = type(rows)(rows.ids[:1], ({**rows.rows[0], "age": "old"},), rows.source)
    with pytest.raises(OutcomeError, match="expected numbers in the column age"):
        encode(wrong, columns)
    without = type(rows)(rows.ids[:1], ({"sex": "M"},), rows.source)
    with pytest.raises(OutcomeError, match="has no column age"):
        encode(without, columns)


def test_what_a_target_is(table: Path) -> None:
    rows = read_table(table)
    assert read_target(rows, "nihss")[0].kind == "number"
    sex, values = read_target(rows, "sex")
    assert (sex.kind, sex.classes) == ("two_classes", ("F", "M"))
    assert values[:2].tolist() == [1.0, 0.0]
    above, high = read_target(rows, "nihss", above=5)
    assert above.classes == ("at most 5", "above 5")
    assert high.sum() == sum(k % 13 > 5 for k in range(30))
    assert np.array_equal(apply_target(rows, above), high)


def test_grades(tmp_path: Path) -> None:
    rows = [f"s{k}\t{k % 4}" for k in range(20)] + ["s20\tn/a"]
    table = read_table(_table(tmp_path / "t.tsv", rows, "participant_id\trankin"))
    target, values = read_target(table, "rankin")
    assert (target.kind, target.classes) == ("ordered", ("0", "1", "2", "3"))
    assert np.isnan(values[-1])
    assert np.array_equal(apply_target(table, target), values, equal_nan=True)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["1"] * 20, "only '1'"),
        (["n/a"] * 20, "no value"),
        (["a"] * 17 + ["b"] * 3, r"got b \(3\)"),
        (["a", "b", "c", "d"] * 5, "text with 4 levels"),
    ],
)
def test_targets_that_cannot_be_learnt(tmp_path: Path, values: list[str], message: str) -> None:
    rows = [f"s{k}\t{value}" for k, value in enumerate(values)]
    with pytest.raises(OutcomeError, match=message):
        read_target(read_table(_table(tmp_path / "t.tsv", rows, "participant_id\ty")), "y")
