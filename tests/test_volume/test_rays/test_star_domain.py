"""The star-domain sampler against exact volumes, and its preconditioners."""

import numpy as np
import pytest
import torch

from spectra.lanczos import top_eigenpairs
from spectra.landscape import Landscape
from spectra.operators import MatrixOperator
from volume.preconditioners import diagonal_preconditioner, full_preconditioner, low_rank_preconditioner
from volume.priors import GaussianPrior
from volume.rays import StarDomainSettings, log_ellipsoid, log_gaussian_ball, search_eps, star_domain_volume

SIZE = 12


class Bowl(torch.nn.Module):
    """Theta itself: the cost below makes any quadratic of it."""

    def __init__(self, anchor: torch.Tensor) -> None:
        super().__init__()
        self.theta = torch.nn.Parameter(anchor.clone())

    def forward(self, ones: torch.Tensor) -> torch.Tensor:
        return ones * self.theta


def bowl(matrix: torch.Tensor, anchor: torch.Tensor | None = None) -> Landscape:
    """``1/2 (theta - anchor)^T matrix (theta - anchor)`` in float64."""
    anchor = torch.zeros(len(matrix), dtype=torch.float64) if anchor is None else anchor

    def half_square(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        gap = outputs - targets
        return 0.5 * ((gap @ matrix) * gap).sum(-1)

    return Landscape(Bowl(anchor), half_square, (torch.ones(1, len(matrix)).double(), anchor.unsqueeze(0)))


def rotated(values: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator, dtype=torch.float64))[0]
    matrix = (basis * values) @ basis.T
    return (matrix + matrix.T) / 2, basis.T


VALUES = torch.logspace(0, 1.5, SIZE, dtype=torch.float64)


def test_the_correction_is_centred_at_the_anchor() -> None:
    # Far from the origin, where a penalty on |theta| would not leave a ball.
    matrix, anchor = 2.0 * torch.eye(SIZE, dtype=torch.float64), torch.full((SIZE,), 3.0, dtype=torch.float64)
    settings = StarDomainSettings(cutoff=0.3, directions=20, nats=1e-6)
    correction = torch.full((SIZE,), 1.5, dtype=torch.float64)
    estimate = star_domain_volume(bowl(matrix, anchor), settings, correction=correction)
    assert np.allclose(estimate.log_terms, log_ellipsoid(np.full(SIZE, 3.5), 0.3), rtol=0.0, atol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_a_ball_is_exact_in_every_direction(seed: int) -> None:
    matrix = 2.5 * torch.eye(SIZE, dtype=torch.float64)
    settings = StarDomainSettings(cutoff=0.3, directions=20, nats=1e-6, seed=seed)
    estimate = star_domain_volume(bowl(matrix), settings)
    assert np.allclose(estimate.log_terms, log_ellipsoid(np.full(SIZE, 2.5), 0.3), atol=1e-5)
    assert estimate.standard_error < 1e-5


@pytest.mark.parametrize("seed", range(3))
def test_an_ellipsoid_within_its_error(seed: int) -> None:
    """4.5 bootstrap errors of 4,000 directions: below 1e-4 where the terms are as light-tailed as here."""
    matrix, _ = rotated(VALUES, seed)
    settings = StarDomainSettings(cutoff=0.05, directions=4000, nats=1e-4, seed=seed, block=500)
    estimate = star_domain_volume(bowl(matrix), settings)
    assert abs(estimate.log_volume - log_ellipsoid(VALUES.numpy(), 0.05)) < 4.5 * estimate.standard_error
    assert estimate.standard_error < 0.3


@pytest.mark.parametrize("seed", range(3))
def test_the_optimal_preconditioner_leaves_no_variance(seed: int) -> None:
    matrix, vectors = rotated(VALUES, seed)
    exact = log_ellipsoid(VALUES.numpy(), 0.05)
    settings = StarDomainSettings(cutoff=0.05, directions=10, nats=1e-6, seed=seed)
    pairs = top_eigenpairs(MatrixOperator(matrix), SIZE)
    for preconditioner in (
        full_preconditioner(VALUES, vectors, eps=0.0),
        low_rank_preconditioner(pairs, SIZE, 1e-9),
    ):
        estimate = star_domain_volume(bowl(matrix), settings, preconditioner=preconditioner)
        assert np.allclose(estimate.log_terms, exact, atol=1e-4)
    diagonal = diagonal_preconditioner(VALUES, eps=0.0)
    estimate = star_domain_volume(bowl(torch.diag(VALUES)), settings, preconditioner=diagonal)
    assert np.allclose(estimate.log_terms, exact, atol=1e-4)


def test_gaussian_measure_of_a_ball_away_from_the_origin() -> None:
    anchor = torch.linspace(-0.4, 0.4, SIZE, dtype=torch.float64)
    radius, deviation = 1.3, 0.7
    settings = StarDomainSettings(cutoff=radius**2 / 2, directions=4000, nats=1e-4, block=500)
    landscape = bowl(torch.eye(SIZE, dtype=torch.float64), anchor)
    estimate = star_domain_volume(landscape, settings, prior=GaussianPrior(deviation))
    exact = log_gaussian_ball(radius, SIZE, deviation, float(anchor.norm()))
    assert abs(estimate.log_volume - exact) < 4.5 * estimate.standard_error + 1e-3


def test_a_direction_without_end() -> None:
    flat = torch.diag(torch.cat([torch.ones(SIZE - 1), torch.zeros(1)]).double())
    line = bowl(torch.zeros(1, 1, dtype=torch.float64))
    lebesgue = star_domain_volume(line, StarDomainSettings(directions=4))
    assert lebesgue.unbounded.all()
    assert lebesgue.log_volume == np.inf
    assert "use a prior" in lebesgue.verdict
    assert star_domain_volume(line, StarDomainSettings(directions=4), prior=GaussianPrior(1.0)).log_volume == (
        pytest.approx(0.0, abs=1e-9)
    )
    assert np.isfinite(star_domain_volume(bowl(flat), StarDomainSettings(directions=50)).log_volume)


def test_median_grows_with_directions_when_an_eigenvalue_is_zero() -> None:
    """MATH.md section 4 (f): heavy tails, so that more directions keep finding larger terms."""
    flat = torch.diag(torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64))
    terms = star_domain_volume(bowl(flat), StarDomainSettings(directions=16384, block=2048, scan=0)).log_terms
    medians = [
        np.median([np.logaddexp.reduce(part) - np.log(len(part)) for part in terms.reshape(-1, count)])
        for count in (4, 32, 256)
    ]
    assert medians[0] < medians[1] < medians[2]


