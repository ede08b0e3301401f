"""The gradient covariance against the gradients of single samples, by autograd."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from spectra.costs import cross_entropy
from spectra.landscape import Landscape
from spectra.operators.gradient_covariance import GradientCovariance


@pytest.mark.parametrize("l2", [0.0, 0.3])
def test_it_is_the_covariance_of_single_gradients(l2: float) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()
        x, y = torch.randn(12, 3).double(), torch.randint(0, 2, (12,))
    rows = []
    for one in range(12):
        slopes = torch.autograd.grad(F.cross_entropy(model(x[one : one + 1]), y[one : one + 1]), model.parameters())
        rows.append(torch.cat([slope.flatten() for slope in slopes]))
    truth = torch.cov(torch.stack(rows).T, correction=0)
    operator = GradientCovariance(Landscape(model, cross_entropy, [(x[:9], y[:9]), (x[9:], y[9:])], l2=l2))
    assert torch.allclose(operator.to_dense(), truth, rtol=0.0, atol=1e-13)
    # One sample has no spread.
    alone = GradientCovariance(Landscape(model, cross_entropy, (x[:1], y[:1]), l2=l2))
    assert float(alone.to_dense().abs().max()) < 1e-15
