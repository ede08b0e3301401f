"""The share of a run's time that measuring may take. It decides which steps are recorded, never what they say."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from spectra.errors import UserError

Clock = Callable[[], float]


class Budget:
    """A share of the time since the first step.

    The first measurement is made on credit, for nobody knows what one takes; each further one once the share has room
    for as long a one as the last.
    """

    def __init__(self, share: float, clock: Clock = time.perf_counter) -> None:
        """Takes the share.

        Args:
            share: of all time, between 0 and 1; inf for no limit.
            clock: seconds from an arbitrary start.

        Raises:
            UserError: if the share is not positive, or above 1.

        >>> seconds = iter([0.0, 1.0, 3.0, 50.0, 79.0, 81.0])
        >>> budget = Budget(0.05, clock=lambda: next(seconds))
        >>> with budget.spending():
        ...     pass
        >>> budget.affords(), budget.affords(), budget.affords()
        (False, False, True)
        """
        if not (0.0 < share <= 1.0 or share == math.inf):
            raise UserError(f"share must lie above 0 and be at most 1, or be None for no limit; got {share:g}")
        self._share, self._clock = share, clock
        self._begun, self._last, self.spent = clock(), math.nan, 0.0

    def affords(self) -> bool:
        """Whether one more measurement is within the share."""
        if math.isinf(self._share) or math.isnan(self._last):
            return True
        return self.spent + self._last <= self._share * (self._clock() - self._begun)

    @contextmanager
    def spending(self, *, known: bool = True) -> Iterator[None]:
        """What is done meanwhile is charged; as what one measurement takes, unless it is not ``known`` as that."""
        start = self._clock()
        try:
            yield
        finally:
            taken = self._clock() - start
            self.spent += taken
            if known:
                self._last = taken

    @property
    def last(self) -> float:
        """Seconds that the last measurement took; nan before the first."""
        return self._last
