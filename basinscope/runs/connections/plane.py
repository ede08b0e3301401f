"""One run of ``basinscope slice``: a plane through one checkpoint or three, kept after each row of its window."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from basinscope.choices import one_of
from basinscope.outputs import to_continue
from basinscope.runs import CheckpointRequest, Report, continued, ends_early, forecast, refuse_differences, seconds_of
from basinscope.runs.connections.opening import Source, kept_words, opened, source_entries
from comparisons.connections import CostSlice, SliceSettings, read_slice, slice_landscape, write_slice
from spectra.errors import UserError
from spectra.files import counted
from spectra.landscape import Landscape
from spectra.words import COSTS


@dataclass(frozen=True, kw_only=True)
class SliceRequest(CheckpointRequest):
    """What the user asked for; the cost is the task's own by default.

    Attributes:
        others: none, or paths of two further checkpoints, or landscapes where the first is one.
        settings: settings of the slice.
    """

    others: tuple[Source, ...] = ()
    settings: SliceSettings


def run_slice(request: SliceRequest, progress: Report, announce: Callable[[str], None] | None = None) -> CostSlice:
    """Compute a slice, or go on with a stored one, keeping each row of the window in the output.

    Args:
        request: what was asked for.
        progress: called with work done, work known to be needed and what is being done.
        announce: called with the plan, in a line, before anything is computed.

    Returns:
        The slice.

    Raises:
        UserError: if what was asked for is not possible, in a sentence.
        OSError: if a file cannot be read or written.
        Interrupted: if the user interrupts the computing, saying what is kept and how to go on.
    """
    if request.cost is not None:
        one_of("--cost", request.cost, COSTS)
    if len(request.others) not in (0, 2):
        raise UserError(f"a slice leads through one checkpoint or three, got {1 + len(request.others)}")
    output = to_continue(request.output, resume=request.resume)
    stored = None if output is None else read_slice(output)
    if stored is not None and output is not None:
        before, now = stored.settings.as_dict(), request.settings.as_dict()
        refuse_differences(output, [(name, before[name], now[name]) for name in now])
    landscapes, provenances = opened(request, request.others)
    if stored is not None and output is not None:
        data = (stored.data_sha256, landscapes[0].batches.sha256)
        refuse_differences(output, source_entries([stored.provenance, *stored.others], provenances, data))
        if stored.complete:
            return stored
        stored = replace(stored, provenance=continued(stored.provenance, request.command))
    done = 0 if stored is None else stored.rows_done

    def keep(found: CostSlice) -> None:
        nonlocal done
        if request.output is not None:
            write_slice(request.output, found)
        done = found.rows_done

    with ends_early(lambda: kept_words(request.output, lambda: counted(done, "row") if done else "")):
        if announce is not None:
            announce(_plan(landscapes[0], request.settings, done))
        return slice_landscape(
            landscapes[0],
            landscapes[1:],
            request.settings,
            provenances=provenances,
            memory=request.machine.memory,
            resume=stored,
            on_rows=keep,
            progress=progress,
        )


def _plan(landscape: Landscape, settings: SliceSettings, done: int) -> str:
    seconds = seconds_of(lambda: landscape.cost(landscape.theta), landscape.device, landscape.ranks)
    points = forecast(
        (settings.points - done) * settings.points, "evaluation of the cost", seconds, bound="at most about"
    )
    return f"plan: {points}{'' if done else ', after the axes and some tens of products with the Hessian'}"
