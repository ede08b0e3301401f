"""The Gaussian mass of the quadratic basin: exact cases, sampled densities, coverage, the ellipsoid as its limit."""

import math

import numpy as np
import pytest
import torch

from spectra.density import SpectralDensity, dense_spectrum
from spectra.estimate import difference
from spectra.model import generator
from spectra.operators import MatrixOperator
from spectra.slq import slq_density
from spectra.spectrum import SpectrumSettings
from volume.prior_units import ScaledOperator, prior_units
from volume.priors import GaussianPrior
from volume.quadratic import AnchorMeasure, anchor_measure, at_origin, from_components, quadratic_mass
from volume.rays import closed_forms as exact


def basis(size: int, seed: int) -> torch.Tensor:
    draws = torch.randn(size, size, generator=generator(seed, "basis"), dtype=torch.float64)
    return torch.linalg.qr(draws)[0]


def rotated(values: np.ndarray, seed: int = 0) -> MatrixOperator:
    rows = basis(len(values), seed)
    matrix = (rows * torch.as_tensor(values)) @ rows.T
    return MatrixOperator((matrix + matrix.T) / 2.0)


def vector(size: int, seed: int) -> torch.Tensor:
    return torch.randn(size, generator=generator(seed, "anchor"), dtype=torch.float64)


def decaying(size: int) -> np.ndarray:
    return 10.0 ** np.linspace(1.0, -5.0, size)


@pytest.mark.parametrize("size, zeros", [(10, 0), (10, 500), (300, 10), (10_000, 0)])
def test_equal_eigenvalues_with_zeros_are_chi_square(size: int, zeros: int) -> None:
    """Only the directions that cost anything count: the anchor's part along the others does not."""
    s, value = 0.3, 5.0
    density = SpectralDensity.from_eigenvalues(np.full(size, value), size + zeros)
    distance = 0.4 * s * math.sqrt(size)
    anchor = AnchorMeasure(np.array([0.0, value]), np.array([7.0, distance**2]))
    mean = 0.5 * value * (size * s**2 + distance**2)
    for mass in quadratic_mass(density, anchor, mean * np.array([1e-6, 0.01, 0.5, 1.2]), standard_deviation=s):
        expected = exact.log_gaussian_ball(math.sqrt(2 * mass.cutoff / value), size, s, distance)
        assert mass.log_mass.value == pytest.approx(expected, abs=1e-3, rel=1e-9)
        assert mass.mean_cost == pytest.approx(mean)
        assert mass.log_mass.standard_error == 0.0
        assert (mass.cutoff < mean) == math.isfinite(mass.shift)


@pytest.mark.parametrize("cutoff", [1e-6, 1e-2, 1.0])
def test_derived_k_of_an_anchor_at_the_origin(cutoff: float) -> None:
    """``k = c s^2 = 2 T / N_eff(c)``, and log P is the shifted determinant's exponent with its prefactor."""
    s, values = 0.7, decaying(200)
    density = SpectralDensity.from_eigenvalues(values, 260)
    mass = quadratic_mass(density, at_origin(), cutoff, standard_deviation=s)[0]
    c, effective = mass.shift, mass.effective_dimension.value
    assert effective == pytest.approx((values / (values + c)).sum())
    assert mass.derived_k == pytest.approx(c * s**2)
    assert mass.derived_k == pytest.approx(2 * cutoff / effective, rel=1e-9)
    exponent = -0.5 * density.logdet(c).value + 130 * math.log(c) + cutoff / (c * s**2)
    second = 0.5 * ((values / (values + c)) ** 2).sum()
    prefactor = -0.5 * math.log(2 * math.pi * second)
    assert mass.log_mass.value == pytest.approx(exponent + prefactor, abs=1.5 / second)


def test_wide_prior_gives_the_ellipsoid() -> None:
    """``P -> V (2 pi s^2)^(-n/2) exp(-|theta*|^2 / 2 s^2)``: section 2 as the limit of section 3."""
    values = np.linspace(0.5, 4.0, 30)
    components = np.linspace(-1.0, 1.0, 30)
    density, anchor = SpectralDensity.from_eigenvalues(values), from_components(values, components)
    for s in (1e3, 1e6):
        mass = quadratic_mass(density, anchor, 0.3, standard_deviation=s)[0]
        log_volume = mass.log_mass.value + 15 * math.log(2 * math.pi * s * s)
        assert log_volume == pytest.approx(exact.log_ellipsoid(values, 0.3), abs=1e-4)


def test_far_anchor_of_a_small_basin_sees_the_local_density() -> None:
    """A basin much smaller than s: its volume times the prior density at the anchor, wherever that is."""
    operator, theta = rotated(np.linspace(1e4, 4e4, 20)), 3.0 * vector(20, 1)
    mass = quadratic_mass(dense_spectrum(operator), anchor_measure(operator, theta), 1e-3, standard_deviation=2.0)[0]
    expected = exact.log_ellipsoid(np.linspace(1e4, 4e4, 20), 1e-3) + GaussianPrior(2.0).log_density(theta)
    assert mass.log_mass.value == pytest.approx(expected, abs=1e-3)


