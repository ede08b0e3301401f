"""The bridge in an audit: as one more estimator, and as the truth where nothing else is known."""

from __future__ import annotations

from spectra.landscape import Landscape
from volume.audit.case import AuditCase, Truth
from volume.audit.directions import gaussian
from volume.audit.reading import AuditReading, Estimator, EstimatorRow, NotApplicable
from volume.bridge import BridgeResult, bridge_volume
from volume.chains import BridgeSettings
from volume.priors import Prior


def bridge(*, chains: int = 16, draws: int = 100, target: str = "sublevel") -> Estimator:
    """The ladder from the quadratic model to the cost, one pass a repeat; its error is the chains' spread."""

    def run(case: AuditCase, seed: int) -> AuditReading:
        gaussian(case)
        if case.landscape is None:
            raise NotApplicable("the bridge needs gradients of a torch model")
        settings = BridgeSettings((case.cutoff,), target=target, chains=chains, draws=draws, seed=seed)
        found = bridge_volume(case.landscape, case.prior, settings, strategy=case.strategy)
        volume = found.volume(case.cutoff)
        return AuditReading(
            volume.log_volume,
            volume.standard_error,
            freedom=volume.freedom,
            gradients=float(found.gradient_evaluations),
            evaluations=float(found.cost_evaluations),
        )

    return run


def bridge_truth(
    landscape: Landscape, prior: Prior, cutoff: float, *, target: str = "sublevel", seed: int = 0, strategy: str = ""
) -> Truth:
    """The log-volume by a bridge, as the truth of a checkpoint.

    Args:
        landscape: the cost.
        prior: the measure, Gaussian.
        cutoff: T.
        target: ``sublevel``, or ``star`` for what star-domain estimators estimate.
        seed: of the bridge.
        strategy: how products with the curvature are computed; empty times the candidates.

    Returns:
        The truth, its error the bridge's own.
    """
    settings = BridgeSettings((cutoff,), target=target, seed=seed)
    return truth_of(bridge_volume(landscape, prior, settings, strategy=strategy), cutoff)


def truth_of(result: BridgeResult, cutoff: float) -> Truth:
    """What a bridge says at a cutoff, as a truth.

    Args:
        result: a complete bridge.
        cutoff: T, one that its draws surround.

    Returns:
        The truth.
    """
    volume = result.volume(cutoff)
    return Truth(volume.log_volume, volume.standard_error, f"bridge, {result.settings.target}", volume.freedom)


# A repeat takes seconds on a small case and minutes on a checkpoint.
ESTIMATORS = (EstimatorRow("bridge", lambda effort: bridge(), by_name=True),)  # noqa: ARG005
