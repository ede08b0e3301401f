"""Copies of small networks: their number, the nearest one by brute force, and lines between chains that are planted."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from comparisons.measures.arrangements import aligned, copies_of
from comparisons.measures.symmetries import joints
from spectra.costs import KLFromAnchor, kl_from_anchor
from spectra.landscape import Landscape
from volume.priors import GaussianPrior

STANDARD = GaussianPrior(1.0)


def network(activation: nn.Module, hidden: int = 2) -> Landscape:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, hidden), activation, nn.Linear(hidden, 2)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(2.0 * torch.randn(parameter.shape, dtype=torch.float64))
    inputs = torch.randn(40, 3, dtype=torch.float64)
    return Landscape(model, kl_from_anchor, (inputs, torch.zeros(40, dtype=torch.int64)))


def copies(theta: Tensor, signs: tuple[float, ...]) -> list[Tensor]:
    """All copies of a 3-2-2 network, by hand: weights (2, 3), biases (2,), then weights (2, 2) by columns."""
    weight, bias, out, rest = theta[:6].view(2, 3), theta[6:8], theta[8:12].view(2, 2), theta[12:]
    found = []
    for order in itertools.permutations((0, 1)):
        for chosen in itertools.product(signs, repeat=2):
            index, sign = torch.tensor(order), torch.tensor(chosen, dtype=theta.dtype)
            parts = (weight[index] * sign[:, None]).flatten(), bias[index] * sign, (out[:, index] * sign).flatten()
            found.append(torch.cat([*parts, rest]))
    return found


@pytest.mark.parametrize(("activation", "order", "signs"), [(nn.Tanh(), 8, (1.0, -1.0)), (nn.GELU(), 2, (1.0,))])
def test_the_order_counts_the_copies_of_the_same_function(
    activation: nn.Module, order: int, signs: tuple[float, ...]
) -> None:
    landscape = network(activation)
    every = torch.stack(copies(landscape.theta, signs))
    assert float(landscape.costs(every).max()) < 1e-12
    assert len(torch.unique(every, dim=0)) == order
    found = copies_of(landscape, STANDARD.log_density, every[:0], 0.01)
    assert found.log_order == pytest.approx(math.log(order))
    assert (found.reason, found.pairs) == ("", 0)
    places = joints(landscape)
    for seed in range(20):
        source = torch.Generator().manual_seed(seed)
        one, other = torch.randn(2, landscape.size, generator=source, dtype=torch.float64)
        nearest = min(float((copy - one).norm()) for copy in copies(other, signs))
        assert float((aligned(landscape, places, one, other) - one).norm()) == pytest.approx(nearest)


def test_planted_copies_are_apart_at_a_small_cutoff_and_touch_at_a_large_one() -> None:
    landscape = network(nn.Tanh())
    noise = 1e-3 * torch.randn(8, landscape.size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    chains = torch.stack(copies(landscape.theta, (1.0, -1.0))) + noise
    apart = copies_of(landscape, STANDARD.log_density, chains, 1e-3)
    assert (apart.pairs, apart.joined, apart.aligned, apart.both) == (28, 0, 28, 0)
    touching = copies_of(landscape, STANDARD.log_density, chains, 100.0)
    assert (touching.joined, touching.aligned, touching.both) == (28, 28, 28)
    same = copies_of(landscape, STANDARD.log_density, landscape.theta + noise, 1e-3)
    assert (same.joined, same.aligned, same.both) == (28, 28, 0)


def test_two_hidden_layers_are_matched_to_a_planted_copy() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4), nn.GELU(), nn.Linear(4, 2)).double()
    landscape = Landscape(model, KLFromAnchor(), (torch.randn(20, 3).double(), torch.zeros(20, dtype=torch.int64)))
    from comparisons.measures import permuted

    copy = permuted(landscape).theta
    assert torch.equal(aligned(landscape, joints(landscape), landscape.theta, copy), landscape.theta)
    found = copies_of(landscape, STANDARD.log_density, copy.unsqueeze(0), 0.01)
    assert found.log_order == pytest.approx(math.log(120 * 32 * 24))
    assert found.units == "5 hidden units and their signs, 4 hidden units"


def test_what_is_no_symmetry_of_the_prior_or_the_cost_is_not_counted() -> None:
    landscape = network(nn.Tanh())
    uneven = GaussianPrior(torch.linspace(0.5, 2.0, landscape.size, dtype=torch.float64))
    assert "prior" in copies_of(landscape, uneven.log_density, landscape.theta[None], 0.01).reason
    half = Landscape(
        landscape.evaluation.model, kl_from_anchor, landscape.batches, parameters=["0.weight", "2.weight", "2.bias"]
    )
    assert "costs something else" in copies_of(half, STANDARD.log_density, half.theta[None], 0.01).reason
    linear = Landscape(nn.Linear(3, 2).double(), kl_from_anchor, landscape.batches)
    assert "no hidden units" in copies_of(linear, STANDARD.log_density, linear.theta[None], 0.01).reason
