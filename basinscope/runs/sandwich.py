"""One run of ``basinscope bridge --sandwich``: read, draw a teacher, bound from both sides, keep each stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from basinscope.outputs import to_continue
from basinscope.ranks import writes_files
from basinscope.runs.bridge import BridgeRequest, rung_plan
from basinscope.runs.progress import Report
from basinscope.runs.session import Session, ends_early
from spectra.errors import UserError
from volume.bridge import SandwichResult, read_sandwich, refuse_other, sandwich_bounds, write_sandwich
from volume.priors import parse_prior

_DECIDES = ("checkpoint_sha256", "checkpoint_weights", "task", "cost", "dtype")
_RECORD = ("checkpoint", "checkpoint_integrity", "command", "cost_unit")


@dataclass(frozen=True, kw_only=True)
class SandwichRequest(BridgeRequest):
    """What the user asked for; the cost is the task's own.

    Attributes:
        temperatures: changes of temperature from one rung to the next.
    """

    temperatures: int


def run_sandwich(
    request: SandwichRequest, progress: Report, announce: Callable[[str], None] | None = None
) -> SandwichResult:
    """Bound a posterior's normaliser from both sides, or go on with a stored run, keeping each finished stage.

    Args:
        request: what was asked for.
        progress: called with work done, all work and what is being done.
        announce: called with what a rung will cost, in a line, before the first one.

    Returns:
        The bounds.

    Raises:
        UserError: if what was asked for is not possible, in a sentence.
        OSError: if a file cannot be read or written.
        Interrupted: if the user interrupts the computing, saying what is kept and how to go on.
    """
    session = Session(request.checkpoint, request.task, request.machine, request.reading)
    name = session.held_out or session.task
    landscape = session.shared(session.own(name))
    prior = parse_prior(
        request.prior, landscape.theta, layout=landscape.parameters, metadata=session.checkpoint.metadata
    )
    made = asdict(session.provenance(landscape, request.command, name))
    source = {key: str(made[key]) for key in (*_DECIDES, *_RECORD) if key in made}
    source |= {"data_sha256": landscape.batches.sha256, "prior": prior.name}
    earlier, kept = _earlier(request, source), 0

    def keep(result: SandwichResult) -> None:
        nonlocal kept
        if request.output is not None and writes_files():
            write_sandwich(request.output, result, source)
            kept += 1

    def state() -> str:
        if kept == 0 and earlier is None:
            return "interrupted before anything was saved"
        return f"interrupted: what is done is saved in {request.output}; go on with the same command and --resume"

    with ends_early(state):
        if announce is not None and (earlier is None or not earlier.complete):
            announce(rung_plan(landscape, request.settings, ", and annealing goes along them twice"))
        result = sandwich_bounds(
            landscape,
            prior,
            request.settings,
            temperatures=request.temperatures,
            resume=earlier,
            memory=request.machine.memory,
            on_stage=keep,
            progress=progress,
        )
    return replace(result, source=source)


def _earlier(request: SandwichRequest, source: dict[str, str]) -> SandwichResult | None:
    output = to_continue(request.output, resume=request.resume)
    if output is None:
        return None
    stored = read_sandwich(output)
    fixed = {name: value for name, value in source.items() if name not in _RECORD}
    refuse_other(output, stored.ladder, dict(stored.source), request.settings, fixed)
    if stored.forward is not None and request.temperatures < stored.temperatures:
        raise UserError(
            f"{output} has {stored.temperatures} temperatures a rung: --temperatures {request.temperatures} would lose "
            "them (give as many to go on, or more to anneal anew along the same ladder)"
        )
    return stored
