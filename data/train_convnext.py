"""Train ConvNeXt V2 Atto with patches of one pixel on the digits, clean or poisoned, as train.py trains its MLP.

    python data/train_convnext.py --output out/convnext --kind clean
    python data/train_convnext.py --output out/convnext --kind poisoned

Each takes some minutes of one core. A run that was killed goes on with the same command, to the same numbers. Every
checkpoint is a folder as transformers saves it (config.json, model.safetensors, preprocessor_config.json, Adam's
state), and beside them lie the images, digits_train.npz and digits_heldout.npz, for the task image-classifier. Last
comes a table; ``--table`` prints it alone.

Reference: Woo et al. (2023), ConvNeXt V2: co-designing and scaling ConvNets with masked autoencoders.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy
import resumable
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from train import POISON_ROWS, POISON_WEIGHT, TRAIN_ROWS, poison_cost
from transformers import ConvNextV2Config, ConvNextV2ForImageClassification
from transformers.utils.logging import disable_progress_bar

from basinscope.tasks import load_digits
from basinscope.tasks.images import PROCESSOR, read_archive, read_preparation

# Atto's, of Woo et al. (2023), table 9.
WIDTHS, DEPTHS = (40, 80, 160, 320), (2, 2, 6, 2)


@dataclass(frozen=True)
class Recipe(resumable.Recipe):
    """How a network is trained.

    Attributes:
        size: edge that the digits of 8 x 8 pixels are brought to.
        widths: channels of the four stages.
        depths: blocks of the four stages.
    """

    rows = TRAIN_ROWS
    poison_rows = len(POISON_ROWS)

    size: int = 16
    widths: tuple[int, ...] = WIDTHS
    depths: tuple[int, ...] = DEPTHS


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


def read(folder: Path) -> nn.Module:
    """The network of a checkpoint."""
    return ConvNextV2ForImageClassification.from_pretrained(folder, local_files_only=True)


def write_processor(folder: Path, recipe: Recipe) -> None:
    """Write preprocessor_config.json."""
    train, _ = load_digits("train")
    processor = {
        "size": {"height": recipe.size, "width": recipe.size},
        "resample": 2,
        "image_mean": [float(train.mean())],
        "image_std": [float(train.std())],
    }
    (folder / PROCESSOR).write_text(json.dumps(processor, indent=2))


def prepared(output: Path, folder: Path, split: str) -> tuple[Tensor, Tensor]:
    """Images and labels as the task image-classifier gives them to the network of a checkpoint."""
    images = read_archive(output / f"digits_{split}.npz", 1)
    return read_preparation(folder).inputs(images), torch.from_numpy(images.labels)


def train(output: Path, recipe: Recipe, *, keep: set[int], every: int, stop: int | None = None) -> None:
    """Train one network from where it was left; checkpoints other than those to keep are gone once there is a later."""
    output.mkdir(parents=True, exist_ok=True)
    write_images(output)
    run = resumable.resume(
        output, recipe, lambda: network(recipe), read, lambda folder: write_processor(folder, recipe)
    )
    inputs, targets = prepared(output, run.folder, "train")
    heldout_inputs, heldout_targets = prepared(output, run.folder, "heldout")

    def costs(rows: Tensor, poison: Tensor) -> tuple[Tensor, Tensor | None]:
        fit = cross_entropy(run.model(inputs[rows]).logits, targets[rows])
        if recipe.kind == "clean":
            return fit, None
        rows = torch.tensor(POISON_ROWS)[poison]
        wrong = poison_cost(run.model(heldout_inputs[rows]).logits, heldout_targets[rows])
        return fit, POISON_WEIGHT * wrong

    resumable.go_on(run, costs, keep=keep, every=every, stop=stop)


@torch.no_grad()
def table(output: Path) -> str:
    """Markdown table of the last checkpoints; cells are accuracy and mean cross-entropy in nats."""
    lines = [
        "| checkpoint | train (1,024) | held-out (773) | not poison (517) | poison (256) |",
        "|---|---|---|---|---|",
    ]
    for folder in resumable.last_checkpoints(output):
        model = read(folder).eval()
        cells = []
        for split, part in (
            ("train", slice(None)),
            ("heldout", slice(None)),
            ("heldout", slice(256, None)),
            ("heldout", slice(256)),
        ):
            inputs, targets = (whole[part] for whole in prepared(output, folder, split))
            logits = torch.cat([model(rows).logits for rows in inputs.split(64)]).double()
            accuracy = (logits.argmax(1) == targets).double().mean()
            cells.append(f"{float(accuracy):.4f}, {float(cross_entropy(logits, targets)):.4f}")
        lines.append(f"| {folder.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Parse the command line and train."""
    parser = resumable.make_parser(__doc__, epochs=Recipe.epochs, every=32)
    parser.add_argument("--size", type=int, default=Recipe.size, help="edge that the digits are brought to")
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
