"""Routes to one learning coefficient: the slope of log V, WBIC, two temperatures; agreement; traces kept."""

import math

import numpy as np
import pytest
import torch

from comparisons.comparison import Comparison, Examined
from comparisons.evidence import ComputeCost, Evidence, EvidenceSettings
from comparisons.examination import outcome_of
from comparisons.langevin import ChainSettings, sample_chains, tempered_slope
from comparisons.measures import (
    COOLER,
    LOCALISATION,
    criterion,
    disagreements,
    inverse_temperature,
    local_coefficient,
    measures_named,
    sampled_coefficient,
    slope_of_log_volume,
    two_temperatures,
)
from comparisons.store import read_comparison, write_comparison
from spectra.costs import cross_entropy, mean_squared_error
from spectra.estimate import Estimate
from spectra.files import Provenance
from spectra.landscape import Landscape

# Two-sided 1e-4 of Student's t with 7 degrees of freedom, for 8 chains, and of a normal variable.
T_8, NORMAL = 7.89, 3.9
SINGULAR = {
    "x2y2": lambda t: (t[..., 0] * t[..., 1]) ** 2,
    "x2y4": lambda t: t[..., 0] ** 2 * t[..., 1] ** 4,
    "x4y4": lambda t: (t[..., 0] * t[..., 1]) ** 4,
    "r4": lambda t: t.square().sum(-1) ** 2,
    "x2+y4": lambda t: t[..., 0] ** 2 + t[..., 1] ** 4,
    "x2": lambda t: t[..., 0] ** 2,
}
# E[nb L] on the plane with a pull g = 1, at nb = 10 and 100, by quadrature; the last is 1/2 2 nb / (2 nb + 1).
TABLE = {
    "x2y2": (0.2903, 0.3542),
    "x2y4": (0.1734, 0.2057),
    "x4y4": (0.1225, 0.1471),
    "r4": (0.4576, 0.4861),
    "x2+y4": (0.7011, 0.7392),
    "x2": (0.4762, 0.4975),
}


@pytest.mark.sampled(5)
@pytest.mark.parametrize("name", list(SINGULAR))
@pytest.mark.parametrize("place", [0, 1])
def test_the_mean_slope_is_what_chains_sample(landscape_of, name, place) -> None:
    found = tempered_slope(
        landscape_of(SINGULAR[name], torch.zeros(2)),
        inverse_temperature=(10.0, 100.0)[place],
        localisation=1.0,
        directions=2000,
    )
    # Fails with probability 1e-4; 0.5 % for the radii, whose error in the table's last digit is below that.
    assert abs(found.value - TABLE[name][place]) < NORMAL * found.standard_error + 0.005 * TABLE[name][place]
    assert found.standard_error < 0.05 * TABLE[name][place]
    assert found.cautions == ()


def test_the_mean_slope_of_a_quadratic_in_many_dimensions(quadratic, rotated, quadratic_coefficient) -> None:
    values = torch.linspace(0.0, 2.0, 40).double()
    found = tempered_slope(quadratic(rotated(values)), inverse_temperature=5.0, localisation=20.0, directions=4000)
    truth = quadratic_coefficient(values, inverse_temperature=5.0, localisation=20.0)
    assert abs(found.value - truth) < NORMAL * found.standard_error  # fails with probability 1e-4
    assert found.standard_error < 0.03 * truth


def test_a_mass_that_the_rays_do_not_reach_is_said(quadratic) -> None:
    found = tempered_slope(quadratic(torch.eye(200)), inverse_temperature=1e4, localisation=1.0, directions=64, seed=1)
    assert any("raise localisation" in caution for caution in found.cautions)


def test_routes_that_differ_are_said_with_what_to_change() -> None:
    near = {"chains": Estimate(3.3, 0.1), "spectrum": Estimate(3.1, 0.1), "volume": Estimate(3.5, 0.1)}
    assert disagreements(near) == ()
    apart = disagreements(near | {"volume": Estimate(9.0, 0.1)})
    assert len(apart) == 2
    assert "halve step_size" in apart[0]
    assert "raise localisation" in apart[1]
    assert disagreements({"chains": Estimate(math.nan, math.inf), "spectrum": Estimate(1.0)}) == ()
    assert disagreements({"chains": Estimate(1.0), "spectrum": Estimate(1.0 + 1e-12)}) == ()