def test_anchor_run_equals_its_components() -> None:
    values, theta = decaying(60), vector(60, 2)
    operator = rotated(values, seed=4)
    components = basis(60, 4).T @ theta
    full = from_components(values, components.numpy())
    density = SpectralDensity.from_eigenvalues(values)
    for steps, bound in ((60, 1e-6), (40, 0.2)):
        run = anchor_measure(operator, theta, steps=steps)
        assert run.square_norm == pytest.approx(float(theta @ theta))
        found, wanted = (quadratic_mass(density, at, [1e-3, 0.1]) for at in (run, full))
        for a, b in zip(found, wanted, strict=True):
            gap = abs(a.log_mass.value - b.log_mass.value)
            assert gap < bound
            assert gap <= a.log_mass.truncation_error + 1e-6
    assert anchor_measure(operator, torch.zeros(60)).square_norm == 0.0


def test_the_anchor_run_needs_no_basis() -> None:
    """Past the memory there is none, and ghost copies share their masses: against the eigenvectors' components."""
    values, theta = decaying(60), vector(60, 2)
    operator, density = rotated(values, seed=4), SpectralDensity.from_eigenvalues(values)
    products: list[int] = []
    run = anchor_measure(operator, theta, steps=60, memory=59 * 60 * 8, progress=products.append)
    assert len(run.nodes) == 60
    assert sum(products) == 60
    full = from_components(values, (basis(60, 4).T @ theta).numpy())
    found, wanted = (quadratic_mass(density, at, [1e-3, 0.1]) for at in (run, full))
    for a, b in zip(found, wanted, strict=True):
        gap = abs(a.log_mass.value - b.log_mass.value)
        assert gap < 1.0  # of 178 nats, and the anchor's own share is 30
        assert gap <= a.log_mass.truncation_error + 1e-6


def test_monte_carlo_of_a_rotated_basin_by_parameter() -> None:
    """One standard deviation a parameter, by rescaling, against draws from the prior; 5 standard errors."""
    size = 12
    operator, theta = rotated(np.geomspace(0.01, 3.0, size)), 0.5 * vector(size, 5)
    prior = GaussianPrior(torch.linspace(0.2, 1.5, size, dtype=torch.float64))
    scaled, anchor, s = prior_units(operator, theta, prior.scale(size))
    assert s == 1.0
    x = prior.sample(generator(0, "draws"), 400_000, size) - theta
    costs = 0.5 * ((x @ operator.matrix) * x).sum(1)
    cutoffs = torch.quantile(costs, torch.tensor([1e-4, 1e-2, 0.3], dtype=torch.float64)).tolist()
    masses = quadratic_mass(dense_spectrum(scaled), anchor_measure(scaled, anchor), cutoffs)
    for mass in masses:
        share = float((costs <= mass.cutoff).double().mean())
        noise = math.sqrt((1 - share) / share / len(costs))
        assert abs(mass.log_mass.value - math.log(share)) < 5 * noise + mass.approximation_error
    plain, same, single = prior_units(operator, theta, GaussianPrior(0.4).scale(size))
    assert plain is operator
    assert torch.equal(same, theta)
    assert single == 0.4


def test_rescaling_a_scalar_changes_nothing() -> None:
    operator, theta = rotated(decaying(40)), vector(40, 6)
    by_number = quadratic_mass(dense_spectrum(operator), anchor_measure(operator, theta), 0.01, standard_deviation=0.2)
    scaled = ScaledOperator(operator, torch.full((40,), 0.2, dtype=torch.float64))
    by_scaling = quadratic_mass(dense_spectrum(scaled), anchor_measure(scaled, theta / 0.2), 0.01)
    assert by_number[0].log_mass.value == pytest.approx(by_scaling[0].log_mass.value, rel=1e-9)
    assert by_number[0].derived_k == pytest.approx(by_scaling[0].derived_k, rel=1e-9)


@pytest.mark.parametrize("steps", [pytest.param(20, marks=pytest.mark.slow), 80])
def test_sampled_density_covers_the_exact_mass(steps: int) -> None:
    """30 seeds, intervals at 95 %: fewer than 22 covering has probability below 1e-5."""
    values = decaying(80)
    operator = rotated(values)
    anchor = anchor_measure(operator, vector(80, 7), steps=80)
    expected = quadratic_mass(dense_spectrum(operator), anchor, 0.01)[0].log_mass.value
    covered, errors = 0, []
    for seed in range(30):
        settings = SpectrumSettings(probes=6, steps=steps, deflate=0, seed=seed)
        mass = quadratic_mass(slq_density(operator, settings), anchor, 0.01)[0].log_mass
        assert len(mass.samples) == 6
        low, high = mass.interval()
        covered += low <= expected <= high
        errors.append((mass.value - expected, mass.standard_error))
    assert covered >= 22
    if steps == 80:
        # At full depth probes are all the error, and the jackknife gives its size: of 30 values, to a factor 2.
        actual, stated = np.sqrt(np.mean(np.square(errors), axis=0))
        assert 0.5 < actual / stated < 2.0


