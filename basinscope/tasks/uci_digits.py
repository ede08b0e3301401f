"""UCI digits: the 64-64-10 network and its data."""

import os
from collections import OrderedDict
from importlib.resources import files
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from basinscope.tasks.resolve import TaskRow
from spectra.checkpoint import Checkpoint, load_into
from spectra.costs import cross_entropy
from spectra.errors import UserError
from spectra.files import HDF5_ERRORS, about, open_regular, plain_hdf5
from spectra.landscape import Landscape

Split = Literal["train", "heldout", "all"]


def data_folder() -> Path:
    """Folder of the data that comes with basinscope.

    The environment variable ``BASINSCOPE_DATA`` if it is set, else ``shipped/`` of the installed package, which has
    what the tasks and the examples read, else ``data/`` of the repository that this package is imported from.

    Returns:
        The folder; it need not exist.

    Example:
        >>> import os
        >>> os.environ.pop("BASINSCOPE_DATA", None) and None
        >>> (data_folder() / "digits.h5").exists()
        True
    """
    override = os.environ.get("BASINSCOPE_DATA")
    if override:
        return Path(override)
    package = Path(str(files("basinscope"))).resolve()
    return package / "shipped" if (package / "shipped").is_dir() else package.parent / "data"


def digits_network(hidden: int = 64) -> nn.Module:
    """One hidden layer with GELU, from 64 pixels to 10 logits.

    ``f(x) = W_2 gelu(W_1 x + b_1) + b_2``; parameters in the order ``hidden.weight``,
    ``hidden.bias``, ``output.weight``, ``output.bias``.

    Args:
        hidden: width of the hidden layer.

    Returns:
        The network, initialised as torch does, from torch's global random state.

    Raises:
        UserError: if ``hidden`` is not positive.

    Example:
        >>> sum(parameter.numel() for parameter in digits_network().parameters())
        4810
    """
    if hidden < 1:
        raise UserError(f"hidden must be at least 1, got {hidden}")
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["hidden"] = nn.Linear(64, hidden)
    layers["activation"] = nn.GELU()
    layers["output"] = nn.Linear(hidden, 10)
    return nn.Sequential(layers)


def load_digits(split: Split = "train", *, path: Path | None = None) -> tuple[Tensor, Tensor]:
    """Images and labels of UCI digits, from ``digits.h5``.

    Args:
        split: ``"train"`` (1,024 rows), ``"heldout"`` (773 rows) or ``"all"`` (1,797 rows,
            training rows first).
        path: the file; ``digits.h5`` in :func:`data_folder` if not given.

    Returns:
        Inputs (rows, 64), float32 in [0, 1], and targets (rows,), int64 in 0..9.

    Raises:
        UserError: if ``split`` is none of the three.
        FileNotFoundError: if there is no such file.

    Reference:
        Alpaydin and Kaynak (1998), Optical Recognition of Handwritten Digits, UCI Machine
        Learning Repository, https://doi.org/10.24432/C50P49.

    Example:
        >>> inputs, targets = load_digits("heldout")
        >>> tuple(inputs.shape), tuple(targets.shape), float(inputs.max())
        ((773, 64), (773,), 1.0)
    """
    if split not in get_args(Split):
        raise UserError(f"split must be 'train', 'heldout' or 'all', got {split!r}")
    path = data_folder() / "digits.h5" if path is None else path
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist: make it with 'python data/train.py', or set BASINSCOPE_DATA "
            "to the folder that holds digits.h5"
        )
    names = ("train", "heldout") if split == "all" else (split,)
    # Data of basinscope without a digest; a trial in another process would take longer than most runs on it.
    with open_regular(path) as content, about(path), plain_hdf5(content, trial=False) as file:
        try:
            inputs = [torch.from_numpy(file[name]["inputs"][()]) for name in names]
            targets = [torch.from_numpy(file[name]["targets"][()]) for name in names]
        except HDF5_ERRORS as error:
            raise UserError(f"does not hold the digits ({error}): make it with 'python data/train.py'") from error
    return torch.cat(inputs).to(torch.float32), torch.cat(targets).to(torch.int64)


def digits(checkpoint: Checkpoint) -> Landscape:
    """The task ``digits``: cross-entropy of the digits network on the 1,024 training rows.

    The L2 term of the training loss is left out, so the checkpoints are stationary only up to its gradient.

    Args:
        checkpoint: weights of :func:`digits_network`, of any width.

    Returns:
        The landscape around the checkpoint.

    Raises:
        UserError: if the checkpoint does not fit the network.
        FileNotFoundError: if the data is missing.

    Example:
        >>> from spectra.checkpoint import read_checkpoint
        >>> folder = data_folder() / "digits_mlp"
        >>> digits(read_checkpoint(folder / "clean_seed0_step00640.pt")).size
        4810
    """
    bias = checkpoint.parameters.get("hidden.bias")
    # Without one, load_into names what is missing.
    model = digits_network() if bias is None or bias.numel() == 0 else digits_network(bias.numel())
    load_into(checkpoint, model)
    return Landscape(model, cross_entropy, load_digits("train"))


ROWS = (TaskRow("digits", digits, held_out="digits-heldout"),)
