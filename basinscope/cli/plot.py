"""``basinscope plot``: the figure of a stored result."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from basinscope.choices import one_of
from basinscope.cli.options import DebugOption
from basinscope.outputs import reserved
from basinscope.results import kind_of
from spectra.errors import UserError
from spectra.words import SCALES

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot(
    file: Annotated[Path, typer.Argument(help="An HDF5 file that basinscope wrote.", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option(help="Figure to write: .png, .pdf or .svg.", show_default="FILE with .png"),
    ] = None,
    scale: Annotated[str, typer.Option(help=f"Axis of the eigenvalues: {' or '.join(SCALES)}.")] = "symlog",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing figure.")] = False,
    debug: DebugOption = False,
) -> None:
    """Draw the spectrum, volume, bridge, audit, comparison, connection, slice, calibration or training of a file."""
    del debug  # read by main
    one_of("--scale", scale, SCALES)
    target = file.with_suffix(".png") if output is None else output
    named = "--output" if output is not None else "the figure"
    with reserved(results={}, figures={named: target}, inputs=[("FILE", file)], overwrite=overwrite):
        from spectra.plots import save_figure

        save_figure(_figure(file, scale), target)
    print(f"figure written to {target}")


def _figure(file: Path, scale: str) -> Figure:
    from comparisons.plots import comparison_figure
    from comparisons.store import read_comparison
    from spectra.plots import spectrum_figure
    from spectra.store import read_spectrum
    from volume.audit import audit_figure, read_report
    from volume.bridge import read_bridge
    from volume.figures import study_figure
    from volume.store import read_study

    kind = kind_of(file)
    if kind == "comparison":
        return comparison_figure(read_comparison(file))
    if kind == "volume":
        return study_figure(read_study(file))
    if kind == "connection":
        from comparisons.connections import connection_figure, read_connection

        return connection_figure(read_connection(file))
    if kind == "slice":
        from comparisons.connections import read_slice, slice_figure

        return slice_figure(read_slice(file))
    if kind == "training":
        from basinscope.training import read_curves, training_figure

        return training_figure(read_curves(file))
    if kind == "audit":
        return audit_figure(read_report(file).table)
    if kind == "bridge":
        from basinscope.views import figure_of

        return figure_of(*read_bridge(file))
    if kind == "calibration":
        from comparisons.calibration import calibration_figure, read_calibration

        return calibration_figure(read_calibration(file))
    if kind == "sandwich":
        raise UserError(f"{file} holds bounds from both sides, of which there is no figure: use basinscope show")
    return spectrum_figure(read_spectrum(file), scale=scale)
