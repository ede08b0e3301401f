"""HesScale against dense Hessians where it is exact, and against its own formula written out for dense layers."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

from spectra.costs import cross_entropy, kl_from_anchor, mean_squared_error
from spectra.landscape import Landscape
from spectra.operators import Fisher
from volume.preconditioners import hesscale


def data(rows: int, *shape: int, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows)
    inputs = torch.randn(rows, *shape, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(0, classes, (rows,), generator=generator)


def double(model: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    model = model.double()
    for parameter in model.parameters():
        parameter.data = 0.7 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model


def true_diagonal(landscape: Landscape) -> torch.Tensor:
    """From ``torch.func.hessian`` of the average cost, without this package's operators."""
    (batch,) = list(landscape.iterate())

    def cost(theta: torch.Tensor) -> torch.Tensor:
        outputs = functional_call(landscape.model, landscape.parameters.unflatten(theta), (batch.inputs,))
        costs, weights = landscape.sample_costs(outputs, batch)
        return costs.mean() if weights is None else (costs * weights).sum() / weights.sum()

    return torch.func.hessian(cost)(landscape.theta).diagonal()


@pytest.mark.parametrize("cost", [cross_entropy, mean_squared_error])
def test_one_linear_layer_is_exact(cost: nn.Module) -> None:
    inputs, classes = data(20, 4)
    targets = classes if cost is cross_entropy else torch.randn(20, 3, dtype=torch.float64)
    landscape = Landscape(double(nn.Linear(4, 3)), cost, (inputs, targets))
    assert torch.allclose(hesscale(landscape), true_diagonal(landscape), rtol=1e-12)


def test_weights_batches_ignored_samples_and_penalty_count_as_in_the_cost() -> None:
    inputs, classes = data(23, 4)
    classes[3] = -100
    weights = torch.linspace(0.1, 2.0, 23, dtype=torch.float64)
    model = double(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)))
    whole = hesscale(Landscape(model, cross_entropy, (inputs, classes, weights)))
    last = slice(-18, None)
    expected = true_diagonal(Landscape(model, cross_entropy, (inputs, classes, weights)))[last]
    assert torch.allclose(whole[last], expected, rtol=1e-12)
    several = [(inputs[a:b], classes[a:b], weights[a:b]) for a, b in ((0, 7), (7, 21), (21, 23))]
    assert torch.allclose(hesscale(Landscape(model, cross_entropy, several, mode="train")), whole, rtol=1e-12)
    with_penalty = Landscape(model, cross_entropy, (inputs, classes, weights), l2=0.3)
    assert torch.allclose(hesscale(with_penalty), whole + 0.3, rtol=1e-12)


ACTIVATIONS = [nn.GELU(), nn.ReLU(inplace=True), nn.SiLU(), nn.Sigmoid(), nn.Softplus(), nn.Tanh()]


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda layer: type(layer).__name__)
@pytest.mark.parametrize("cost", [cross_entropy, mean_squared_error])
def test_one_output_leaves_nothing_out_of_a_hidden_layer(activation: nn.Module, cost: nn.Module) -> None:
    """What is left out couples the units of a layer, and a single output has no other to couple to.

    For cross-entropy the second logit is cut off from the hidden units.
    """
    inputs, classes = data(20, 3, classes=2)
    outputs = 2 if cost is cross_entropy else 1
    model = double(nn.Sequential(nn.Linear(3, 4), activation, nn.Linear(4, outputs)))
    if outputs == 2:
        model[2].weight.data[1] = 0.0
    targets = classes if cost is cross_entropy else torch.randn(20, 1, dtype=torch.float64)
    landscape = Landscape(model, cost, (inputs, targets))
    assert torch.allclose(hesscale(landscape), true_diagonal(landscape), rtol=1e-9, atol=1e-14)


def test_deep_network_follows_the_recursion_unit_by_unit() -> None:
    """Loops over units and samples, for two hidden layers: the formula of the docstring as it stands."""
    inputs, classes = data(6, 3)
    model = double(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 5), nn.Sigmoid(), nn.Linear(5, 3)))
    (W1, b1), (W2, b2), (W3, b3) = [(model[i].weight.detach(), model[i].bias.detach()) for i in (0, 2, 4)]
    parts = [torch.zeros_like(p) for p in (W1, b1, W2, b2, W3, b3)]
    for x, y in zip(inputs, classes, strict=True):
        h1 = torch.tanh(W1 @ x + b1)
        h2 = torch.sigmoid(W2 @ h1 + b2)
        p = torch.softmax(W3 @ h2 + b3, 0)
        d3, g3 = p - p * p, p - torch.nn.functional.one_hot(y, 3)
        s, g2 = h2 * (1 - h2), W3.T @ g3
        d2 = s**2 * ((W3**2).T @ d3) + s * (1 - 2 * h2) * g2
        g2 = s * g2
        s1 = 1 - h1**2
        d1 = s1**2 * ((W2**2).T @ d2) - 2 * h1 * s1 * (W2.T @ g2)
        for part, found in zip(
            parts, (torch.outer(d1, x**2), d1, torch.outer(d2, h1**2), d2, torch.outer(d3, h2**2), d3), strict=True
        ):
            part += found / 6
    expected = torch.cat([part.reshape(-1) for part in parts])
    assert torch.allclose(hesscale(Landscape(model, cross_entropy, (inputs, classes))), expected, rtol=1e-10)


