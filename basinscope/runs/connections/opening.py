"""Several checkpoints of one model, opened by one task."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from basinscope.runs import CheckpointRequest, Session, guarded
from spectra.costs import BY_NAME
from spectra.errors import UserError
from spectra.files import Provenance
from spectra.landscape import Landscape

Source = Path | Landscape


def opened(request: CheckpointRequest, others: tuple[Source, ...]) -> tuple[list[Landscape], list[Provenance]]:
    """The landscapes of a request's checkpoint and of others by the same task, and where each comes from.

    Args:
        request: names the first checkpoint, the task, the cost and the machine.
        others: the further checkpoints, or landscapes where the first is one.

    Returns:
        The landscapes and their provenances, the first checkpoint's first.

    Raises:
        UserError: if a checkpoint cannot be opened, or one is a landscape and another a file.
    """
    sources: list[Source] = [request.checkpoint, *others]
    if len({isinstance(one, Landscape) for one in sources}) > 1:
        raise UserError("give all checkpoints as files, or all as landscapes")
    landscapes, provenances, task = [], [], request.task
    for number, source in enumerate(sources):
        title = "landscape" if len(sources) == 1 else f"landscape {number + 1}"
        session = Session(source, task, request.machine, request.reading, title=title)
        landscape = session.own()
        if request.cost is not None:
            with guarded(f"--cost {request.cost}", session.task):
                landscape = landscape.with_cost(BY_NAME[request.cost])
        request.machine.set_threads(landscape.size)
        landscapes.append(landscape)
        provenances.append(session.provenance(landscape, request.command))
        # A checkpoint that names another task is still one of the first's model, or refused as none.
        task = None if isinstance(source, Landscape) else task or session.task
    return landscapes, provenances


def source_entries(
    before: list[Provenance], now: list[Provenance], data: tuple[str, str]
) -> list[tuple[str, object, object]]:
    """What must be the same for a stored result to be gone on with: its name, as it was, as it is."""
    names = ("checkpoint_sha256", "checkpoint_weights", "task", "cost", "dtype", "device")
    entries: list[tuple[str, object, object]] = [("number of checkpoints", len(before), len(now))]
    for number, (then, here) in enumerate(zip(before, now, strict=False), 1):
        entries += [(f"{name} of checkpoint {number}", getattr(then, name), getattr(here, name)) for name in names]
    return [*entries, ("data_sha256", *data)]


def kept_words(output: Path | None, done: Callable[[], str]) -> str:
    """What an interruption leaves, in a sentence; ``done`` says what is done, empty if nothing is."""
    if output is None:
        return "interrupted; nothing is saved: with --output a run can be continued"
    if not (said := done()):
        return f"interrupted; nothing is saved in {output} yet"
    return f"interrupted: {said} are saved in {output}; go on with the same command and --resume"
