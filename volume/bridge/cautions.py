"""A bridge in words: what its ladder begins at, and what speaks against its answer."""

from __future__ import annotations

import numpy as np

from volume.bridge.result import BridgeResult
from volume.chains import LEAST_OVERLAP

# What a ladder begins at.
ORIGIN = {"prior": "the prior", "quadratic": "the checkpoint's quadratic model"}
# Vehtari, Gelman, Simpson, Carpenter and Buerkner, Rank-normalization, folding, and localization, 2021, ask for 1.01 of
# long chains; a rung's few draws are held to the older bound.
LARGEST_RHAT = 1.05
# Share of rejected trajectories that ended nowhere, above which regions may be cut off.
MOST_DIVERGED = 0.01
# Rounding of a reduced energy above which it shows in the acceptance of trajectories, nats.
MOST_ROUNDING = 0.1
# Standard errors of their difference that two ways from the same draws may lie apart.
_APART = 3.0


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
    rounding = noise * result.rungs[-1].state.inverse_temperature
    if rounding > MOST_ROUNDING:
        found.append(
            f"the cost's rounding noise of {noise:.2g} is {rounding:.2g} nats at the last rung: use float64 or a "
            "larger cutoff"
        )
    return tuple(found)
