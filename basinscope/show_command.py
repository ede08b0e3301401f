"""``basinscope show``: the summary of a stored spectrum, alone or against another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from basinscope.choices import one_of
from basinscope.spectrum_command import (
    NEGATIVE_RULES,
    DebugOption,
    JsonOption,
    NegativeOption,
    ShiftOption,
    check_shifts,
    show_summary,
)


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
    from spectra.store import read_spectrum

    stored = read_spectrum(file)
    if against is None:
        show_summary(stored, shift or [], negative, as_json, {})
        return
    from basinscope.difference import compare, difference_json, difference_table
    from basinscope.summary_table import page

    result = compare(stored, read_spectrum(against), shifts=shift or (), rule=negative)
    if as_json:
        print(json.dumps(difference_json(result, file, against), allow_nan=False))
    else:
        page().print(difference_table(result, file, against))
