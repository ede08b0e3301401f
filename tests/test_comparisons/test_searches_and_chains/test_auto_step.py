"""Ascent that chooses its step: all corners of a box, a global search, and what normalising leaves alone."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import differential_evolution
from torch import Tensor, nn

from comparisons.evidence import Evidence
from comparisons.measures import measures_of
from comparisons.searches import NormalisedLogits, box_worst_case, normalised_worst_case
from spectra.costs import CrossEntropy, cross_entropy
from spectra.errors import UserError
from spectra.landscape import Landscape

CHECKED = {"logit-normalised-worst-case": ("test_of_normalised_logits_against_a_global_search",)}


def linear(rows: int = 12, inputs: int = 3, classes: int = 3, scale: float = 1.0) -> Landscape:
    random = torch.Generator().manual_seed(4)
    x = torch.randn(rows, inputs, generator=random, dtype=torch.float64)
    y = torch.randint(0, classes, (rows,), generator=random)
    theta = scale * torch.randn(inputs * classes, generator=random, dtype=torch.float64)
    return Landscape(nn.Linear(inputs, classes, bias=False).double(), cross_entropy, (x, y), theta=theta)


@pytest.mark.parametrize("radius", [0.05, 1.0])
def test_a_convex_cost_is_highest_in_a_corner(radius: float) -> None:
    landscape = linear()
    corners = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=9))).double()
    highest = float(landscape.costs(landscape.theta * (1.0 + radius * corners)).max()) - landscape.anchor_cost
    found = box_worst_case(landscape, radius=radius)
    assert found.value == pytest.approx(highest, rel=1e-9)
    assert found.gradient_evaluations == 40
    assert found.cost_evaluations == 42


def by_hand(logits: Tensor, classes: Tensor) -> Tensor:
    """Cross-entropy of logits less their mean over their norm, a sample at a time."""
    costs = []
    for row, target in zip(logits.tolist(), classes.tolist(), strict=True):
        centred = [one - sum(row) / len(row) for one in row]
        norm = math.sqrt(sum(one**2 for one in centred))
        costs.append(math.log(sum(math.exp(one / norm) for one in centred)) - centred[target] / norm)
    return torch.tensor(costs).double()


def test_of_normalised_logits_against_a_global_search() -> None:
    landscape = linear(rows=20, inputs=2)
    (measure,) = measures_of(["logit-normalised-worst-case"])
    batch, theta = next(landscape.iterate()), landscape.theta

    def falls(z: np.ndarray) -> np.ndarray:
        """Less the mean cost at each column of z (6, k)."""
        weights = theta.numpy()[:, None] * (1.0 + 0.3 * z)
        logits = np.einsum("si,cik->ksc", batch.inputs.numpy(), weights.reshape(3, 2, -1))
        logits -= logits.mean(-1, keepdims=True)
        logits /= np.sqrt((logits**2).sum(-1, keepdims=True))
        own = np.take_along_axis(logits, batch.targets.numpy()[None, :, None], -1)[..., 0]
        return (own - np.log(np.exp(logits).sum(-1))).mean(-1)

    best = differential_evolution(
        falls, [(-1.0, 1.0)] * 6, seed=0, maxiter=300, tol=1e-10, vectorized=True, updating="deferred", polish=False
    )
    highest = float(falls(np.zeros((6, 1)))[0] - best.fun)
    reading = measure.compute(Evidence(landscape), size=100, radius=0.3, steps=60, starts=4)
    assert reading.value == pytest.approx(highest, rel=1e-3)
    # The mean over batches of ten rows is above that over all of them, each batch having a worst case of its own.
    assert measure.compute(Evidence(landscape), size=10, radius=0.3, starts=4).value > highest


def test_the_cost_of_normalised_logits_by_hand_and_its_weights() -> None:
    logits, classes = torch.randn(7, 4, generator=torch.Generator().manual_seed(0)).double(), torch.arange(7) % 4
    assert torch.allclose(NormalisedLogits(cross_entropy)(logits, classes), by_hand(logits, classes))
    plain = CrossEntropy(class_weights=torch.tensor([1.0, 2.0, 3.0, 4.0]))
    classes[0] = -100
    weights = NormalisedLogits(plain).weights(classes)
    assert weights is not None
    assert weights.tolist() == [0.0, 2.0, 3.0, 4.0, 1.0, 2.0, 3.0]
    # Logits that are all alike have no direction, and cost the logarithm of their number.
    alike = NormalisedLogits(cross_entropy)(torch.ones(1, 4).double(), torch.tensor([2]))
    assert float(alike) == pytest.approx(math.log(4.0))


def test_a_scale_of_the_logits_changes_nothing() -> None:
    one, other = (normalised_worst_case(linear(scale=scale), size=5, radius=0.1) for scale in (1.0, 30.0))
    assert one.value == pytest.approx(other.value, rel=1e-9)
    plain = [box_worst_case(linear(scale=scale), radius=0.1).value for scale in (1.0, 30.0)]
    assert plain[1] > 2.0 * plain[0]


def test_a_stationary_start_is_left_by_the_second() -> None:
    """``x^4 - 2 x^2`` at 1, its minimum: the gradient is zero, and the box of 0.9 reaches 0.1 and 1.9."""
    model, x = nn.Linear(1, 1, bias=False).double(), torch.ones(2, 1).double()
    landscape = Landscape(
        model, lambda outputs, targets: outputs[:, 0] ** 4 - 2.0 * outputs[:, 0] ** 2 + 0.0 * targets[:, 0], (x, x)
    ).at(torch.ones(1).double())
    assert box_worst_case(landscape, radius=0.9, starts=1).value == 0.0
    assert box_worst_case(landscape, radius=0.9, starts=4).value == pytest.approx(1.9**4 - 2.0 * 1.9**2 + 1.0)


def test_costs_that_have_no_classes_are_refused() -> None:
    model, x = nn.Linear(2, 3).double(), torch.ones(4, 2).double()
    from spectra.costs import mean_squared_error

    with pytest.raises(UserError, match="cross-entropy with classes"):
        normalised_worst_case(Landscape(model, mean_squared_error, (x, torch.zeros(4, 3).double())))
