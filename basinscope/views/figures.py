"""Figures of result files for a report: densities, volumes, audits, each with what it is of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from comparisons.comparison import Comparison
from spectra.plots import spectrum_figure
from spectra.store import read_spectrum
from volume.audit import audit_figure, is_audit_file, read_report
from volume.figures import study_figure
from volume.store import is_volume_file, read_study


def evidence_figures(files: Sequence[Path], comparison: Comparison) -> tuple[tuple[str, Figure], ...]:
    """A caption and a figure for each file; the caption says where it is of none of the comparison's checkpoints."""
    known = [one.provenance for one in comparison.done]
    found = []
    for file in files:
        if is_audit_file(file):
            found.append((f"Audit of volume estimators ({file.name}).", audit_figure(read_report(file).table)))
            continue
        if is_volume_file(file):
            study = read_study(file)
            figure, words, origin = study_figure(study), "Volume of the basin", study.provenance
        else:
            stored = read_spectrum(file)
            figure, words, origin = spectrum_figure(stored), "Spectral density", stored.provenance
        other = (
            ""
            if any(origin.same_weights(one.checkpoint_sha256, one.checkpoint_weights) for one in known)
            else "; not one of the checkpoints compared here"
        )
        found.append((f"{words}, {origin.name} ({file.name}){other}.", figure))
    return tuple(found)
