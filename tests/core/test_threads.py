import os
import threading

import pytest
import torch

from anystroke.core.threads import in_threads


@pytest.fixture(autouse=True)
def _two_threads() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_two_threads_work_at_once() -> None:
    meeting = threading.Barrier(2, timeout=30)
    in_threads(lambda _: meeting.wait(), range(2))


def test_what_goes_wrong_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        in_threads(lambda k: 1 / k, [1, 0, 1])


@pytest.mark.parametrize("gradients", [True, False])
def test_threads_follow_the_caller_s_gradients(gradients: bool) -> None:
    seen: list[bool] = []
    with torch.set_grad_enabled(gradients):
        in_threads(lambda _: seen.append(torch.is_grad_enabled()), range(4))
    assert seen == [gradients] * 4


def test_a_forked_process_has_threads_of_its_own() -> None:
    in_threads(lambda _: None, range(2))
    child = os.fork()
    if child == 0:
        done: list[int] = []
        in_threads(done.append, range(2))
        os._exit(0 if sorted(done) == [0, 1] else 1)
    assert os.waitpid(child, 0)[1] == 0
