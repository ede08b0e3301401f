"""Bounds from both sides against the closed form of a linear model, and teachers against quadrature.

Where an exact number is asked for within 6.5 standard errors of 12 chains, Student's t of 11 degrees is beyond that
with probability 5e-5 a case; the weights are so even there (a deviation below a half) that t applies. Seeds are fixed.
"""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from spectra.costs import cross_entropy, kl_from_anchor, mean_squared_error
from spectra.errors import UserError
from spectra.landscape import Landscape
from volume.bridge import SandwichResult, read_sandwich, sandwich_bounds
from volume.bridge.teacher import teacher_landscape
from volume.chains import BridgeSettings
from volume.priors import GaussianPrior

SIGMAS = 6.5
WIDTH = 1.0
SETTINGS = BridgeSettings(chains=12, draws=16, warm_up=6, work_spread=4.0, seed=0)


def linear() -> Landscape:
    """Two outputs of three parameters each, on seven rows in uneven batches."""
    x = torch.randn(7, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    batches = [(rows, torch.zeros(len(rows), 2, dtype=torch.float64)) for rows in (x[:5], x[5:])]
    return Landscape(torch.nn.Linear(2, 2).double(), mean_squared_error, batches)


def exact(seed: int) -> float:
    """Log Z(b) of the teacher's labels: their Gaussian marginal, over the likelihood of the teacher's outputs."""
    made, b = teacher_landscape(linear(), GaussianPrior(WIDTH), seed)
    x, y = (torch.cat(parts) for parts in zip(*((one.inputs, one.targets) for one in made.taken()), strict=True))
    design = torch.cat([x, torch.ones(len(x), 1).double()], 1)
    covariance = (torch.eye(len(x)) + WIDTH**2 * design @ design.T).numpy()
    evidence = stats.multivariate_normal(cov=covariance).logpdf(y.T.numpy()).sum()
    assert b == 0.5 * y.numel()
    return float(evidence) + b * math.log(2.0 * math.pi) + b * made.anchor_cost


@pytest.fixture(scope="module")
def results() -> list[SandwichResult]:
    found: list[SandwichResult] = []
    for temperatures in (1, 6, 64):
        resume = found[-1] if found else None
        one = sandwich_bounds(linear(), GaussianPrior(WIDTH), SETTINGS, temperatures=temperatures, resume=resume)
        found.append(one)
    return found


def test_a_linear_model_is_bounded_from_both_sides(results: list[SandwichResult]) -> None:
    coarse, middle, fine = results
    truth = exact(SETTINGS.seed)
    for result in results:
        low, high = result.proven(1.0 - 1e-4)  # Markov's inequality: it misses with probability 1e-4
        assert low < truth < high
    for bound in (fine.lower, fine.upper):
        assert abs(bound.value - truth) <= SIGMAS * bound.standard_error
        assert bound.standard_error < 0.3
    assert max(np.std(side.log_weights) for side in fine._sides) < 1.0
    assert abs(fine.by_ladder.value - truth) <= SIGMAS * fine.by_ladder.standard_error
    # A chain's own log weight is lower on average, by half its variance where it is normal, and the more so the fewer
    # the temperatures; backwards it is higher.
    means = [[float(side.log_weights.mean()) for side in result._sides] for result in results]
    assert means[0][0] < means[1][0] < means[2][0] < truth
    assert -means[0][1] > -means[1][1] > -means[2][1] > truth
    assert means[0][0] < truth - 2.0
    assert -means[0][1] > truth + 2.0
    assert not fine._cautions()
    assert any("of the forward weight" in caution for caution in coarse._cautions())
    # The ladder was not climbed again.
    assert coarse.ladder is fine.ladder


def test_a_ladder_outside_of_the_bounds_is_said_to_be(results: list[SandwichResult]) -> None:
    fine = results[-1]
    shifted = replace(fine.ladder, log_start=5.0)
    (caution,) = replace(fine, ladder=shifted)._cautions()
    assert "above the upper bound" in caution


@pytest.mark.parametrize("cost", [cross_entropy, mean_squared_error])
def test_a_teacher_is_an_exact_draw_of_the_posterior(cost: object) -> None:
    """The posterior's distribution function at the teacher is uniform: Kolmogorov and Smirnov at 1e-4."""
    inputs = torch.linspace(-1.5, 2.0, 6, dtype=torch.float64).unsqueeze(1)

    class Slope(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.slope = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([self.slope * x, 0.5 - 0.3 * self.slope * x], 1)

    targets = torch.zeros(6, dtype=torch.int64) if cost is cross_entropy else torch.zeros(6, 2, dtype=torch.float64)
    landscape = Landscape(Slope(), cost, (inputs, targets))  # type: ignore[arg-type]
    grid = torch.linspace(-5 * WIDTH, 5 * WIDTH, 401, dtype=torch.float64)
    places = []
    for seed in range(60):
        made, b = teacher_landscape(landscape, GaussianPrior(WIDTH), seed)
        weights = torch.exp(-b * (made.costs(grid.unsqueeze(1)) - made.anchor_cost) - 0.5 * (grid / WIDTH) ** 2)
        places.append(float(weights[grid < made.theta].sum() / weights.sum()))
    assert stats.kstest(places, "uniform").pvalue > 1e-4


def test_a_network_of_two_layers_is_bounded_and_its_ladder_lies_between() -> None:
    inputs = torch.randn(20, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2)).double()
    landscape = Landscape(model, cross_entropy, (inputs, torch.zeros(20, dtype=torch.int64)))
    result = sandwich_bounds(landscape, GaussianPrior(1.0), SETTINGS, temperatures=8)
    lower, upper, ladder = result.lower, result.upper, result.by_ladder
    assert result.inverse_temperature == 20.0
    # Student's t, as above; the bounds themselves may cross by chance.
    assert result.gap.value > -SIGMAS * result.gap.standard_error
    assert lower.value - SIGMAS * math.hypot(lower.standard_error, ladder.standard_error) < ladder.value
    assert ladder.value < upper.value + SIGMAS * math.hypot(upper.standard_error, ladder.standard_error)
    assert result.gap.value < 2.0


class KilledError(Exception):
    pass


def test_killed_after_any_stage_it_goes_on_to_the_same_numbers(tmp_path: Path) -> None:
    settings = replace(SETTINGS, chains=4, draws=8, warm_up=2, work_spread=8.0)
    path, seen = tmp_path / "sandwich.h5", 0

    def kill(result: SandwichResult) -> None:
        nonlocal seen
        seen += 1
        replace(result, source={"checkpoint": "net.pt"}).save(path)
        raise KilledError

    whole = sandwich_bounds(linear(), GaussianPrior(WIDTH), settings, temperatures=2)
    while not (path.exists() and read_sandwich(path).complete):
        resume = read_sandwich(path) if path.exists() else None
        with pytest.raises(KilledError):
            sandwich_bounds(linear(), GaussianPrior(WIDTH), settings, temperatures=2, resume=resume, on_stage=kill)
    found = read_sandwich(path)
    assert seen == len(whole.ladder.rungs) + 2 * (len(whole.ladder.rungs) - 2)
    assert found.records() == whole.records()
    assert found.by_ladder.value == whole.by_ladder.value
    assert found.gradient_evaluations == whole.gradient_evaluations
    assert found.source == {"checkpoint": "net.pt"}


def test_what_is_no_likelihood_of_single_labels_is_refused() -> None:
    model, x, labels = torch.nn.Linear(2, 3), torch.randn(4, 2), torch.zeros(4, dtype=torch.int64)
    prior = GaussianPrior(1.0)
    for landscape, words in (
        (Landscape(model, kl_from_anchor, x), "got kl"),
        (Landscape(model, torch.nn.CrossEntropyLoss(label_smoothing=0.1), (x, labels)), "label smoothing"),
        (Landscape(model, cross_entropy, (x, labels), l2=0.1), "without l2"),
        (Landscape(model, cross_entropy, (x, labels, torch.ones(4))), "have no weights"),
        (Landscape(model, cross_entropy, (torch.randn(4, 5, 2), labels.expand(5, 4).T)), "one tensor"),
    ):
        with pytest.raises(UserError, match=words):
            teacher_landscape(landscape, prior, 0)
