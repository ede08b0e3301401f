"""One run of ``basinscope connect``: two checkpoints, the paths between them, kept after each round of points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from basinscope.choices import one_of
from basinscope.outputs import to_continue
from basinscope.runs import CheckpointRequest, Report, continued, ends_early, forecast, refuse_differences, seconds_of
from basinscope.runs.connections.opening import Source, kept_words, opened, source_entries
from comparisons.connections import (
    Connection,
    PathSettings,
    batch_norms,
    connect_landscapes,
    read_connection,
    recomputed,
    state_of,
    write_connection,
)
from comparisons.words import MATCHINGS, STATISTICS
from spectra.files import counted
from spectra.landscape import Landscape

# What may differ between a stored connection and one that goes on from it.
_FREE = ("tolerance", "most")


@dataclass(frozen=True, kw_only=True)
class ConnectRequest(CheckpointRequest):
    """What the user asked for.

    Attributes:
        other: path of the second checkpoint, or a landscape where the first is one.
        settings: settings of the paths.
    """

    other: Source
    settings: PathSettings


def run_connect(request: ConnectRequest, progress: Report, announce: Callable[[str], None] | None = None) -> Connection:
    """Compute a connection, or go on with a stored one, keeping each round of points in the output.

    Args:
        request: what was asked for.
        progress: called with points done, points known to be needed and the path.
        announce: called with the plan, in a line, before anything is computed.

    Returns:
        The connection.

    Raises:
        UserError: if what was asked for is not possible, in a sentence.
        OSError: if a file cannot be read or written.
        Interrupted: if the user interrupts the computing, saying what is kept and how to go on.
    """
    one_of("--matching", request.settings.matching, MATCHINGS)
    one_of("--running-statistics", request.settings.statistics, STATISTICS)
    output = to_continue(request.output, resume=request.resume)
    stored = None if output is None else read_connection(output)
    if stored is not None and output is not None:
        before, now = stored.settings.as_dict(), request.settings.as_dict()
        refuse_differences(output, [(name, before[name], now[name]) for name in now if name not in _FREE])
    (landscape, other), provenances = opened(request, (request.other,))
    if stored is not None and output is not None:
        data = (stored.data_sha256, landscape.batches.sha256)
        refuse_differences(output, source_entries([stored.provenance, stored.other], provenances, data))
        provenances = [continued(stored.provenance, request.command), stored.other]
        if replace(stored, settings=request.settings).complete:
            return replace(stored, settings=request.settings)
    done = 0 if stored is None else _points(stored)

    def keep(found: Connection) -> None:
        nonlocal done
        if request.output is not None:
            write_connection(request.output, found)
        done = _points(found)

    with ends_early(lambda: kept_words(request.output, lambda: counted(done, "point") if done else "")):
        if announce is not None:
            announce(_plan(landscape, request.settings))
        found = connect_landscapes(
            landscape,
            other,
            request.settings,
            provenances=(provenances[0], provenances[1]),
            resume=stored,
            on_round=keep,
            progress=progress,
        )
        keep(found)
    return found


def _points(found: Connection) -> int:
    return sum(len(path.places) for path in found.paths)


def _plan(landscape: Landscape, settings: PathSettings) -> str:
    """What the paths will cost: at least the points that each begins with, at most those at which it is given up."""
    anew = settings.statistics == "recompute" and bool(batch_norms(landscape))

    def point() -> None:
        if anew:
            recomputed(landscape, landscape.theta, state_of(landscape))
        landscape.cost(landscape.theta)

    paths = 1 if settings.matching == "none" else 2
    seconds = seconds_of(point, landscape.device, landscape.ranks)
    least = forecast(paths * settings.points, "evaluation of the cost", seconds)
    most = paths * max(settings.most, settings.points)
    passes = ", each after a pass that computes running statistics anew" if anew else ""
    return f"plan: {counted(paths, 'path')}, {least}{passes}; more where a barrier is refined, at most {most:,}"
