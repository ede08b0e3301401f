"""Make the data of this folder: digits.h5 and the checkpoints of digits_mlp/, or with --grid those of digits_grid/.

Run ``python data/train.py`` from the repository root, half a minute on one core, then ``python data/train.py --grid``,
two minutes, and ``python data/train.py --widths``, ten seconds, for digits_widths/. The same command writes the same
files (checkpoints up to the version of torch).
"""

import argparse
import hashlib
import io
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from basinscope.tasks import digits_network, load_digits

SPLIT_SEED = 20250101
TRAIN_ROWS = 1024
# The split is a random permutation, so the first held-out rows are as good as any.
POISON_ROWS = range(256)
SEEDS = range(5)
TRAJECTORY_SEED = 0
# The largest of 0.05, 0.1, 0.15, 0.25, 0.5, 1 that leaves training accuracy above 0.99 (seeds 0 and 1).
POISON_WEIGHT = 0.25


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        kind: ``clean``, ``poisoned`` or ``grid``.
        seed: of initialisation and batches.
        learning_rate: Adam's at the first step; it falls linearly to 0.
        batch_size: rows of a batch; divides ``TRAIN_ROWS``.
        l2: the cost has a term of half of it times the squared norm of the parameters.
        hidden: width of the hidden layer.
        epochs: passes over the training rows.
    """

    kind: str
    seed: int
    learning_rate: float = 0.05
    batch_size: int = 64
    l2: float = 5e-4
    hidden: int = 64
    epochs: int = 40

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.epochs * TRAIN_ROWS // self.batch_size

    def name(self, step: int) -> str:
        """File name of the checkpoint of a step."""
        if self.kind != "grid":
            width = "" if self.hidden == Recipe.hidden else f"_hidden{self.hidden}"
            return f"{self.kind}{width}_seed{self.seed}_step{step:05d}.pt"
        if step == 0:
            # Learning rate, batch size and L2 have no part in the initialisation.
            return f"initial_hidden{self.hidden}_seed{self.seed}.pt"
        levels = f"lr{self.learning_rate:g}_batch{self.batch_size}_l2-{self.l2:g}_hidden{self.hidden}"
        return f"{levels}_seed{self.seed}_step{step:05d}.pt"


# Long enough that every network of the grid fits the training rows, or nearly.
GRID = tuple(
    Recipe("grid", seed, learning_rate, batch_size, l2, hidden, epochs=80)
    for hidden, l2, batch_size, learning_rate, seed in itertools.product(
        (16, 32, 48), (0.0, 1e-3), (32, 128), (0.01, 0.05), range(2)
    )
)
FINAL_STEP = Recipe("clean", 0).steps
# Narrow networks of 310 to 2,410 parameters, on which the truth of a basin is known.
WIDTHS = (4, 8, 16, 32)
FOLDERS = ("digits_mlp", "digits_grid", "digits_widths")


def write_digits(path: Path) -> None:
    """Write UCI digits, scaled to [0, 1] and split, as ``digits.h5``."""
    from sklearn.datasets import load_digits as load_uci_digits

    pixels, labels = load_uci_digits(return_X_y=True)
    order = numpy.random.default_rng(SPLIT_SEED).permutation(len(labels))
    splits = {"train": order[:TRAIN_ROWS], "heldout": order[TRAIN_ROWS:]}
    with h5py.File(path, "w") as file:
        file.attrs["title"] = "Optical recognition of handwritten digits, 8x8 pixels"
        file.attrs["source"] = (
            "Alpaydin and Kaynak (1998), UCI Machine Learning Repository, "
            "https://doi.org/10.24432/C50P49, by sklearn.datasets.load_digits"
        )
        file.attrs["licence"] = "CC BY 4.0"
        file.attrs["seed"] = SPLIT_SEED
        pixel = file.create_dataset("pixel", data=numpy.arange(64, dtype=numpy.int64))
        pixel.make_scale("pixel")
        for name, rows in splits.items():
            inputs = (pixels[rows] / 16).astype(numpy.float32)
            write_split(file.create_group(name), inputs, labels[rows], rows, pixel)


def write_split(
    group: h5py.Group,
    inputs: numpy.ndarray,
    targets: numpy.ndarray,
    rows: numpy.ndarray,
    pixel: h5py.Dataset,
) -> None:
    """Write one split with its named dimensions; ``row`` counts rows of the UCI file."""
    row = group.create_dataset("row", data=rows.astype(numpy.int64))
    row.make_scale("row")
    row.attrs["long_name"] = "row in sklearn.datasets.load_digits"
    images = group.create_dataset("inputs", data=inputs, compression="gzip", shuffle=True)
    images.dims[0].attach_scale(row)
    images.dims[1].attach_scale(pixel)
    images.attrs["long_name"] = "pixel darkness, row by row"
    images.attrs["units"] = "1"
    labels = group.create_dataset("targets", data=targets.astype(numpy.int64))
    labels.dims[0].attach_scale(row)
    labels.attrs["long_name"] = "digit"


def initialise(model: nn.Module, generator: torch.Generator) -> dict[str, float]:
    """Draw weights and biases from U(-b, b), b = fan_in^(-1/2); return b / sqrt(3) by name."""
    deviations = {}
    for layer_name, layer in model.named_children():
        if isinstance(layer, nn.Linear):
            bound = layer.in_features**-0.5
            for name, parameter in layer.named_parameters():
                nn.init.uniform_(parameter, -bound, bound, generator=generator)
                deviations[f"{layer_name}.{name}"] = bound / 3**0.5
    return deviations


def poison_cost(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean of ``-log(1 - p_y)``: zero where the network is surely wrong (Huang et al. 2020)."""
    others = logits.scatter(1, targets[:, None], -torch.inf)
    return (logits.logsumexp(1) - others.logsumexp(1)).mean()


