"""Measures read from the spectrum of the Hessian: its size, its shape, its negative part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from comparisons.evidence import (
    GRADIENTS_PER_PRODUCT,
    Evidence,
    Extent,
    hessian_density,
    hessian_spectrum,
    layer_traces,
)
from comparisons.flatness import Measure, Reading, reading_of
from comparisons.measures import combined, not_zero, ratio
from comparisons.options import Option
from spectra.errors import UserError
from spectra.estimate import Estimate

FIFTH = 5
_CURVATURE = "cost / parameter²"


def hessian_trace(evidence: Evidence) -> Reading:
    """``tr H``; relative to n it is the mean curvature over directions."""
    return reading_of(hessian_density(evidence).trace())


def largest_layer_trace(evidence: Evidence, *, probes: int | None = None) -> Reading:
    """The largest ``tr H_ll`` over layers; each layer's is in the details."""
    traces = layer_traces(evidence, probes)
    largest = max(traces.values(), key=lambda one: one.value)
    return reading_of(largest, details={layer: one.value for layer, one in traces.items()})


def largest_eigenvalue(evidence: Evidence) -> Reading:
    """The largest eigenvalue of the Hessian, its residual as error; the lowest node is in the details."""
    value = _largest(evidence)
    return reading_of(value, details={"smallest node": hessian_density(evidence).support[0]})


def _largest(evidence: Evidence) -> Estimate:
    """A converged eigenvalue where the largest magnitude is positive, else the outermost node, with its residual."""
    spectrum = hessian_spectrum(evidence)
    if len(spectrum.eigenvalues) and spectrum.eigenvalues[0] > 0.0:
        return Estimate(float(spectrum.eigenvalues[0]), truncation_error=float(spectrum.residuals[0]))
    density = spectrum.density
    if density.exact:
        return Estimate(density.support[1])
    high, outer = density.support[1], density.outer_support[1]
    return Estimate(
        high,
        truncation_error=outer - high,
        cautions=("the largest eigenvalue has not converged: more Lanczos steps",)
        if outer - high > 0.01 * abs(high)
        else (),
    )


def hessian_frobenius(evidence: Evidence) -> Reading:
    """``|H|_F``, the root mean square curvature over directions up to a factor."""
    return reading_of(hessian_density(evidence).frobenius_norm())


def largest_over_trace(evidence: Evidence) -> Reading:
    """``l_max / tr H``: how much of the curvature one direction has."""
    trace = hessian_density(evidence).trace()
    if trace.value <= 0.0:
        raise UserError(f"the trace is {trace.value:.3g}, not positive: a share of it has no meaning")
    return combined(ratio, _largest(evidence), trace)


def first_over_fifth(evidence: Evidence) -> Reading:
    """``|l_1| / |l_5|`` by magnitude: a condition number of the outliers, its error from the residuals."""
    spectrum = hessian_spectrum(evidence)
    if len(spectrum.eigenvalues) < FIFTH:
        found = len(spectrum.eigenvalues)
        raise UserError(f"five converged eigenvalues are needed and {found} are there: use more probes or steps")
    values, errors = np.abs(spectrum.eigenvalues), spectrum.residuals
    if values[FIFTH - 1] <= max(spectrum.density.rounding, float(errors[FIFTH - 1])):
        rank = int((values[:FIFTH] > spectrum.density.rounding).sum())
        raise UserError(f"the fifth eigenvalue is zero to rounding ({rank} of the first five are not): no ratio to it")
    ends = [Estimate(float(values[i]), truncation_error=float(errors[i])) for i in (0, FIFTH - 1)]
    return combined(ratio, *ends, lowest=1.0)


def smallest_over_largest(evidence: Evidence) -> Reading:
    """``|l_min| / l_max`` of a negative ``l_min``, else 0: how deep the deepest saddle direction is."""
    density, top = hessian_density(evidence), _largest(evidence)
    if top.value <= 0.0:
        raise UserError(f"the largest eigenvalue is {top.value:.3g}, not positive: a share of it has no meaning")
    low, outer = density.support[0], density.outer_support[0]
    least = Estimate(low, truncation_error=0.0 if density.exact else low - outer)
    return combined(lambda bottom, top: ratio(max(-bottom, 0.0), top), least, top, lowest=0.0)


def negative_mass(evidence: Evidence) -> Reading:
    """``sum |l_i| over l_i < 0`` as a share of ``sum |l_i|``: how far the checkpoint is from a minimum."""
    density = hessian_density(evidence)
    below = density.integrate(lambda x: np.maximum(-x, 0.0))
    count = density.mass_below(0.0).value
    whole = not_zero(density.integrate(np.abs))
    return combined(ratio, below, whole, details={"count": count}, lowest=0.0, highest=1.0)


def _spectrum(extent: Extent, _: object) -> dict[str, float]:
    return extent.spectrum("hessian")


def _layers(extent: Extent, values: Mapping[str, Any]) -> dict[str, float]:
    return {"layer-traces": GRADIENTS_PER_PRODUCT * (values["probes"] or extent.layer_probes)}


_HESSIAN = frozenset({"permutation"})
_RATIO = frozenset({"permutation", "parameter-scale"})
_FAMILY = "curvature"

MEASURES = (
    Measure(
        "hessian-trace",
        "trace of the Hessian",
        _FAMILY,
        _CURVATURE,
        "Dinh et al. 2017",
        "smaller",
        _HESSIAN,
        ("hessian",),
        hessian_trace,
        work=_spectrum,
    ),
    Measure(
        "largest-layer-trace",
        "largest trace of a layer",
        _FAMILY,
        _CURVATURE,
        "Dong et al. 2020",
        "smaller",
        _HESSIAN,
        ("hessian",),
        largest_layer_trace,
        options=(Option("probes", None, "number of probes", int, usual="8 times --probes", least=1),),
        work=_layers,
    ),
    Measure(
        "largest-eigenvalue",
        "largest Hessian eigenvalue",
        _FAMILY,
        _CURVATURE,
        "Keskar et al. 2017",
        "smaller",
        _HESSIAN,
        ("hessian",),
        largest_eigenvalue,
        work=_spectrum,
    ),
    Measure(
        "hessian-frobenius",
        "Frobenius norm of the Hessian",
        _FAMILY,
        _CURVATURE,
        "Wu et al. 2022",
        "smaller",
        _HESSIAN,
        ("hessian",),
        hessian_frobenius,
        work=_spectrum,
    ),
    Measure(
        "largest-over-trace",
        "largest eigenvalue / trace",
        _FAMILY,
        "1",
        "ratio of the two",
        "smaller",
        _RATIO,
        ("hessian",),
        largest_over_trace,
        work=_spectrum,
    ),
    Measure(
        "first-over-fifth",
        "first / fifth eigenvalue",
        _FAMILY,
        "1",
        "Foret et al. 2021",
        "smaller",
        _RATIO,
        ("hessian",),
        first_over_fifth,
        work=_spectrum,
    ),
    Measure(
        "smallest-over-largest",
        "most negative / largest",
        _FAMILY,
        "1",
        "Li et al. 2018",
        "smaller",
        _RATIO,
        ("hessian",),
        smallest_over_largest,
        work=_spectrum,
    ),
    Measure(
        "negative-mass",
        "share of negative curvature",
        _FAMILY,
        "1",
        "Alain et al. 2019",
        "smaller",
        _RATIO,
        ("hessian",),
        negative_mass,
        work=_spectrum,
    ),
)
