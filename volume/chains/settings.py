"""What decides the numbers of a bridge, apart from the landscape and the prior."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from spectra.errors import UserError, require_counts

ORIGINS = ("quadratic", "prior")
# Free ensembles reach a cutoff near their mean cost where at least this share of their points lies below it: where
# costs spread over decades a few may do so early.
LEAST_BELOW = 0.05


def window_of(target: str) -> float:
    """The share of the segment from the anchor that has to stay below the cutoff: 0 of a sublevel set, 1 of a star.

    Raises:
        UserError: if the target is none.

    >>> window_of("star"), window_of("window:0.25")
    (1.0, 0.25)
    """
    if target in ("sublevel", "star"):
        return float(target == "star")
    name, _, text = target.partition(":")
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if name != "window" or not 0.0 < share < 1.0:
        raise UserError(
            f"the target must be sublevel, star or window:W with 0 < W < 1, such as window:0.5; got {target!r}"
        )
    return share


@dataclass(frozen=True)
class BridgeSettings:
    """Everything that decides the numbers, apart from the landscape and the prior.

    Attributes:
        cutoffs: (q,) T, unit of the cost; visited from the largest on.
        target: ``sublevel``, the set ``{C < T}``; ``star``, the points whose segment from the anchor stays below T; or
            ``window:W``, those where the last share W of that segment does.
        origin: where the ladder begins: ``quadratic``, the anchor's quadratic model, held to the anchor and then let
            go, so that what the chains reach from the anchor is measured; or ``prior``, cooled from nothing, so that
            all of the set is, wherever it lies.
        chains: Markov chains that run side by side; their spread is the error bar.
        draws: draws of each chain at each rung.
        warm_up: trajectories of each chain before its draws, at each rung.
        kept: draws of each chain that are carried to the neighbouring rungs.
        work_spread: standard deviation of the work from one rung to the next that the ladder aims at, nats.
        pairs: leading eigenpairs of the curvature; None takes all of them up to 6,000 parameters, else 400.
        standard_error: passes are added until the log-volumes are known to this, nats; inf makes one pass.
        budget: gradient evaluations after which nothing new is begun.
        passes: most passes.
        seed: the one seed that all randomness comes from.
    """

    cutoffs: tuple[float, ...] = (0.01,)
    target: str = "sublevel"
    origin: str = "quadratic"
    chains: int = 16
    draws: int = 100
    warm_up: int = 50
    kept: int = 25
    work_spread: float = 1.5
    pairs: int | None = None
    standard_error: float = math.inf
    budget: float = math.inf
    passes: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.cutoffs or not all(math.isfinite(c) and c > 0.0 for c in self.cutoffs):
            raise UserError(f"cutoffs must be positive and finite, at least one, got {self.cutoffs}")
        window_of(self.target)
        if self.origin not in ORIGINS:
            raise UserError(f"origin must be one of {', '.join(ORIGINS)}; got {self.origin!r}")
        require_counts(self, {"chains": 4, "draws": 8, "warm_up": 1, "kept": 1, "passes": 1, "seed": 0})
        for name in ("work_spread", "standard_error", "budget"):
            if not getattr(self, name) > 0.0:
                raise UserError(f"{name} must be positive, got {getattr(self, name)}")
        if self.pairs is not None and self.pairs < 1:
            raise UserError(f"pairs must be at least 1, got {self.pairs}")

    def as_dict(self) -> dict[str, Any]:
        """Plain values by name."""
        return {**asdict(self), "pairs": 0 if self.pairs is None else self.pairs}
