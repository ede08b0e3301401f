"""``basinscope compare --measures list``: every measure with its source, unit, cost and options; loads no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from basinscope.terminal import Text, emit, show
from spectra.errors import UserError

if TYPE_CHECKING:
    from comparisons.flatness import Measure
    from comparisons.options import Option

_KEY = (
    "* in the default set, {default:,.0f} gradients together, as items are shared; all measures {all:,.0f}. Cost: "
    "gradients that a measure needs alone on a network of {size:,} parameters and {rows:,} samples. A family's name "
    "stands for all of its measures; llc for learning-coefficient alone. Options are set by --set measure.option=value "
    "or --settings file.toml."
)


def list_measures(table: str | None, as_json: bool) -> None:
    """Print the measures, as lines for reading or as one JSON object."""
    if table is not None:
        raise UserError("--measures list has no --table: leave it out, or use --json")
    from comparisons.evidence import Extent
    from comparisons.measures import DEFAULT, REGISTRY
    from spectra.files import counted

    extent = Extent()
    costs = {measure.name: measure.expected(extent) for measure in REGISTRY}
    if as_json:
        emit({one.name: _described(one, sum(costs[one.name].values()), one.name in DEFAULT) for one in REGISTRY})
        return
    family = ""
    for one in REGISTRY:
        if one.family != family:
            show("", Text(one.family, style="bold")) if family else show(Text(one.family, style="bold"))
            family = one.family
        mark = "*" if one.name in DEFAULT else " "
        cost = counted(round(sum(costs[one.name].values())), "gradient")
        show(Text(f"{mark} {one.name}: {one.title} ({one.source}; unit {one.unit}; {cost})"))
        for option in one.options:
            show(Text(f"    {option.name} = {option.shown_default}: {option.meaning}", style="dim"))
    shared = {kind: sum(_joined(costs, names).values()) for kind, names in (("default", DEFAULT), ("all", costs))}
    show("", Text(_KEY.format(**shared, size=extent.size, rows=extent.rows), style="dim"))


def _joined(costs: dict[str, Any], names: Any) -> dict[str, float]:
    return {item: gradients for name in names for item, gradients in costs[name].items()}


def _described(measure: Measure, gradients: float, by_default: bool) -> dict[str, Any]:
    names = ("title", "family", "source", "unit", "flatter")
    return {
        **{name: getattr(measure, name) for name in names},
        "gradients": round(gradients, 1),
        "default": by_default,
        "options": {option.name: _option(option) for option in measure.options},
    }


def _option(option: Option) -> dict[str, Any]:
    return {
        "default": option.default,
        "meaning": option.meaning,
        "allowed": option.allowed,
        "usual": option.shown_default,
    }
