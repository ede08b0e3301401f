"""HesScale: an approximate diagonal of the Hessian from one backward pass, for chains of simple layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spectra.costs import Likelihood, cost_name
from spectra.errors import UserError
from spectra.landscape import Landscape
from spectra.model import Batch
from volume.preconditioners.diagonal import Diagonal, of_diagonal
from volume.preconditioners.preconditioner import Material, PreconditionerRow

Layer = tuple[str, nn.Module]
Affine = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_ACTIVATIONS = (
    *(nn.CELU, nn.ELU, nn.GELU, nn.Hardswish, nn.Hardtanh, nn.LeakyReLU, nn.LogSigmoid, nn.Mish, nn.ReLU, nn.ReLU6),
    *(nn.SELU, nn.Sigmoid, nn.SiLU, nn.Softplus, nn.Softsign, nn.Tanh, nn.Tanhshrink),
)
# These pass values on as they are, in another shape at most; dropout does in eval mode, and is refused otherwise.
_PASSING = (nn.Dropout, nn.Flatten, nn.Identity)
_KNOWN = (nn.Linear, *_CONVOLUTIONS, *_ACTIVATIONS, *_PASSING)


def hesscale(landscape: Landscape) -> Tensor:
    r"""Diagonal of the Hessian, curvature passed back through the layers as diagonals.

    With the exact diagonal of the cost's Hessian in the outputs as the start, backwards through ``a = W h + b`` and
    ``h = s(a)``: ``D(h_j) = sum_k W_kj^2 D(a_k)``, ``D(a) = s'(a)^2 D(h) + s''(a) dC/dh``, and of the parameters
    ``D(W_kj) = sum D(a_k) h_j^2``, ``D(b_k) = sum D(a_k)``, the sums over samples and, in a convolution, over places.
    What is left out are the couplings between the units of a layer, so it is exact for the last linear layer, and
    for the whole of a network without hidden units. Where the cost is the divergence from the anchor, dC/dh vanishes
    there and it is a diagonal of the Fisher.

    Args:
        landscape: a chain of Linear, Conv, elementwise activations and Flatten under a built-in cost; the chain is run
            by hand, and has to give the model's own outputs.

    Returns:
        (n,) float64, of either sign, in the order of theta.

    Raises:
        UserError: if the model is no such chain or the cost no likelihood, naming the module.

    Reference:
        Elsayed and Mahmood, HesScale: scalable computation of Hessian diagonals, 2022.

    >>> from spectra.costs import mean_squared_error
    >>> model, x = nn.Linear(2, 1, bias=False), torch.tensor([[1.0, 3.0]])
    >>> hesscale(Landscape(model, mean_squared_error, (x, torch.zeros(1, 1)))).numpy().round(5).tolist()  # 2 x_j^2
    [2.0, 18.0]
    """
    likelihood, layers = check_chain(landscape)
    tensors = landscape.parameters.unflatten(landscape.theta)
    found = {name: torch.zeros_like(tensor, dtype=torch.float64) for name, tensor in tensors.items()}
    for batch in landscape.iterate():

        def backward(batch: Batch = batch) -> list[tuple[str, Tensor]]:
            return list(_backward(landscape, likelihood, layers, batch))

        for name, diagonal in landscape.evaluation.inside(tensors, backward):
            if name in found:
                found[name] += diagonal
    return torch.cat([found[name].reshape(-1) for name in landscape.parameters.names]) + landscape.l2


def check_chain(landscape: Landscape) -> tuple[Likelihood, list[Layer]]:
    """The cost and the layers, as far as they are what ``hesscale`` knows; runs one batch.

    Args:
        landscape: the cost.

    Returns:
        The cost as a likelihood, and the layers by name in their order.

    Raises:
        UserError: if the model is no such chain or the cost no likelihood, naming the module.
    """
    likelihood = landscape.likelihood
    if likelihood is None:
        raise UserError(
            f"hesscale needs a built-in cost, whose Hessian in the outputs is known, got "
            f"{cost_name(landscape.cost_function)}; use diagonal"
        )
    layers = _layers(landscape.evaluation.model)
    tensors, batch = landscape.parameters.unflatten(landscape.theta), next(landscape.iterate())
    landscape.evaluation.inside(tensors, lambda: _forward(landscape, layers, batch))
    return likelihood, layers


def _refusal(what: str) -> UserError:
    return UserError(f"hesscale is for chains of Linear, Conv, elementwise activations and Flatten, {what}")


def _layers(model: nn.Module) -> list[Layer]:
    """The chain's layers by name, in order of registration."""
    first: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if first.setdefault(id(parameter), name) != name:
            raise _refusal(f"and {first[id(parameter)]} is {name} too; use diagonal")
    return list(_descend("", model))


def _descend(name: str, module: nn.Module) -> Iterator[Layer]:
    kind = type(module)
    if kind in _KNOWN:
        if isinstance(module, _CONVOLUTIONS) and module.padding_mode != "zeros":
            raise _refusal(f"got {name} ({kind.__name__}) with {module.padding_mode} padding; use diagonal")
        yield name, module
        return
    # Not named_children, which leaves out what stands twice in the chain.
    children = [(key, child) for key, child in module._modules.items() if child is not None]
    if not children or next(module.parameters(recurse=False), None) is not None:
        raise _refusal(f"got {name or 'the model'} ({kind.__name__}); use diagonal")
    for key, child in children:
        yield from _descend(f"{name}.{key}" if name else key, child)


