"""A task file to fill in, with what a checkpoint says of its model."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from spectra.words import dtype_title

if TYPE_CHECKING:
    from torch import Tensor

    from spectra.checkpoint import Checkpoint

_MOST = 40
_LOSSES = {
    "cross-entropy": "cross-entropy: outputs (rows, classes) are logits, targets (rows,) are class numbers.",
    "mse": "mean squared error: targets have the shape of the outputs. For yes or no use nn.BCEWithLogitsLoss().",
}
_MODULES = {"cross-entropy": "nn.CrossEntropyLoss()", "mse": "nn.MSELoss()"}

_TEXT = '''"""How {title} becomes a landscape: its model, its data and the loss that it was trained on.

Fill in the two functions marked FILL IN. Then look whether the cost is what training showed, and go on:

    basinscope task {path} --task my_task.py:task
    basinscope spectrum {path} --task my_task.py:task

The functions are of use without the last one too:

    basinscope spectrum {path} --model my_task.py:make_model --data my_task.py:load_data --loss {loss}
"""

import torch
from torch import Tensor, nn

from basinscope import Checkpoint, Landscape, load_into
{weights}

def make_model() -> nn.Module:
    """The network as it was built for training: names and shapes have to be those of the checkpoint."""
    # FILL IN, or import it from your training code: from my_training import make_model
    raise NotImplementedError("make_model: build the network here")


def load_data() -> tuple[Tensor, Tensor]:
    """Inputs and targets, rows first, prepared as in training but without shuffling and augmentation.

    A DataLoader with shuffle=False will do too. A few thousand rows are enough for most spectra.
    """
    # FILL IN, for example: return torch.load("train.pt")
    raise NotImplementedError("load_data: give inputs and targets here")


# {words}
# Any loss of torch.nn, or a function (outputs, targets) -> (rows,): leave the mean over rows to basinscope.
LOSS = {module}


def task(checkpoint: Checkpoint) -> Landscape:
    """The cost of the model with the checkpoint's weights, in eval mode, as a function of them."""
    model = make_model()
    load_into(checkpoint, model)
    return Landscape(model, LOSS, load_data())
'''


def task_template(checkpoint: Checkpoint | None = None) -> str:
    """The text of a task file, to be filled in at two places.

    Args:
        checkpoint: what it is for; None for any.

    Returns:
        Python, with the checkpoint's names and shapes in comments.

    >>> "def make_model() -> nn.Module:" in task_template()
    True
    """
    path = Path("CHECKPOINT") if checkpoint is None else checkpoint.path
    weights = {} if checkpoint is None else dict(checkpoint.parameters)
    outputs = _outputs(weights)
    loss = "mse" if outputs == 1 else "cross-entropy"
    words = f"{outputs} outputs, by the last weight; " * (outputs is not None) + _LOSSES[loss]
    return _TEXT.format(
        title=_inert(path.name),
        path=_inert(shlex.quote(str(path))),
        loss=loss,
        module=_MODULES[loss],
        words=words[0].upper() + words[1:],
        weights="\n".join(["", *_described(weights), ""]),
    )


def _outputs(weights: Mapping[str, Tensor]) -> int | None:
    """Length of the last weight that is a matrix, which mostly is the number of outputs; None if there is none."""
    matrices = [value for value in weights.values() if value.dim() == 2]
    return len(matrices[-1]) if matrices else None


def _described(weights: Mapping[str, Tensor]) -> list[str]:
    """Comment lines that name the weights, each layer with what it probably is."""
    if not weights:
        return []
    count = sum(value.numel() for value in weights.values())
    lines = [f"# What the checkpoint holds, {count:,} numbers, with what the layers probably are:"]
    for name, value in list(weights.items())[:_MOST]:
        guess = _layer(name, weights)
        lines.append(
            f"#     {_inert(name)}  {tuple(value.shape)} {dtype_title(value.dtype)}{f'  {guess}' if guess else ''}"
        )
    if len(weights) > _MOST:
        lines.append(f"#     and {len(weights) - _MOST} more")
    return lines


def _inert(text: str) -> str:
    """A name as a comment or a text of Python can hold it: whatever it is, no line of code begins in it."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in escaped)


def _layer(name: str, weights: Mapping[str, Tensor]) -> str:
    """What a layer is by the shape of its weight; nothing is said of others than the commonest."""
    layer, _, kind = name.rpartition(".")
    if kind != "weight":
        return ""
    shape, bias = tuple(weights[name].shape), "" if f"{layer}.bias" in weights else ", bias=False"
    if len(shape) == 2:
        other = f" or nn.Embedding({shape[0]}, {shape[1]})" if bias else ""
        return f"nn.Linear({shape[1]}, {shape[0]}{bias}){other}"
    if len(shape) in (3, 4):
        return f"nn.Conv{len(shape) - 2}d({shape[1]}, {shape[0]}, kernel_size={shape[2:]}{bias}), if it has one group"
    if len(shape) == 1:
        return "batch norm" if f"{layer}.running_mean" in weights else "layer norm or the like"
    return ""
