"""A sweep over cutoffs for reading, and as JSON."""

from __future__ import annotations

import math
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from basinscope.terminal import Text
from basinscope.views.summary import finite
from volume.method_result import MethodResult
from volume.sweep import CutoffSweep


def sweep_table(sweep: CutoffSweep, unit: str) -> Group:
    """A sweep laid out for a terminal, one table a method.

    Args:
        sweep: the sweep.
        unit: of the cost.

    Returns:
        Something that a rich console prints.
    """
    parts: list[RenderableType] = []
    for method, results in sweep.results.items():
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", title_justify="left")
        for title in (f"cutoff ({unit})", "log V (nat)", "slope", "N_eff / 2", "largest share"):
            table.add_column(title, justify="right", no_wrap=True)
        halves, slopes = sweep.half_effective_dimensions(method), sweep.slopes(method)
        for cutoff, result, slope, half in zip(sweep.cutoffs, results, slopes, halves, strict=True):
            share = "–" if result.sampled is None else f"{result.sampled.largest_share:.0%}"
            table.add_row(f"{cutoff:.3g}", log_volume_cell(result), _number(slope), _number(half), share)
        parts += [Text(f"{method}, {results[0].kind} across cutoffs", style="bold"), table]
    words = (
        "slope is d log V / d log T: n/2 for a quadratic under Lebesgue measure; N_eff / 2 is the curvature's share of "
        "it under a Gaussian prior, and the pull towards the prior's centre makes the rest"
    )
    return Group(*parts, Text(words, style="dim"))


def sweep_json(sweep: CutoffSweep) -> dict[str, Any]:
    """A sweep in plain values; what is infinite or unknown is None.

    Args:
        sweep: the sweep.

    Returns:
        An object that ``json.dumps(..., allow_nan=False)`` takes.
    """

    def plain(values: Any) -> list[float | None]:
        return [finite(float(value)) for value in values]

    methods = {
        method: {
            "kind": results[0].kind,
            "log_volume": plain(sweep.log_volumes(method)),
            "half_width95": plain(sweep.half_widths(method)),
            "interval95": [plain(ends) for ends in sweep.intervals(method)],
            "slope": plain(sweep.slopes(method)),
            "half_effective_dimension": plain(sweep.half_effective_dimensions(method)),
            "trusted": [result.trusted for result in results],
            "directions": sweep.directions(method) or None,
        }
        for method, results in sweep.results.items()
    }
    return {"cutoffs": plain(sweep.cutoffs), "methods": methods}


def log_volume_cell(result: MethodResult) -> str:
    """A log-volume with its error, marked if it is not to be read alone.

    Args:
        result: of one method.

    Returns:
        Text of a cell.
    """
    return result.text + ("" if result.trusted else " !")


def _number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "–"
