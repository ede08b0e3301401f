"""UCI digits on the held-out rows: where basin volumes are measured."""

from __future__ import annotations

from basinscope.tasks.resolve import TaskRow
from basinscope.tasks.uci_digits import digits, load_digits
from spectra.checkpoint import Checkpoint
from spectra.landscape import Landscape


def digits_heldout(checkpoint: Checkpoint) -> Landscape:
    """The task ``digits-heldout``: cross-entropy of the digits network on the 773 rows it was not trained on.

    Args:
        checkpoint: a checkpoint that the task ``digits`` takes.

    Returns:
        The landscape around the checkpoint.

    Raises:
        UserError: if the checkpoint does not fit the network.
        FileNotFoundError: if the data is missing.

    Reference:
        Scherlis and Belrose, Estimating the probability of sampling a trained neural network at random, 2025.

    >>> from basinscope.tasks.uci_digits import data_folder
    >>> from spectra.checkpoint import read_checkpoint
    >>> digits_heldout(read_checkpoint(data_folder() / "digits_mlp" / "clean_seed0_step00640.pt")).total_weight
    773.0
    """
    trained = digits(checkpoint)
    return Landscape(trained.model, trained.cost_function, load_digits("heldout"))


ROWS = (TaskRow("digits-heldout", digits_heldout),)
