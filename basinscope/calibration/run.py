"""One run of ``basinscope llc``: read, look at the spectrum, say what is coming, run the chains, keep what is done."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from basinscope.outputs import TASK, reserved, to_continue
from basinscope.runs import (
    SAME_COST,
    CheckpointRequest,
    Report,
    Session,
    check_source,
    continued,
    ends_early,
    forecast,
    refuse_differences,
    seconds_of,
)
from basinscope.tasks import task_files
from comparisons.calibration import (
    Calibration,
    SweepSettings,
    SweepWork,
    prepare,
    read_calibration,
    run_chains,
    sweep_operator,
    sweep_work,
    write_calibration,
)
from comparisons.langevin import Minibatches
from spectra.files import counted
from spectra.landscape import Landscape
from spectra.operators import SymmetricOperator

Announce = Callable[[str], None]
# Parameters from which the first gradient and the first product take so long that it is said that they are made.
_LARGE = 10**7


@dataclass(frozen=True, kw_only=True)
class LlcRequest(CheckpointRequest):
    """What the user asked for; the cost is the task's own, or that with a penalty.

    Attributes:
        settings: settings of the sweep.
        settings_output: TOML file for the settings that are chosen, or None.
    """

    settings: SweepSettings
    settings_output: Path | None = None


def reserved_for_llc(request: LlcRequest) -> AbstractContextManager[None]:
    """Checks the files of a request and holds those that it writes."""
    source = None if isinstance(request.checkpoint, Landscape) else request.checkpoint
    return reserved(
        results={"--output": request.output},
        figures={"--plot": request.plot},
        settings={"--settings-output": request.settings_output},
        inputs=[("CHECKPOINT", source), *((TASK, path) for path in task_files(request.task))],
        overwrite=request.overwrite,
        resume=request.resume,
    )


def run_llc(request: LlcRequest, progress: Report, announce: Announce | None = None) -> Calibration:
    """Calibrate the local learning coefficient of a checkpoint, or go on with a stored run.

    Args:
        request: what was asked for.
        progress: called with work done, all work and what is being done.
        announce: called with each line on what is going to be done, and on what the spectrum says of it.

    Returns:
        The complete calibration.

    Raises:
        UserError: if what was asked for is not possible, in a sentence.
        OSError: if a file cannot be read or written.
        Interrupted: if the user interrupts the computing, saying what is kept and how to go on.
    """
    tell = announce or (lambda _: None)
    session = Session(request.checkpoint, request.task, request.machine, request.reading)
    landscape = session.shared(session.own())
    # Data that chains cannot draw rows of is refused before anything is spent.
    Minibatches(landscape, None)
    found = _earlier(request, session, landscape)
    kept = found is not None

    def keep(state: Calibration) -> None:
        nonlocal kept
        if request.output is not None:
            write_calibration(request.output, state)
            kept = True

    def state() -> str:
        if request.output is None:
            return "interrupted; nothing is saved: with --output a run can be continued"
        if not kept:
            return f"interrupted before the spectrum was done; nothing is saved in {request.output}"
        return f"interrupted: what was done is saved in {request.output}; go on with the same command and --resume"

    with ends_early(state):
        if found is None:
            operator = sweep_operator(landscape, request.settings, request.machine.memory)
            work = sweep_work(landscape, request.settings, operator, request.machine.memory)
            if announce is not None:
                if landscape.size >= _LARGE:
                    tell("a gradient and a product are checked against differences of the cost, and timed, first")
                for line in cost_lines(landscape, request.settings, work, operator):
                    tell(line)
            found = prepare(
                landscape,
                request.settings,
                session.provenance(landscape, request.command),
                operator=operator,
                metadata=session.checkpoint.metadata,
                memory=request.machine.memory,
                progress=progress,
            )
            keep(found)
        elif not found.complete:
            tell(f"{found.done} of {counted(len(found.rises), 'cell')} are stored and kept")
        tell(found.ground.sentence(found.provenance.cost_unit))
        tell(_grid_line(found))
        return run_chains(landscape, found, on_save=keep, progress=progress)


def cost_lines(
    landscape: Landscape, settings: SweepSettings, work: SweepWork, operator: SymmetricOperator
) -> list[str]:
    """What a calibration will cost, by a pass of chains and a product that are timed, in lines."""
    chains = work.chains_at_once
    batches = Minibatches(landscape, work.batch_size)
    thetas = landscape.theta.expand(chains, -1).clone()
    index = batches.draw([torch.Generator().manual_seed(0)] * chains)
    seconds = seconds_of(lambda: batches.slopes(thetas, index), landscape.device)
    each = seconds * work.rows / (chains * work.batch_size)
    product = seconds_of(lambda: operator.matvec(landscape.theta), landscape.device)
    grid = (
        f"{counted(work.cells, 'cell')} of {counted(settings.calls, 'call')}, {counted(settings.chains, 'chain')} "
        f"each, {settings.steps:,} steps on {work.batch_size:,} of {counted(work.rows, 'row')}"
    )
    bytes_ = chains * work.chain_bytes
    return [
        f"cost: {forecast(work.gradients, 'gradient', each)} ({grid}), and before them "
        f"{forecast(work.products, 'product', product)}",
        f"memory: {counted(chains, 'chain')} at a time, about {bytes_ / 1e9:.2g} GB above the model",
    ]


def _grid_line(found: Calibration) -> str:
    """The grid in a line, and how much of it the spectrum expects to be sound."""
    axes = found.axes
    ahead = [(axes.at(place), found.outlook.at(*axes.at(place))) for place in axes.places]
    fine = sum(
        here.lowered <= 0.1 and here.bias <= 0.1 and here.burn_in <= found.settings.longest_burn_in for _, here in ahead
    )
    told = {
        "inverse temperatures (times samples)": axes.inverse_temperatures,
        "localisations": axes.localisations,
        "step sizes": axes.shares if len(axes.shares) else axes.step_sizes[0, 0],
    }
    parts = [f"{name} {', '.join(f'{value:.4g}' for value in values)}" for name, values in told.items()]
    relative = " of each cell's limit" if len(axes.shares) else ""
    return f"grid: {'; '.join(parts)}{relative}; by the spectrum {fine} of {counted(len(ahead), 'cell')} will be sound"


def _earlier(request: LlcRequest, session: Session, landscape: Landscape) -> Calibration | None:
    """The stored calibration to go on with, if it is the same one."""
    output = to_continue(request.output, resume=request.resume)
    if output is None:
        return None
    stored, now = read_calibration(output), session.provenance(landscape, request.command)
    check_source(output, stored.provenance, now)
    before, asked = asdict(stored.settings), asdict(request.settings)
    entries = [(name, before[name], asked[name]) for name in asked]
    entries.append(("data_sha256", stored.spectrum.data_sha256, landscape.batches.sha256))
    refuse_differences(output, entries)
    if not math.isclose(stored.spectrum.cost, landscape.anchor_cost, rel_tol=SAME_COST, abs_tol=1e-12):
        refuse_differences(output, [("cost at the checkpoint", stored.spectrum.cost, landscape.anchor_cost)])
    return replace(stored, provenance=continued(stored.provenance, request.command))
