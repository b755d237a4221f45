"""Jobs that wait for one another at gathered functions."""

import functools
import threading

import pytest
import torch

from anystroke.core.gathering import gathered, together

_CALLS: list[list[int]] = []


@gathered
def _squares(numbers: list[int]) -> list[int]:
    _CALLS.append(numbers)
    if min(numbers) < 0:
        raise ValueError(f"expected numbers of 0 or more, got {min(numbers)}")
    return [number**2 for number in numbers]


@gathered
def _halves(numbers: list[int]) -> list[float]:
    return [number / 2 for number in numbers]


@pytest.fixture(autouse=True)
def _fresh() -> None:
    _CALLS.clear()


def test_a_gathered_function_is_called_at_once_for_all_jobs() -> None:
    results = together([functools.partial(_squares, number) for number in range(5)])
    assert results == [0, 1, 4, 9, 16]
    assert _CALLS == [[0, 1, 2, 3, 4]]


def test_jobs_that_take_other_ways_get_their_own_answers() -> None:
    def work(number: int) -> float:
        value: float = number
        for _ in range(number):
            value = _halves(_squares(int(value)))
        return value

    expected = [work(number) for number in range(4)]
    _CALLS.clear()
    assert together([functools.partial(work, number) for number in range(4)]) == expected
    assert len(_CALLS) < sum(range(4))


def test_outside_of_jobs_and_in_a_single_one_the_answer_comes_at_once() -> None:
    assert _squares(3) == 9
    assert together([lambda: _squares(4)]) == [16]
    assert _CALLS == [[3], [4]]


def test_an_error_of_a_job_or_of_the_function_reaches_the_caller_and_no_thread_is_left() -> None:
    before = threading.active_count()

    def fail() -> int:
        raise KeyError("a job")

    with pytest.raises(KeyError, match="a job"):
        together([lambda: _squares(1), fail, lambda: _squares(2)])
    with pytest.raises(ValueError, match="got -1"):
        together([lambda: _squares(1), lambda: _squares(-1)])
    assert threading.active_count() == before


def test_modes_of_the_caller_hold_in_jobs() -> None:
    def modes() -> tuple[bool, bool]:
        _squares(1)
        return torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    with torch.inference_mode():
        assert together([modes, modes]) == [(True, False)] * 2
    with torch.no_grad():
        assert together([modes, modes]) == [(False, False)] * 2
