"""One run of ``basinscope bridge``: read, check, climb, and keep what is done after each rung."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from basinscope.failures import Interrupted
from basinscope.ranks import STORED, agreed, writes_files
from basinscope.runs.placement import placed
from basinscope.runs.progress import Report
from basinscope.runs.request import CheckpointRequest
from basinscope.runs.spectrum import SMALL
from basinscope.runs.volume import volume_landscape
from basinscope.tasks import held_out_name, make_landscape, task_name
from spectra.checkpoint import read_checkpoint
from spectra.costs import cost_name
from spectra.errors import UserError
from spectra.landscape import Landscape, spread
from spectra.ranks import LostRankError, current_ranks
from volume.bridge import BridgeResult, bridge_volume, read_bridge, refuse_other, write_bridge
from volume.chains import BridgeSettings
from volume.noise import cost_noise
from volume.priors import parse_prior

# What is told of a source, and may differ where it goes on.
_RECORD = ("checkpoint", "checkpoint_integrity", "command", "cost_unit", "noise")


@dataclass(frozen=True, kw_only=True)
class BridgeRequest(CheckpointRequest):
    """What the user asked for; the cost is ``kl``, ``task``, or chosen by the task's cost.

    Attributes:
        settings: of the bridge.
        output: file of the store, which a bridge cannot do without.
        prior: as ``volume.priors.parse_prior`` reads it.
    """

    settings: BridgeSettings
    output: Path
    prior: str = "gaussian"


def run_bridge(request: BridgeRequest, progress: Report) -> tuple[BridgeResult, dict[str, str]]:
    """Climb a ladder, or go on with a stored one, keeping each finished rung in the output.

    Args:
        request: what was asked for.
        progress: called with work done, all work and what is being done.

    Returns:
        The bridge and what it was made from.

    Raises:
        UserError: if what was asked for is not possible, in a sentence.
        OSError: if a file cannot be read or written.
        Interrupted: if the user interrupts the computing, saying what is kept and how to go on.
        LostRankError: if another rank of several has died, saying the same.
    """
    checkpoint = read_checkpoint(request.checkpoint)
    trained = task_name(request.task, checkpoint)
    name = held_out_name(trained) or trained
    own = placed(make_landscape(name, checkpoint), request.dtype, request.device, name)
    landscape = spread(volume_landscape(request.cost, name, own), current_ranks())
    if landscape.size < SMALL and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    noise = _noise(landscape, min(request.settings.cutoffs))
    prior = parse_prior(request.prior, landscape.theta, layout=landscape.parameters, metadata=checkpoint.metadata)
    source = {
        "checkpoint_sha256": checkpoint.sha256,
        "data_sha256": landscape.batches.sha256,
        "prior": prior.name,
        "task": name,
        "cost": cost_name(landscape.cost_function),
        "dtype": str(landscape.dtype).removeprefix("torch."),
        "checkpoint": str(request.checkpoint),
        "checkpoint_integrity": checkpoint.integrity,
        "command": request.command,
        "cost_unit": str(getattr(landscape.cost_function, "unit", "cost")),
        "noise": f"{noise:.3g}",
    }
    agreed("checkpoint", checkpoint.sha256)
    agreed("task, cost and dtype", f"{name}, {source['cost']}, {source['dtype']}")
    earlier = _earlier(request, source)
    agreed(STORED, "nothing" if earlier is None else f"{earlier.rung_count} rungs")
    climb = _Climb(request.output, source, 0 if earlier is None else earlier.rung_count)
    try:
        result = bridge_volume(
            landscape, prior, request.settings, resume=earlier, on_rung=climb.keep, progress=progress
        )
    except KeyboardInterrupt:
        raise Interrupted(climb.state()) from None
    except LostRankError as error:
        raise LostRankError(f"{error}; {climb.state()}") from error
    climb.keep(result)
    return result, source


class _Climb:
    """Writes the store after each rung."""

    def __init__(self, output: Path, source: dict[str, str], kept: int) -> None:
        self.output, self.source, self.kept = output, source, kept

    def keep(self, result: BridgeResult) -> None:
        if writes_files():
            write_bridge(self.output, result, self.source)
        self.kept = result.rung_count

    def state(self) -> str:
        if not self.kept:
            return f"interrupted before the first rung was done; nothing is saved in {self.output}"
        return f"interrupted: {self.kept} rungs are saved in {self.output}; go on with the same command and --resume"


def _noise(landscape: Landscape, cutoff: float) -> float:
    """Rounding noise of the cost, below the cutoff."""
    noise = cost_noise(landscape)
    if noise >= cutoff:
        kind = str(landscape.dtype).removeprefix("torch.")
        advice = "; use --dtype float64" if kind == "float32" else ""
        raise UserError(f"--cutoff {cutoff:g} is below the cost's rounding noise of {noise:.2g} in {kind}{advice}")
    return noise


def _earlier(request: BridgeRequest, source: dict[str, str]) -> BridgeResult | None:
    if not request.resume or not request.output.exists():
        return None
    stored, found = read_bridge(request.output)
    fixed = {name: value for name, value in source.items() if name not in _RECORD}
    refuse_other(request.output, stored, found, request.settings, fixed)
    return replace(stored, settings=request.settings)
