"""What measures cannot do without and a landscape may lack: found before anything is computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spectra.landscape import Landscape


def _likelihood(landscape: Landscape) -> str:
    if landscape.likelihood is None:
        return "the cost is no likelihood (cross_entropy, mean_squared_error or kl_from_anchor)"
    return ""


def _own_likelihood(landscape: Landscape) -> str:
    from spectra.costs import KLFromAnchor

    if landscape.softmax is not None and isinstance(landscape.softmax, KLFromAnchor):
        return "the cost is a divergence from the checkpoint, not the likelihood of the data's own targets"
    return _likelihood(landscape)


def _classes(landscape: Landscape) -> str:
    from comparisons.evidence.classification import has_classes

    return "" if has_classes(landscape) else "the cost is no cross-entropy with classes as targets"


def _matrix(landscape: Landscape) -> str:
    return "" if any(len(shape) >= 2 for shape in landscape.parameters.shapes) else "no parameter is a matrix"


def _layer(landscape: Landscape) -> str:
    flat = any(len(shape) == 2 for shape in landscape.parameters.shapes)
    return "" if flat else "there is no layer with a weight of two dimensions"


def _rows(landscape: Landscape) -> str:
    reason = landscape.rows_apart()
    return f"rows of the data must be samples of their own: {reason}" if reason else ""


def _drawn(landscape: Landscape) -> str:
    if not landscape.batches.kept:
        return "rows are drawn from data kept in memory alone, and this data is read anew at each pass"
    return _rows(landscape)


# Each says why a landscape lacks it; empty if it does not.
NEEDS: Mapping[str, Callable[[Landscape], str]] = {
    "likelihood": _likelihood,
    "own-likelihood": _own_likelihood,
    "classes": _classes,
    "matrix": _matrix,
    "layer": _layer,
    "rows": _rows,
    "drawn-rows": _drawn,
}
