"""``basinscope show``: what a result file holds, or a stored spectrum against another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group, RenderableType

from basinscope import terminal
from basinscope.choices import one_of
from basinscope.cli.options import DebugOption, JsonOption, TableOption, form_of
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
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="An HDF5 file that basinscope wrote; or bridges of several targets, and a volume file, side by side.",
            show_default=False,
        ),
    ],
    against: Annotated[
        Path | None,
        typer.Option(help="Another such file: show FILE minus it.", show_default=False),
    ] = None,
    shift: ShiftOption = None,
    negative: NegativeOption = "raise",
    table: TableOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show what a result file holds, its difference to another one, or bridges of several sets side by side."""
    del debug  # read by main
    one_of("--negative", negative, NEGATIVE_RULES)
    check_shifts(shift or [])
    form = form_of(table, as_json)
    if len(files) > 1:
        _show_sets(files, against, form)
        return
    (file,) = files
    others = {
        "comparison": _show_comparison,
        "audit": _show_audit,
        "volume": _show_volume,
        "bridge": _show_bridge,
        "sandwich": _show_sandwich,
        "training": _show_training,
        "connection": _show_connection,
        "slice": _show_slice,
        "calibration": _show_calibration,
    }
    kind = kind_of(file)
    if kind in others:
        others[kind](file, against, form)
        return
    from spectra.store import read_spectrum

    stored = read_spectrum(file)
    if against is None:
        show_summary(stored, shift or [], negative, form, {})
        return
    from basinscope.views import compare, difference_json, difference_rows, difference_table, print_result

    result = compare(stored, read_spectrum(against), shifts=shift or (), rule=negative)
    print_result(
        form,
        table=lambda: difference_table(result, file, against),
        rows=lambda: difference_rows(result),
        found=lambda: difference_json(result, file, against),
    )


def _show_volume(file: Path, against: Path | None, form: str) -> None:
    from basinscope.views import volume_differences
    from volume.store import read_study

    others = []
    if against is not None:
        if kind_of(against) != "volume":
            raise UserError(f"{file} holds a volume, so --against must be a volume file too; {against} is none")
        others = [(against, volume_differences(read_study(file), read_study(against)))]
    show_study(read_study(file), form, {}, others)


def show_study(
    study: VolumeStudy, form: str, files: dict[str, str], others: Sequence[tuple[Path, Compared]] = ()
) -> None:
    """Print a study, and its differences to each other file, or why there are none; as CSV the differences alone."""
    from basinscope.views import print_result, study_json, study_rows, volume_difference_rows

    name = study.provenance.name
    found = [(other.name, rows) for other, rows in others if not isinstance(rows, str)]
    differences = [row for other, rows in found for row in volume_difference_rows(rows, name, other)]
    print_result(
        form,
        table=lambda: _with_others(study, files, others),
        rows=lambda: differences or study_rows(study),
        found=lambda: {**study_json(study, files), "against": [_against(name, *one) for one in others]},
    )


def _against(name: str, other: Path, rows: Compared) -> dict[str, Any]:
    from basinscope.views import volume_difference_json

    if isinstance(rows, str):
        return {"first": name, "second": other.name, "failure": rows}
    return volume_difference_json(rows, name, other.name)


def _with_others(study: VolumeStudy, files: dict[str, str], others: Sequence[tuple[Path, Compared]]) -> Group:
    from basinscope.views import study_table, volume_difference_table

    parts: list[RenderableType] = [study_table(study, files)]
    for other, rows in others:
        if isinstance(rows, str):
            parts += ["", terminal.Text(f"! no difference to {other.name}: {rows}", style="yellow")]
        else:
            parts += ["", volume_difference_table(rows, study.provenance.name, other.name)]
    return Group(*parts)


