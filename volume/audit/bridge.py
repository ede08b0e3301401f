"""The bridge in an audit: as one more estimator, and as the truth where nothing else is known."""

from __future__ import annotations

from spectra.errors import UserError
from spectra.landscape import Landscape
from spectra.spectrum import SpectrumSettings
from volume.audit.case import AuditCase, Estimator, EstimatorRow
from volume.audit.directions import gaussian
from volume.audit.reading import SETS, AuditReading, NotApplicable, Truth
from volume.bridge import BridgeResult, bridge_volume
from volume.chains import BridgeSettings
from volume.priors import Prior


def bridge() -> Estimator:
    """The ladder from the quadratic model to the cost, one pass a repeat, its standard error from its chains."""

    def run(case: AuditCase, seed: int) -> AuditReading:
        gaussian(case)
        if case.landscape is None:
            raise NotApplicable("the bridge needs gradients of a torch model")
        settings = BridgeSettings((case.cutoff,), seed=seed)
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
    landscape: Landscape,
    prior: Prior,
    cutoff: float,
    *,
    target: str = "sublevel",
    seed: int = 0,
    strategy: str = "",
    memory: int = SpectrumSettings.memory,
) -> Truth:
    """The log-volume by a bridge, as the truth of a checkpoint.

    Args:
        landscape: the cost.
        prior: the measure, Gaussian.
        cutoff: T.
        target: ``sublevel``, or ``star`` for what star-domain estimators estimate.
        seed: seed of the bridge.
        strategy: how products with the curvature are computed; empty times the candidates.
        memory: bytes that the graphs of these products may take.

    Returns:
        The truth, its error the bridge's own.
    """
    settings = BridgeSettings((cutoff,), target=target, seed=seed)
    return truth_of(bridge_volume(landscape, prior, settings, strategy=strategy, memory=memory), cutoff)


def truth_of(result: BridgeResult, cutoff: float) -> Truth:
    """What a complete bridge says at a cutoff that its draws surround, as a truth of the set that it was aimed at.

    Raises:
        UserError: if that is a window, which no estimator claims, or the bridge does not reach the cutoff.
    """
    target = result.settings.target
    if target not in SETS:
        raise UserError(f"a bridge of {target} is the truth of no estimator: one of {' or '.join(SETS)} is needed")
    volume = result.volume(cutoff)
    return Truth(volume.log_volume, volume.standard_error, f"bridge, {target}", volume.freedom, target)


# A repeat takes seconds on a small case and minutes on a checkpoint.
ESTIMATORS = (EstimatorRow("bridge", lambda effort: bridge(), by_name=True),)  # noqa: ARG005
