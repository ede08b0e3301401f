"""Information criteria: Takeuchi's, from the gradients' noise and the curvature, and the soft rank of the curvature."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from comparisons.evidence import (
    GRADIENTS_PER_PRODUCT,
    Evidence,
    Extent,
    Tally,
    gauss_newton_density,
    gauss_newton_operator,
    prior_width,
    signed_gradients,
)
from comparisons.flatness import Measure, Reading, reading_of
from comparisons.options import Option
from spectra.estimate import Estimate, from_samples

if TYPE_CHECKING:
    from spectra.lanczos import Function, Tridiagonal

PROBES, LEAST_PROBES, MOST_STEPS = 16, 4, 32
_BLOCK = 8


def soft_rank(evidence: Evidence, *, shift: float | None = None) -> Reading:
    """``tr G_0 (G_0 + a I)^-1``, ``G_0`` the Gauss-Newton matrix without the penalty.

    It counts the directions that bend more than a. Over the number of samples it is the expected gap of a calibrated
    model that was trained with the penalty ``a / 2 |theta|^2``. Without a penalty a is ``1 / (N s^2)``, and it is the
    effective dimension.
    """
    landscape, at = evidence.landscape, _shift(evidence, shift)

    def share(x: np.ndarray) -> np.ndarray:
        bend = np.maximum(x - landscape.l2, 0.0)
        return np.asarray(bend / (bend + at))

    density = gauss_newton_density(evidence)
    found = density.integrate(share, lowest=0.0, highest=float(density.size))
    return reading_of(found, details={"shift": at, "expected gap": found.value / landscape.samples})


def takeuchi(evidence: Evidence, *, shift: float | None = None, probes: int | None = None) -> Reading:
    """``tr (G_0 + a I)^-1 S``: S the covariance of the samples' gradients, ``G_0`` Gauss-Newton without the penalty.

    Where the model is calibrated S is ``G_0``, and this is the soft rank of ``G_0``. Over the number of samples it is
    the expected gap. The trace is the mean of ``y^T (G_0 + a I)^-1 y`` over random vectors y of covariance S, each by
    Gauss quadrature from a Lanczos run that starts at y.
    """
    at, penalty = _shift(evidence, shift), evidence.landscape.l2
    runs = _noise_runs(evidence, probes or _probes(evidence.settings.budget))
    found = runs.integrate(lambda x: 1.0 / (np.maximum(x - penalty, 0.0) + at))
    return reading_of(found, details={"shift": at, "expected gap": found.value / evidence.landscape.samples})


def _shift(evidence: Evidence, given: float | None) -> float:
    """The penalty that the landscape has, else the prior's precision over the number of samples."""
    landscape = evidence.landscape
    return given or landscape.l2 or 1.0 / (landscape.samples * prior_width(evidence) ** 2)


@dataclass(frozen=True, eq=False)
class _NoiseRuns:
    """Lanczos runs from vectors of the gradients' covariance.

    Attributes:
        runs: a run for each vector that is not zero; None if all are.
        squares: (probes,) squared lengths of all vectors.
    """

    runs: Tridiagonal | None
    squares: np.ndarray

    def integrate(self, function: Function) -> Estimate:
        """Mean of ``y^T f(G) y``, its standard error, and its difference to what half of the steps say."""
        from spectra.lanczos import probe_means

        samples, change = np.zeros(len(self.squares)), 0.0
        if self.runs is not None:
            some = self.squares > 0.0
            samples[some] = self.squares[some] * probe_means(self.runs.quadrature(), function)
            coarse = self.squares[some] * probe_means(self.runs.quadrature((self.runs.steps + 1) // 2), function)
            if not np.all(self.runs.lengths < self.runs.steps):
                change = abs(float((samples[some] - coarse).sum())) / len(samples)
        return replace(from_samples(samples, truncation_error=change), lowest=0.0)


def _noise_runs(evidence: Evidence, probes: int) -> _NoiseRuns:
    from spectra.lanczos import basis_bytes, lanczos

    def build(tally: Tally) -> _NoiseRuns:
        operator, steps = gauss_newton_operator(evidence), _steps(evidence.settings.steps, evidence.landscape.size)
        rows = signed_gradients(evidence, probes).to(operator.dtype)
        squares = rows.double().square().sum(1).cpu().numpy()
        rows = rows[(squares > 0.0).nonzero()[0].tolist()]
        fits = basis_bytes(operator.size, min(_BLOCK, probes), steps, operator.dtype) <= evidence.memory

        def count(products: int) -> None:
            tally.products += products
            evidence.tell(tally)

        found: Tridiagonal | None = None
        for first in range(0, len(rows), _BLOCK):
            block = rows[first : first + _BLOCK]
            run = lanczos(operator, block, steps, reorthogonalise="full" if fits else "none", progress=count)
            found = run.tridiagonal if found is None else found.appended(run.tridiagonal)
        evidence.keep_strategy("gauss-newton", operator)
        return _NoiseRuns(found, squares)

    return evidence.item(f"gradient-noise-runs {probes}", build)


def _probes(budget: int | None) -> int:
    return PROBES if budget is None else max(LEAST_PROBES, min(PROBES, budget // (2 * MOST_STEPS)))


def _steps(asked: int, size: int) -> int:
    # Each is a system of equations whose condition the shift bounds: conjugate gradients take so many for 1e-3 of it.
    return min(MOST_STEPS, asked, size)


def _takeuchi_work(extent: Extent, values: Mapping[str, Any]) -> dict[str, float]:
    probes = values["probes"] or _probes(extent.settings.budget)
    products = probes * _steps(extent.settings.steps, extent.size)
    return {
        "gradient": 1.0,
        f"signed-gradients {probes}": float(probes),
        f"gradient-noise-runs {probes}": GRADIENTS_PER_PRODUCT * products,
    }


_SHIFT = Option(
    "shift",
    None,
    "a, unit of the cost over that of the parameters squared",
    float,
    usual="the penalty of the cost, or 1/(N s²) without one",
    above=0.0,
)
_SCALE = frozenset({"permutation", "parameter-scale"})
_FAMILY = "curvature"

MEASURES = (
    Measure(
        "soft-rank",
        "soft rank of Gauss-Newton",
        _FAMILY,
        "1",
        "Shoham et al. 2025",
        "smaller",
        _SCALE,
        ("likelihood", "gauss-newton"),
        soft_rank,
        options=(_SHIFT,),
        work=lambda extent, _: extent.spectrum("gauss-newton"),
    ),
    Measure(
        "tic",
        "Takeuchi's criterion, tr H⁻¹ S",
        _FAMILY,
        "1",
        "Thomas et al. 2020",
        "smaller",
        _SCALE,
        ("likelihood", "gradient", "rows"),
        takeuchi,
        options=(
            _SHIFT,
            Option(
                "probes",
                None,
                "random vectors of the gradients' covariance",
                int,
                f"{PROBES}, or what --budget leaves",
                least=2,
            ),
        ),
        work=_takeuchi_work,
    ),
)
