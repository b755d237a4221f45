"""Collect warnings of several threads, each thread's by itself."""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Collected:
    """Warnings of each thread, so that those of reading and of the network do not mix."""

    def __init__(self) -> None:
        self._messages: dict[int, list[str]] = {}

    def add(self, text: str) -> None:
        """Remember a warning of this thread."""
        self._messages.setdefault(threading.get_ident(), []).append(text)

    def take(self) -> list[str]:
        """Return this thread's warnings since the last call."""
        return self._messages.pop(threading.get_ident(), [])


@contextmanager
def collected_warnings(*categories: type[Warning]) -> Iterator[Collected]:
    """Collect warnings of some kinds in all threads while the block runs; others go their way.

    Args:
        *categories: The kinds.

    Yields:
        What was collected.

    Example:
        >>> with collected_warnings(UserWarning) as collected:
        ...     warnings.warn("thin slices", stacklevel=1)
        ...     collected.take()
        ['thin slices']
    """
    collected = Collected()
    with warnings.catch_warnings():
        for category in categories:
            warnings.simplefilter("always", category)
        show = warnings.showwarning

        def keep(message: Any, category: Any, *args: Any, **kwargs: Any) -> None:
            if issubclass(category, categories):
                collected.add(str(message))
            else:
                show(message, category, *args, **kwargs)

        warnings.showwarning = keep
        yield collected
