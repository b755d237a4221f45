import math
import os
import signal
import threading

import pytest

from anystroke.core.config import ConfigError
from anystroke.learning.clock import LEAVING, Clock, rate_by_time
from anystroke.learning.interruption import Interruption
from anystroke.tasks.segmentation.recipe import parse_recipe


class Fake:
    """A clock that shows what it is told."""

    def __init__(self, shown: float = 0.0) -> None:
        self.shown = shown

    def __call__(self) -> float:
        return self.shown

    def clock(self, seconds: float) -> Clock:
        return Clock(seconds, now=self)


def _over(clock: Clock) -> bool:
    clock.look()
    return clock.over


def test_the_time_of_training_is_from_the_first_batch_to_the_margin() -> None:
    now = Fake(1000.0)
    clock = now.clock(540.0)
    now.shown = 1030.0
    clock.begin()
    clock.saved(4.0)
    assert clock.margin == pytest.approx(6.0 + LEAVING)
    end = 540.0 - clock.margin
    for elapsed in (30.0, 100.0, 400.0, end):
        now.shown = 1000.0 + elapsed
        clock.begin()
        clock.look()
        assert clock.left == pytest.approx((end - elapsed) / (end - 30.0))
        assert clock.over == (elapsed >= end)
    now.shown = 2000.0
    clock.look()
    assert (clock.left, clock.over) == (0.0, True)


def test_a_step_that_would_not_fit_in_is_not_begun() -> None:
    now = Fake()
    clock = now.clock(100.0)
    clock.begin()
    clock.saved(2.0)
    clock.stepped(30.0)
    now.shown = 66.0
    assert _over(clock)
    for _ in range(20):
        clock.stepped(1.0)
    assert not _over(clock)


def test_the_longest_saving_counts_and_none_is_guessed() -> None:
    clock = Fake().clock(100.0)
    assert clock.margin == pytest.approx(5.0 + LEAVING)
    clock.saved(3.0)
    clock.saved(1.0)
    assert clock.margin == pytest.approx(4.5 + LEAVING)


def test_validations_are_left_out_where_they_would_not_fit_in() -> None:
    now = Fake()
    clock = now.clock(100.0)
    clock.saved(0.0)
    found = []
    for shown, last in ((70.0, None), (74.0, 5.0), (74.0, None), (89.0, None)):
        now.shown = shown
        found.append(clock.can_validate)
        if last is not None:
            clock.validated(last)
    assert found == [True, False, True, False]


def test_checkpoints_on_the_way_leave_the_margin_for_the_last_one() -> None:
    now = Fake()
    clock = now.clock(100.0)
    clock.begin()
    clock.saved(20.0)
    allowed = []
    for now.shown in (79.9 - clock.margin, 80.1 - clock.margin):
        allowed.append(clock.can_save)
    assert allowed == [True, False]
    assert not _over(clock)


def test_the_call_may_be_before_the_clock_is_made() -> None:
    now = Fake(50.0)
    clock = Clock(100.0, now=now, started=20.0)
    assert clock.elapsed == 30.0


def test_the_rate_rises_and_falls_with_the_time() -> None:
    assert rate_by_time(1.0, warm_up=0.02, power=0.9) == 0
    assert rate_by_time(0.99, warm_up=0.02, power=0.9) == pytest.approx(0.5 * 0.99**0.9)
    assert rate_by_time(0.5, warm_up=0.02, power=0.9) == pytest.approx(0.5**0.9)
    assert rate_by_time(0.0, warm_up=0.02, power=0.9) == 0
    assert rate_by_time(1.0, warm_up=0.0, power=0.9) == 1
    rates = [rate_by_time(1 - k / 1000, warm_up=0.1, power=0.9) for k in range(1001)]
    assert rates.index(max(rates)) == 100


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("minutes = -1", "optimiser.minutes.*greater than or equal to 0"),
        ("minutes = inf", "optimiser.minutes.*finite"),
        ("warm_up_share = 1.0", "optimiser.warm_up_share.*less than 1"),
    ],
)
def test_times_that_mean_nothing_are_refused(line: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_recipe(f'name = "x"\n[[sources]]\nkind = "simulated"\n[optimiser]\n{line}\n')


def test_a_signal_is_noted_and_its_former_handler_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Interruption() as interruption:
        found = [interruption.came]
        os.kill(os.getpid(), signal.SIGTERM)
        assert [*found, interruption.came] == [False, True]
    assert signal.getsignal(signal.SIGTERM) == before


def test_other_threads_leave_signals_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def work() -> None:
        with Interruption():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_a_clock_without_time_is_over_at_once() -> None:
    now = Fake()
    clock = now.clock(1.0)
    clock.begin()
    clock.look()
    assert clock.over
    assert math.isclose(clock.left, 0.0)
