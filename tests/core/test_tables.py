from pathlib import Path

import pytest

from anystroke.core.tables import GrowingTable, TableError, read_cells, read_rows, write_table


def test_what_is_written_is_read(tmp_path: Path) -> None:
    rows = [
        {"id": '"quoted" and more', "note": 'in the "middle"'},
        {"id": "b", "note": "two\nlines\tand tabs"},
    ]
    write_table(tmp_path / "a.tsv", ("id", "note"), rows)
    assert read_rows(tmp_path / "a.tsv") == [rows[0], {"id": "b", "note": "two lines and tabs"}]


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (b'id,site\r\n1,"Basel, CH"\r\n', [{"id": "1", "site": "Basel, CH"}]),
        (b"id;site\n1;Bern\n", [{"id": "1", "site": "Bern"}]),
        ("id\tsite\n1\tZürich\n".encode("utf-16"), [{"id": "1", "site": "Zürich"}]),
        ("id\tsite\n1\tZürich\n".encode("cp1252"), [{"id": "1", "site": "Zürich"}]),
        (b"\xef\xbb\xbfid\tsite\n\n 1 \t Bern \n", [{"id": "1", "site": "Bern"}]),
    ],
)
def test_tables_as_people_save_them(tmp_path: Path, content: bytes, rows: list[dict[str, str]]) -> None:
    (tmp_path / "a.tsv").write_bytes(content)
    assert read_rows(tmp_path / "a.tsv") == rows


def test_short_rows_are_refused_or_filled(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("id\tsite\n\n1\n")
    with pytest.raises(TableError, match="line 3 has 1 cells, expected 2"):
        read_rows(tmp_path / "a.tsv")
    assert read_cells(tmp_path / "a.tsv") == (["id", "site"], [(3, {"id": "1", "site": ""})])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"a\ta\n", "two columns of one name"),
        (b"b\tc\n", "no column a"),
        (b"PK\x03\x04 and more", "a workbook"),
        (b"a\0b", "not a table of text"),
    ],
)
def test_what_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.tsv").write_bytes(content)
    with pytest.raises(TableError, match=message):
        read_rows(tmp_path / "a.tsv", needed=("a",))


def test_two_programs_add_to_one_table(tmp_path: Path) -> None:
    first, second = (GrowingTable(tmp_path / "a.tsv", ("id", "ml")) for _ in range(2))
    first.put([{"id": "a", "ml": 1}], key="id")
    second.put([{"id": "b", "ml": 2}], key="id")
    first.put([{"id": "a", "ml": 3}], key="id")
    assert [(row["id"], row["ml"]) for row in second.read()] == [("b", "2"), ("a", "3")]


def test_a_table_of_others_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("name\n")
    with pytest.raises(TableError, match="not a table of anystroke"):
        GrowingTable(tmp_path / "a.tsv", ("id", "ml"))
    assert (tmp_path / "a.tsv").read_text() == "name\n"
