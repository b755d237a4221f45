import pytest
from rich.progress import Progress

from anystroke.commands.common import ProgressLines, progress_bar


class Clock:
    """Shows the seconds that passed."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_a_line_a_minute_tells_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with ProgressLines(clock) as lines:
        task = lines.add_task("simulated", total=100)
        for done in range(1, 101):
            clock.seconds += 3
            lines.update(task, completed=done)
    told = capsys.readouterr()
    assert told.err.splitlines() == [
        "simulated: 20 of 100 in 1 min, 4 min left",
        "simulated: 40 of 100 in 2 min, 3 min left",
        "simulated: 60 of 100 in 3 min, 2 min left",
        "simulated: 80 of 100 in 4 min, 1 min left",
    ]
    assert not told.out


def test_items_are_told_of_as_they_are_taken(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    taken = []
    with ProgressLines(clock) as lines:
        for item in lines.track(iter("abc"), description="patients"):
            clock.seconds += 59 if item == "a" else 60
            taken.append(item)
    assert taken == ["a", "b", "c"]
    assert capsys.readouterr().err.splitlines() == ["patients: 2 in 2 min", "patients: 3 in 3 min"]


def test_short_work_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar() as bar:
        assert isinstance(bar, ProgressLines)
        assert list(bar.track([1, 2, 3])) == [1, 2, 3]
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "")


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    bar = progress_bar()
    assert isinstance(bar, Progress)
    assert not isinstance(bar, ProgressLines)
