"""Ellipsoids and shifted determinants: closed forms, errors, differences, refusals."""

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
from volume.prior_units import ScaledOperator
from volume.quadratic import at_origin, ellipsoid_volume, quadratic_mass, shifted_determinant
from volume.rays import closed_forms as exact


def rotated(values: np.ndarray, seed: int = 0) -> MatrixOperator:
    draws = torch.randn(len(values), len(values), generator=generator(seed, "basis"), dtype=torch.float64)
    rows = torch.linalg.qr(draws)[0]
    matrix = (rows * torch.as_tensor(values)) @ rows.T
    return MatrixOperator((matrix + matrix.T) / 2.0)


@pytest.mark.parametrize("size", [1, 2, 7, 500])
@pytest.mark.parametrize("cutoff", [1e-6, 0.3, 20.0])
def test_ellipsoids(size: int, cutoff: float) -> None:
    values = np.random.default_rng(size).uniform(0.1, 9.0, size)
    volume = ellipsoid_volume(SpectralDensity.from_eigenvalues(values), cutoff)
    assert volume.log_volume.value == pytest.approx(exact.log_ellipsoid(values, cutoff), rel=1e-12, abs=1e-9)
    assert volume.log_volume.exact
    assert volume.effective_dimension is None


def test_shift_is_k_over_the_variance() -> None:
    values = np.array([5.0, 1.0, 0.2])
    density = SpectralDensity.from_eigenvalues(values, size=9)
    volume = shifted_determinant(density, 0.1, standard_deviation=0.5, k=2.0)
    padded = np.concatenate([values, np.zeros(6)]) + 8.0
    assert volume.shift == 8.0
    assert volume.log_volume.value == pytest.approx(exact.log_ellipsoid(padded, 0.1), rel=1e-12)
    assert volume.log_determinant.value == pytest.approx(np.log(padded).sum(), rel=1e-12)
    assert volume.effective_dimension is not None
    assert volume.effective_dimension.value == pytest.approx((values / (values + 8.0)).sum())
    assert shifted_determinant(density, 0.1, standard_deviation=0.5).shift == 4.0


def test_one_standard_deviation_a_parameter() -> None:
    """The volume in the original coordinates of ``{1/2 x^T H x + k/2 |x/s|^2 < T}``."""
    values, scales = np.array([4.0, 1.0, 0.5, 0.1]), torch.tensor([0.1, 1.0, 2.0, 0.7], dtype=torch.float64)
    operator = rotated(values)
    scaled = dense_spectrum(ScaledOperator(operator, scales))
    log_scale = float(scales.log().sum())
    volume = shifted_determinant(scaled, 0.2, standard_deviation=1.0, k=0.3, log_scale=log_scale)
    direct = torch.linalg.eigvalsh(operator.matrix + torch.diag(0.3 / scales**2))
    assert volume.log_volume.value == pytest.approx(exact.log_ellipsoid(direct.numpy(), 0.2), rel=1e-10)
    plain = ellipsoid_volume(scaled, 0.2, log_scale=log_scale)
    assert plain.log_volume.value == pytest.approx(exact.log_ellipsoid(values, 0.2), rel=1e-10)


def test_sampled_volume_covers_the_exact_one() -> None:
    """20 seeds at 95 %: fewer than 13 covering has probability below 1e-5."""
    values = np.geomspace(1e-4, 10.0, 100)
    operator = rotated(values)
    expected = exact.log_ellipsoid(values + 0.01, 0.1)
    covered = 0
    for seed in range(20):
        density = slq_density(operator, SpectrumSettings(probes=6, steps=25, deflate=0, seed=seed))
        volume = shifted_determinant(density, 0.1, standard_deviation=10.0)
        low, high = volume.log_volume.interval()
        covered += low <= expected <= high
        assert volume.log_volume.standard_error == pytest.approx(0.5 * volume.log_determinant.standard_error)
        assert len(volume.log_volume.samples) == 6
    assert covered >= 13


