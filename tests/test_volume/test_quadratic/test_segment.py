"""Basin segments of constructed landscapes: products of ellipsoids, scale laws, a model with two sets of data."""

import math

import numpy as np
import pytest
import torch

from spectra.costs import mean_squared_error
from spectra.landscape import Landscape
from spectra.operators import GaussNewton, MatrixOperator
from volume.quadratic import SegmentVolume, segment_volume
from volume.rays import log_ellipsoid

ACROSS = np.array([4.0, 1.0, 0.3])
ALONG = np.array([2.0, 0.05])
CUTOFF = 0.2


def rotation(size: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]


def pair(across: np.ndarray, along: np.ndarray, seed: int = 0) -> tuple[MatrixOperator, MatrixOperator]:
    """Training data sees the first directions of a random basis; validation data the others, and some of the first."""
    size = len(across) + len(along)
    basis = rotation(size, seed)
    train = torch.cat([torch.as_tensor(across), torch.zeros(len(along), dtype=torch.float64)])
    held = torch.cat([torch.full((len(across),), 3.0, dtype=torch.float64), torch.as_tensor(along)])
    matrices = [(basis * values) @ basis.T for values in (train, held)]
    one, two = (MatrixOperator((matrix + matrix.T) / 2.0) for matrix in matrices)
    return one, two


@pytest.mark.parametrize("seed", range(4))
def test_a_product_of_two_ellipsoids(seed: int) -> None:
    segment = segment_volume(*pair(ACROSS, ALONG, seed), CUTOFF)
    assert (segment.rank, segment.zero_dimension, segment.unbounded, segment.shifted) == (3, 2, 0, 0)
    assert segment.log_cross_section == pytest.approx(log_ellipsoid(ACROSS, CUTOFF), abs=1e-9)
    assert segment.log_extent == pytest.approx(log_ellipsoid(ALONG, CUTOFF), abs=1e-9)
    assert segment.log_volume == segment.log_cross_section + segment.log_extent
    assert segment.cautions == ()


def test_it_is_the_ellipsoid_where_nothing_is_flat() -> None:
    values = np.array([3.0, 0.7, 0.01])
    segment = segment_volume(*pair(values, np.empty(0)), CUTOFF)
    assert (segment.zero_dimension, segment.log_extent) == (0, 0.0)
    assert segment.log_volume == pytest.approx(log_ellipsoid(values, CUTOFF), abs=1e-9)


def test_scale_laws() -> None:
    """Twice the cutoff is n/2 log 2; parameters in units a are n log a; a curvature of 4 along is half as far."""
    plain = segment_volume(*pair(ACROSS, ALONG), CUTOFF).log_volume
    assert segment_volume(*pair(ACROSS, ALONG), 2 * CUTOFF).log_volume - plain == pytest.approx(2.5 * math.log(2.0))
    finer = segment_volume(*pair(ACROSS * 9.0, ALONG * 9.0), CUTOFF).log_volume
    assert finer - plain == pytest.approx(-5 * math.log(3.0))
    steep = segment_volume(*pair(ACROSS, ALONG * [4.0, 1.0]), CUTOFF).log_volume
    assert steep - plain == pytest.approx(-math.log(2.0))
    scaled = segment_volume(*pair(ACROSS, ALONG), CUTOFF, log_scale=1.5).log_volume
    assert scaled - plain == pytest.approx(1.5)


