"""The path norm: the network with squared weights and without activations, asked at an input of ones."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from spectra.errors import UserError
from spectra.landscape import Landscape

# Modules that pass on sums of paths; anything that normalises, attends or recurs does not.
LINEAR = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.Flatten,
    nn.Unflatten,
    nn.Identity,
    nn.Dropout,
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.MaxPool1d,
    nn.MaxPool2d,
)
ACTIVATIONS = (nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.LeakyReLU, nn.ELU, nn.Softplus, nn.Sigmoid, nn.ReLU6)


def path_norm(landscape: Landscape) -> float:
    """``sqrt(sum over paths of the product of squared weights)``, from inputs and biases to outputs.

    Invariant to rescaling of nodes of a ReLU network; for other activations it is the same number, with no
    claim.

    Args:
        landscape: its model must be a chain (``nn.Sequential``) of linear maps, pooling and activations.

    Returns:
        The norm, without unit.

    Raises:
        UserError: if the model has another module, naming it, or takes no single tensor of floats.

    Reference:
        Neyshabur, Salakhutdinov and Srebro, Path-SGD: path-normalized optimization in deep neural networks, 2015.

    >>> from spectra.costs import mean_squared_error
    >>> model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    >>> theta, x = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.ones(1, 1)
    >>> round(path_norm(Landscape(model, mean_squared_error, (x, x), theta=theta)) ** 2)  # 1 * 9 + 4 * 16
    73
    """
    model = copy.deepcopy(landscape.evaluation.model).double().eval()
    for name, module in model.named_modules():
        if isinstance(module, ACTIVATIONS):
            module.register_forward_hook(lambda _module, inputs, _output: inputs[0])
        elif not isinstance(module, (nn.Sequential, *LINEAR)):
            place = f"{name or 'the model itself'} is a {type(module).__name__}"
            raise UserError(f"the path norm is defined for chains of linear maps and activations: {place}")
    inputs = next(landscape.iterate()).inputs
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        raise UserError("the path norm needs a model that takes one tensor of floats")
    given = landscape.parameters.unflatten(landscape.theta)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(given.get(name, parameter).double().square())
        total = float(model(torch.ones_like(inputs[:1], dtype=torch.float64)).sum())
    return math.sqrt(total)
