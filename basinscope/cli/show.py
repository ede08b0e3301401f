"""``basinscope show``: what a result file holds, or a stored spectrum against another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from basinscope import terminal
from basinscope.choices import one_of
from basinscope.cli.options import DebugOption, JsonOption
from basinscope.cli.spectrum import NegativeOption, ShiftOption, check_shifts, show_summary
from basinscope.results import kind_of
from spectra.errors import UserError
from spectra.words import NEGATIVE_RULES

if TYPE_CHECKING:
    from basinscope.views import VolumeDifference
    from volume.study import VolumeStudy

    # The differences to another study, or why there are none.
    Compared = tuple[VolumeDifference, ...] | str


def show(
    file: Annotated[Path, typer.Argument(help="An HDF5 file that basinscope wrote.", show_default=False)],
    against: Annotated[
        Path | None,
        typer.Option(help="Another such file: show FILE minus it.", show_default=False),
    ] = None,
    shift: ShiftOption = None,
    negative: NegativeOption = "raise",
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show what a result file holds, or its difference to another one."""
    del debug  # read by main
    one_of("--negative", negative, NEGATIVE_RULES)
    check_shifts(shift or [])
    others = {
        "comparison": _show_comparison,
        "audit": _show_audit,
        "volume": _show_volume,
        "bridge": _show_bridge,
        "training": _show_training,
    }
    kind = kind_of(file)
    if kind in others:
        others[kind](file, against, as_json)
        return
    from spectra.store import read_spectrum

    stored = read_spectrum(file)
    if against is None:
        show_summary(stored, shift or [], negative, as_json, {})
        return
    from basinscope.views import compare, difference_json, difference_table

    result = compare(stored, read_spectrum(against), shifts=shift or (), rule=negative)
    if as_json:
        terminal.emit(difference_json(result, file, against))
    else:
        terminal.show(difference_table(result, file, against))


def _show_volume(file: Path, against: Path | None, as_json: bool) -> None:
    from basinscope.views import volume_differences
    from volume.store import read_study

    others = []
    if against is not None:
        if kind_of(against) != "volume":
            raise UserError(f"{file} holds a volume, so --against must be a volume file too; {against} is none")
        others = [(against, volume_differences(read_study(file), read_study(against)))]
    show_study(read_study(file), as_json, {}, others)


def show_study(
    study: VolumeStudy, as_json: bool, files: dict[str, str], others: Sequence[tuple[Path, Compared]] = ()
) -> None:
    """Print a study, and its differences to each other file, or why there are none."""
    from basinscope.views import study_json, study_table, volume_difference_json, volume_difference_table

    name = Path(study.provenance.checkpoint).name
    if as_json:
        against = [
            {"first": name, "second": other.name, "failure": rows}
            if isinstance(rows, str)
            else volume_difference_json(rows, name, other.name)
            for other, rows in others
        ]
        terminal.emit({**study_json(study, files), "against": against})
        return
    terminal.show(study_table(study, files))
    for other, rows in others:
        if isinstance(rows, str):
            terminal.show("", terminal.Text(f"! no difference to {other.name}: {rows}", style="yellow"))
        else:
            terminal.show("", volume_difference_table(rows, name, other.name))


def _show_bridge(file: Path, against: Path | None, as_json: bool) -> None:
    from basinscope.cli.bridge import show_bridge
    from basinscope.views import OtherBridge
    from volume.bridge import read_bridge

    result, source = read_bridge(file)
    other = None
    if against is not None:
        if kind_of(against) != "bridge":
            raise UserError(f"{file} holds a bridge, so --against must be a bridge file too; {against} is none")
        other = OtherBridge(against.name, *read_bridge(against))
    show_bridge(result, source, as_json, {}, other)


def _show_comparison(file: Path, against: Path | None, as_json: bool) -> None:
    if against is not None:
        raise UserError(f"--against compares two spectra, and {file} holds a comparison")
    from basinscope.cli.compare_show import rankings_of, show_findings
    from comparisons.findings import findings_of
    from comparisons.store import read_comparison

    comparison = read_comparison(file)
    show_findings(findings_of(comparison, *rankings_of(comparison, None)), {}, None, as_json)


def _show_audit(file: Path, against: Path | None, as_json: bool) -> None:
    if against is not None:
        raise UserError(f"--against compares two spectra, and {file} holds an audit")
    from basinscope.cli.audit import show_report
    from volume.audit import read_report

    show_report(read_report(file), as_json, {})


def _show_training(file: Path, against: Path | None, as_json: bool) -> None:
    if against is not None:
        raise UserError(f"--against compares two spectra, and {file} holds a training run")
    from basinscope.training import read_curves
    from basinscope.views import curves_json, curves_table

    curves = read_curves(file)
    if as_json:
        terminal.emit(curves_json(curves))
    else:
        terminal.show(curves_table(curves))
