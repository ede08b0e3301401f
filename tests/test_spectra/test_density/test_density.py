"""Spectral sums from a density: closed forms, errors, cautions."""

import math

import numpy as np
import pytest
import torch

from spectra.density import SpectralDensity
from spectra.estimate import Estimate, difference, from_samples
from spectra.operators import MatrixOperator
from spectra.slq import slq_density
from spectra.spectrum import SpectrumSettings

VALUES = np.array([4.0, 1.0, 0.25, 0.0, 0.0])


def rotated(values: np.ndarray, seed: int = 0) -> MatrixOperator:
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator, dtype=torch.float64))[0]
    matrix = (basis * torch.as_tensor(values)) @ basis.T
    return MatrixOperator((matrix + matrix.T) / 2.0)


def test_exact_sums() -> None:
    density = SpectralDensity.from_eigenvalues(VALUES[:3], size=5)
    assert density.exact
    assert density.trace().value == 5.25
    assert density.trace().exact
    assert density.logdet(1.0).value == pytest.approx(math.log(5) + math.log(2) + math.log(1.25))
    assert density.logdet(2.0, relative=True).value == pytest.approx(math.log(3) + math.log(1.5) + math.log(1.125))
    assert density.effective_dimension(1.0).value == pytest.approx(0.8 + 0.5 + 0.2)
    assert density.moment(2).value == pytest.approx(17.0625)
    assert density.moment(0).value == 5
    assert density.frobenius_norm().value == pytest.approx(math.sqrt(17.0625))
    assert density.mass_below(0.5).value == 3
    assert density.resolution() == 0.0


def test_full_depth_sampling_is_exact_up_to_spread() -> None:
    """With as many steps as dimensions the only error is the probes'."""
    values = np.linspace(0.1, 1.0, 30)
    density = slq_density(rotated(values), SpectrumSettings(probes=6, steps=30, deflate=0))
    estimate = density.logdet(0.5)
    assert estimate.truncation_error < 1e-9
    assert len(estimate.samples) == 6
    assert abs(estimate.value - np.log(values + 0.5).sum()) < 6 * estimate.standard_error


def test_deflation_of_everything_that_varies_leaves_no_error() -> None:
    values = np.concatenate([[9.0, 5.0, 3.0], np.full(40, 0.5)])
    density = slq_density(rotated(values), SpectrumSettings(probes=3, steps=6, deflate=8))
    assert density.trace().value == pytest.approx(values.sum(), rel=1e-9)
    assert density.trace().standard_error < 1e-8


def test_negative_rules() -> None:
    values = np.array([-0.5, -0.1, 1.0, 2.0])
    density = SpectralDensity.from_eigenvalues(values)
    assert density.logdet(0.6).trusted
    with pytest.raises(ValueError, match=r"not positive definite: 1 of 4 eigenvalues lie at or below -0\.3"):
        density.logdet(0.3)
    clipped, absolute = density.logdet(0.3, negative="clip"), density.logdet(0.3, negative="abs")
    assert clipped.value == pytest.approx(2 * math.log(0.3) + math.log(1.3) + math.log(2.3))
    assert absolute.value == pytest.approx(math.log(0.8) + math.log(0.4) + math.log(1.3) + math.log(2.3))
    assert "'clip'" in clipped.cautions[0]
    assert "'abs'" in absolute.cautions[0]
    with pytest.raises(ValueError, match="negative must be one of raise, clip, abs"):
        density.logdet(1.0, negative="drop")


@pytest.mark.parametrize("shift", [float("nan"), float("inf"), -1.0])
def test_bad_shifts(shift: float) -> None:
    density = SpectralDensity.from_eigenvalues(VALUES)
    with pytest.raises(ValueError, match="shift|positive definite"):
        density.logdet(shift)
    with pytest.raises(ValueError, match="shift must be"):
        density.effective_dimension(shift)


def test_mass_and_measure_add_up() -> None:
    density = slq_density(rotated(np.linspace(-1.0, 1.0, 50)), SpectrumSettings(probes=4, steps=10))
    nodes, masses = density.measure()
    assert masses.sum() == pytest.approx(50)
    assert (np.diff(nodes) >= 0).all()
    assert density.mass_below(2.0).value == pytest.approx(50)
    assert density.mass_below(0.0).value == pytest.approx(25, abs=4)
    assert 0.01 < density.resolution() < 0.6


def test_intervals() -> None:
    estimate = from_samples(np.array([1.0, 2.0, 3.0]), truncation_error=0.5)
    low, high = estimate.interval(0.95)
    half = 4.302652729911275 / math.sqrt(3) + 0.5  # Student t, 2 degrees of freedom
    assert (low, high) == pytest.approx((2 - half, 2 + half))
    assert from_samples(np.array([1.0])).interval() == (-math.inf, math.inf)
    assert "one probe" in from_samples(np.array([1.0])).cautions[0]
    with pytest.raises(ValueError, match="level"):
        estimate.interval(1.0)
    with pytest.raises(ValueError, match="at least one sample"):
        from_samples(np.empty(0))


def test_common_probes_sharpen_a_difference() -> None:
    values = np.arange(1, 101) ** -1.0
    settings = SpectrumSettings(probes=8, steps=20, deflate=0)
    first, second = (slq_density(rotated(v), settings).trace() for v in (values, values * 1.02))
    gap = difference(second, first)
    assert gap.value == pytest.approx(0.02 * values.sum(), rel=0.5)
    assert gap.standard_error < 0.05 * first.standard_error
    with pytest.raises(ValueError, match="common probes"):
        difference(first, from_samples(first.samples[:3]))
    assert difference(first, Estimate(1.0)).standard_error == pytest.approx(first.standard_error)


def test_adding_probes_keeps_the_first_ones() -> None:
    operator = rotated(np.linspace(0.0, 1.0, 40))
    few = slq_density(operator, SpectrumSettings(probes=4, steps=8, block=4))
    more = slq_density(operator, SpectrumSettings(probes=8, steps=8, block=4, deflate=few.deflation.captured))
    assert np.array_equal(more.runs.diagonal[:4], few.runs.diagonal)


def test_one_step_does_not_claim_to_know_its_error() -> None:
    density = slq_density(rotated(np.linspace(0.1, 2.0, 60)), SpectrumSettings(probes=4, steps=1, deflate=0))
    estimate = density.logdet(1.0)
    assert estimate.truncation_error > 0
    assert "one Lanczos step" in density.integrate(np.exp).cautions[0]
    assert density.integrate(np.exp).interval() == (-math.inf, math.inf)
    assert density.trace().truncation_error == 0
    assert density.trace().trusted


def test_a_function_that_is_not_finite_is_refused() -> None:
    density = SpectralDensity.from_eigenvalues(np.array([-1.0, 2.0]))
    with pytest.raises(ValueError, match="not finite at -1"):
        density.integrate(np.log)
