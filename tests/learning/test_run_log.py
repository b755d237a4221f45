from pathlib import Path

import pytest

from anystroke.learning.run_log import LogRow, RunLog, read_log, write_report
from anystroke.tasks.segmentation.recipe import parse_recipe

RECIPE = 'name = "toy"\n[[sources]]\nkind = "simulated"\n'


def _steps(folder: Path, first: int, last: int) -> None:
    with RunLog(folder, first - 1) as log:
        for step in range(first, last + 1):
            log.step(step, 1 / step, 1e-3, 0.1, 0.5)
        assert log.rate == pytest.approx(2.0)


def test_a_log_drops_what_comes_after_the_checkpoint_and_what_was_cut_off(tmp_path: Path) -> None:
    _steps(tmp_path, 1, 5)
    with (tmp_path / "log.csv").open("a") as file:
        file.write("6,0.1")
    assert [row["step"] for row in read_log(tmp_path)] == ["1", "2", "3", "4", "5"]
    _steps(tmp_path, 4, 6)
    rows = read_log(tmp_path)
    assert [row["step"] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    assert float(rows[2]["loss"]) == pytest.approx(1 / 3, rel=1e-8)
    assert list((tmp_path / "tensorboard").iterdir())


def test_the_best_validation_is_remembered_over_a_break(tmp_path: Path) -> None:
    rows: list[LogRow] = [{"set": "simulated", "group": "all", "score": 0.5}]
    with RunLog(tmp_path, 0) as log:
        assert log.validated(10, rows)
        assert not log.validated(20, rows)
        assert not log.validated(30, [{"set": "real", "group": "all", "score": 0.9}])
    (tmp_path / "validation.csv").write_text("step,set,group,score\n10,simulated,all,0.5\n")
    with RunLog(tmp_path, 20) as log:
        assert not log.validated(30, rows)
        assert log.validated(40, [{**rows[0], "score": 0.6}])


def test_a_run_that_was_begun_without_the_criterion_goes_on(tmp_path: Path) -> None:
    (tmp_path / "validation.csv").write_text(
        "step,set,group,mean_dice,score\n10,simulated,all,0.5,\n20,simulated,all,0.5,0.4\n"
    )
    with RunLog(tmp_path, 20) as log:
        assert log.best == pytest.approx(0.4)
    write_report(tmp_path, parse_recipe(RECIPE))


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    with RunLog(tmp_path, 0, active=False) as log:
        log.step(1, 1.0, 1e-3, 0.0, 1.0)
    assert not list(tmp_path.iterdir())


def test_the_report_says_what_happened(tmp_path: Path) -> None:
    _steps(tmp_path, 1, 60)
    page = write_report(tmp_path, parse_recipe(RECIPE)).read_text()
    assert "60 of 10000 steps" in page
    assert "20.0 % of the time spent waiting" in page
    assert "set validation.patients" in page
