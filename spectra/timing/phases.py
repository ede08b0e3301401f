"""Where the time of a run goes: each of its seconds in one phase, so that the phases sum to the whole."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

START, READING, CHECKS, TRIALS = "start and imports", "reading", "checks of the landscape", "trials of strategies"
FORECAST, COMPUTING = "forecast", "products and sampling"
FIGURES, WRITING, TABLE = "figures", "writing", "tables"

_RUNNING: ContextVar[Stopwatch | None] = ContextVar("stopwatch", default=None)


class Stopwatch:
    """Books the seconds of this process on phases, of its clock and of its processors, while its context lasts.

    What a module takes to load counts where it is first needed. Processes that this one starts are not seen.

    Attributes:
        spent: by phase, seconds of the clock and of the processors, in the order in which the phases began.

    >>> ticks = iter([(0.0, 0.0), (2.0, 1.0), (5.0, 2.0), (6.0, 3.0)])
    >>> with Stopwatch(lambda: next(ticks)) as watch:
    ...     with phase(READING):
    ...         pass
    >>> watch.spent
    {'start and imports': (3.0, 2.0), 'reading': (3.0, 1.0)}
    """

    def __init__(self, clocks: Callable[[], tuple[float, float]] | None = None) -> None:
        """Begins with the start of the process, whose seconds are known of its processors alone.

        Args:
            clocks: tell the seconds of the clock and of the processors; default those of this process.
        """
        self._clocks = clocks or (lambda: (time.perf_counter(), time.process_time()))
        self.spent: dict[str, tuple[float, float]] = {START: (0.0, 0.0)}
        self._present = START
        now = self._clocks()
        self._since = now if clocks else (now[0] - now[1], 0.0)

    def __enter__(self) -> Stopwatch:
        """The stopwatch, running."""
        self._token = _RUNNING.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        """Stops it."""
        self.turn(self._present)
        _RUNNING.reset(self._token)

    def turn(self, name: str) -> str:
        """Book what has passed on the present phase and begin another one; the name of the former."""
        before, now = self._present, self._clocks()
        clock, processor = self.spent[before]
        self.spent.setdefault(name, (0.0, 0.0))
        self.spent[before] = (clock + now[0] - self._since[0], processor + now[1] - self._since[1])
        self._present, self._since = name, now
        return before

    def lines(self) -> list[str]:
        r"""What was spent, a line a phase, the whole first.

        >>> watch = Stopwatch(lambda: (0.0, 0.0))
        >>> watch.spent = {START: (1.5, 1.25), CHECKS: (0.5, 0.5)}
        >>> print(*watch.lines(), sep="\n")
        time                          2.00 s        1.75 s of processors
        start and imports             1.50 s  75 %  1.25 s
        checks of the landscape       0.50 s  25 %  0.50 s
        """
        clock, processor = (sum(one[place] for one in self.spent.values()) for place in (0, 1))
        head = f"{'time':24}{clock:10.2f} s{processor:12.2f} s of processors"
        rows = [
            f"{name:24}{one:10.2f} s{one / clock if clock else 0.0:5.0%}".replace("%", " %") + f"{two:6.2f} s"
            for name, (one, two) in self.spent.items()
        ]
        return [head, *rows]


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Book what is done meanwhile on a phase, a phase within it left out; nothing where no stopwatch runs."""
    watch = _RUNNING.get()
    if watch is None:
        yield
        return
    before = watch.turn(name)
    try:
        yield
    finally:
        watch.turn(before)
