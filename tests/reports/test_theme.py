from importlib import resources
from pathlib import Path

import pytest
from jinja2 import TemplateNotFound, UndefinedError

from anystroke.reports.theme import embed, render, write_page

FOLDER = resources.files("anystroke.reports") / "templates"
PAGES = sorted(item.name for item in FOLDER.iterdir() if item.name.endswith(".html"))
TRAINING = {
    "name": "toy <1>", "steps": 1, "planned": None, "hours": 0.0, "rate": 0.0, "waiting": 0.0, "loss": 1.0,
    "validation": [], "headings": {}, "last": 0, "sample": None, "recipe": "{}",
}  # fmt: skip


def test_a_page_has_the_style_sheet_and_escapes_what_it_is_told() -> None:
    page = render("training.html", **TRAINING)
    assert "<h1>Training of toy &lt;1&gt;</h1>" in page
    assert (FOLDER / "style.css").read_text(encoding="utf-8").strip() in page


def test_a_fact_that_is_missing_and_a_page_that_is_unknown_are_errors() -> None:
    with pytest.raises(UndefinedError, match="'name' is undefined"):
        render("training.html", **{key: value for key, value in TRAINING.items() if key != "name"})
    with pytest.raises(TemplateNotFound):
        render("weather.html")


@pytest.mark.parametrize("name", PAGES)
def test_pages_share_one_look_and_need_no_network(name: str) -> None:
    text = (FOLDER / name).read_text(encoding="utf-8")
    assert ("{% extends" in text) == (name != "base.html")
    assert ("<style" in text) == (name == "base.html")
    assert "http" not in text
    # A table in a narrow window must scroll by itself or break its lines.
    tables = text.split("<table")[1:]
    assert all(one.startswith(' class="facts"') or '"scroll"' in text for one in tables)


def test_the_style_sheet_thinks_of_telephones_and_paper() -> None:
    style = (FOLDER / "style.css").read_text(encoding="utf-8")
    assert "@media print" in style
    assert "@media (max-width:" in style
    assert "width=device-width" in render("training.html", **TRAINING)


def test_pages_are_replaced_and_pictures_embedded(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"png")
    path = tmp_path / "page.html"
    for name in ("first", "second"):
        write_page(path, "training.html", **{**TRAINING, "name": name})
    assert "Training of second" in path.read_text(encoding="utf-8")
    assert embed(tmp_path / "a.png") == "data:image/png;base64,cG5n"
    assert [item.name for item in tmp_path.iterdir()].count("page.html") == 1
