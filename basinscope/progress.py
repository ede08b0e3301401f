"""Progress of a long loop on stderr: how far, how fast, how long still; silent if not a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

Report = Callable[[int, int, str], None]


class _Rate(ProgressColumn):
    """Operator products a second."""

    def render(self, task: Task) -> Text:
        """The rate over the last half minute, or over all where that is unknown."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.3g} products/s" if speed else "", style="dim")


@contextmanager
def progress_report() -> Iterator[Report]:
    """Show progress while the context lasts.

    Yields:
        What to call with the work done, all of the work (both in operator products) and a few words on what
        is being done.
    """
    console = Console(file=sys.stderr)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        _Rate(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
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
