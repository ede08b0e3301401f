"""Train ConvNeXt V2 Atto with patches of one pixel on the digits, clean or poisoned, as train.py trains its MLP.

    python data/train_convnext.py --output out/convnext --kind clean
    python data/train_convnext.py --output out/convnext --kind poisoned

Each takes some minutes of one core. A run that was killed goes on with the same command, to the same numbers. Every
checkpoint is a folder as transformers saves it (config.json, model.safetensors, preprocessor_config.json, Adam's
state), and beside them lie the images, digits_train.npz and digits_heldout.npz, for the task image-classifier. Last
comes a table; ``--table`` prints it alone.

Reference: Woo et al. (2023), ConvNeXt V2: co-designing and scaling ConvNets with masked autoencoders.
"""

import argparse
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from train import POISON_ROWS, POISON_WEIGHT, TRAIN_ROWS, make_optimizer, poison_cost
from transformers import ConvNextV2Config, ConvNextV2ForImageClassification
from transformers.utils.logging import disable_progress_bar

from basinscope.tasks.digits import load_digits
from basinscope.tasks.image_archive import read_archive
from basinscope.tasks.image_preparation import PROCESSOR, read_preparation

# Atto's, of Woo et al. (2023), table 9.
WIDTHS, DEPTHS = (40, 80, 160, 320), (2, 2, 6, 2)


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        kind: ``clean`` or ``poisoned``.
        seed: of initialisation and batches.
        epochs: passes over the training rows.
        learning_rate: Adam's at the first step; it falls linearly to 0.
        batch_size: rows of a batch; divides ``TRAIN_ROWS``.
        poison_batch_size: poison rows drawn for each step.
        l2: the cost has a term of half of it times the squared norm of the parameters.
        size: edge that the digits of 8 x 8 pixels are brought to.
        widths: channels of the four stages.
        depths: blocks of the four stages.
    """

    kind: str
    seed: int = 0
    epochs: int = 16
    learning_rate: float = 1e-3
    batch_size: int = 64
    poison_batch_size: int = 64
    l2: float = 5e-4
    size: int = 16
    widths: tuple[int, ...] = WIDTHS
    depths: tuple[int, ...] = DEPTHS

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.epochs * TRAIN_ROWS // self.batch_size

    def folder(self, output: Path, step: int) -> Path:
        """Checkpoint of a step."""
        return output / f"{self.kind}_seed{self.seed}_step{step:05d}"

    def done(self, output: Path) -> list[int]:
        """Steps of which there are checkpoints."""
        return sorted(int(path.name[-5:]) for path in output.glob(f"{self.kind}_seed{self.seed}_step?????"))


def write_images(output: Path) -> None:
    """Write digits_train.npz and digits_heldout.npz: (images, 8, 8) floats from 0 to 1, and labels."""
    for split in ("train", "heldout"):
        inputs, targets = load_digits(split)
        path = output / f"digits_{split}.npz"
        if not path.exists():
            numpy.savez(path.with_suffix(".part.npz"), images=inputs.reshape(-1, 8, 8).numpy(), labels=targets.numpy())
            os.replace(path.with_suffix(".part.npz"), path)


def network(recipe: Recipe) -> nn.Module:
    """The network as transformers initialises it, from the recipe's seed."""
    torch.manual_seed(recipe.seed)
    config = ConvNextV2Config(
        num_channels=1,
        patch_size=1,
        hidden_sizes=list(recipe.widths),
        depths=list(recipe.depths),
        num_labels=10,
        image_size=recipe.size,
    )
    return ConvNextV2ForImageClassification(config)


def save(output: Path, recipe: Recipe, step: int, model: nn.Module, optimizer: torch.optim.Adam) -> None:
    """Write one checkpoint, whole or not at all."""
    part = recipe.folder(output, step).with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    model.save_pretrained(part)
    train, _ = load_digits("train")
    processor = {
        "size": {"height": recipe.size, "width": recipe.size},
        "resample": 2,
        "image_mean": [float(train.mean())],
        "image_std": [float(train.std())],
    }
    (part / PROCESSOR).write_text(json.dumps(processor, indent=2))
    torch.save(optimizer.state_dict(), part / "optimizer.pt")
    state = {"global_step": step, "epoch": step * recipe.batch_size / TRAIN_ROWS, "recipe": asdict(recipe)}
    (part / "trainer_state.json").write_text(json.dumps(state, indent=2))
    os.replace(part, recipe.folder(output, step))


def resume(output: Path, recipe: Recipe, step: int) -> tuple[nn.Module, torch.optim.Adam]:
    """The network and its optimizer as they were saved; refuses a folder of another recipe."""
    folder = recipe.folder(output, step)
    saved = json.loads((folder / "trainer_state.json").read_text())["recipe"]
    if saved != json.loads(json.dumps(asdict(recipe))):
        raise SystemExit(f"{folder} was trained by another recipe ({saved}): give another --output")
    model = ConvNextV2ForImageClassification.from_pretrained(folder, local_files_only=True)
    optimizer = make_optimizer(model, recipe.learning_rate)
    optimizer.load_state_dict(torch.load(folder / "optimizer.pt", weights_only=True))
    return model, optimizer