def _backward(
    landscape: Landscape, likelihood: Likelihood, layers: list[Layer], batch: Batch
) -> Iterator[tuple[str, Tensor]]:
    """Diagonals of the parameters by name, of one batch; the model holds theta meanwhile."""
    entering, outputs = _forward(landscape, layers, batch)
    slope, curvature = _at_outputs(landscape, likelihood, outputs, batch)
    for (name, layer), values in zip(reversed(layers), reversed(entering), strict=True):
        if isinstance(layer, Affine):
            yield f"{name}.weight".lstrip("."), _pulled(layer, values.square(), layer.weight, curvature, to_weight=True)
            if layer.bias is not None:
                yield f"{name}.bias".lstrip("."), _over_places(layer, curvature)
            curvature = _pulled(layer, values, layer.weight.square(), curvature)
            slope = _pulled(layer, values, layer.weight, slope)
        elif isinstance(layer, _PASSING):
            slope, curvature = slope.reshape(values.shape), curvature.reshape(values.shape)
        else:
            first, second = _derivatives(layer, values)
            slope, curvature = slope * first, first.square() * curvature + second * slope


def _forward(landscape: Landscape, layers: list[Layer], batch: Batch) -> tuple[list[Tensor], Tensor]:
    """What enters each layer, and the outputs; refuses a model that does anything else with its layers."""
    if not isinstance(batch.inputs, Tensor):
        raise _refusal(f"got inputs that are no tensor but {type(batch.inputs).__name__}; use diagonal")
    values, entering = batch.inputs, []
    with torch.no_grad():
        expected = landscape.evaluation.outputs(batch.inputs)
        for name, layer in layers:
            entering.append(values)
            try:
                # Not the module itself: hooks could change what it gives. In-place activations get a copy.
                values = type(layer).forward(layer, values.clone() if isinstance(layer, _ACTIVATIONS) else values)
            except RuntimeError as error:
                problem = str(error).splitlines()[0]
                raise _refusal(f"and {name} does not fit what comes before it ({problem}); use diagonal") from error
    scale = float(expected.abs().max()) * 1e3 * torch.finfo(expected.dtype).eps
    if values.shape != expected.shape or not torch.allclose(values, expected, rtol=0.0, atol=scale):
        kind = type(landscape.evaluation.model).__name__
        raise _refusal(f"and the forward pass of {kind} does more than run its layers in order; use diagonal")
    return entering, values


def _at_outputs(landscape: Landscape, likelihood: Likelihood, outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Gradient of the average cost in the outputs, and the diagonal of its Hessian there."""
    leaf = outputs.detach().requires_grad_()
    _, weights = landscape.sample_costs(outputs, batch)
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(landscape.batch_cost(leaf, batch), leaf)
        rows = likelihood.rows(leaf, batch.targets)
        diagonal = likelihood.hessian_diagonal(rows.detach(), batch.targets).to(rows)
        if weights is not None:
            diagonal = diagonal * weights.to(diagonal).unsqueeze(1)
        # The rows are the outputs in another order: the way back is the backward pass.
        (placed,) = torch.autograd.grad(rows, leaf, diagonal)
    return slope, placed / landscape.total_weight


def _pulled(layer: Affine, values: Tensor, weight: Tensor, onward: Tensor, *, to_weight: bool = False) -> Tensor:
    """The transposed linear map applied to what comes back from onward; of squared factors it carries diagonals."""
    leaf = (weight if to_weight else values).detach().requires_grad_()
    entering, factor = (values, leaf) if to_weight else (leaf, weight)
    with torch.enable_grad():
        mapped = (
            F.linear(entering, factor) if isinstance(layer, nn.Linear) else layer._conv_forward(entering, factor, None)
        )
        return torch.autograd.grad(mapped, leaf, onward)[0]


def _over_places(layer: Affine, curvature: Tensor) -> Tensor:
    """Sums over everything but the layer's output units: the diagonal of its bias."""
    channel = curvature.dim() - (1 if isinstance(layer, nn.Linear) else 1 + len(layer.kernel_size))
    return curvature.sum([axis for axis in range(curvature.dim()) if axis != channel])


def _derivatives(layer: nn.Module, values: Tensor) -> tuple[Tensor, Tensor]:
    """First and second derivative of an elementwise activation."""
    leaf = values.detach().requires_grad_()
    with torch.enable_grad():
        (first,) = torch.autograd.grad(type(layer).forward(layer, leaf.clone()).sum(), leaf, create_graph=True)
        second = torch.autograd.grad(first.sum(), leaf)[0] if first.requires_grad else torch.zeros_like(first)
    return first.detach(), second


def _build(material: Material, exponent: float) -> Callable[[float], Diagonal]:
    if material.landscape is None:
        raise UserError("hesscale needs a torch model")
    return of_diagonal(hesscale(material.landscape), exponent, "hesscale")


def _check(landscape: Landscape) -> None:
    check_chain(landscape)


# One pass back that carries curvature as well counts as a product.
ROWS = (PreconditionerRow("hesscale", _build, products=lambda _: 1.0, check=_check),)
