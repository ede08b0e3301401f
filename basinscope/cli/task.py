"""``basinscope task``: the tasks there are, a task file to fill in, and what a task makes of a checkpoint."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from basinscope.cli.options import (
    DataOption,
    DebugOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    KeyOption,
    LossOption,
    ModelOption,
    StripPrefixOption,
    ThreadsOption,
    TrustPickleOption,
    machine_of,
    reading_of,
)
from basinscope.tasks import CHECKPOINT_HELP, OPTIONS_HELP
from basinscope.tasks.own import chosen_task, task_template
from basinscope.terminal import emit, show
from spectra.errors import UserError

if TYPE_CHECKING:
    from basinscope.runs import Machine
    from spectra.checkpoint import ReadingOptions


def task(
    checkpoint: Annotated[Path | None, typer.Argument(help=CHECKPOINT_HELP, show_default=False)] = None,
    write_template: Annotated[
        bool, typer.Option("--template", help="Print a task file to fill in, for the checkpoint if one is given.")
    ] = False,
    task: Annotated[
        str | None,
        typer.Option(
            help="How to make a landscape of the checkpoint: a built-in name, package.module:function or "
            f"path/to/file.py:function. {OPTIONS_HELP}",
            show_default="the checkpoint's own",
        ),
    ] = None,
    model: ModelOption = None,
    data: DataOption = None,
    loss: LossOption = None,
    key: KeyOption = None,
    strip_prefix: StripPrefixOption = None,
    trust_pickle: TrustPickleOption = False,
    dtype: DtypeOption = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show what a task makes of a checkpoint, before anything is computed; or list the tasks, or write a task file.

    The cost is to be compared with the loss that training showed on the same rows.
    """  # noqa: DOC501  # the help has no place for it
    del debug  # read by main
    asked = chosen_task(task, model=model, data=data, loss=loss)
    reading = reading_of(key, strip_prefix, trust_pickle)
    if checkpoint is not None:
        from spectra.checkpoint import located

        checkpoint = located(checkpoint)
    if write_template:
        if asked is not None or as_json:
            raise UserError("--template prints a file and takes a checkpoint alone: leave the other options out")
        print(_template(checkpoint, reading), end="")
        return
    if checkpoint is None:
        if asked is not None:
            raise UserError("give the CHECKPOINT that the task is for")
        _list(as_json)
        return
    _examine(checkpoint, asked, machine_of(dtype, device, "4GiB", threads), reading, as_json)


def _template(checkpoint: Path | None, reading: ReadingOptions) -> str:
    from spectra.checkpoint import read_checkpoint

    return task_template(None if checkpoint is None else read_checkpoint(checkpoint, reading))


def _list(as_json: bool) -> None:
    """The built-in tasks with their options; one whose packages are missing is listed too."""
    from basinscope.tasks import BUILT_IN, TaskRow, described
    from basinscope.views import table
    from spectra.members import member

    rows = {name: described(member("basinscope.tasks", name, TaskRow).run) for name in BUILT_IN}
    if as_json:
        emit({name: {"what": what, "options": options} for name, (what, options) in rows.items()})
        return
    found = table(["task", "what it is", "options"], of="tasks")
    found.columns[1:] = [replace(column, words=True) for column in found.columns[1:]]
    for name, (what, options) in rows.items():
        found.add_row(name, what, ", ".join(options) or "none")
    show(found)


def _examine(checkpoint: Path, asked: str | None, machine: Machine, reading: ReadingOptions, as_json: bool) -> None:
    from basinscope.runs import Session
    from comparisons.evidence import error_rate
    from spectra.costs import cost_name

    session = Session(checkpoint, asked, machine, reading=reading)
    landscape = session.shared(session.own())
    landscape.gradient()  # the first one is held against finite differences, and is not timed
    start = time.perf_counter()
    slope = landscape.gradient()
    seconds = time.perf_counter() - start
    cost = landscape.cost_function
    facts: dict[str, Any] = {
        "task": session.task,
        "weights": session.checkpoint.weights,
        "parameters": landscape.size,
        "dtype": str(landscape.dtype).removeprefix("torch."),
        "device": str(landscape.device),
        "samples": landscape.samples,
        "batches": landscape.batches.count,
        "cost": landscape.cost(),
        "cost_name": cost_name(cost),
        "cost_unit": str(getattr(cost, "unit", "cost")),
        "accuracy": 1.0 - error_rate(landscape),
        "gradient_norm": float(slope.double().norm()),
        "seconds_of_a_gradient": seconds,
        "notes": list(landscape.notes),
    }
    if as_json:
        from basinscope.views import plain

        emit({"kind": "task", **plain(facts)})
    else:
        _show(facts)


def _show(facts: dict[str, Any]) -> None:
    from basinscope.terminal import Text
    from basinscope.views import table

    found = table(["", ""], of="the task")
    found.columns[1] = replace(found.columns[1], words=True)
    found.header = False
    found.add_row("task", facts["task"])
    found.add_row("weights", facts["weights"])
    found.add_row("parameters", f"{facts['parameters']:,} in {facts['dtype']} on {facts['device']}")
    found.add_row("samples", f"{facts['samples']:,.0f}")
    found.add_row("cost", f"{facts['cost']:.6g} {facts['cost_unit']} ({facts['cost_name']}, mean over samples)")
    if math.isfinite(facts["accuracy"]):
        found.add_row("accuracy", f"{facts['accuracy']:.2%}")
    found.add_row("gradient", f"norm {facts['gradient_norm']:.3g}, {facts['seconds_of_a_gradient']:.2g} s to compute")
    notes = [Text(f"note: {note}", style="dim") for note in facts["notes"]]
    show(found, *notes, Text("Is the cost the loss that training showed on these rows? Then the task is right."))
