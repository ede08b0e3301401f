"""``basinscope demo``: the first two commands on the network that comes with basinscope."""

from __future__ import annotations

import shutil
from contextlib import chdir
from pathlib import Path
from typing import Annotated

import typer

from basinscope.cli.options import DebugOption
from spectra.errors import UserError

CLEAN, POISONED = (f"digits_mlp/{name}_seed0_step00640.pt" for name in ("clean", "poisoned"))
# What the tasks and the examples of the documentation read, in the folder data/ as there.
DATA = ("README.md", "digits.h5", "digits_mlp_fisher.h5", CLEAN, POISONED)
_VOLUME = f"volume data/{CLEAN} --method quadratic-mass --method star-domain --directions 200"
# What each step is for, and its words.
STEPS = (
    (
        "The spectrum: the 4,810 eigenvalues of the Hessian of the network's training loss, as a density.",
        f"spectrum data/{CLEAN} --output spectrum.h5 --plot spectrum.png",
    ),
    (
        "The volume: how likely random weights are to behave like this network on 773 digits that it has not seen.",
        f"{_VOLUME} --output volume.h5 --plot volume.png",
    ),
)
NEXT = f"""\
What to do next
  look at spectrum.png and volume.png in the folder {{folder}}
  cd {{folder}}, where the examples of the documentation run as they stand, and there
    basinscope show volume.h5
    basinscope volume data/{CLEAN} --method quadratic-mass --against data/{POISONED}
    basinscope compare data/{CLEAN} data/{POISONED} --measures curvature,norms
  a network of your own: basinscope spectrum --help"""


def demo(
    context: typer.Context,
    output: Annotated[Path, typer.Option(help="Folder to make, for a copy of the data and the results.")] = Path(
        "basinscope-demo"
    ),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the files of an earlier demo in the folder.")
    ] = False,
    debug: DebugOption = False,
) -> None:
    """Compute a spectrum and a volume of a network that comes with basinscope: half a minute.

    The folder gets a copy of the data, so that the examples of the documentation run in it.
    """  # noqa: DOC501  # the help has no place for it
    del debug  # read by main
    if output.exists() and not output.is_dir():
        raise UserError(f"{output} is a file, and the demo needs a folder: choose another --output")
    if not overwrite and output.is_dir() and any(output.iterdir()):
        raise FileExistsError(
            f"the folder {output} is not empty: choose another --output, or --overwrite to replace an earlier demo's "
            "files in it"
        )
    _copy_data(output / "data")
    print(f"A network that reads digits, and its data, were copied to {output / 'data'}.\n\n$ cd {output}")
    assert context.parent is not None
    with chdir(output):
        for purpose, words in STEPS:
            print(f"\n{purpose}\n$ basinscope {words}", flush=True)
            replace = ["--overwrite"] if overwrite else []
            context.parent.command.main([*words.split(), *replace], "basinscope", standalone_mode=False)
    print(f"\n{NEXT.format(folder=output)}")


def _copy_data(folder: Path) -> None:
    from basinscope.tasks import data_folder

    for name in DATA:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(data_folder() / name, folder / name)