def test_common_probes_cancel_in_differences() -> None:
    values = decaying(120)
    settings = SpectrumSettings(probes=6, steps=30, deflate=0)
    masses = [quadratic_mass(slq_density(rotated(v), settings), at_origin(), 0.01)[0] for v in (values, 1.05 * values)]
    exactly = [
        quadratic_mass(SpectralDensity.from_eigenvalues(v), at_origin(), 0.01)[0] for v in (values, 1.05 * values)
    ]
    gap = difference(masses[0].log_mass, masses[1].log_mass)
    assert gap.standard_error < 0.3 * masses[0].log_mass.standard_error
    expected = exactly[0].log_mass.value - exactly[1].log_mass.value
    assert abs(gap.value - expected) < 6 * gap.standard_error + gap.truncation_error


def test_one_probe_has_no_error_bar() -> None:
    density = slq_density(rotated(decaying(50)), SpectrumSettings(probes=1, steps=20, deflate=0))
    mass = quadratic_mass(density, at_origin(), 0.01)[0].log_mass
    assert mass.standard_error == math.inf
    assert "one probe only" in " ".join(mass.cautions)


def test_negative_eigenvalues() -> None:
    values = np.array([-0.5, -0.1, 0.0, 1.0, 2.0, 3.0])
    density, anchor = SpectralDensity.from_eigenvalues(values), from_components(values, np.full(6, 0.1))
    with pytest.raises(ValueError, match=": 2 of 6 eigenvalues are negative .*smallest node -0.5"):
        quadratic_mass(density, anchor, 0.1)
    for rule, mapped in (("clip", np.maximum(values, 0.0)), ("abs", np.abs(values))):
        ruled = quadratic_mass(density, anchor, [0.1, 50.0], negative=rule)
        plain = quadratic_mass(
            SpectralDensity.from_eigenvalues(mapped), from_components(mapped, np.full(6, 0.1)), [0.1, 50.0]
        )
        for one, other in zip(ruled, plain, strict=True):
            assert one.log_mass.value == pytest.approx(other.log_mass.value, rel=1e-12)
            assert one.negative_count == 2.0
            assert f"rule '{rule}'" in " ".join(one.log_mass.cautions)
            assert other.negative_count == 0.0
    with pytest.raises(ValueError, match="negative must be one of"):
        quadratic_mass(density, anchor, 0.1, negative="drop")


def test_rounding_below_zero_is_no_negative_eigenvalue() -> None:
    density = SpectralDensity.from_eigenvalues(np.array([-1e-9, -1e-17, 1.0, 2.0] + [1.0] * 20))
    mass = quadratic_mass(density, at_origin(), 0.1)[0]
    assert mass.negative_count == 0.0
    clean = SpectralDensity.from_eigenvalues(np.array([0.0, 0.0, 1.0, 2.0] + [1.0] * 20))
    assert mass.log_mass.value == pytest.approx(quadratic_mass(clean, at_origin(), 0.1)[0].log_mass.value, rel=1e-12)


def test_what_is_said_of_a_mass() -> None:
    density = SpectralDensity.from_eigenvalues(np.ones(50))
    small, large = quadratic_mass(density, at_origin(), [0.1, 40.0])
    assert small.log_mass.trusted
    assert "nothing speaks against it" in small.verdict
    assert math.isinf(large.derived_k)
    assert "not below the mean quadratic cost 25" in large.verdict
    few = quadratic_mass(SpectralDensity.from_eigenvalues(np.ones(1), 50), at_origin(), 0.01)[0]
    assert "few eigenvalues matter" in few.verdict
    coarse = slq_density(rotated(decaying(200)), SpectrumSettings(probes=3, steps=4, deflate=0))
    verdict = quadratic_mass(coarse, at_origin(), 1e-6)[0].verdict
    assert "below the quadrature's resolution" in verdict
    assert "more Lanczos steps" in verdict


@pytest.mark.parametrize("deviation", [0.0, -1.0, math.nan, math.inf])
def test_refused_deviations(deviation: float) -> None:
    with pytest.raises(ValueError, match="standard_deviation must be positive and finite"):
        quadratic_mass(SpectralDensity.from_eigenvalues(np.ones(3)), at_origin(), 1.0, standard_deviation=deviation)


def test_refused_shapes() -> None:
    operator = rotated(np.ones(3))
    with pytest.raises(ValueError, match=r"scales must have shape \(3,\), got \(2,\)"):
        ScaledOperator(operator, torch.ones(2))
    with pytest.raises(ValueError, match="scales must be positive and finite"):
        ScaledOperator(operator, torch.tensor([1.0, 0.0, 1.0]))
    with pytest.raises(ValueError, match=r"theta must have shape \(3,\), got \(4,\)"):
        anchor_measure(operator, torch.ones(4))
    with pytest.raises(ValueError, match="eigenvalues and components must match"):
        from_components([1.0], [1.0, 2.0])
