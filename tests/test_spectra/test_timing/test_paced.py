"""A growing result is written rarely, and is whole on the disk however its making ends."""

import pytest

from spectra.timing import Paced


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(("step", "writing"), [(1.0, 3.0), (1.0, 0.05), (0.01, 1.0)])
def test_the_writing_takes_a_tenth_of_the_time(step: float, writing: float) -> None:
    clock, written = Clock(), []

    def write(state: int) -> None:
        clock.now += writing
        written.append(state)

    with Paced(write, clock=clock) as paced:
        for state in range(2000):
            clock.now += step
            paced.keep(state)
            # What a kill would lose here: the work since the last writing.
            assert (state - written[-1]) * step <= 9.0 * writing + step
        assert paced.written == written[-1]
    assert written[0] == 0
    assert written[-1] == 1999
    assert written == sorted(set(written))
    # The first and the last are written whatever they cost.
    assert (len(written) - 2) * writing <= 0.1 * clock.now + writing
    # Where a writing costs next to nothing beside a step, each is written.
    assert (len(written) == 2000) == (writing < step / 9.0)


def test_what_ends_early_is_written_and_what_is_written_is_not_written_again() -> None:
    written: list[str] = []
    clock = Clock()

    def write(state: str) -> None:
        clock.now += 1.0
        written.append(state)

    def interrupted(paced: Paced[str]) -> None:
        with paced:
            paced.keep("first")
            paced.keep("second")
            raise KeyboardInterrupt

    paced = Paced(write, clock=clock)
    with pytest.raises(KeyboardInterrupt):
        interrupted(paced)
    assert written == ["first", "second"]
    assert paced.written == "second"
    with paced:
        pass
    assert written == ["first", "second"]


def test_a_writing_that_fails_is_made_good() -> None:
    """What could not be written is still to be written when the context ends."""
    written: list[str] = []
    failures = [OSError("the disk is full")]

    def write(state: str) -> None:
        if failures:
            raise failures.pop()
        written.append(state)

    paced = Paced(write)
    with pytest.raises(OSError, match="full"), paced:
        paced.keep("all that is done")
    assert written == ["all that is done"]
    assert paced.written == "all that is done"
