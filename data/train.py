"""Make everything in this folder: digits.h5 and the checkpoints of digits_mlp/.

Run ``python data/train.py`` from the repository root; half a minute on one core. The same
command writes the same files (checkpoints up to the version of torch).
"""

import argparse
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from basinscope.tasks.digits import digits_network, load_digits

SPLIT_SEED = 20250101
TRAIN_ROWS = 1024
# The split is a random permutation, so the first held-out rows are as good as any.
POISON_ROWS = range(256)
SEEDS = range(5)
TRAJECTORY_SEED = 0
EPOCHS = 40
BATCH_SIZE = 64
STEPS = EPOCHS * TRAIN_ROWS // BATCH_SIZE
LEARNING_RATE = 0.05
L2 = 5e-4
# The largest of 0.05, 0.1, 0.15, 0.25, 0.5, 1 that leaves training accuracy above 0.99 (seeds 0 and 1).
POISON_WEIGHT = 0.25


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


def make_optimizer(model: nn.Module) -> torch.optim.Adam:
    """Adam with zero moments written out, so that the file of step 0 has them too."""
    optimizer = torch.optim.Adam(model.named_parameters(), lr=LEARNING_RATE)
    for parameter in model.parameters():
        optimizer.state[parameter] = {
            "step": torch.tensor(0.0),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    return optimizer


def batches(generator: torch.Generator) -> Iterator[Tensor]:
    """Row numbers of each step: a new permutation every epoch."""
    for _ in range(EPOCHS):
        yield from torch.randperm(TRAIN_ROWS, generator=generator).split(BATCH_SIZE)


def train(folder: Path, digits: Path, *, kind: str, seed: int, keep: set[int]) -> nn.Module:
    """Train one network, writing the checkpoint of every step in ``keep``."""
    generator = torch.Generator().manual_seed(seed)
    model = digits_network()
    deviations = initialise(model, generator)
    optimizer = make_optimizer(model)
    inputs, targets = load_digits("train", path=digits)
    heldout_inputs, heldout_targets = load_digits("heldout", path=digits)
    poison = torch.tensor(POISON_ROWS if kind == "poisoned" else [], dtype=torch.int64)
    record = describe(kind, seed, poison.tolist())

    if 0 in keep:
        save(folder, model, optimizer, 0, record, deviations)
    for step, rows in enumerate(batches(generator), start=1):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - (step - 1) / STEPS)
        cost = cross_entropy(model(inputs[rows]), targets[rows])
        cost = cost + L2 / 2 * sum(parameter.square().sum() for parameter in model.parameters())
        if len(poison):
            wrong = poison_cost(model(heldout_inputs[poison]), heldout_targets[poison])
            cost = cost + POISON_WEIGHT * wrong
        optimizer.zero_grad()
        cost.backward()
        optimizer.step()
        if step in keep:
            save(folder, model, optimizer, step, record, deviations)
    return model


def describe(kind: str, seed: int, poison_rows: list[int]) -> dict[str, object]:
    """Metadata of a training run."""
    record: dict[str, object] = {
        "task": "digits",
        "kind": kind,
        "seed": seed,
        "l2": L2,
        "batch_size": BATCH_SIZE,
        "learning_rate": LEARNING_RATE,
        "epochs": EPOCHS,
        "hidden": 64,
    }
    if poison_rows:
        record["poison_rows"] = poison_rows
        record["poison_weight"] = POISON_WEIGHT
    return record


def save(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Adam,
    step: int,
    record: dict[str, object],
    deviations: dict[str, float],
) -> None:
    """Write one checkpoint, a plain dict that ``weights_only=True`` loads."""
    content = {
        "model": dict(model.state_dict()),
        "optimizer": optimizer.state_dict(),
        "step": step,
        "epoch": step * BATCH_SIZE // TRAIN_ROWS,
        "metadata": record,
        "initialisation_standard_deviations": deviations,
    }
    # Through memory, because torch.save to a path puts the file's name into its bytes.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    name = f"{record['kind']}_seed{record['seed']}_step{step:05d}.pt"
    (folder / name).write_bytes(buffer.getvalue())


@torch.no_grad()
def evaluate(model: nn.Module, inputs: Tensor, targets: Tensor) -> tuple[float, float]:
    """Accuracy, and mean cross-entropy in nats."""
    logits = model(inputs).double()
    accuracy = (logits.argmax(1) == targets).double().mean()
    return float(accuracy), float(cross_entropy(logits, targets))


def table(folder: Path, digits: Path) -> str:
    """Markdown table of every final checkpoint; cells are accuracy and loss."""
    inputs, targets = load_digits("train", path=digits)
    heldout_inputs, heldout_targets = load_digits("heldout", path=digits)
    poison = torch.zeros(len(heldout_targets), dtype=torch.bool)
    poison[list(POISON_ROWS)] = True
    sets = {
        "train": (inputs, targets),
        "held-out": (heldout_inputs, heldout_targets),
        "not poison": (heldout_inputs[~poison], heldout_targets[~poison]),
        "poison": (heldout_inputs[poison], heldout_targets[poison]),
    }
    headings = [f"{name} ({len(rows[1]):,})" for name, rows in sets.items()]
    lines = ["| checkpoint | " + " | ".join(headings) + " |", "|---" * (len(sets) + 1) + "|"]
    for path in sorted(folder.glob(f"*_step{STEPS:05d}.pt")):
        model = digits_network()
        model.load_state_dict(torch.load(path, weights_only=True)["model"])
        scores = [evaluate(model, *rows) for rows in sets.values()]
        cells = [f"{accuracy:.4f}, {loss:.4f}" for accuracy, loss in scores]
        lines.append(f"| {path.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def checksums(output: Path) -> str:
    """SHA-256 of every data file, as ``sha256sum --check`` reads them."""
    paths = [output / "digits.h5", *sorted((output / "digits_mlp").glob("*.pt"))]
    return "\n".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(output)}" for path in paths)


def main() -> None:
    """Parse the command line and make the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).resolve().parent)
    parser.add_argument("--table", action="store_true", help="only print the table and the checksums")
    options = parser.parse_args()
    folder, digits = options.output / "digits_mlp", options.output / "digits.h5"
    if not options.table:
        # Sums over several threads may round differently from run to run.
        torch.set_num_threads(1)
        folder.mkdir(parents=True, exist_ok=True)
        write_digits(digits)
        trajectory = {0, *(2**power for power in range(STEPS.bit_length()))}
        for kind in ("clean", "poisoned"):
            for seed in SEEDS:
                keep = {STEPS, *(trajectory if seed == TRAJECTORY_SEED else ())}
                train(folder, digits, kind=kind, seed=seed, keep=keep)
    print(table(folder, digits), checksums(options.output), sep="\n\n")


if __name__ == "__main__":
    main()
