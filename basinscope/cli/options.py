"""Options that several commands have, each written once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

# Panels of the help.
MACHINE, RESULT = "Machine", "Result"
# Words that may be typed, here too so that --help needs no torch; a test holds them to the library's.
DTYPES = ("float32", "float64")
# Below this not even one small network's graph fits, and the unit was surely forgotten.
LEAST_MEMORY = 10**6

DtypeOption = Annotated[
    str | None,
    typer.Option(help=f"{' or '.join(DTYPES)}.", show_default="the model's", rich_help_panel=MACHINE),
]
DeviceOption = Annotated[
    str | None,
    typer.Option(help="Such as cpu or cuda.", show_default="the task's", rich_help_panel=MACHINE),
]
MemoryOption = Annotated[
    str, typer.Option(help="What graphs and bases may take, at least 1MB.", rich_help_panel=MACHINE)
]
OutputOption = Annotated[Path | None, typer.Option(help="HDF5 file to write.", rich_help_panel=RESULT)]
PlotOption = Annotated[Path | None, typer.Option(help="Figure to write: .png, .pdf or .svg.", rich_help_panel=RESULT)]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace existing files.", rich_help_panel=RESULT)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, nothing else.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
