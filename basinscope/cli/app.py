"""The command line: the commands, and how each ends."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Annotated, Any

import typer

from basinscope.cli.audit import audit
from basinscope.cli.bridge import bridge
from basinscope.cli.compare import compare
from basinscope.cli.connections import connect, slice
from basinscope.cli.demo import demo
from basinscope.cli.llc import llc
from basinscope.cli.plot import plot
from basinscope.cli.show import show
from basinscope.cli.spectrum import spectrum
from basinscope.cli.task import task
from basinscope.cli.volume import volume
from basinscope.failures import exit_code_of
from basinscope.ranks import run_on_ranks, started_on_ranks
from basinscope.terminal import say
from spectra.timing import Stopwatch

app = typer.Typer(
    name="basinscope",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (demo, spectrum, volume, bridge, compare, llc, audit, connect, slice, show, plot, task):
    app.command()(command)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Spectra, basin volumes and flatness of PyTorch checkpoints, and how far they can be trusted."""
    if version:
        print(f"basinscope {metadata.version('basinscope')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


@functools.cache
def _commands() -> Callable[..., Any]:
    """Made once a process: all signatures are read for it, which takes as long as many a command."""
    return typer.main.get_command(app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: words after the program's name; default those of this process.

    Returns:
        Exit code, as ``exit_code_of`` has it.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)

    def command() -> int | None:
        code: int | None = _commands()(args=words, prog_name="basinscope", standalone_mode=False)
        return code

    def timed() -> int | None:
        with Stopwatch() as watch:
            code = command()
        for line in watch.lines():
            say(line, style="dim")
        return code

    todo = timed if "--timings" in words else command
    return run_on_ranks(todo, words) if started_on_ranks() else exit_code_of(todo, words=words)