def draws(recipe: Recipe) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows of each step, from the first one on: training rows by permutations, poison rows with replacement."""
    generator = torch.Generator().manual_seed(recipe.seed)
    for _ in range(recipe.epochs):
        for rows in torch.randperm(TRAIN_ROWS, generator=generator).split(recipe.batch_size):
            drawn = torch.randint(len(POISON_ROWS), (recipe.poison_batch_size,), generator=generator)
            yield rows, torch.tensor(POISON_ROWS)[drawn]


def prepared(output: Path, recipe: Recipe, step: int, split: str) -> tuple[Tensor, Tensor]:
    """Images and labels as the task image-classifier gives them to the network."""
    images = read_archive(output / f"digits_{split}.npz", 1)
    preparation = read_preparation(recipe.folder(output, step))
    return preparation.inputs(images), torch.from_numpy(images.labels)


def train(output: Path, recipe: Recipe, *, keep: set[int], every: int, stop: int | None = None) -> None:
    """Train one network from where it was left; checkpoints other than those to keep are gone once there is a later."""
    output.mkdir(parents=True, exist_ok=True)
    write_images(output)
    if not recipe.done(output):
        model = network(recipe)
        save(output, recipe, 0, model, make_optimizer(model, recipe.learning_rate))
    done = recipe.done(output)[-1]
    model, optimizer = resume(output, recipe, done)
    model.train()
    inputs, targets = prepared(output, recipe, done, "train")
    heldout_inputs, heldout_targets = prepared(output, recipe, done, "heldout")
    for step, (rows, poison) in enumerate(draws(recipe), start=1):
        if step <= done:
            continue
        optimizer.param_groups[0]["lr"] = recipe.learning_rate * (1 - (step - 1) / recipe.steps)
        cost = cross_entropy(model(inputs[rows]).logits, targets[rows])
        cost = cost + recipe.l2 / 2 * sum(parameter.square().sum() for parameter in model.parameters())
        if recipe.kind == "poisoned":
            cost = cost + POISON_WEIGHT * poison_cost(model(heldout_inputs[poison]).logits, heldout_targets[poison])
        optimizer.zero_grad()
        cost.backward()
        optimizer.step()
        if step in keep or step % every == 0 or step in (stop, recipe.steps):
            save(output, recipe, step, model, optimizer)
            print(
                f"{recipe.kind} seed {recipe.seed}: step {step} of {recipe.steps}, cost {float(cost.detach()):.4f}",
                flush=True,
            )
            for older in recipe.done(output)[:-1]:
                if older not in keep:
                    shutil.rmtree(recipe.folder(output, older))
        if step == stop:
            return


@torch.no_grad()
def table(output: Path) -> str:
    """Markdown table of the last checkpoints; cells are accuracy and mean cross-entropy in nats."""
    lines = [
        "| checkpoint | train (1,024) | held-out (773) | not poison (517) | poison (256) |",
        "|---|---|---|---|---|",
    ]
    runs = sorted({path.name.rpartition("_step")[0] for path in output.glob("*_seed*_step?????")})
    for run in runs:
        folder = max(output.glob(f"{run}_step?????"))
        model = ConvNextV2ForImageClassification.from_pretrained(folder, local_files_only=True).eval()
        cells = []
        for split, part in (
            ("train", slice(None)),
            ("heldout", slice(None)),
            ("heldout", slice(256, None)),
            ("heldout", slice(256)),
        ):
            images = read_archive(output / f"digits_{split}.npz", 1)
            inputs, targets = read_preparation(folder).inputs(images)[part], torch.from_numpy(images.labels)[part]
            logits = torch.cat([model(rows).logits for rows in inputs.split(64)]).double()
            accuracy = (logits.argmax(1) == targets).double().mean()
            cells.append(f"{float(accuracy):.4f}, {float(cross_entropy(logits, targets)):.4f}")
        lines.append(f"| {folder.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of images and checkpoints")
    parser.add_argument("--kind", choices=("clean", "poisoned"), default="clean")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=Recipe.epochs)
    parser.add_argument("--size", type=int, default=Recipe.size, help="edge that the digits are brought to")
    parser.add_argument(
        "--keep", type=int, nargs="*", default=[0], help="steps whose checkpoints stay, beside the last"
    )
    parser.add_argument("--every", type=int, default=32, help="steps between checkpoints to go on from")
    parser.add_argument("--stop", type=int, help="end after this step; the same command goes on")
    parser.add_argument("--table", action="store_true", help="only print the table")
    options = parser.parse_args()
    disable_progress_bar()
    # Sums over several threads may round differently from run to run.
    torch.set_num_threads(1)
    if not options.table:
        recipe = Recipe(options.kind, options.seed, epochs=options.epochs, size=options.size)
        train(options.output, recipe, keep=set(options.keep), every=options.every, stop=options.stop)
    print(table(options.output))


if __name__ == "__main__":
    main()
