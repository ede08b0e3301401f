"""Progress of a long loop on stderr: how far, how fast, how long still; a line a minute if not a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

Report = Callable[[int, int, str], None]
# Seconds between lines where no bar can be drawn: in the log of a batch job.
LINE_EVERY = 60.0


class _Rate(ProgressColumn):
    """Operator products a second."""

    def render(self, task: Task) -> Text:
        """The rate over the last half minute, or over all where that is unknown."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.3g} products/s" if speed else "", style="dim")


def lines_report(console: Console) -> Report:
    """What writes a line now and then instead of a bar, for logs.

    Args:
        console: where to.

    Returns:
        What to call with the work done, all of the work and a few words on what is being done.
    """
    start = last = time.monotonic()

    def report(done: int, total: int, what: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= LINE_EVERY:
            last = now
            line = f"{what}: {done:,} of {max(total, 1):,} after {(now - start) / 60.0:.0f} min"
            console.print(line, soft_wrap=True, markup=False, highlight=False)

    return report


@contextmanager
def progress_report() -> Iterator[Report]:
    """Show progress while the context lasts.

    Yields:
        What to call with the work done, all of the work (both in operator products) and a few words on what
        is being done.
    """
    console = Console(file=sys.stderr)
    if not console.is_terminal:
        yield lines_report(console)
        return
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        _Rate(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    task = bar.add_task("starting", total=1)

    def report(done: int, total: int, what: str) -> None:
        # Started by the first report, so that what is printed before does not run into the bar.
        bar.start()
        bar.update(task, completed=done, total=max(total, 1), description=what)

    try:
        yield report
    finally:
        bar.stop()
