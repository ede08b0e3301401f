import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from comparisons.evidence import Evidence, EvidenceSettings, margins, sample_gradients
from comparisons.measures import norms
from comparisons.searches import path_norm
from spectra.costs import cross_entropy, mean_squared_error
from spectra.landscape import Landscape
from tests.test_comparisons.conftest import classified, relu_network


def plain_gradients(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    rows = []
    for one, target in zip(x, y, strict=True):
        loss = nn.functional.cross_entropy(model(one[None]), target[None])
        slopes = torch.autograd.grad(loss, list(model.parameters()))
        rows.append(torch.cat([slope.reshape(-1) for slope in slopes]))
    return torch.stack(rows)


def test_gradients_one_by_one() -> None:
    model, (x, y) = relu_network(), classified()
    batches = [(x[:8], y[:8]), (x[8:], y[8:])]
    evidence = Evidence(Landscape(model, cross_entropy, batches))
    rows = plain_gradients(model, x, y)
    mean = rows.mean(0)
    spread = float((rows - mean).square().sum(1).mean())
    assert norms.gradient_norm(evidence).value == pytest.approx(float(mean.norm()), rel=1e-9)
    assert norms.gradient_variance(evidence).value == pytest.approx(spread, rel=1e-9)
    assert norms.gradient_variance(evidence).half_width == 0.0
    assert norms.gradient_noise_scale(evidence).value == pytest.approx(spread / float(mean.square().sum()), rel=1e-9)
    along = (rows @ evidence.landscape.theta).square().mean()
    assert norms.empirical_fisher_rao_norm(evidence).value == pytest.approx(float(along), rel=1e-9)


def test_ignored_samples_and_weights_count_as_in_the_cost() -> None:
    model, (x, y) = relu_network(), classified()
    y[:10] = -100
    found = sample_gradients(Evidence(Landscape(model, cross_entropy, (x, y))))
    rows = plain_gradients(model, x[10:], y[10:])
    assert found.trace == pytest.approx(float((rows - rows.mean(0)).square().sum(1).mean()), rel=1e-9)
    weights = torch.linspace(0.5, 2.0, 20, dtype=torch.float64)
    found = sample_gradients(Evidence(Landscape(model, cross_entropy, (x[10:], y[10:], weights))))
    mean = (weights[:, None] * rows).sum(0) / weights.sum()
    expected = (weights * (rows - mean).square().sum(1)).sum() / weights.sum()
    assert found.trace == pytest.approx(float(expected), rel=1e-9)


def test_a_subsample_says_its_error() -> None:
    x, y = classified(rows=600)
    landscape = Landscape(relu_network(), cross_entropy, (x, y))
    exact = norms.gradient_variance(Evidence(landscape)).value
    part = norms.gradient_variance(Evidence(landscape, settings=EvidenceSettings(samples=150)))
    assert part.standard_error > 0.0
    # 150 of 600 independent rows, four standard errors: fails with probability 6e-5, of a fixed draw.
    assert abs(part.value - exact) < 4.0 * part.standard_error


def test_train_mode_is_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)).double()
    landscape = Landscape(model, cross_entropy, classified(), mode="train")
    with pytest.raises(ValueError, match="in train mode the rows of a batch may depend"):
        norms.gradient_variance(Evidence(landscape))


def test_fisher_rao_by_enumeration_of_the_labels() -> None:
    model, (x, y) = relu_network(), classified()
    landscape = Landscape(model, cross_entropy, (x, y))
    p, total = model(x).softmax(-1).detach(), 0.0
    for label in range(3):
        rows = plain_gradients(model, x, torch.full_like(y, label))
        total += float((p[:, label] * (rows @ landscape.theta).square()).mean())
    assert norms.fisher_rao_norm(Evidence(landscape)).value == pytest.approx(total, rel=1e-9)


