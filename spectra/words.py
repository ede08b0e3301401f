"""Words of options, which the command line reads without torch, and how names are written in a sentence."""

from __future__ import annotations

from spectra.members import stated, stating

OPERATORS = tuple(stated("spectra.operators"))
ENGINES = ("auto", "slq", "dense", "gram", "pyhessian")
COSTS = ("cross-entropy", "mean-squared-error", "binary-cross-entropy", "kl")
# Short words for the losses of a user's own model, and the costs that they stand for.
LOSSES = {"cross-entropy": "cross-entropy", "mse": "mean-squared-error", "bce": "binary-cross-entropy"}
# Costs that bound a basin.
BASIN_COSTS = ("kl", "task")
NEGATIVE_RULES = ("raise", "clip", "abs")
REORTHOGONALISATIONS = ("auto", "full", "none")
DTYPES = ("float32", "float64")
# How tables are printed for other programs.
TABLES = ("md", "csv", "latex")
SCALES = ("symlog", "linear")

_PROPER = {"hessian": "Hessian", "gauss": "Gauss", "newton": "Newton", "fisher": "Fisher"}


def dtype_title(dtype: object) -> str:
    """A dtype of torch without the name of its package.

    >>> dtype_title("torch.float32")
    'float32'
    """
    return str(dtype).removeprefix("torch.")


def operator_title(operator: str, *, first: bool = False) -> str:
    """The name of an operator as the field writes it, ``first`` in a sentence or not; a name not ours stays as it is.

    >>> operator_title("gauss-newton"), operator_title("sampled-fisher"), operator_title("sampled-fisher", first=True)
    ('Gauss-Newton', 'sampled Fisher', 'Sampled Fisher')
    >>> operator_title("my matrix")
    'my matrix'
    """
    parts = operator.split("-")
    if parts[-1] not in _PROPER:
        return operator
    written = ("-" if parts[-1] == "newton" else " ").join(_PROPER.get(part, part) for part in parts)
    return written[0].upper() + written[1:] if first else written


def curvature_unit(operator: str, cost: str = "cost") -> str:
    """The unit of an operator's eigenvalues, given the cost's unit.

    >>> curvature_unit("hessian", "nat"), curvature_unit("empirical-fisher", "nat")
    ('nat / parameter²', 'nat² / parameter²')
    """
    if operator in stating("spectra.operators", "squared"):
        cost = f"{cost}²" if cost.isalpha() else f"({cost})²"
    return f"{cost} / parameter²"