def test_variance_of_the_log_terms_follows_the_appendix() -> None:
    """``Var[-(n/2) log u^T A u] ~ n^2 / (2 (n+2)) Var(l) / mean(l)^2`` by the delta method: within 15 % here.

    From ``Var[u^T A u] = 2 Var(l) / (n + 2)``; 3,000 samples know a variance to 2.6 %, so 15 % is more than 5 of that.
    """
    size = 200
    values = 1.0 + 0.05 * torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    settings = StarDomainSettings(cutoff=0.1, directions=3000, nats=1e-3, block=1000, scan=0)
    estimate = star_domain_volume(bowl(torch.diag(values)), settings)
    spread = float(values.var(correction=0) / values.mean() ** 2)
    assert estimate.log_terms.var() == pytest.approx(size**2 / (2 * (size + 2)) * spread, rel=0.15)


def test_killed_and_resumed_is_the_same_to_the_bit() -> None:
    matrix, _ = rotated(VALUES, 0)
    settings = StarDomainSettings(cutoff=0.05, directions=60, block=16)
    partial = []
    whole = star_domain_volume(bowl(matrix), settings, on_block=partial.append)
    assert len(partial) == 4
    for part in partial[:-1]:
        again = star_domain_volume(bowl(matrix), settings, resume=part)
        assert np.array_equal(again.log_terms, whole.log_terms)


def test_one_direction_that_carries_all_is_called_a_lower_bound() -> None:
    values = torch.logspace(-6, 0, 60, dtype=torch.float64)
    settings = StarDomainSettings(cutoff=0.01, directions=64)
    estimate = star_domain_volume(bowl(torch.diag(values)), settings)
    assert "lower bound, not an estimate" in estimate.verdict
    assert estimate.lower_bound() == pytest.approx(estimate.log_volume - np.log(20))
    assert estimate.log_volume < log_ellipsoid(values.numpy(), 0.01)
    assert estimate.effective_samples < 2


def test_eps_is_searched_on_directions_of_its_own() -> None:
    settings = StarDomainSettings(cutoff=0.05, directions=100)
    landscape = bowl(torch.diag(VALUES))
    assert search_eps(landscape, lambda eps: diagonal_preconditioner(VALUES, eps=eps), settings) <= 1e-3


@pytest.mark.parametrize("setting", [{"cutoff": 0.0}, {"cutoff": float("nan")}, {"directions": 0}, {"nats": -1.0}])
def test_bad_settings(setting: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        StarDomainSettings(**setting)
