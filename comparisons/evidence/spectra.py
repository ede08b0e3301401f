"""Spectra as evidence: of the Hessian and of the Gauss-Newton matrix, traces of layers, the anchor's measure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from comparisons.evidence.compute_cost import Tally
from comparisons.evidence.evidence import Evidence
from spectra.errors import UserError
from spectra.estimate import Estimate, from_samples
from spectra.spectrum import Spectrum, SpectrumSettings

if TYPE_CHECKING:
    from spectra.density import SpectralDensity
    from spectra.operators import SymmetricOperator
    from volume.quadratic import AnchorMeasure, QuadraticMass

Array = NDArray[np.float64]
LEAST_STEPS = 8
BLOCK = 8


def spectrum_settings(evidence: Evidence, operator: str) -> SpectrumSettings:
    """A spectrum's settings: as the evidence's say, or what fits the budget: fewer probes, then fewer steps."""
    asked = evidence.settings
    probes, steps = asked.probes, asked.steps
    if asked.budget is not None:
        products = max(asked.budget // 2, 2 * LEAST_STEPS)
        steps = min(steps, max(products // 2, LEAST_STEPS))
        probes = max(2, products // steps)
    return SpectrumSettings(
        operator=operator,
        probes=probes,
        steps=steps,
        seed=asked.seed,
        strategy=evidence.strategy(operator),
        memory=evidence.memory,
    )


def hessian_spectrum(evidence: Evidence) -> Spectrum:
    """The Hessian's spectrum, from the store where one fits."""
    return _spectrum(evidence, "hessian")


def gauss_newton_spectrum(evidence: Evidence) -> Spectrum:
    """The spectrum of the Gauss-Newton matrix, positive semidefinite for a likelihood."""
    return _spectrum(evidence, "gauss-newton")


def _spectrum(evidence: Evidence, operator: str) -> Spectrum:
    from spectra.compute import compute_spectrum

    def build(tally: Tally) -> Spectrum:
        stored = evidence.stored_spectra.get(operator)
        if stored is not None:
            return stored
        settings = spectrum_settings(evidence, operator)

        def count(done: int, total: int, what: str) -> None:
            del total, what
            tally.products = done
            evidence.tell(tally)

        tally.gradients += 1
        found = compute_spectrum(evidence.landscape, settings, progress=count)
        evidence.keep_strategy(operator, found)
        return found

    return evidence.item(f"{operator}-spectrum", build)


def gauss_newton_operator(evidence: Evidence) -> SymmetricOperator:
    """The Gauss-Newton matrix itself, its strategy chosen once."""
    from spectra.plan import make_operator

    settings = spectrum_settings(evidence, "gauss-newton")
    return evidence.item("gauss-newton-operator", lambda _: make_operator(evidence.landscape, settings))


def layer_traces(evidence: Evidence, probes: int | None = None) -> dict[str, Estimate]:
    """``tr H_ll`` of each layer l, all from the same products: ``E z_l . (H z)_l`` for Rademacher z.

    Args:
        evidence: evidence of a checkpoint.
        probes: number of probes; None for what the settings leave.

    Returns:
        An estimate by layer name, in the model's order.

    Reference:
        Hutchinson, A stochastic estimator of the trace, 1990.
    """
    from spectra.lanczos import draw_probes
    from spectra.plan import make_operator

    def build(tally: Tally) -> dict[str, Estimate]:
        landscape, settings = evidence.landscape, spectrum_settings(evidence, "hessian")
        operator, layout = make_operator(landscape, settings), landscape.parameters
        places = {layer: layout.positions(names) for layer, names in layout.layers().items()}
        usual = settings.probes * BLOCK if evidence.settings.budget is None else max(2, evidence.settings.budget // 2)
        count = probes or usual
        samples: dict[str, list[Array]] = {layer: [] for layer in places}
        for first in range(0, count, BLOCK):
            many = min(BLOCK, count - first)
            rows = draw_probes(
                operator.size,
                many,
                seed=settings.seed,
                stream="layer-traces",
                first=first,
                dtype=operator.dtype,
                device=operator.device,
            )
            forms = (rows * operator.matmat(rows)).double().cpu()
            for layer, place in places.items():
                samples[layer].append(forms[:, place].sum(1).numpy())
        tally.products += count
        evidence.keep_strategy("hessian", operator)
        return {layer: from_samples(np.concatenate(found)) for layer, found in samples.items()}

    return evidence.item("layer-traces", build)


def prior_width(evidence: Evidence) -> float:
    """The prior's standard deviation s: the root mean square of the parameters."""
    width = float(evidence.landscape.theta.double().square().mean().sqrt())
    if width == 0.0:
        raise UserError("all parameters are zero, so their root mean square gives no width for a prior")
    return width


def basin_mass(evidence: Evidence, cutoff: float | None = None, prior: float | None = None) -> QuadraticMass:
    """The quadratic basin's mass under ``N(0, s^2 I)`` at the cutoff, of the Gauss-Newton matrix, and its shift.

    Args:
        evidence: evidence of a checkpoint.
        cutoff: T, unit of the cost; None for that of the settings.
        prior: s; None for the root mean square of the parameters.
    """
    from volume.quadratic import quadratic_mass

    def build(_: Tally) -> QuadraticMass:
        width = prior or prior_width(evidence)
        density, anchor = gauss_newton_density(evidence), _anchor(evidence)
        return quadratic_mass(density, anchor, cutoff or evidence.settings.cutoff, standard_deviation=width)[0]

    return evidence.item(f"basin-mass {cutoff} {prior}", build)


def _anchor(evidence: Evidence) -> AnchorMeasure:
    """The measure of the Gauss-Newton matrix that the parameters themselves see."""
    from volume.quadratic import anchor_measure

    def build(tally: Tally) -> AnchorMeasure:
        density = gauss_newton_density(evidence)
        steps = min(2 * evidence.settings.steps, density.size)
        operator = gauss_newton_operator(evidence)
        theta = evidence.landscape.theta.to(operator.dtype)
        found = anchor_measure(operator, theta, steps, memory=evidence.memory)
        evidence.keep_strategy("gauss-newton", operator)
        tally.products += steps
        return found

    return evidence.item("anchor-measure", build)


def hessian_density(evidence: Evidence) -> SpectralDensity:
    """The Hessian's density."""
    return hessian_spectrum(evidence).density


def gauss_newton_density(evidence: Evidence) -> SpectralDensity:
    """The density of the Gauss-Newton matrix."""
    return gauss_newton_spectrum(evidence).density
