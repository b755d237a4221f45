"""Several jobs at once that wait for one another where work is cheaper done for all of them together.

A job is ordinary code for one thing. Where it calls a gathered function, it stops until the other jobs have
come to such a call too; then the function is called once, with what all of them ask for. A job that takes
another way than the others, since its settings say so, simply asks for other things.
"""

from collections.abc import Callable, Sequence
from functools import wraps
from threading import Semaphore, Thread, local
from typing import Any, Generic, TypeVar

import torch

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")
Result = TypeVar("Result")

_here = local()


class _Abandoned(BaseException):
    """Ends a job whose answer will never come."""


class _Job(Generic[Result]):
    """One of several jobs; it has a thread of its own, but runs only while the others stand still."""

    def __init__(self, work: Callable[[], Result], stopped: Semaphore) -> None:
        self._work, self._stopped, self._turn = work, stopped, Semaphore(0)
        self._modes = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
        self.wants: tuple[Callable[[list[Any]], list[Any]], Any] | None = None
        self.answer: Any = None
        self.error: BaseException | None = None
        self.result: list[Result] = []
        self.thread = Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        self._turn.acquire()
        _here.job = self
        inference, gradients = self._modes
        try:
            with torch.inference_mode(inference), torch.set_grad_enabled(gradients):
                self.result.append(self._work())
        except BaseException as error:  # noqa: BLE001 - whoever waits for the jobs raises it
            self.error = error
        self._stopped.release()

    def go_on(self) -> None:
        """Let the job run until it waits again or has come to its end."""
        self.wants = None
        self._turn.release()
        self._stopped.acquire()

    def ask(self, function: Callable[[list[Any]], list[Any]], request: Any) -> Any:
        """Wait for the answer to a request; called by the job itself."""
        self.wants = function, request
        self._stopped.release()
        self._turn.acquire()
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


def gathered(function: Callable[[list[Asked]], list[Answer]]) -> Callable[[Asked], Answer]:
    """Make a function of one request out of one that answers a list of them.

    Args:
        function: Takes requests, one or more, and returns an answer to each, in their order.

    Returns:
        Takes one request. Within `together` it is answered along with those of other jobs, else at once.

    Example:
        >>> calls = []
        >>> @gathered
        ... def doubled(numbers: list[int]) -> list[int]:
        ...     calls.append(numbers)
        ...     return [2 * number for number in numbers]
        >>> together([lambda: doubled(1), lambda: doubled(2) + doubled(3)])
        [2, 10]
        >>> calls
        [[1, 2], [3]]
    """

    @wraps(function)
    def one(request: Asked) -> Answer:
        job = getattr(_here, "job", None)
        answer: Answer = function([request])[0] if job is None else job.ask(function, request)
        return answer

    return one


def together(jobs: Sequence[Callable[[], Result]]) -> list[Result]:
    """Do several jobs, of which one runs at a time, answering what they ask of gathered functions together.

    Of the functions that jobs wait for, the one that most wait for is called next. Which jobs there are thus
    changes what is computed together, not what is computed.

    Args:
        jobs: Called once each; must not wait for one another in other ways. A lock that is held while a
            gathered function is called, such as that of `functools.cached_property` in Python 3.11, stops
            all of them for ever.

    Returns:
        What they return, in their order.

    Raises:
        BaseException: What the first of the jobs that failed raised; the others are ended or have come to
            their end.
    """
    if len(jobs) == 1:
        return [jobs[0]()]
    stopped = Semaphore(0)
    running = [_Job(work, stopped) for work in jobs]
    try:
        for job in running:
            job.thread.start()
            job.go_on()
        while waiting := [job for job in running if job.wants is not None]:
            if any(job.error for job in running):
                break
            _answer(waiting)
    finally:
        for job in running:
            if job.wants is not None:
                job.answer = _Abandoned()
                job.go_on()
    for job in running:
        if job.error is not None and not isinstance(job.error, _Abandoned):
            raise job.error
    return [job.result[0] for job in running]


def _answer(waiting: Sequence[_Job[Any]]) -> None:
    """Answer the requests to one function."""
    asked = [job.wants[0] for job in waiting if job.wants is not None]
    function = max(asked, key=asked.count)
    served = [job for job in waiting if job.wants is not None and job.wants[0] is function]
    answers = function([job.wants[1] for job in served if job.wants is not None])
    for job, answer in zip(served, answers, strict=True):
        job.answer = answer
        job.go_on()
