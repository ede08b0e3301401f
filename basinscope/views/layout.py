"""What all views share: the parts that tables are made of, and values as JSON takes them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.padding import Padding

from basinscope.terminal import Text
from basinscope.views.sheet import Column, Justify, Sheet
from spectra.estimate import Estimate
from spectra.interval import with_ends

NONE = "–"


def plain(value: Any) -> Any:
    """A value as JSON takes it: what is infinite or undefined is None, tuples and arrays are lists.

    >>> plain({"values": (1.0, math.inf), "array": np.array([2.0])})
    {'values': [1.0, None], 'array': [2.0]}
    """
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    return [plain(one) for one in value] if isinstance(value, list | tuple) else value


def finite(value: float) -> float | None:
    """The value, or None where JSON has no word for it."""
    return float(value) if math.isfinite(value) else None


def json_estimate(estimate: Estimate) -> dict[str, Any]:
    """An estimate in plain values: value, both errors, 95 % interval and cautions, by name.

    >>> json_estimate(Estimate(2.0))["interval95"]
    [2.0, 2.0]
    """
    names = ("value", "standard_error", "truncation_error")
    found = {name: getattr(estimate, name) for name in names} | {"interval95": estimate.interval()}
    return {**plain(found), "cautions": list(estimate.cautions)}


def estimate_columns(estimate: Estimate | float | None, unit: str, name: str = "value") -> dict[str, Any]:
    """An estimate as columns of a table of numbers; a plain number has no errors, and what is undefined nothing."""
    known = estimate if isinstance(estimate, Estimate) else None
    low, high = (None, None) if known is None else known.interval()
    errors = {error: getattr(known, error, None) for error in ("standard_error", "truncation_error")}
    value = estimate if known is None else known.value
    cautions = "" if known is None else "; ".join(known.cautions)
    return {name: value, **errors, "low95": low, "high95": high, "unit": unit, "cautions": cautions}


def table(titles: Iterable[str], *, of: str = "", padding: int = 2, justify: Justify = "left") -> Sheet:
    """An empty table with these columns, of which the first names the rows and stands to the left.

    Args:
        titles: headers of the columns.
        of: what the table is of, said where it stands alone.
        padding: characters between columns.
        justify: how all but the first stand.

    Returns:
        The table.
    """
    columns = [Column(title, justify if place else "left") for place, title in enumerate(titles)]
    return Sheet(of, columns, gap=padding)


def section(title: str, *parts: RenderableType, key: str) -> Group:
    """Parts under a bold title, a line apart from what is above, with their key beneath."""
    return Group(Padding(Text(title, style="bold"), (1, 0, 0, 0)), *parts, Text(key, style="dim"))


def cell(estimate: Estimate | None) -> str:
    """An estimate with its 95 % interval, marked where it carries a caution."""
    if estimate is None:
        return "undefined"
    return with_ends(estimate.value, estimate.interval()) + ("" if estimate.trusted else " !")


def formatted(value: float, form: str, missing: str = NONE) -> str:
    """A number in a format, or what stands for one that is infinite or undefined."""
    return format(value, form) if math.isfinite(value) else missing
