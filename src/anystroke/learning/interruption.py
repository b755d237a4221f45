"""Stop a training at the end of a step when a queue asks for it."""

import signal
import threading
from types import FrameType
from typing import Any


class Interruption:
    """Remember that SIGTERM came, instead of dying of it, as long as the context lasts.

    Batch systems send it some time before they kill what is left. Outside of the main thread nothing changes.

    Example:
        >>> with Interruption() as interruption:
        ...     signal.raise_signal(signal.SIGTERM)
        ...     interruption.came
        True
    """

    def __init__(self) -> None:
        self.came = False
        self._before: Any = None
        self._active = False

    def __enter__(self) -> "Interruption":
        """Listen."""
        self._active = threading.current_thread() is threading.main_thread()
        if self._active:
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the signal to who had it before."""
        if self._active:
            signal.signal(signal.SIGTERM, signal.SIG_DFL if self._before is None else self._before)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self.came = True