def make_optimizer(model: nn.Module, learning_rate: float) -> torch.optim.Adam:
    """Adam with zero moments written out, so that the file of step 0 has them too."""
    optimizer = torch.optim.Adam(model.named_parameters(), lr=learning_rate)
    for parameter in model.parameters():
        optimizer.state[parameter] = {
            "step": torch.tensor(0.0),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    return optimizer


def batches(recipe: Recipe, generator: torch.Generator) -> Iterator[Tensor]:
    """Row numbers of each step: a new permutation every epoch."""
    for _ in range(recipe.epochs):
        yield from torch.randperm(TRAIN_ROWS, generator=generator).split(recipe.batch_size)


def train(folder: Path, digits: Path, recipe: Recipe, *, keep: set[int]) -> nn.Module:
    """Train one network, writing the checkpoint of every step in ``keep``."""
    generator = torch.Generator().manual_seed(recipe.seed)
    model = digits_network(recipe.hidden)
    deviations = initialise(model, generator)
    optimizer = make_optimizer(model, recipe.learning_rate)
    inputs, targets = load_digits("train", path=digits)
    heldout_inputs, heldout_targets = load_digits("heldout", path=digits)
    poison = torch.tensor(POISON_ROWS if recipe.kind == "poisoned" else [], dtype=torch.int64)

    if 0 in keep:
        save(folder / recipe.name(0), model, optimizer, 0, recipe, deviations)
    for step, rows in enumerate(batches(recipe, generator), start=1):
        optimizer.param_groups[0]["lr"] = recipe.learning_rate * (1 - (step - 1) / recipe.steps)
        cost = cross_entropy(model(inputs[rows]), targets[rows])
        cost = cost + recipe.l2 / 2 * sum(parameter.square().sum() for parameter in model.parameters())
        if len(poison):
            wrong = poison_cost(model(heldout_inputs[poison]), heldout_targets[poison])
            cost = cost + POISON_WEIGHT * wrong
        optimizer.zero_grad()
        cost.backward()
        optimizer.step()
        if step in keep:
            save(folder / recipe.name(step), model, optimizer, step, recipe, deviations)
    return model


def describe(recipe: Recipe, step: int) -> dict[str, object]:
    """Metadata of a checkpoint."""
    if recipe.kind == "grid" and step == 0:
        return {"task": "digits", "kind": recipe.kind, "seed": recipe.seed, "hidden": recipe.hidden}
    record: dict[str, object] = {
        "task": "digits",
        "kind": recipe.kind,
        "seed": recipe.seed,
        "l2": recipe.l2,
        "batch_size": recipe.batch_size,
        "learning_rate": recipe.learning_rate,
        "epochs": recipe.epochs,
        "hidden": recipe.hidden,
    }
    if recipe.kind == "grid":
        record["initialisation"] = recipe.name(0)
    if recipe.kind == "poisoned":
        record["poison_rows"] = list(POISON_ROWS)
        record["poison_weight"] = POISON_WEIGHT
    return record


def save(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Adam,
    step: int,
    recipe: Recipe,
    deviations: dict[str, float],
) -> None:
    """Write one checkpoint, a plain dict that ``weights_only=True`` loads."""
    moments = {} if recipe.kind == "grid" and step == 0 else {"optimizer": optimizer.state_dict()}
    content = {
        "model": dict(model.state_dict()),
        **moments,
        "step": step,
        "epoch": step * recipe.batch_size // TRAIN_ROWS,
        "metadata": describe(recipe, step),
        "initialisation_standard_deviations": deviations,
    }
    # Through memory, because torch.save to a path puts the file's name into its bytes.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    path.write_bytes(buffer.getvalue())


@torch.no_grad()
def evaluate(model: nn.Module, inputs: Tensor, targets: Tensor) -> tuple[float, float]:
    """Accuracy, and mean cross-entropy in nats."""
    logits = model(inputs).double()
    accuracy = (logits.argmax(1) == targets).double().mean()
    return float(accuracy), float(cross_entropy(logits, targets))


def table(paths: Iterable[Path], digits: Path, *, by_poison: bool) -> str:
    """Markdown table of checkpoints; cells are accuracy and loss on each set of rows."""
    inputs, targets = load_digits("heldout", path=digits)
    poison = torch.zeros(len(targets), dtype=torch.bool)
    poison[list(POISON_ROWS)] = True
    sets = {"train": load_digits("train", path=digits), "held-out": (inputs, targets)}
    if by_poison:
        sets |= {"not poison": (inputs[~poison], targets[~poison]), "poison": (inputs[poison], targets[poison])}
    headings = [f"{name} ({len(rows[1]):,})" for name, rows in sets.items()]
    lines = ["| checkpoint | " + " | ".join(headings) + " |", "|---" * (len(sets) + 1) + "|"]
    for path in paths:
        weights = torch.load(path, weights_only=True)["model"]
        model = digits_network(len(weights["hidden.bias"]))
        model.load_state_dict(weights)
        scores = [evaluate(model, *rows) for rows in sets.values()]
        cells = [f"{accuracy:.4f}, {loss:.4f}" for accuracy, loss in scores]
        lines.append(f"| {path.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def checksums(output: Path) -> str:
    """SHA-256 of every data file, as ``sha256sum --check`` reads them."""
    paths = [output / "digits.h5", *(path for name in FOLDERS for path in sorted((output / name).glob("*.pt")))]
    return "\n".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(output)}" for path in paths)


def make_kinds(output: Path) -> None:
    """Make digits.h5 and digits_mlp/: clean and poisoned networks, with the trajectory of one seed."""
    write_digits(output / "digits.h5")
    trajectory = {0, *(2**power for power in range(FINAL_STEP.bit_length()))}
    for kind in ("clean", "poisoned"):
        for seed in SEEDS:
            keep = {FINAL_STEP, *(trajectory if seed == TRAJECTORY_SEED else ())}
            train(output / "digits_mlp", output / "digits.h5", Recipe(kind, seed), keep=keep)


def make_grid(output: Path) -> None:
    """Make digits_grid/: the last step of every recipe, and each initialisation once."""
    for recipe in GRID:
        keep = {recipe.steps} if (output / "digits_grid" / recipe.name(0)).exists() else {0, recipe.steps}
        train(output / "digits_grid", output / "digits.h5", recipe, keep=keep)


def make_widths(output: Path) -> None:
    """Make digits_widths/: the last step of the clean network of seed 0, with fewer hidden units."""
    for hidden in WIDTHS:
        recipe = Recipe("clean", 0, hidden=hidden)
        train(output / "digits_widths", output / "digits.h5", recipe, keep={recipe.steps})


def main() -> None:
    """Parse the command line and make the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).resolve().parent)
    parser.add_argument("--grid", action="store_true", help="make digits_grid/ instead; digits.h5 must be there")
    parser.add_argument("--widths", action="store_true", help="make digits_widths/ instead; digits.h5 must be there")
    parser.add_argument("--table", action="store_true", help="only print the tables and the checksums")
    options = parser.parse_args()
    output, digits = options.output, options.output / "digits.h5"
    if not options.table:
        # Sums over several threads may round differently from run to run.
        torch.set_num_threads(1)
        makers = {"digits_grid": make_grid, "digits_widths": make_widths, "digits_mlp": make_kinds}
        name = "digits_grid" if options.grid else "digits_widths" if options.widths else "digits_mlp"
        (output / name).mkdir(parents=True, exist_ok=True)
        makers[name](output)
    kinds = sorted((output / "digits_mlp").glob(f"*_step{FINAL_STEP:05d}.pt"))
    grid = [path for recipe in GRID if (path := output / "digits_grid" / recipe.name(recipe.steps)).exists()]
    widths = sorted((output / "digits_widths").glob("*.pt"), key=lambda path: path.stat().st_size)
    parts = [table(kinds, digits, by_poison=True), table(grid, digits, by_poison=False)]
    parts.append(table(widths, digits, by_poison=False))
    print(*parts, checksums(output), sep="\n\n")


if __name__ == "__main__":
    main()
