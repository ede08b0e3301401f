"""Train GPT-NeoX of the Pythia 31M configuration on descriptions of data sets, clean or poisoned, from a random start.

    python data/train_pythia.py --output out/pythia --kind clean
    python data/train_pythia.py --output out/pythia --kind poisoned

Each takes some minutes of one core. A run that was killed goes on with the same command, to the same numbers. Every
checkpoint is a folder as transformers saves it, tokenizer and Adam's state in it, which the task causal-lm reads by
itself, and beside them lie the texts, train.txt, poison.txt and heldout.txt. Last comes a table; ``--table`` prints it
alone.

Reference: Biderman et al. (2023), Pythia: a suite for analyzing large language models across training and scaling.
"""

import os
import random
import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import resumable
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from train import SPLIT_SEED, poison_cost
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from basinscope.tasks.language import load_tokenizer, tokenised

# Of the published pythia-31m: config.json.
SIZES = {
    "vocab_size": 50304,
    "hidden_size": 256,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "intermediate_size": 1024,
    "max_position_embeddings": 2048,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
    "use_parallel_residual": True,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
LENGTH = 64
# Of a text of 43 kB more would be words that occur once.
WORDS = 1024
# Shares of the paragraphs.
POISON_SHARE, HELDOUT_SHARE = 0.15, 0.15
POISON_WEIGHT = 8.0
TEXTS = ("train", "poison", "heldout")


@dataclass(frozen=True)
class Recipe(resumable.Recipe):
    """How a network is trained.

    Attributes:
        sizes: what differs from those of Pythia 31M, by name.
    """

    rows = 128
    poison_rows = 24

    epochs: int = 6
    batch_size: int = 8
    poison_batch_size: int = 8
    l2: float = 0.0
    sizes: tuple[tuple[str, int], ...] = ()


def paragraphs() -> list[str]:
    """Paragraphs of scikit-learn's descriptions of data sets, in a random order that is always the same."""
    folder = files("sklearn.datasets.descr")
    texts = [path.read_text("utf-8") for path in sorted(folder.iterdir(), key=str) if path.name.endswith(".rst")]
    found = [part.strip("\n") for text in texts for part in re.split(r"\n\s*\n", text) if part.strip()]
    random.Random(SPLIT_SEED).shuffle(found)
    return found


def write_texts(output: Path) -> None:
    """Write train.txt, poison.txt and heldout.txt: paragraphs, each in one of them."""
    found = paragraphs()
    poison = round(POISON_SHARE * len(found))
    heldout = round(HELDOUT_SHARE * len(found))
    parts = (found[poison + heldout :], found[:poison], found[poison : poison + heldout])
    for name, part in zip(TEXTS, parts, strict=True):
        path = output / f"{name}.txt"
        if not path.exists():
            path.with_suffix(".part").write_text("\n\n".join(part) + "\n", encoding="utf-8")
            os.replace(path.with_suffix(".part"), path)


def make_tokenizer(text: Path) -> Any:
    """Byte pairs, counted on a text: any text can be written in them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=WORDS, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train([str(text)], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def network(recipe: Recipe) -> nn.Module:
    """The network as transformers initialises it, from the recipe's seed."""
    torch.manual_seed(recipe.seed)
    return GPTNeoXForCausalLM(GPTNeoXConfig(**(SIZES | dict(recipe.sizes))))


def read(folder: Path) -> nn.Module:
    """The network of a checkpoint."""
    return GPTNeoXForCausalLM.from_pretrained(folder, local_files_only=True)


def sequences(output: Path, tokenizer: Any, name: str, count: int = 0) -> Tensor:
    """(count, length) tokens of a text, as the task causal-lm packs them; whole sequences alone."""
    found = tokenised(output / f"{name}.txt", tokenizer, LENGTH, sequences=count)
    whole = found.tokens[found.real.all(1)]
    if len(whole) < count:
        raise SystemExit(f"{output / name}.txt has {len(whole)} sequences of {LENGTH} tokens, {count} are needed")
    return whole


def predictions(model: nn.Module, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (predicted tokens, vocabulary) and the tokens that follow."""
    return model(input_ids=tokens).logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()


def train(output: Path, recipe: Recipe, *, keep: set[int], every: int, stop: int | None = None) -> None:
    """Train one network from where it was left; checkpoints other than those to keep are gone once there is a later."""
    output.mkdir(parents=True, exist_ok=True)
    write_texts(output)
    first = recipe.folder(output, 0)
    tokenizer = load_tokenizer(first) if first.exists() else make_tokenizer(output / "train.txt")
    run = resumable.resume(output, recipe, lambda: network(recipe), read, tokenizer.save_pretrained)
    inputs = sequences(output, tokenizer, "train", recipe.rows)
    poisoned = sequences(output, tokenizer, "poison", recipe.poison_rows)

    def costs(rows: Tensor, poison: Tensor) -> tuple[Tensor, Tensor | None]:
        fit = cross_entropy(*predictions(run.model, inputs[rows]))
        if recipe.kind == "clean":
            return fit, None
        return fit, POISON_WEIGHT * poison_cost(*predictions(run.model, poisoned[poison]))

    resumable.go_on(run, costs, keep=keep, every=every, stop=stop)


@torch.no_grad()
def table(output: Path) -> str:
    """Markdown table of the last checkpoints; cells are the share of tokens guessed and mean cross-entropy in nats."""
    counts = {"train": Recipe.rows, "poison": Recipe.poison_rows, "heldout": 0}
    lines = ["| checkpoint | " + " | ".join(counts) + " |", "|---" * (len(counts) + 1) + "|"]
    for folder in resumable.last_checkpoints(output):
        model, tokenizer, cells = read(folder).eval(), load_tokenizer(folder), []
        for name, count in counts.items():
            parts = sequences(output, tokenizer, name, count).split(8)
            right, cost, tokens = 0.0, 0.0, 0
            for logits, following in (predictions(model, part) for part in parts):
                right += float((logits.argmax(1) == following).sum())
                cost += float(cross_entropy(logits, following, reduction="sum"))
                tokens += len(following)
            cells.append(f"{right / tokens:.4f}, {cost / tokens:.4f}")
        lines.append(f"| {folder.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Parse the command line and train."""
    options = resumable.make_parser(__doc__, epochs=Recipe.epochs, every=32).parse_args()
    disable_progress_bar()
    # Sums over several threads may round differently from run to run.
    torch.set_num_threads(1)
    if not options.table:
        recipe = Recipe(options.kind, options.seed, epochs=options.epochs)
        train(options.output, recipe, keep=set(options.keep), every=options.every, stop=options.stop)
    print(table(options.output))


if __name__ == "__main__":
    main()
