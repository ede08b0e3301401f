"""A result file that is written anew as its result grows, not so often that the writing takes much of the time."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")
# The writing takes at most this share of the time. A kill loses what was done since: ten times what a writing takes.
SHARE = 0.1


class Paced(Generic[T]):
    """Writes the newest state of a result: the first at once, the last when the context ends, however it ends.

    Between these a state is written where the writing before took at most a tenth of the time that has passed since.
    This decides what a kill loses, and no number.

    Attributes:
        written: the state that was written last; None before the first.

    >>> states = []
    >>> with Paced(states.append) as paced:
    ...     for state in range(1000):
    ...         paced.keep(state)
    >>> states[0], states[-1]
    (0, 999)
    """

    def __init__(self, write: Callable[[T], object], *, clock: Callable[[], float] = time.monotonic) -> None:
        """Writes by a function of the state."""
        self._write, self._clock = write, clock
        self._waiting: T | None = None
        self._not_before = -float("inf")
        self.written: T | None = None

    def keep(self, state: T) -> None:
        """Take a state in place of those before, and write it if it is time."""
        self._waiting = state
        if self._clock() >= self._not_before:
            self._flush()

    def __enter__(self) -> Paced[T]:
        """The pacing itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Write what waits."""
        self._flush()

    def _flush(self) -> None:
        if self._waiting is None:
            return
        state, begun = self._waiting, self._clock()
        self._write(state)
        ended = self._clock()
        self._not_before = ended + (ended - begun) * (1.0 - SHARE) / SHARE
        self.written, self._waiting = state, None
