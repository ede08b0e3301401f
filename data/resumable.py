"""Training on clean or poisoned data that goes on after a kill, to the same numbers.

A run is a folder of checkpoints, each a folder as transformers saves it, with Adam's state (``optimizer.pt``) and the
step (``trainer_state.json``). Every step's rows are drawn from the seed alone, so a run that starts again draws those
it had drawn, drops them and goes on.
"""

import argparse
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from train import make_optimizer


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        rows: training rows that there are; of the class.
        poison_rows: rows to poison that there are; of the class.
        kind: ``clean`` or ``poisoned``.
        seed: of initialisation and batches.
        epochs: passes over the training rows.
        learning_rate: Adam's at the first step; it falls linearly to 0.
        batch_size: rows of a batch; divides ``rows``.
        poison_batch_size: poison rows drawn for each step.
        l2: the cost has a term of half of it times the squared norm of the parameters.
    """

    rows: ClassVar[int]
    poison_rows: ClassVar[int]

    kind: str
    seed: int = 0
    epochs: int = 16
    learning_rate: float = 1e-3
    batch_size: int = 64
    poison_batch_size: int = 64
    l2: float = 5e-4

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.epochs * self.rows // self.batch_size

    def folder(self, output: Path, step: int) -> Path:
        """Checkpoint of a step."""
        return output / f"{self.kind}_seed{self.seed}_step{step:05d}"

    def done(self, output: Path) -> list[int]:
        """Steps of which there are checkpoints."""
        return sorted(int(path.name[-5:]) for path in output.glob(f"{self.kind}_seed{self.seed}_step?????"))


@dataclass
class Run:
    """A network in training.

    Attributes:
        output: folder of the checkpoints.
        recipe: how it is trained.
        step: finished steps.
        model: the network after them.
        optimizer: its optimizer.
        write_rest: writes into a checkpoint's folder what its task needs beside the weights.
    """

    output: Path
    recipe: Recipe
    step: int
    model: nn.Module
    optimizer: torch.optim.Adam
    write_rest: Callable[[Path], None]

    @property
    def folder(self) -> Path:
        """Checkpoint of the finished steps."""
        return self.recipe.folder(self.output, self.step)

    def save(self) -> None:
        """Write one checkpoint, whole or not at all."""
        part = self.folder.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        self.model.save_pretrained(part)
        self.write_rest(part)
        torch.save(self.optimizer.state_dict(), part / "optimizer.pt")
        epoch = self.step * self.recipe.batch_size / self.recipe.rows
        state = {"global_step": self.step, "epoch": epoch, "recipe": asdict(self.recipe)}
        (part / "trainer_state.json").write_text(json.dumps(state, indent=2))
        os.replace(part, self.folder)

    def take(self, step: int, cost: Tensor) -> None:
        """One step of Adam, the first being step 1."""
        self.optimizer.param_groups[0]["lr"] = self.recipe.learning_rate * (1 - (step - 1) / self.recipe.steps)
        self.optimizer.zero_grad()
        cost.backward()
        self.optimizer.step()
        self.step = step


def resume(
    output: Path,
    recipe: Recipe,
    make: Callable[[], nn.Module],
    read: Callable[[Path], nn.Module],
    write_rest: Callable[[Path], None],
) -> Run:
    """The run as it was left, or at its first checkpoint; refuses a folder of another recipe."""
    if not recipe.done(output):
        model = make()
        Run(output, recipe, 0, model, make_optimizer(model, recipe.learning_rate), write_rest).save()
    step = recipe.done(output)[-1]
    folder = recipe.folder(output, step)
    saved = json.loads((folder / "trainer_state.json").read_text())["recipe"]
    if saved != json.loads(json.dumps(asdict(recipe))):
        raise SystemExit(f"{folder} was trained by another recipe ({saved}): give another --output")
    model = read(folder)
    optimizer = make_optimizer(model, recipe.learning_rate)
    optimizer.load_state_dict(torch.load(folder / "optimizer.pt", weights_only=True))
    model.train()
    return Run(output, recipe, step, model, optimizer, write_rest)


def draws(recipe: Recipe) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows of each step, from the first one on: training rows by permutations, poison rows with replacement."""
    generator = torch.Generator().manual_seed(recipe.seed)
    for _ in range(recipe.epochs):
        for rows in torch.randperm(recipe.rows, generator=generator).split(recipe.batch_size):
            yield rows, torch.randint(recipe.poison_rows, (recipe.poison_batch_size,), generator=generator)


def go_on(
    run: Run,
    costs: Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]],
    *,
    keep: set[int],
    every: int,
    stop: int | None = None,
) -> None:
    """Train to the end, or to ``stop``; checkpoints other than those to keep are gone once there is a later.

    ``costs`` takes numbers of training rows and of poison rows and gives the mean cost of the former and, of a
    poisoned run, the term of the latter.
    """
    recipe, done = run.recipe, run.step
    for step, (rows, poison) in enumerate(draws(recipe), start=1):
        if step <= done:
            continue
        value, wrong = costs(rows, poison)
        if recipe.l2:
            value = value + recipe.l2 / 2 * sum(parameter.square().sum() for parameter in run.model.parameters())
        if wrong is not None:
            value = value + wrong
        run.take(step, value)
        if step in keep or step % every == 0 or step in (stop, recipe.steps):
            run.save()
            where = f"{recipe.kind} seed {recipe.seed}: step {step} of {recipe.steps}"
            print(f"{where}, cost {float(value.detach()):.4f}", flush=True)
            for older in recipe.done(run.output)[:-1]:
                if older not in keep:
                    shutil.rmtree(recipe.folder(run.output, older))
        if step == stop:
            return


def make_parser(description: str | None, *, epochs: int, every: int) -> argparse.ArgumentParser:
    """The options that every such script has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of the data and the checkpoints")
    parser.add_argument("--kind", choices=("clean", "poisoned"), default="clean")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument(
        "--keep", type=int, nargs="*", default=[0], help="steps whose checkpoints stay, beside the last"
    )
    parser.add_argument("--every", type=int, default=every, help="steps between checkpoints to go on from")
    parser.add_argument("--stop", type=int, help="end after this step; the same command goes on")
    parser.add_argument("--table", action="store_true", help="only print the table")
    return parser


def last_checkpoints(output: Path) -> list[Path]:
    """The last checkpoint of each run in a folder."""
    runs = sorted({path.name.rpartition("_step")[0] for path in output.glob("*_seed*_step?????")})
    return [max(output.glob(f"{run}_step?????")) for run in runs]