def _show_bridge(file: Path, against: Path | None, form: str) -> None:
    from basinscope.cli.bridge import show_bridge
    from basinscope.views import OtherBridge
    from volume.bridge import read_bridge

    result, source = read_bridge(file)
    other = None
    if against is not None:
        if kind_of(against) != "bridge":
            raise UserError(f"{file} holds a bridge, so --against must be a bridge file too; {against} is none")
        other = OtherBridge(against.name, *read_bridge(against))
    show_bridge(result, source, form, {}, other)


def _show_sandwich(file: Path, against: Path | None, form: str) -> None:
    if against is not None:
        raise UserError(f"--against compares two spectra, and {file} holds bounds from both sides")
    from basinscope.cli.bridge import show_sandwich
    from volume.bridge import read_sandwich

    show_sandwich(read_sandwich(file), form, {})


def _show_sets(files: list[Path], against: Path | None, form: str) -> None:
    from basinscope.views import OtherBridge, print_result, sets_json, sets_of, sets_rows, sets_table, symmetry_of
    from volume.bridge import read_bridge
    from volume.store import read_study

    if twice := [file for file in files if files.count(file) > 1]:
        raise UserError(f"{twice[0]} is given twice: give bridges of several targets")
    kinds = {file: kind_of(file) for file in files}
    if against is not None or "bridge" not in kinds.values() or not set(kinds.values()) <= {"bridge", "volume"}:
        found = ", ".join(f"{file.name} ({kind})" for file, kind in kinds.items())
        raise UserError(
            "several files are shown side by side where they are bridges of several targets, with volume files for the "
            f"quadratic mass, and without --against; got {found}"
        )
    bridges = [OtherBridge(file.name, *read_bridge(file)) for file, kind in kinds.items() if kind == "bridge"]
    studies = {file.name: read_study(file) for file, kind in kinds.items() if kind == "volume"}
    masses, symmetry = sets_of(bridges, studies), symmetry_of(bridges)
    print_result(
        form,
        table=lambda: sets_table(masses, symmetry, bridges[0].source.get("cost_unit", "cost")),
        rows=lambda: sets_rows(masses),
        found=lambda: sets_json(masses, symmetry),
    )


def _show_comparison(file: Path, against: Path | None, form: str) -> None:
    if against is not None:
        raise UserError(f"--against compares two spectra, and {file} holds a comparison")
    from basinscope.cli.compare_show import rankings_of, show_findings
    from comparisons.findings import findings_of
    from comparisons.store import read_comparison

    comparison = read_comparison(file)
    show_findings(findings_of(comparison, *rankings_of(comparison, None)), {}, form)


def _show_audit(file: Path, against: Path | None, form: str) -> None:
    if against is not None:
        raise UserError(f"--against compares two spectra, and {file} holds an audit")
    from basinscope.cli.audit import show_report
    from volume.audit import read_report

    show_report(read_report(file), form, {})


def _show_connection(file: Path, against: Path | None, form: str) -> None:
    if against is not None:
        raise UserError(f"--against compares two spectra, and {file} holds a connection")
    from basinscope.cli.connections import show_connection
    from comparisons.connections import read_connection

    show_connection(read_connection(file), form, {})


def _show_slice(file: Path, against: Path | None, form: str) -> None:
    if against is not None:
        raise UserError(f"--against compares two spectra, and {file} holds a slice")
    from basinscope.cli.connections import show_slice
    from comparisons.connections import read_slice

    show_slice(read_slice(file), form, {})


def _show_training(file: Path, against: Path | None, form: str) -> None:
    if against is not None:
        raise UserError(f"--against compares two spectra, and {file} holds a training run")
    from basinscope.training import read_curves
    from basinscope.views import curves_json, curves_table, print_result

    curves = read_curves(file)
    print_result(
        form,
        table=lambda: curves_table(curves),
        rows=curves.records,
        found=lambda: curves_json(curves),
    )


def _show_calibration(file: Path, against: Path | None, form: str) -> None:
    if against is not None:
        raise UserError(f"--against compares two spectra, and {file} holds a calibration")
    from basinscope.cli.llc import show_calibration
    from comparisons.calibration import read_calibration

    show_calibration(read_calibration(file), form, {})
