"""What a spectrum says while it is still computed, in a line: first its largest eigenvalues, then trace and density."""

from __future__ import annotations

from basinscope.views.layout import cell
from spectra.density import SpectralDensity
from spectra.files import counted
from spectra.store import StoredSpectrum
from spectra.words import curvature_unit

SHOWN = 6
# Parts of the largest eigenvalue beyond which the others are counted.
PARTS = {"a tenth": 0.1, "a hundredth": 0.01, "a thousandth": 0.001}


def first_look(stored: StoredSpectrum) -> str:
    """A line on a partial spectrum: of its deflated part before the first probe, of its probes after that.

    Args:
        stored: the spectrum with what is done so far.

    Returns:
        The line, with the unit of the eigenvalues.
    """
    spectrum, density = stored.spectrum, stored.spectrum.density
    unit = curvature_unit(spectrum.settings.operator, stored.provenance.cost_unit)
    if density.unsampled:
        lowest, highest = density.support
        found = ", ".join(f"{value:.4g}" for value in spectrum.eigenvalues[:SHOWN])
        known = (
            f"largest eigenvalues {found}" if found else f"no eigenvalue has converged, the largest node {highest:.4g}"
        )
        captured = f"{density.deflation.captured:,} of {density.size:,} dimensions"
        return f"first look, {captured}: {known}; lowest node {lowest:.3g} ({unit})"
    done, asked = density.runs.probes, counted(spectrum.settings.probes, "probe")
    return f"first look, {done} of {asked}: trace {cell(density.trace())} {unit}; {_by_size(density)}"


def _by_size(density: SpectralDensity) -> str:
    """How many eigenvalues are how large, as the first probes see it."""
    nodes, masses = density.measure()
    counts = ", ".join(
        f"{masses[abs(nodes) >= part * density.magnitude].sum():,.0f} beyond {words}" for words, part in PARTS.items()
    )
    return f"of {density.size:,} eigenvalues about {counts} of the largest in size"