def regression() -> Evidence:
    """Least squares at its minimum without residual: the cost is a quadratic, minibatches of all rows."""
    random = torch.Generator().manual_seed(0)
    x = 10.0 * torch.randn(32, 3, generator=random, dtype=torch.float64)
    y = x @ torch.tensor([[1.0], [-1.0], [0.5]]).double() + 0.3
    model = torch.nn.Linear(3, 1).double()
    theta = torch.tensor([1.0, -1.0, 0.5, 0.3]).double()
    return Evidence(Landscape(model, mean_squared_error, (x, y), theta=theta), settings=EvidenceSettings())


def eigenvalues(evidence: Evidence) -> torch.Tensor:
    inputs = next(iter(evidence.landscape.batches)).inputs
    x = torch.cat([inputs, torch.ones(32, 1).double()], 1)
    return torch.linalg.eigvalsh(2.0 * x.T @ x / 32)


def test_rows_against_the_gaussian_posterior(quadratic_coefficient) -> None:
    evidence = regression()
    h, nb = eigenvalues(evidence), inverse_temperature(evidence)
    step = sampled_coefficient(evidence).chains.step_size
    expected = quadratic_coefficient(h, inverse_temperature=nb, localisation=LOCALISATION, step_size=step)
    found = criterion(evidence)
    # E[n L] = n / nb times the coefficient: no residual. Each fails with probability 1e-4.
    assert abs(found.value - 32.0 / nb * expected) < T_8 * found.standard_error
    both = two_temperatures(evidence)
    bound = [c * nb * h / (c * nb * h + LOCALISATION) for c in (1.0, COOLER)]
    truth = 0.5 * float((bound[0] * bound[1]).sum())
    assert both.details["spectrum"] == pytest.approx(truth, rel=1e-6)
    # The step adds at most 1 / (1 - 0.05) - 1 to each mean, and so to twice the first of them.
    assert abs(both.value - truth) < NORMAL * both.standard_error + 0.053 * 3.0 * truth
    slope = slope_of_log_volume(evidence)
    exact = quadratic_coefficient(h, inverse_temperature=nb, localisation=LOCALISATION)
    assert abs(slope.value - exact) < NORMAL * slope.standard_error + 1e-3
    assert slope.details["spectrum"] == pytest.approx(exact, rel=1e-6)
    assert local_coefficient(evidence).cautions == ()


def test_the_two_temperatures_have_random_numbers_of_their_own(quadratic) -> None:
    def rises(stream: str) -> np.ndarray:
        settings = ChainSettings(
            inverse_temperature=5.0, step_size=1e-3, burn_in=0, draws=5, chains=2, batch_size=None, stream=stream
        )
        return sample_chains(quadratic(torch.eye(3)), settings).rises

    assert np.array_equal(rises("chain"), rises("chain"))
    assert not np.isclose(rises("chain")[:, 1:], rises("cooler-chain")[:, 1:]).any()


def test_dropout_stays_off_while_chains_run() -> None:
    x = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 2)).train()
    landscape = Landscape(model, cross_entropy, (x, torch.arange(12) % 2))
    settings = ChainSettings(inverse_temperature=5.0, step_size=1e-12, burn_in=0, draws=5, chains=2, batch_size=4)
    # Steps of 1e-6 change the cost by about as much; dropout in any pass would change it by tenths.
    assert np.abs(sample_chains(landscape, settings).rises).max() < 1e-4


def test_the_traces_of_chains_are_kept_in_the_store(tmp_path) -> None:
    evidence = regression()
    (measure,) = measures_named(["learning-coefficient"])[:1]
    outcome = outcome_of(evidence, measure)
    provenance = Provenance(
        checkpoint="a.pt", checkpoint_sha256="0", task="t", cost="mean_squared_error", dtype="float64", device="cpu"
    )
    examined = Examined(provenance, outcomes={measure.name: outcome}, work=ComputeCost())
    write_comparison(tmp_path / "c.h5", Comparison(evidence.settings, (measure.name,), (examined,)))
    back = read_comparison(tmp_path / "c.h5").checkpoints[0].outcomes[measure.name].reading
    assert back is not None
    rises = sampled_coefficient(evidence).chains.rises
    assert back.traces["rise"].shape == rises.shape
    assert np.allclose(back.traces["rise"], rises, rtol=1e-6, atol=1e-12)
