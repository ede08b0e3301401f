"""Tables of numbers: a chain of linear layers on the rows of a CSV file."""

from __future__ import annotations

import csv
import io
from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor, nn

from basinscope.choices import nearest, one_of
from basinscope.tasks.resolve import TaskRow
from spectra.checkpoint import Checkpoint, load_into
from spectra.costs import cross_entropy, mean_squared_error
from spectra.errors import UserError
from spectra.files import about, open_regular
from spectra.landscape import Landscape

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU, "sigmoid": nn.Sigmoid, "silu": nn.SiLU}


def tabular(
    checkpoint: Checkpoint, *, data: Path, target: str = "", activation: str = "relu", standardise: bool = False
) -> Landscape:
    """The task ``tabular``: a network of linear layers on a CSV file, for classes (cross-entropy) or a number (MSE).

    The network is what the weights are: one linear layer for each ``NAME.weight`` of two dimensions, in their order,
    with its ``NAME.bias`` where there is one, and the activation between them. With several outputs the target is a
    class, 0 to outputs - 1; with one it is a number.

    Args:
        checkpoint: the weights, of linear layers alone.
        data: the CSV file, a line of names first; every entry a number.
        target: name of the target's column; the last if none is given.
        activation: one of ``ACTIVATIONS``.
        standardise: whether each input is shifted and scaled to mean zero and variance one over the rows.

    Returns:
        The landscape around the checkpoint.

    Raises:
        UserError: if the weights are not those of linear layers that fit each other and the file, or an entry is no
            number, or no class.
        OSError: if the file cannot be read.
    """
    model = _network(checkpoint, ACTIVATIONS[one_of("option activation", activation, ACTIVATIONS)])
    first, last = (layer for layer in (model[0], model[-1]) if isinstance(layer, nn.Linear))
    with about(data):
        inputs, targets = read_table(data, target)
        if inputs.shape[1] != first.in_features:
            raise UserError(
                f"has {inputs.shape[1]} columns beside the target, and the network takes {first.in_features}"
            )
        if last.out_features > 1:
            targets = _classes(targets, last.out_features)
    if standardise:
        spread = inputs.std(0, correction=0)
        inputs = (inputs - inputs.mean(0)) / torch.where(spread > 0.0, spread, 1.0)
    load_into(checkpoint, model)
    dtype = next(iter(checkpoint.parameters.values())).dtype
    model, inputs = model.to(dtype), inputs.to(dtype)
    if last.out_features > 1:
        return Landscape(model, cross_entropy, (inputs, targets), notes=_notes(model, activation))
    rows = (inputs, targets.to(dtype)[:, None])
    return Landscape(model, mean_squared_error, rows, notes=_notes(model, activation))


def _notes(model: nn.Sequential, activation: str) -> tuple[str, ...]:
    """The checkpoint does not say its activation, so that the results have to say what was taken."""
    names = [name for name, layer in model.named_children() if isinstance(layer, nn.Linear)]
    if len(names) < 2:
        return ()
    return (f"the weights were taken as a chain of {', '.join(names)} with {activation} between (option activation)",)


def _network(checkpoint: Checkpoint, activation: type[nn.Module]) -> nn.Sequential:
    weights = {name: tensor for name, tensor in checkpoint.parameters.items() if tensor.dim() == 2}
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for name, weight in weights.items():
        layer, dot, kind = name.rpartition(".")
        if kind != "weight" or not dot or "." in layer:
            raise UserError(f"the task tabular is for layers named NAME.weight, got {name}: give a task of your own")
        if layers:
            layers[f"{layer} entered"] = activation()
        outputs, inputs = weight.shape
        layers[layer] = nn.Linear(inputs, outputs, bias=f"{layer}.bias" in checkpoint.parameters)
    if not layers:
        raise UserError(f"{checkpoint.path} has no weight of two dimensions: the task tabular is for linear layers")
    chain = list(weights.items())
    for (one, before), (other, after) in zip(chain, chain[1:], strict=False):
        if after.shape[1] != before.shape[0]:
            raise UserError(
                f"{other} takes {after.shape[1]} numbers and {one} before it gives {before.shape[0]}: the weights are "
                "no chain in this order; give a task of your own"
            )
    return nn.Sequential(layers)


def read_table(path: Path, target: str) -> tuple[Tensor, Tensor]:
    """A CSV file of numbers, a line of names first.

    Args:
        path: the file.
        target: name of the target's column; the last if it is empty.

    Returns:
        Inputs (rows, columns) and targets (rows,), float64.

    Raises:
        UserError: if an entry is no number, a row is too short or too long, or there is no such column.
    """
    with open_regular(path) as content, io.TextIOWrapper(content, encoding="utf-8-sig", newline="") as text:
        names, *rows = [[entry.strip() for entry in row] for row in csv.reader(text) if row] or [[]]
    if not rows or len(names) < 2:
        raise UserError("must hold a line of at least two names, and rows of numbers")
    if target and target not in names:
        raise UserError(f"has no column {target!r}{nearest(target, names)}")
    numbers = []
    for number, row in enumerate(rows, 2):
        if len(row) != len(names):
            raise UserError(f"row {number} has {len(row)} entries, and there are {len(names)} names")
        try:
            numbers.append([float(entry) for entry in row])
        except ValueError as error:
            raise UserError(f"row {number}: {error}: every entry must be a number") from None
    table = torch.tensor(numbers, dtype=torch.float64)
    if not bool(table.isfinite().all()):
        raise UserError("has an entry that is not finite: every entry must be a number")
    place = names.index(target) if target else len(names) - 1
    return torch.cat([table[:, :place], table[:, place + 1 :]], dim=1), table[:, place]


def _classes(targets: Tensor, count: int) -> Tensor:
    wrong = (targets != targets.round()) | (targets < 0) | (targets >= count)
    if bool(wrong.any()):
        found = float(targets[wrong][0])
        raise UserError(f"has the target {found:g}, and the network's classes are 0 to {count - 1}")
    return targets.long()


ROWS = (TaskRow("tabular", tabular),)
