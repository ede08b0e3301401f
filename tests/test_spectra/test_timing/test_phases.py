"""Each second of a run is booked on one phase."""

import contextlib

import pytest

from spectra.timing import CHECKS, READING, START, TRIALS, Stopwatch, phase


class Clock:
    """A clock that moves when it is told to; the processors take half of what passes."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> tuple[float, float]:
        return self.now, self.now / 2.0


def test_a_phase_within_a_phase_is_not_the_outer_one_s_and_all_sum_to_the_whole() -> None:
    clock = Clock()
    with Stopwatch(clock) as watch:
        clock.now += 1.0
        with phase(READING):
            clock.now += 2.0
            with phase(CHECKS):
                clock.now += 4.0
            clock.now += 8.0
        clock.now += 16.0
        with phase(CHECKS):
            clock.now += 32.0
    assert watch.spent == {START: (17.0, 8.5), CHECKS: (36.0, 18.0), READING: (10.0, 5.0)}
    assert sum(one for one, _ in watch.spent.values()) == clock.now - 100.0
    assert [line.split()[-2] for line in watch.lines()[1:]] == ["8.50", "5.00", "18.00"]
    assert watch.lines()[0].split() == ["time", "63.00", "s", "31.50", "s", "of", "processors"]


def test_what_fails_ends_its_phase_and_a_function_has_one() -> None:
    clock = Clock()

    @phase(TRIALS)
    def tried() -> None:
        clock.now += 1.0
        raise ValueError("wrong")

    with Stopwatch(clock) as watch:
        for _ in range(3):
            with contextlib.suppress(ValueError):
                tried()
        clock.now += 5.0
    assert watch.spent == {TRIALS: (3.0, 1.5), START: (5.0, 2.5)}


def test_without_a_stopwatch_nothing_is_booked() -> None:
    clock = Clock()
    with Stopwatch(clock) as watch:
        pass
    with phase(READING):
        clock.now += 1.0
    assert watch.spent == {START: (0.0, 0.0)}


def test_it_begins_with_the_process() -> None:
    with Stopwatch() as watch:
        pass
    ((clock, processor),) = watch.spent.values()
    # What the process has taken before the stopwatch was made: this test's imports at least.
    assert clock == pytest.approx(processor, rel=0.1)
    assert processor > 0.1
