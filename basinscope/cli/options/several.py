"""Options that several commands have, each written once."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from basinscope.choices import one_of, read_bytes
from basinscope.tasks import OPTIONS_HELP
from basinscope.tasks.own import DATA_FORMS, LOSS_FORMS, MODEL_FORMS
from spectra.errors import UserError
from spectra.words import DTYPES, TABLES

if TYPE_CHECKING:
    from basinscope.runs import Machine
    from spectra.checkpoint import ReadingOptions

# Panels of the help.
MACHINE, RESULT, READING = "Machine", "Result", "Checkpoint file"
OWN = "A model of your own, without a task file"
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
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        help="Threads of torch, at most 1024.",
        show_default="one for a small model, else torch's choice",
        rich_help_panel=MACHINE,
    ),
]
ModelOption = Annotated[
    str | None, typer.Option(help=f"What makes the model: {MODEL_FORMS}.", show_default=False, rich_help_panel=OWN)
]
DataOption = Annotated[
    str | None,
    typer.Option(
        help=f"What the cost is measured on: {DATA_FORMS}. Options go after it, as in "
        "'train.npz?inputs=x&targets=y&rows=512'.",
        show_default=False,
        rich_help_panel=OWN,
    ),
]
LossOption = Annotated[
    str | None, typer.Option(help=f"What it was trained on: {LOSS_FORMS}.", show_default=False, rich_help_panel=OWN)
]
TaskOption = Annotated[
    str | None,
    typer.Option(
        help="How to make a landscape of a checkpoint: a built-in name (digits, causal-lm), package.module:function or "
        f"path/to/file.py:function. {OPTIONS_HELP}",
        show_default="the checkpoint's own",
    ),
]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Continue the output.", rich_help_panel=RESULT)]
OutputOption = Annotated[Path | None, typer.Option(help="HDF5 file to write.", rich_help_panel=RESULT)]
PlotOption = Annotated[Path | None, typer.Option(help="Figure to write: .png, .pdf or .svg.", rich_help_panel=RESULT)]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace existing files.", rich_help_panel=RESULT)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, nothing else.")]
TableOption = Annotated[
    str | None,
    typer.Option(
        "--table",
        help=f"Print the tables alone on stdout, as one of {', '.join(TABLES)}; csv has the numbers in full.",
        show_default=False,
        rich_help_panel=RESULT,
    ),
]
TimingsOption = Annotated[
    bool, typer.Option("--timings", help="Say on stderr where the time went.", rich_help_panel=MACHINE)
]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


KeyOption = Annotated[
    str | None,
    typer.Option(
        help="Where the weights lie in the file, such as ema_state_dict or state.model.",
        show_default="the only weights in it",
        rich_help_panel=READING,
    ),
]
StripPrefixOption = Annotated[
    str | None,
    typer.Option(
        help="What all names begin with and lose, such as model.",
        show_default="what wrappers put there",
        rich_help_panel=READING,
    ),
]
TrustPickleOption = Annotated[
    bool,
    typer.Option(
        "--trust-pickle",
        help="Run the file's pickled code where its weights need it; what runs is said first.",
        rich_help_panel=READING,
    ),
]


def reading_of(key: str | None, strip_prefix: str | None, trust_pickle: bool) -> ReadingOptions:
    """The reading of a checkpoint that the options of these names ask for."""
    from spectra.checkpoint import ReadingOptions

    return ReadingOptions(key=key, strip_prefix=strip_prefix, trust_pickle=trust_pickle)


def machine_of(dtype: str | None, device: str | None, memory: str = "4GiB", threads: int | None = None) -> Machine:
    """The machine that the options of these names ask for; its device is used only when a landscape is put on it."""
    number = read_bytes("--memory", memory, least=LEAST_MEMORY)
    from basinscope.runs import Machine

    return Machine(dtype=dtype, device=device, memory=number, threads=threads)


def form_of(table: str | None, as_json: bool) -> str:
    """How the result is printed: ``json``, a word of ``--table``, or empty for a terminal.

    Raises:
        UserError: if the word is unknown, or both are asked for.
    """
    if table is not None:
        one_of("--table", table, TABLES)
    if table is not None and as_json:
        raise UserError("--table and --json exclude each other: give one of them")
    return "json" if as_json else table or ""


def command_line() -> str:
    """The command line as it was typed, for the record."""
    return shlex.join(["basinscope", *sys.argv[1:]])
