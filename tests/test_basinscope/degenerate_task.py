"""Tasks with nothing where a measure divides: dead units, zeros, one row, one class, a constant cost, few weights."""

import torch
from torch import Tensor, nn

from spectra.checkpoint import Checkpoint, load_into
from spectra.costs import cross_entropy, mean_squared_error
from spectra.landscape import Landscape

OUTPUTS = 3


def network(outputs: int = OUTPUTS) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, outputs))


def dead(outputs: int = OUTPUTS) -> nn.Module:
    """No unit is ever active: the Hessian is that of the last bias alone."""
    model = network(outputs)
    with torch.no_grad():
        model[0].weight.mul_(0.01)
        model[0].bias.fill_(-100.0)
    return model


def zero_layer(outputs: int = OUTPUTS) -> nn.Module:
    model = network(outputs)
    with torch.no_grad():
        model[2].weight.zero_()
        model[2].bias.zero_()
    return model


def zero(outputs: int = OUTPUTS) -> nn.Module:
    model = network(outputs)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    return model


def rows(count: int = 24) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, generator=generator), torch.randint(0, OUTPUTS, (count,), generator=generator)


def _classes(checkpoint: Checkpoint, *data: Tensor) -> Landscape:
    model = network()
    load_into(checkpoint, model)
    return Landscape(model, cross_entropy, [data] if len(data) > 2 else data)


def classes(checkpoint: Checkpoint) -> Landscape:
    return _classes(checkpoint, *rows())


def one_row(checkpoint: Checkpoint) -> Landscape:
    return _classes(checkpoint, *rows(1))


def one_class(checkpoint: Checkpoint) -> Landscape:
    inputs, targets = rows()
    return _classes(checkpoint, inputs, torch.zeros_like(targets))


def no_inputs(checkpoint: Checkpoint) -> Landscape:
    inputs, targets = rows()
    return _classes(checkpoint, torch.zeros_like(inputs), targets)


def shares(checkpoint: Checkpoint) -> Landscape:
    """The same rows and mean as ``classes``, by weights that sum to one."""
    inputs, targets = rows()
    return _classes(checkpoint, inputs, targets, torch.full((len(inputs),), 1.0 / len(inputs)))


def half(checkpoint: Checkpoint) -> Landscape:
    """Rows of which every other one has no weight."""
    inputs, targets = rows()
    return _classes(checkpoint, inputs, targets, (torch.arange(len(inputs)) % 2).float())


def other_half(checkpoint: Checkpoint) -> Landscape:
    """The rows of ``half`` that have a weight, alone."""
    inputs, targets = rows()
    return _classes(checkpoint, inputs[1::2], targets[1::2])


def squares(checkpoint: Checkpoint) -> Landscape:
    model = network(1)
    load_into(checkpoint, model)
    inputs, targets = rows()
    return Landscape(model, mean_squared_error, (inputs, targets[:, None].float()))


def fitted(checkpoint: Checkpoint) -> Landscape:
    """Targets of zero, which a network of zeros meets: neither a cost nor a slope is left."""
    model = network(1)
    load_into(checkpoint, model)
    inputs, targets = rows()
    return Landscape(model, mean_squared_error, (inputs, torch.zeros(len(inputs), 1)))


def constant(checkpoint: Checkpoint) -> Landscape:
    model = network()
    load_into(checkpoint, model)
    return Landscape(model, lambda outputs, _: 0.0 * outputs.sum(1) + 2.0, rows())


def below_zero(checkpoint: Checkpoint) -> Landscape:
    """A cost of minus one and less, where a ratio to one plus the cost has no meaning."""
    model = network()
    load_into(checkpoint, model)
    return Landscape(model, lambda outputs, _: -outputs.square().sum(1) - 1.0, rows())
