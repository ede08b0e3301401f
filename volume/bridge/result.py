"""What a bridge says of log-volumes, with errors from the spread of its chains."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from spectra.errors import UserError
from spectra.estimate import Estimate, jackknife
from spectra.files import Result, counted
from volume.chains import (
    LEAST_BELOW,
    LEAST_OVERLAP,
    Array,
    BridgeSettings,
    Integration,
    LevelMass,
    Link,
    Rung,
    in_halves,
    integrated_log_ratios,
    level_mass,
    link,
    merged_passes,
    multistate_log_ratio,
)

# Half a window of the slope d log V / d log T, in relative standard deviations of the cost.
_SLOPE_WINDOW = 0.5

# What a ladder begins at.
ORIGIN = {"prior": "the prior", "quadratic": "the checkpoint's quadratic model"}
# Vehtari, Gelman, Simpson, Carpenter and Buerkner, Rank-normalization, folding, and localization, 2021, ask for 1.01 of
# long chains; a rung's few draws are held to the older bound.
LARGEST_RHAT = 1.05
# Share of rejected trajectories that ended nowhere, above which regions may be cut off.
MOST_DIVERGED = 0.01
# Rounding of a reduced energy above which it shows in the acceptance of trajectories, nats.
MOST_ROUNDING = 0.1
# Effective draws below a cutoff with which an error from their spread is one.
LEAST_EFFECTIVE = 10.0
# Standard errors of their difference that two ways from the same draws may lie apart.
_APART = 3.0


@dataclass(frozen=True)
class BridgeVolume:
    """The log-volume at one cutoff.

    Attributes:
        cutoff: T, unit of the cost.
        log_volume: log of the prior's mass, nats.
        standard_error: standard error from the spread of the chains, nats.
        slope: ``d log V / d log T``, the local learning coefficient by volume.
        slope_error: its standard error.
        share_below: share of the ensemble's draws that cost less than the cutoff.
        freedom: degrees of freedom of both errors: chains less one.
    """

    cutoff: float
    log_volume: float
    standard_error: float
    slope: float
    slope_error: float
    share_below: float
    freedom: float

    @property
    def mass(self) -> Estimate:
        """The log-volume with its error; the logarithm of a probability is not positive."""
        return Estimate(self.log_volume, self.standard_error, freedom=self.freedom, highest=0.0)

    @property
    def rise(self) -> Estimate:
        """The slope with its error; a volume does not fall with its cutoff."""
        return Estimate(self.slope, self.slope_error, freedom=self.freedom, lowest=0.0)


@dataclass(frozen=True, eq=False)
class Diagnostics:
    """Whether the chains of each rung agree.

    Attributes:
        rhat_cost: (rungs,) rank-normalised split R-hat of C, the first sampled rung first.
        rhat_square: (rungs,) of ``|x|^2``.
        effective_cost: (rungs,) effective sample size of C, all chains together.
        effective_square: (rungs,) of ``|x|^2``.
    """

    rhat_cost: Array
    rhat_square: Array
    effective_cost: Array
    effective_square: Array

    @property
    def largest_rhat(self) -> float:
        """The largest of all."""
        return float(np.max([self.rhat_cost, self.rhat_square]))

    @property
    def least_effective(self) -> float:
        """The smallest effective sample size of all."""
        return float(np.min([self.effective_cost, self.effective_square]))


@dataclass(frozen=True, eq=False, repr=False)
class BridgeResult(Result):
    """All evidence of a bridge, and what follows from it.

    Attributes:
        settings: what was asked for.
        size: number of parameters n.
        log_start: log normaliser of the exactly known start, nats.
        passes: rungs of each pass, independent draws of the start first.
        ended: what ended it: ``standard error``, ``budget`` or ``passes``; empty while it runs.
        strategy: how products with the quadratic model's curvature were computed; kept on resuming.
        source: what it was made from, texts by name, such as the checkpoint; empty if it is not known.
    """

    settings: BridgeSettings
    size: int
    log_start: float
    passes: tuple[tuple[Rung, ...], ...]
    ended: str = ""
    strategy: str = ""
    source: Mapping[str, str] = field(default_factory=dict)
    _drawn_by: ClassVar[str] = "volume.bridge.plots:draw_bridge"
    _written_by: ClassVar[str] = "volume.bridge.store:write_bridge"

    def _title(self) -> str:
        name, settings = Path(self.source.get("checkpoint", "a checkpoint")).name, self.settings
        return f"bridge of {name}, {settings.target} from the {settings.origin}, {counted(self.size, 'parameter')}"

    def _facts(self) -> dict[str, str]:
        if not self.complete:
            return {"not complete": f"{counted(self.rung_count, 'rung')} so far"}
        unit = self.source.get("cost_unit", "cost")
        known = [self.volume(cutoff) for cutoff in self.settings.cutoffs if self.reaches(cutoff)]
        return {f"log V below {one.cutoff:g} {unit}": f"{one.mass._title()} nat" for one in known}

    def _cautions(self) -> tuple[str, ...]:
        return bridge_cautions(self, noise=float(self.source.get("noise", "0"))) if self.complete else ()

    def records(self) -> list[dict[str, Any]]:
        """A row for each rung of each pass, the exactly known start first."""
        names = ("step_size", "acceptance", "leaps", "gradient_evaluations", "cost_evaluations")
        return [
            {
                "pass": number,
                "rung": place,
                "inverse_temperature": rung.state.inverse_temperature,
                "localisation": rung.state.localisation,
                "chains": rung.chains,
                "draws": len(rung.costs),
                "mean_cost": float(rung.costs.mean()),
                "cost_deviation": float(rung.costs.std()),
                "mean_square": float(rung.squares.mean()),
                **{name: getattr(rung, name) for name in names},
                "diverged": int(rung.diverged.sum()),
            }
            for number, rungs in enumerate(self.passes)
            for place, rung in enumerate(rungs)
        ]

    def _stored(self) -> tuple[Any, ...]:
        return self, self.source

    @property
    def complete(self) -> bool:
        """Whether a whole ladder is there, so that there is an answer."""
        return any(rungs and rungs[-1].passage is None for rungs in self.passes)

    @property
    def freedom(self) -> float:
        """Degrees of freedom of an error from the spread of the chains."""
        return self.rungs[0].chains - 1.0

    @property
    def rung_count(self) -> int:
        """Of all passes, the start of each included."""
        return sum(len(rungs) for rungs in self.passes)

    @property
    def so_far(self) -> BridgeResult:
        """What an unfinished first pass says about larger cutoffs; the bridge itself if it is complete.

        Raises:
            UserError: if no rung is free yet.
        """
        if self.complete:
            return self
        rungs = self.passes[0] if self.passes else ()
        if len(rungs) < 2 or not rungs[-1].state.free:
            raise UserError("the bridge has not come to an ensemble that nothing holds to the anchor; continue it")
        last = replace(rungs[-1], passage=None, onward=rungs[-1].onward[:0])
        return replace(self, passes=((*rungs[:-1], last),))

    @cached_property
    def rungs(self) -> tuple[Rung, ...]:
        """Each rung with the chains of all complete passes side by side."""
        complete = [rungs for rungs in self.passes if rungs and rungs[-1].passage is None]
        if not complete:
            raise UserError(f"the bridge is not complete: it ended by {self.ended or 'a kill'}; continue it")
        return tuple(merged_passes(list(each)) for each in zip(*complete, strict=True))

    @cached_property
    def links(self) -> tuple[Link, ...]:
        """Log ratios of normalisers of neighbouring rungs."""
        return tuple(link(a.onward, b.backward) for a, b in zip(self.rungs, self.rungs[1:], strict=False))

    @cached_property
    def log_normalisers(self) -> tuple[Array, Array]:
        """``log Z`` of each sampled rung (rungs,), and without each chain in turn (rungs, chains), nats."""
        whole = self.log_start + np.cumsum([one.log_ratio for one in self.links])
        without = self.log_start + np.cumsum([one.without for one in self.links], axis=0)
        return whole, without

    @property
    def links_error(self) -> float:
        """Standard error of the last rung's log normaliser by the links, nats."""
        return jackknife(self.log_normalisers[1][-1])

    @cached_property
    def level_masses(self) -> tuple[LevelMass, tuple[LevelMass, ...]]:
        """The mass below any cutoff from the draws of all free rungs, and the same without each chain in turn."""
        free = [(j, rung) for j, rung in enumerate(self.rungs[1:]) if rung.state.free]
        places, rungs = [j for j, _ in free], [rung for _, rung in free]
        whole, without = (part[places] for part in self.log_normalisers)

        def without_chain(chain: int) -> LevelMass:
            return level_mass([rung.without(chain) for rung in rungs], without[:, chain])

        return level_mass(rungs, whole), tuple(without_chain(chain) for chain in range(without.shape[1]))

    def volume(self, cutoff: float) -> BridgeVolume:
        """The log-volume at a cutoff that the draws of free rungs surround.

        Args:
            cutoff: T, unit of the cost.

        Returns:
            The log-volume with its error and slope.

        Raises:
            UserError: if free rungs have no draws of two chains below the cutoff and some above, or the bridge is not
                complete.
        """
        number, levels = self._nearest(cutoff)
        if not self.reaches(cutoff):
            raise UserError(f"cutoff {cutoff:g} is outside of what the bridge reached: add it to the cutoffs")
        window = _SLOPE_WINDOW * float(levels.std() / levels.mean())
        at = cutoff * np.exp(np.array([-window, 0.0, window]))
        values = self.level_masses[0](at)
        left_out = np.array([one(at) for one in self.level_masses[1]])
        formula = math.sqrt(sum(one.standard_error**2 for one in self.links[: number + 1]))
        rises = left_out[:, 2] - left_out[:, 0]
        return BridgeVolume(
            cutoff=cutoff,
            log_volume=float(values[1]),
            standard_error=max(jackknife(left_out[:, 1]), formula),
            slope=float(values[2] - values[0]) / (2.0 * window),
            # Without one chain there may be no draw below the window.
            slope_error=jackknife(rises / (2.0 * window)) if np.isfinite(rises).all() else math.inf,
            share_below=float((levels < cutoff).mean()),
            freedom=self.freedom,
        )

    def curve(self, count: int = 60) -> tuple[BridgeVolume, ...]:
        """The log-volume across all cutoffs that the free rungs surround, as one curve of one ladder.

        Args:
            count: number of cutoffs, equally spaced in log T.

        Returns:
            The volumes, the smallest cutoff first; where too few draws lie below for a slope there is none.

        Raises:
            UserError: if the bridge is not complete.
        """
        free = [rung.deciding for rung in self.rungs[1:] if rung.state.free]
        asked = [cutoff for cutoff in self.settings.cutoffs if self.reaches(cutoff)]
        # Costs below the anchor's, which is no minimum then, have no logarithm.
        lows = [low for costs in free if (low := float(np.quantile(costs, LEAST_BELOW))) > 0.0] + asked
        high = max(float(np.median(costs)) for costs in free)
        cutoffs = [float(cutoff) for cutoff in np.geomspace(min(lows), high, count)] if lows and high > 0.0 else []
        found = (self.volume(cutoff) for cutoff in cutoffs if self.reaches(cutoff))
        return tuple(one for one in found if math.isfinite(one.slope_error))

    def reaches(self, cutoff: float) -> bool:
        """Whether draws of two chains lie below a cutoff and some above: only there a volume is known."""
        below = np.concatenate([rung.deciding < cutoff for rung in self.rungs[1:] if rung.state.free])
        return not below.all() and int(below.any(0).sum()) >= 2

    def _nearest(self, cutoff: float) -> tuple[int, Array]:
        """Number and levels of the free rung whose levels are nearest to a cutoff, in their standard deviations."""
        free = [(j, rung.deciding) for j, rung in enumerate(self.rungs[1:]) if rung.state.free]
        return min(free, key=lambda one: abs(float(one[1].mean()) - cutoff) / max(float(one[1].std()), 1e-300))

    @property
    def volumes(self) -> tuple[BridgeVolume, ...]:
        """One for each cutoff asked for, the largest cutoff first."""
        return tuple(self.volume(cutoff) for cutoff in sorted(self.settings.cutoffs, reverse=True))

    @cached_property
    def diagnostics(self) -> Diagnostics:
        """R-hat and effective sample sizes of the sampled rungs."""
        from arviz_stats.base.array import array_stats  # slow to import

        def each(function: Callable[..., float], name: str) -> Array:
            arrays = (getattr(rung, name) for rung in self.rungs[1:])
            # Of draws that are all the same there is none: nan.
            with np.errstate(invalid="ignore", divide="ignore"):
                return np.array([float(function(a, chain_axis=1, draw_axis=0)) for a in arrays])

        return Diagnostics(
            rhat_cost=each(array_stats.rhat, "costs"),
            rhat_square=each(array_stats.rhat, "squares"),
            effective_cost=each(array_stats.ess, "costs"),
            effective_square=each(array_stats.ess, "squares"),
        )

    @cached_property
    def integrated(self) -> Integration | None:
        """Cross-check: ``log Z`` of the last rung by thermodynamic integration; None with fewer than two rungs."""
        if len(self.rungs) < 3:
            return None
        whole, without = integrated_log_ratios(self.rungs[1:])
        start = self.log_start + self.links[0].log_ratio
        error = jackknife(without.sum(0))
        return Integration(start + float(whole.sum()), error, float(self.log_normalisers[0][-1]))

    @cached_property
    def drift(self) -> tuple[float, float] | None:
        """Cross-check: the smallest cutoff's log-volume by the second half of all draws less that by the first, nats.

        Chains that lag behind the ensemble as it cools make it positive. Beside it its standard error; None where a
        half has no draws below the cutoff.
        """
        halves = [replace(self, passes=(part,)) for part in zip(*map(in_halves, self.rungs), strict=True)]
        at = np.array([min(self.settings.cutoffs)])
        whole = [float(half.level_masses[0](at)[0]) for half in halves]
        without = np.array([[float(one(at)[0]) for one in half.level_masses[1]] for half in halves])
        if not (np.isfinite(whole).all() and np.isfinite(without).all()):
            return None
        return whole[1] - whole[0], jackknife(without[1] - without[0])

    @cached_property
    def multistate(self) -> tuple[float, float] | None:
        """Cross-check: ``log Z`` of the last rung by pymbar, and its error; None where points are carried."""
        if self.settings.origin != "prior" or len(self.rungs) < 3:
            return None
        ratio, error = multistate_log_ratio(self.rungs[1:], self.log_normalisers[0])
        return self.log_start + self.links[0].log_ratio + ratio, error

    @property
    def gradient_evaluations(self) -> int:
        """All that were spent, of one parameter vector each."""
        return sum(rung.gradient_evaluations for rungs in self.passes for rung in rungs)

    @property
    def cost_evaluations(self) -> int:
        """All that were spent, of one parameter vector each."""
        return sum(rung.cost_evaluations for rungs in self.passes for rung in rungs)

    @property
    def diverged(self) -> int:
        """Trajectories that ended at no finite energy, or far too high a one; all were rejected."""
        return int(sum(int(rung.diverged.sum()) for rungs in self.passes for rung in rungs))