def test_what_validation_sees_across_the_manifold_does_not_matter() -> None:
    """Its Jacobian is restricted to the null space: couplings with the cross-section drop out."""
    basis = rotation(5, 9)
    train = MatrixOperator((basis * torch.tensor([4.0, 1.0, 0.3, 0.0, 0.0])) @ basis.T)
    rows = torch.randn(6, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    segment = segment_volume(train, MatrixOperator(rows.T @ rows), CUTOFF)
    inner = torch.linalg.eigvalsh(basis[:, 3:].T @ rows.T @ rows @ basis[:, 3:])
    assert segment.log_extent == pytest.approx(log_ellipsoid(inner.numpy(), CUTOFF), abs=1e-9)


def test_directions_that_neither_set_sees() -> None:
    matrices = pair(ACROSS, np.array([2.0, 0.0, 0.0]))
    endless = segment_volume(*matrices, CUTOFF)
    assert endless.log_volume == math.inf
    assert endless.unbounded == 2
    assert endless.cautions == ("2 directions change nothing on either set of data and have no end: use a prior",)
    bounded = segment_volume(*matrices, CUTOFF, standard_deviation=2.0, k=3.0)
    assert bounded.shift == 0.75
    assert bounded.log_extent == pytest.approx(log_ellipsoid(np.array([2.75, 0.75, 0.75]), CUTOFF), abs=1e-9)
    assert bounded.log_cross_section == endless.log_cross_section
    assert (bounded.unbounded, bounded.shifted) == (2, 2)
    assert "bounds 2 of the 3 directions" in bounded.cautions[0]


def test_two_sets_of_data_of_a_linear_model() -> None:
    """3 training rows and 2 others in 6 dimensions: H = 2 A^T A / 3, and of the 3 left the others bound 2."""
    draws = torch.randn(5, 6, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    model = torch.nn.Linear(6, 1, bias=False).double()
    sets = [Landscape(model, mean_squared_error, (rows, model(rows).detach())) for rows in (draws[:3], draws[3:])]
    s = 0.8
    segment = segment_volume(*(GaussNewton(one) for one in sets), 0.01, standard_deviation=s)
    assert (segment.rank, segment.zero_dimension, segment.unbounded) == (3, 3, 1)
    singular = np.linalg.svd(draws[:3].numpy())
    null = singular.Vh[3:]
    inner = np.linalg.svd(draws[3:].numpy() @ null.T, compute_uv=False) ** 2  # 2 / 2 rows
    along = np.append(inner, 0.0) + 1.0 / s**2
    expected = log_ellipsoid(2.0 * singular.S**2 / 3.0, 0.01) + log_ellipsoid(along, 0.01)
    assert segment.log_volume == pytest.approx(expected, abs=1e-8)


def test_the_tolerance_decides_what_is_flat_and_its_blur_is_said() -> None:
    values = np.geomspace(1.0, 1e-8, 9)
    matrices = pair(values, np.array([1.0]))
    coarse = segment_volume(*matrices, CUTOFF, tolerance=3e-4)
    assert (coarse.rank, coarse.zero_dimension) == (4, 6)
    fine = segment_volume(*matrices, CUTOFF)
    assert (fine.rank, fine.zero_dimension) == (9, 1)
    blurred = segment_volume(*pair(np.geomspace(1.0, 1e-4, 41), np.array([1.0])), CUTOFF, tolerance=1e-2)
    assert "read off no gap" in blurred.cautions[0]
    long = segment_volume(*matrices, CUTOFF, reach=100.0)
    assert "4 axes, the longest 6.32e+03, are longer than the anchor's norm 100" in long.cautions[0]


def negative(rule: str) -> SegmentVolume:
    train, held = (MatrixOperator(torch.diag(torch.tensor(d)).double()) for d in ([1.0, -0.25], [1.0, 0.5]))
    return segment_volume(train, held, CUTOFF, negative=rule)


def test_negative_eigenvalues_need_a_rule() -> None:
    with pytest.raises(ValueError, match=r"not positive semidefinite: 1 of 2 eigenvalues .* lowest -0.25"):
        negative("raise")
    assert negative("abs").rank == 2
    assert negative("clip").rank == 1
    assert negative("clip").log_extent == pytest.approx(log_ellipsoid([0.5], CUTOFF))


def test_refusals() -> None:
    one, two = pair(ACROSS, ALONG)
    with pytest.raises(ValueError, match="same parameters as training: expected 5, got 2"):
        segment_volume(one, MatrixOperator(torch.eye(2)), CUTOFF)
    with pytest.raises(ValueError, match="cutoff must be positive and finite, got 0"):
        segment_volume(one, two, 0.0)
    with pytest.raises(ValueError, match="standard_deviation must be positive and finite, got inf"):
        segment_volume(one, two, 1.0, standard_deviation=math.inf)
    with pytest.raises(ValueError, match="k must be non-negative and finite, got -1"):
        segment_volume(one, two, 1.0, standard_deviation=1.0, k=-1.0)
    large = MatrixOperator(torch.zeros(6001, 6001))
    with pytest.raises(ValueError, match="shifted-determinant or quadratic-mass, which need products alone"):
        segment_volume(large, large, 1.0)