def test_fisher_rao_of_a_linear_model() -> None:
    # For outputs W x the change along theta is the output itself: theta^T F theta = 2 mean |W x|^2 / K.
    model = nn.Linear(3, 2, bias=False).double()
    x = torch.linspace(-1.0, 2.0, 21, dtype=torch.float64).view(7, 3)
    landscape = Landscape(model, mean_squared_error, (x, torch.zeros(7, 2, dtype=torch.float64)))
    expected = 2.0 * float(model(x).detach().square().mean(1).mean())
    assert norms.fisher_rao_norm(Evidence(landscape)).value == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU, nn.Tanh])
def test_path_norm_by_enumeration_of_paths(activation: type[nn.Module]) -> None:
    model = nn.Sequential(nn.Linear(2, 3), activation(), nn.Linear(3, 2)).double()
    x = torch.ones(5, 2, dtype=torch.float64)
    theta = torch.linspace(-1.0, 1.5, 17, dtype=torch.float64)
    found = path_norm(Landscape(model, mean_squared_error, (x, x), theta=theta))
    first, first_bias, second, second_bias = torch.split(theta, [6, 3, 6, 2])
    w1, w2 = first.view(3, 2), second.view(2, 3)
    paths = [float(w2[k, j] * w1[j, i]) for i, j, k in itertools.product(range(2), range(3), range(2))]
    paths += [float(w2[k, j] * first_bias[j]) for j, k in itertools.product(range(3), range(2))]
    paths += second_bias.tolist()
    assert found == pytest.approx(math.sqrt(sum(path**2 for path in paths)), rel=1e-12)


def test_path_norm_refuses_what_normalises() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 3)).double()
    with pytest.raises(ValueError, match="1 is a LayerNorm"):
        path_norm(Landscape(model, cross_entropy, classified()))


def test_margins_and_products() -> None:
    model, (x, y) = relu_network(), classified()
    y[0] = -100
    evidence = Evidence(Landscape(model, cross_entropy, [(x[:8], y[:8]), (x[8:], y[8:])]))
    outputs = model(x[1:]).detach().numpy()
    expected = [row[t] - max(np.delete(row, t)) for row, t in zip(outputs, y[1:].numpy(), strict=True)]
    assert margins(evidence) == pytest.approx(expected, rel=1e-12)
    tenth = np.percentile(expected, 10.0)
    assert norms.margin(evidence).value == pytest.approx(tenth)
    weights = [model[0].weight.detach().numpy(), model[2].weight.detach().numpy()]
    spectral = math.prod(np.linalg.svd(w)[1][0] for w in weights)
    assert norms.log_spectral_product(evidence).value == pytest.approx(math.log(spectral))
    assert norms.normalised_margin(evidence).value == pytest.approx(tenth / spectral)
    frobenius = math.prod(float(np.sqrt((w**2).sum())) for w in weights)
    assert norms.log_frobenius_product(evidence).value == pytest.approx(math.log(frobenius))


def test_margins_need_classes() -> None:
    x = torch.zeros(3, 2)
    landscape = Landscape(nn.Linear(2, 2), mean_squared_error, (x, x))
    with pytest.raises(ValueError, match="margins need the cost cross_entropy"):
        norms.margin(Evidence(landscape))


def test_norms_of_parameters() -> None:
    model, data = relu_network(), classified()
    landscape = Landscape(model, cross_entropy, data)
    start = landscape.theta + 0.5
    evidence = Evidence(landscape, initial=start)
    assert norms.distance_from_initialisation(evidence).value == pytest.approx(0.5 * math.sqrt(landscape.size))
    assert norms.parameter_norm(evidence).value == pytest.approx(math.sqrt(float((landscape.theta**2).sum())))
    without = Evidence(landscape)
    assert "no step-0 checkpoint" in without.missing("initial")
    with pytest.raises(ValueError, match="not known"):
        norms.distance_from_initialisation(without)
    with pytest.raises(ValueError, match="initial must have shape"):
        Evidence(landscape, initial=start[1:])