def dense_of(layer: nn.Module, shape: tuple[int, ...]) -> torch.Tensor:
    """The convolution as a matrix (outputs, inputs), column by column."""
    columns = torch.eye(torch.Size(shape).numel(), dtype=torch.float64).reshape(-1, *shape)
    images = type(layer).forward(layer, columns).detach()
    bias = type(layer).forward(layer, torch.zeros(1, *shape, dtype=torch.float64)).detach()
    return (images - bias).reshape(len(columns), -1).T


CONVOLUTIONS = [
    (nn.Conv2d(2, 4, 3, stride=2, padding=1), (2, 5, 5)),
    (nn.Conv2d(4, 4, 2, dilation=2, groups=2), (4, 4, 5)),
    (nn.Conv1d(2, 3, 3, bias=False), (2, 6)),
]


@pytest.mark.parametrize("layer, shape", CONVOLUTIONS, ids=["strided", "grouped", "1d"])
def test_convolution_as_the_dense_layer_it_is(layer: nn.Module, shape: tuple[int, ...]) -> None:
    """The equal dense network's diagonal, added up over the entries that are one weight of the convolution."""
    inputs, classes = data(8, *shape)
    layer = double(layer, 1)
    matrix = dense_of(layer, shape)
    head = double(nn.Linear(len(matrix), 3), 2)
    convolutional = nn.Sequential(layer, nn.SiLU(), nn.Flatten(), head)
    dense = nn.Sequential(nn.Flatten(), nn.Linear(matrix.shape[1], len(matrix)), nn.SiLU(), head).double()
    dense[1].weight.data = matrix
    dense[1].bias.data = type(layer).forward(layer, torch.zeros(1, *shape, dtype=torch.float64)).detach().reshape(-1)
    found = hesscale(Landscape(convolutional, cross_entropy, (inputs, classes)))
    whole = hesscale(Landscape(dense, cross_entropy, (inputs, classes)))
    count = layer.weight.numel()
    weight = layer.weight.detach().clone()
    for number in range(count):
        layer.weight.data = torch.zeros_like(weight)
        layer.weight.data.view(-1)[number] = 1.0
        places = dense_of(layer, shape).reshape(-1) != 0.0
        assert torch.allclose(found[number], whole[: matrix.numel()][places].sum(), rtol=1e-10)
    assert torch.allclose(found[-len(matrix) * 3 - 3 :], whole[-len(matrix) * 3 - 3 :], rtol=1e-10)


def test_divergence_from_the_anchor_gives_a_diagonal_of_the_fisher() -> None:
    inputs, classes = data(40, 5)
    model = double(nn.Sequential(nn.Linear(5, 8), nn.GELU(), nn.Linear(8, 3)))
    landscape = Landscape(model, kl_from_anchor, (inputs, classes))
    found, true = hesscale(landscape), Fisher(landscape).to_dense().diagonal()
    assert torch.allclose(found[-27:], true[-27:], rtol=1e-8)
    assert bool((found > 0).all())
    assert float(torch.corrcoef(torch.stack([found.log(), true.log()]))[0, 1]) > 0.9


def test_follows_the_true_diagonal_of_a_small_network() -> None:
    inputs, classes = data(60, 4)
    model = double(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3)), 3)
    landscape = Landscape(model, cross_entropy, (inputs, classes))
    assert float(torch.corrcoef(torch.stack([hesscale(landscape), true_diagonal(landscape)]))[0, 1]) > 0.8


def test_a_part_of_the_parameters_and_another_anchor() -> None:
    inputs, classes = data(20, 4)
    model = double(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)))
    theta = torch.linspace(-1, 1, 43, dtype=torch.float64)
    whole = Landscape(model, cross_entropy, (inputs, classes), theta=theta)
    assert torch.allclose(hesscale(whole.restricted("2.*")), hesscale(whole)[25:], rtol=1e-12)
    assert torch.allclose(hesscale(whole)[25:], true_diagonal(whole)[25:], rtol=1e-12)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.inner(x)


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.gain = nn.Linear(3, 3), nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gain * self.inner(x)


class Backwards(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last, self.first = nn.Linear(5, 3), nn.Linear(3, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(x))


def twice() -> nn.Module:
    layer = nn.Linear(3, 3)
    return nn.Sequential(layer, nn.Tanh(), layer)


@pytest.mark.parametrize(
    "model, shape, words",
    [
        (nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)), (3,), r"got 1 \(LayerNorm\); use diagonal"),
        (Residual(), (3,), "forward pass of Residual does more than run its layers in order; use diagonal"),
        (Scaled(), (3,), r"got the model \(Scaled\); use diagonal"),
        (Backwards(), (3,), "and last does not fit what comes before it"),
        (twice(), (3,), "0.weight is 2.weight too"),
        (nn.Sequential(nn.Unflatten(1, (1, 3)), nn.Flatten(), nn.Linear(3, 3)), (3,), r"got 0 \(Unflatten\)"),
        (nn.Sequential(nn.Conv1d(3, 3, 1, padding_mode="circular")), (3, 1), "with circular padding"),
    ],
    ids=["normalised", "residual", "own parameter", "out of order", "tied", "unflatten", "circular"],
)
def test_other_architectures_are_refused_by_name(model: nn.Module, shape: tuple[int, ...], words: str) -> None:
    inputs, _ = data(5, *shape)
    landscape = Landscape(model.double(), mean_squared_error, (inputs, inputs))
    with pytest.raises(ValueError, match=words):
        hesscale(landscape)


def test_other_costs_are_refused() -> None:
    inputs, _ = data(5, 3)
    with pytest.raises(ValueError, match="needs a built-in cost.*use diagonal"):
        hesscale(Landscape(nn.Linear(3, 1).double(), lambda outputs, _: outputs.square().sum(1), inputs))
