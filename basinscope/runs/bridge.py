"""One run of ``basinscope bridge``: read, check, climb, and keep what is done after each rung."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import torch

from basinscope.outputs import to_continue
from basinscope.ranks import STORED, agreed, writes_files
from basinscope.runs.announcement import forecast, seconds_of
from basinscope.runs.progress import Report
from basinscope.runs.session import CheckpointRequest, Session, basin_cost, ends_early
from comparisons.measures import Arrangements, copies_of
from spectra.errors import UserError
from spectra.files import counted
from spectra.landscape import Landscape
from spectra.words import dtype_title
from volume.bridge import BridgeResult, bridge_volume, read_bridge, refuse_other, write_bridge
from volume.chains import BridgeSettings
from volume.noise import cost_noise
from volume.priors import Prior, parse_prior

# What of a source's provenance decides its numbers, and what is told of it and may differ where it goes on.
_DECIDES = ("checkpoint_sha256", "checkpoint_weights", "task", "cost", "dtype")
_RECORD = ("checkpoint", "checkpoint_integrity", "command", "cost_unit", "noise", "symmetry")


@dataclass(frozen=True, kw_only=True)
class BridgeRequest(CheckpointRequest):
    """What the user asked for; the cost is ``kl``, ``task``, or chosen by the task's cost.

    Attributes:
        settings: settings of the bridge.
        prior: text of the prior, as ``volume.priors.parse_prior`` reads it.
    """

    settings: BridgeSettings
    prior: str = "gaussian"


def run_bridge(
    request: BridgeRequest, progress: Report, announce: Callable[[str], None] | None = None
) -> tuple[BridgeResult, dict[str, str]]:
    """Climb a ladder, or go on with a stored one, keeping each finished rung in the output.

    Args:
        request: what was asked for.
        progress: called with work done, all work and what is being done.
        announce: called with what a rung will cost, in a line, before the first one.

    Returns:
        The bridge and what it was made from.

    Raises:
        UserError: if what was asked for is not possible, in a sentence.
        OSError: if a file cannot be read or written.
        Interrupted: if the user interrupts the computing, saying what is kept and how to go on.
        LostRankError: if another rank of several has died, saying the same.
    """
    session = Session(request.checkpoint, request.task, request.machine, request.reading)
    name = session.held_out or session.task
    landscape = session.shared(basin_cost(session.own(name), request.cost, name))
    noise = _noise(landscape, min(request.settings.cutoffs))
    prior = parse_prior(
        request.prior, landscape.theta, layout=landscape.parameters, metadata=session.checkpoint.metadata
    )
    made = asdict(session.provenance(landscape, request.command, name))
    source = {key: str(made[key]) for key in (*_DECIDES, *_RECORD) if key in made}
    source |= {"data_sha256": landscape.batches.sha256, "prior": prior.name, "noise": f"{noise:.3g}"}
    agreed("checkpoint", source["checkpoint_sha256"])
    agreed("task, cost and dtype", f"{name}, {source['cost']}, {source['dtype']}")
    earlier = _earlier(request, source)
    agreed(STORED, "nothing" if earlier is None else f"{counted(earlier.rung_count, 'rung')}")
    climb = _Climb(request, source, 0 if earlier is None else earlier.rung_count, landscape, prior)
    with ends_early(climb.state):
        if announce is not None and (earlier is None or not earlier.complete):
            announce(rung_plan(landscape, request.settings))
        result = bridge_volume(
            landscape,
            prior,
            request.settings,
            resume=earlier,
            memory=request.machine.memory,
            on_rung=climb.keep,
            progress=progress,
        )
    climb.keep(result)
    return result, source


class _Climb:
    """Writes the store after each rung, and with the last one what its chains show of the network's copies."""

    def __init__(
        self, request: BridgeRequest, source: dict[str, str], kept: int, landscape: Landscape, prior: Prior
    ) -> None:
        self.request, self.output, self.source, self.kept = request, request.output, source, kept
        self.landscape, self.prior = landscape, prior

    def keep(self, result: BridgeResult) -> None:
        # A star domain is of one arrangement; the stored record of a ladder that goes on is kept.
        if result.complete and result.settings.target == "sublevel" and "symmetry" not in self.source:
            self.source["symmetry"] = json.dumps(asdict(self._copies(result)))
        if self.output is not None and writes_files():
            write_bridge(self.output, result, self.source)
        self.kept = result.rung_count

    def _copies(self, result: BridgeResult) -> Arrangements:
        landscape, size = self.landscape, self.landscape.size
        last = torch.as_tensor(result.passes[0][-1].last, device=landscape.device).reshape(-1, size)
        scale = self.prior.scale(size).to(landscape.theta)
        thetas = landscape.theta + last.to(landscape.theta) * scale
        return copies_of(landscape, self.prior.log_density, thetas, min(self.request.settings.cutoffs))

    def state(self) -> str:
        if self.output is None:
            return "interrupted; nothing is saved: with an output a bridge can be continued"
        if not self.kept:
            return f"interrupted before the first rung was done; nothing is saved in {self.output}"
        return f"interrupted: {self.kept} rungs are saved in {self.output}; go on with the same command and --resume"


def rung_plan(landscape: Landscape, settings: BridgeSettings, bounded: str = ", --budget bounds it") -> str:
    """What a rung costs at least; how many there will be, the ladder finds as it is climbed."""
    steps = settings.chains * (settings.draws + settings.warm_up)
    seconds = seconds_of(landscape.gradient, landscape.device, landscape.ranks)
    rung = forecast(steps, "gradient", seconds)
    if math.isinf(settings.budget):
        return f"plan: a rung takes at least {rung}; how many rungs is not known before{bounded}"
    most = forecast(settings.budget, "gradient", seconds)
    return f"plan: a rung takes at least {rung}; nothing is begun after {most}"


def _noise(landscape: Landscape, cutoff: float) -> float:
    """Rounding noise of the cost, below the cutoff."""
    noise = cost_noise(landscape)
    if noise >= cutoff:
        kind = dtype_title(landscape.dtype)
        advice = "; use --dtype float64" if kind == "float32" else ""
        raise UserError(f"--cutoff {cutoff:g} is below the cost's rounding noise of {noise:.2g} in {kind}{advice}")
    return noise


def _earlier(request: BridgeRequest, source: dict[str, str]) -> BridgeResult | None:
    output = to_continue(request.output, resume=request.resume)
    if output is None:
        return None
    stored, found = read_bridge(output)
    fixed = {name: value for name, value in source.items() if name not in _RECORD}
    refuse_other(output, stored, found, request.settings, fixed)
    source |= {name: found[name] for name in ("symmetry",) if name in found}
    return replace(stored, settings=request.settings)
