"""Progress of a long loop: how far, how fast, how long still.

On stderr it is a bar, or a line a minute if that is no terminal; in a notebook a bar in the page.
"""

from __future__ import annotations

import html
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from spectra.timing import COMPUTING, phase

Report = Callable[[int, int, str], None]
# Seconds between lines where no bar can be drawn: in the log of a batch job.
LINE_EVERY = 60.0
# Seconds between two drawings of a bar in a notebook.
REDRAWN_EVERY = 0.2


def lines_report(console: Console, unit: str = "") -> Report:
    """What writes a line now and then instead of a bar, for logs.

    Of each part of the work (of all of it, where that is counted in one unit) that will take minutes, the second report
    is written at once: it is the first to know how long a step takes.
    """
    start = last = time.monotonic()
    part, begun, first, told = "", start, 0, False

    def report(done: int, total: int, what: str) -> None:
        nonlocal last, part, begun, first, told
        now = time.monotonic()
        if what != part and not (unit and part):
            part, begun, first, told = what, now, done, False
        left = (total - done) * (now - begun) / (done - first) if done > first else 0.0
        early = not told and left >= LINE_EVERY
        if now - last >= LINE_EVERY or early:
            last, told = now, told or early
            line = f"{what}: {done:,} of {max(total, 1):,} after {(now - start) / 60.0:.0f} min"
            line += f", about {in_words(left)} left" if left else ""
            console.print(line, soft_wrap=True, markup=False, highlight=False)

    return report


def in_words(seconds: float) -> str:
    """An expected number of seconds in words, as roughly as it is known.

    >>> in_words(0.2), in_words(20.0), in_words(2700.0), in_words(9000.0), in_words(2e5)
    ('1 s', '20 s', '45 min', '2.5 h', '2.3 days')
    """
    if seconds < 99.5:
        return f"{max(1, round(seconds))} s"
    for unit, length, most in (("min", 60.0, 100.0), ("h", 3600.0, 48.0)):
        if seconds < most * length:
            return f"{seconds / length:.0f} min" if unit == "min" else f"{seconds / length:.1f} h"
    return f"{seconds / 86400.0:,.1f} days"


def in_notebook() -> bool:
    """Whether this program runs in a notebook's kernel, where a bar is drawn in the page.

    >>> in_notebook()
    False
    """
    library = sys.modules.get("IPython")
    shell = None if library is None else library.get_ipython()
    return getattr(shell, "kernel", None) is not None


@contextmanager
def notebook_report() -> Iterator[Report]:
    """A bar in a notebook's page, of plain HTML: it needs no widgets, and is gone at the end."""
    from IPython.display import HTML, display  # type: ignore[import-not-found, unused-ignore]

    handle = display(HTML(""), display_id=True)
    last, part, begun, first = 0.0, "", 0.0, 0

    def report(done: int, total: int, what: str) -> None:
        nonlocal last, part, begun, first
        now = time.monotonic()
        if what != part:
            part, begun, first = what, now, done
        if now - last >= REDRAWN_EVERY or done >= total:
            last = now
            left = (total - done) * (now - begun) / (done - first) if done > first else 0.0
            words = f"{what}: {done:,} of {max(total, 1):,}{f', about {in_words(left)} left' if left else ''}"
            bar = f"<progress value='{done}' max='{max(total, 1)}'></progress>"
            handle.update(HTML(f"{bar} {html.escape(words)}"))

    try:
        yield report
    finally:
        handle.update(HTML(""))


@contextmanager
def progress_report(unit: str = "") -> Iterator[Report]:
    """Show progress while the context lasts, which is when a run computes.

    Args:
        unit: what all the work is counted in, such as products; without one each part has a bar of its own, counted in
            its own unit.

    Yields:
        What to call with the work done, all of the work and a few words on what is being done.
    """
    with phase(COMPUTING), _drawn(unit) as report:
        yield report


@contextmanager
def _drawn(unit: str) -> Iterator[Report]:
    if in_notebook():
        with notebook_report() as drawn:
            yield drawn
        return
    console = Console(file=sys.stderr)
    if not console.is_terminal:
        yield lines_report(console, unit)
        return
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TextColumn("{task.fields[rate]}", style="dim"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    task = bar.add_task("starting", total=1, rate="")
    part = "starting"

    def report(done: int, total: int, what: str) -> None:
        nonlocal part
        # Started by the first report, so that what is printed before does not run into the bar.
        bar.start()
        if what != part and not unit:
            bar.reset(task, total=max(total, 1), rate="")
        part, speed = what, bar.tasks[0].speed
        rate = f"{speed:.3g} {unit}/s".replace(" /", "/") if speed else ""
        bar.update(task, completed=done, total=max(total, 1), description=what, rate=rate)

    try:
        yield report
    finally:
        bar.stop()
