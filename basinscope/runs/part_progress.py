"""Progress of a volume study on stderr: which part, how far, how long still; a line a minute if not a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from basinscope.runs.progress import Report, lines_report


@contextmanager
def volume_progress() -> Iterator[Report]:
    """Show progress while the context lasts; each part has a bar of its own, counted in its own unit.

    Yields:
        What to call with the work done, all of the work and a few words on what is being done.
    """
    console = Console(file=sys.stderr)
    if not console.is_terminal:
        yield lines_report(console)
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
        bar.start()
        if what != part:
            bar.reset(task, total=max(total, 1), rate="")
            part = what
        speed = bar.tasks[0].speed
        bar.update(task, completed=done, total=max(total, 1), description=what, rate=f"{speed:.3g}/s" if speed else "")

    try:
        yield report
    finally:
        bar.stop()