def test_differences_share_their_probes() -> None:
    first, second = np.geomspace(1e-3, 10.0, 100), np.geomspace(1.2e-3, 11.0, 100)
    settings = SpectrumSettings(probes=6, steps=40, deflate=0)
    volumes = [
        shifted_determinant(slq_density(rotated(values), settings), 0.1, standard_deviation=10.0)
        for values in (first, second)
    ]
    gap = difference(*(volume.log_volume for volume in volumes))
    expected = exact.log_ellipsoid(first + 0.01, 0.1) - exact.log_ellipsoid(second + 0.01, 0.1)
    assert gap.standard_error < 0.3 * volumes[0].log_volume.standard_error
    assert abs(gap.value - expected) < 6 * gap.standard_error + gap.truncation_error


def test_the_mass_reports_its_k_beside() -> None:
    """At the derived k the determinant's effective dimension is the mass's own."""
    values = np.geomspace(1e-6, 10.0, 400)
    density = SpectralDensity.from_eigenvalues(values)
    mass = quadratic_mass(density, at_origin(), 0.01, standard_deviation=0.2)[0]
    chosen = shifted_determinant(density, 0.01, standard_deviation=0.2, mass=mass)
    assert chosen.derived_k == mass.derived_k
    assert chosen.k == 1.0
    assert mass.derived_k < 1e-2
    assert f"derived k {mass.derived_k:.3g}" in chosen.verdict
    derived = shifted_determinant(density, 0.01, standard_deviation=0.2, k=mass.derived_k)
    assert derived.effective_dimension is not None
    assert derived.effective_dimension.value == pytest.approx(mass.effective_dimension.value)
    with pytest.raises(ValueError, match="mass must be of the same cutoff 0.1, got 0.01"):
        shifted_determinant(density, 0.1, standard_deviation=0.2, mass=mass)


def test_negative_eigenvalues() -> None:
    values = np.array([-0.5, 1.0, 2.0])
    density = SpectralDensity.from_eigenvalues(values)
    with pytest.raises(ValueError, match="not positive definite"):
        ellipsoid_volume(density, 0.1)
    with pytest.raises(ValueError, match="not positive definite"):
        shifted_determinant(density, 0.1, standard_deviation=2.0)
    inside = shifted_determinant(density, 0.1, standard_deviation=1.0)
    assert inside.log_volume.value == pytest.approx(exact.log_ellipsoid(values + 1.0, 0.1))
    for rule, mapped in (("clip", np.maximum(values, 0.0)), ("abs", np.abs(values))):
        volume = shifted_determinant(density, 0.1, standard_deviation=2.0, negative=rule)
        assert volume.log_volume.value == pytest.approx(exact.log_ellipsoid(mapped + 0.25, 0.1))
        assert volume.effective_dimension is not None
        assert volume.effective_dimension.value == pytest.approx((mapped / (mapped + 0.25)).sum())
        assert f"rule '{rule}'" in volume.verdict
    absolute = ellipsoid_volume(density, 0.1, negative="abs")
    assert absolute.log_volume.value == pytest.approx(exact.log_ellipsoid(np.abs(values), 0.1))


def test_zero_eigenvalues_have_no_ellipsoid() -> None:
    for negative, values in (("raise", [0.0, 1.0]), ("abs", [0.0, 1.0]), ("clip", [-1.0, 1.0])):
        with pytest.raises(ValueError, match="volume is infinite; use the shifted determinant"):
            ellipsoid_volume(SpectralDensity.from_eigenvalues(np.array(values)), 0.1, negative=negative)


@pytest.mark.parametrize("cutoff", [0.0, -1.0, math.nan, math.inf])
def test_refused_cutoffs(cutoff: float) -> None:
    density = SpectralDensity.from_eigenvalues(np.ones(2))
    with pytest.raises(ValueError, match="cutoff must be positive and finite"):
        ellipsoid_volume(density, cutoff)
    with pytest.raises(ValueError, match="cutoff must be positive and finite"):
        shifted_determinant(density, cutoff, standard_deviation=1.0)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"standard_deviation": 0.0}, "standard_deviation must be positive and finite, got 0"),
        ({"standard_deviation": 1.0, "k": 0.0}, "k must be positive and finite, got 0"),
        ({"standard_deviation": 1.0, "k": math.nan}, "k must be positive and finite, got nan"),
    ],
)
def test_refused_numbers(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        shifted_determinant(SpectralDensity.from_eigenvalues(np.ones(2)), 0.1, **options)