def bridge_cautions(result: BridgeResult, *, noise: float = 0.0) -> tuple[str, ...]:
    """Why not to trust a complete bridge, or to trust it less.

    Args:
        result: a complete bridge.
        noise: noise of the cost by rounding, unit of the cost.

    Returns:
        Sentences, none where nothing speaks against it.
    """
    found = []
    rhats = np.stack([result.diagnostics.rhat_cost, result.diagnostics.rhat_square])
    if (above := int((rhats > LARGEST_RHAT).sum())) > 0:
        found.append(
            f"{above} of {rhats.size} R-hat are above {LARGEST_RHAT}, the largest {np.nanmax(rhats):.2f}: chains of "
            "those rungs do not agree yet; use more draws or another pass"
        )
    if (unknown := int(np.isnan(rhats).sum())) > 0:
        found.append(f"{unknown} of {rhats.size} R-hat are not known: all draws of those rungs are the same")
    if (overlap := min(link.overlap for link in result.links)) < LEAST_OVERLAP:
        found.append(f"two neighbouring rungs overlap by {overlap:.3f} only: use a smaller work spread")
    trajectories = sum(rung.costs.size for rung in result.rungs[1:])
    if (share := result.diverged / trajectories) > MOST_DIVERGED:
        found.append(f"{share:.1%} of trajectories diverged and were rejected: parts of the set may be out of reach")
    check = result.integrated
    if check is not None:
        gap = abs(check.log_normaliser - check.by_links)
        # The jackknife's errors are of the same chains, so their sum in squares is generous.
        error = float(np.hypot(check.standard_error, result.links_error))
        if gap > _APART * error > 0.0:
            found.append(
                f"thermodynamic integration differs from the acceptance ratios by {gap:.2g} nat, {gap / error:.1f} "
                "standard errors: rungs are too far apart or draws too few"
            )
    if (drift := result.drift) is not None and abs(drift[0]) > _APART * drift[1] > 0.0:
        found.append(
            f"the second half of the draws gives {drift[0]:+.2g} nat, {drift[0] / drift[1]:+.1f} standard errors, more "
            "than the first: chains lag behind the ensemble; use more draws and a longer warm-up"
        )
    for cutoff in result.settings.cutoffs:
        if result.reaches(cutoff) and (few := result.level_masses[0].effective(cutoff)) < LEAST_EFFECTIVE:
            found.append(f"the mass below {cutoff:g} rests on {few:.0f} effective draws: use more draws")
    rounding = noise * result.rungs[-1].state.inverse_temperature
    if rounding > MOST_ROUNDING:
        found.append(
            f"the cost's rounding noise of {noise:.2g} is {rounding:.2g} nats at the last rung: use float64 or a "
            "larger cutoff"
        )
    return tuple(found)
