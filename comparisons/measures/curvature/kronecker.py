"""The log-determinant by Kronecker factors, alone and as what the sampled one is held against."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from comparisons.evidence import (
    GRADIENTS_PER_PRODUCT,
    Evidence,
    Extent,
    Tally,
    gauss_newton_spectrum,
    prior_width,
)
from comparisons.flatness import Measure, Reading, reading_of
from comparisons.options import PRIOR, SHIFT, Option
from spectra.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from spectra.lanczos import KrylovSpace
    from spectra.operators import KroneckerFactored

_TRACE, _KRONECKER = "trace", "kronecker"
# Roundings of the trace that a control's mean may be off by.
_ROUNDINGS = 10.0
# Two sweeps of a backward pass for each of ten outputs.
_SWEEPS = 20.0
# The share of a spectrum's products that build the deflated space.
_DEFLATION = 0.15


def kronecker_log_determinant(evidence: Evidence, *, k: float | None = None, prior: float | None = None) -> Reading:
    """``log det(I + K / c)`` of EKFAC's K in the place of the Gauss-Newton matrix, ``c = k / s^2``.

    It costs some gradients and no products, and leaves out what couples the layers: it is mostly above the determinant.
    """
    shift = _shift(evidence, k, prior)
    value = _factors(evidence).integrate(lambda x: (x / shift).log1p())
    return Reading(value, details={"shift": shift}, lowest=0.0)


def corrected_log_determinant(
    evidence: Evidence, *, k: float | None = None, prior: float | None = None, control: str | None = None
) -> Reading:
    """The sampled ``log det(I + G / c)`` less a multiple of what its probes are wrong by of a sum that is known.

    Under the control ``trace`` it is tr G, which EKFAC has exactly where it covers all parameters. Under ``kronecker``
    it is ``log det(I + K / c)``, so that ``tr [log(I + G / c) - log(I + K / c)]`` is sampled. The multiple is that of a
    regression, and the estimate stays unbiased; the details say by how much the control narrows it.

    Raises:
        UserError: if the trace is to be the control and is not known exactly.
    """
    from spectra.density import controlled, kronecker_controls, trace_controls

    shift, density = _shift(evidence, k, prior), gauss_newton_spectrum(evidence).density
    plain = density.logdet(shift, relative=True)
    if len(plain.samples) == 0:
        return reading_of(plain, details={"shift": shift})
    factors = _factors(evidence)
    rounding = 0.0
    if (control or _usual(factors)) == _TRACE:
        if not factors.same_trace:
            raise UserError("the trace is not known exactly of this network and data: take control=kronecker")
        trace = factors.integrate(lambda x: x)
        controls, rounding = trace_controls(density, trace), _ROUNDINGS * density.epsilon * trace
    else:
        probes, space = _probes(evidence)
        controls = kronecker_controls(factors, probes, lambda x: (x / shift).log1p(), space)
    found = controlled(plain, controls, rounding=rounding)
    gain = plain.standard_error / found.standard_error if found.standard_error > 0.0 else float("inf")
    return reading_of(found, details={"shift": shift, "standard error without / with": gain})


def _usual(factors: KroneckerFactored) -> str:
    return _TRACE if factors.same_trace else _KRONECKER


def _shift(evidence: Evidence, k: float | None, prior: float | None) -> float:
    return (k or evidence.settings.k) / (prior or prior_width(evidence)) ** 2


def _factors(evidence: Evidence) -> KroneckerFactored:
    def build(tally: Tally) -> KroneckerFactored:
        from spectra.operators import KroneckerFactored

        found = KroneckerFactored(evidence.landscape, seed=evidence.settings.seed)
        tally.gradients += found.gradients
        return found

    return evidence.item("kronecker-factors", build)


def _probes(evidence: Evidence) -> tuple[Tensor, KrylovSpace | None]:
    """The probes of the spectrum and the space that it deflated, drawn and built again: a file keeps neither."""

    def build(tally: Tally) -> tuple[Tensor, KrylovSpace | None]:
        from spectra.lanczos import probes_of
        from spectra.plan import make_operator, plan_route, with_block, with_stored_space
        from spectra.slq import deflated_space

        spectrum = gauss_newton_spectrum(evidence)
        operator = make_operator(evidence.landscape, spectrum.settings)
        if not operator.ranks.alone:
            raise UserError("the control variate is computed in one process: run compare without ranks")
        settings = with_block(spectrum.settings, operator, spectrum.settings.block)
        captured = spectrum.density.deflation.captured
        plan = with_stored_space(plan_route(operator, settings), captured)

        def count(products: int) -> None:
            tally.products += products
            evidence.tell(tally)

        space = deflated_space(operator, settings, plan, "spectrum", count)
        if (0 if space is None else space.captured) != captured:
            raise UserError("the deflated space of the stored spectrum could not be built again: compute it anew")
        probes = probes_of(operator, spectrum.density.runs.probes, seed=settings.seed, stream="probes/spectrum")
        return probes if space is None else space.complement(probes), space

    return evidence.item("spectrum-probes", build)


def _factors_work(_: Extent, __: object) -> dict[str, float]:
    return {"kronecker-factors": _SWEEPS}


def _corrected_work(extent: Extent, values: Mapping[str, Any]) -> dict[str, float]:
    found = {**extent.spectrum("gauss-newton"), "kronecker-factors": _SWEEPS}
    if values["control"] == _KRONECKER:
        found["spectrum-probes"] = GRADIENTS_PER_PRODUCT * _DEFLATION * extent.products["gauss-newton"]
    return found


_SCALE = frozenset({"permutation", "parameter-scale"})
_NEEDS = ("likelihood", "gauss-newton", "matrix")

MEASURES = (
    Measure(
        "log-determinant-kronecker",
        "log det(I + K/c), EKFAC",
        "curvature",
        "nat",
        "George et al. 2018",
        "smaller",
        _SCALE,
        _NEEDS,
        kronecker_log_determinant,
        extensive=True,
        options=(SHIFT, PRIOR),
        work=_factors_work,
    ),
    Measure(
        "log-determinant-corrected",
        "log det(I + G/c), corrected",
        "curvature",
        "nat",
        "Lavenberg and Welch 1981",
        "smaller",
        _SCALE,
        _NEEDS,
        corrected_log_determinant,
        extensive=True,
        options=(
            SHIFT,
            PRIOR,
            Option(
                "control",
                None,
                "the known sum: of the trace, or of the Kronecker factors",
                str,
                usual="trace where it is known exactly",
                words=(_TRACE, _KRONECKER),
            ),
        ),
        work=_corrected_work,
    ),
)
