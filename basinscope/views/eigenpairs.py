"""The top eigenpairs of a spectrum: each eigenvalue with its residual, the largest first, then those below zero."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding

from basinscope.terminal import Text
from basinscope.views.layout import finite, table
from spectra.estimate import Estimate
from spectra.files import counted
from spectra.spectrum import Spectrum, TopEigenpairs

# Of each end; all of them are in the JSON object and in the file.
SHOWN = 20


def eigenpairs_table(spectrum: Spectrum, unit: str) -> list[RenderableType]:
    """The pairs of a spectrum with the unit of its eigenvalues, and what is to be known of them; nothing without."""
    top = spectrum.top
    if top is None:
        return []
    titles = ["pair", f"eigenvalue ({unit})", "residual |Hv - λv|", "state"]
    found = table(titles, of="eigenpairs", padding=3)
    for name, numbers in _ends(top).items():
        for place, number in enumerate(numbers[:SHOWN], 1):
            told = "converged" if top.converged[number] else "not converged"
            value, residual = f"{top.values[number]:.6g}", f"{top.residuals[number]:.1g}"
            found.add_row(f"{name} {place}", value, residual, told, style="" if top.converged[number] else "yellow")
        if len(numbers) > SHOWN:
            found.add_row(f"… {len(numbers) - SHOWN} more", style="dim")
    return [Padding(Group(found, Text(_told(top), style="dim")), (1, 0, 1, 0))]


def eigenpairs(spectrum: Spectrum) -> Iterator[tuple[str, int, Estimate]]:
    """The end, the place from there, and the eigenvalue with its residual as truncation error, of each pair."""
    top = spectrum.top
    if top is None:
        return
    for name, numbers in _ends(top).items():
        for place, number in enumerate(numbers, 1):
            yield name, place, Estimate(float(top.values[number]), truncation_error=float(top.residuals[number]))


def _ends(top: TopEigenpairs) -> dict[str, range]:
    """The numbers of the pairs at each end of the spectrum."""
    largest = min(top.asked, len(top.values))
    return {"largest": range(largest), "below zero": range(largest, len(top.values))}


def _told(top: TopEigenpairs) -> str:
    """How many were found and have converged, and what a residual is."""
    below = len(top.values) - min(top.asked, len(top.values))
    some = counted(below, "eigenvalue") if below else "no eigenvalue"
    kept = "eigenvectors kept" if len(top.vectors) else "eigenvectors not kept"
    return (
        f"{top.converged.sum()} of {counted(len(top.values), 'pair')} converged, to a residual of {top.bound:.1g} and "
        f"1 % of the eigenvalue; {some} below zero found; {counted(top.products, 'product')}, {kept}\n"
        "an eigenvalue lies within the residual of each value"
    )


def eigenpairs_json(spectrum: Spectrum) -> dict[str, Any] | None:
    """The pairs in plain values; None where none were asked for."""
    top = spectrum.top
    if top is None:
        return None
    rows = zip(top.values, top.residuals, top.converged, strict=True)
    return {
        "asked": top.asked,
        "pairs": [
            {"value": finite(value), "residual": finite(error), "converged": bool(met)} for value, error, met in rows
        ],
        "bound": finite(top.bound),
        "products": top.products,
        "vectors_kept": len(top.vectors) > 0,
    }
