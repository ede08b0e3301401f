"""What a product costs against the number of parameters and of samples, next to a plain gradient, with exponents.

Usage: python benchmarks/scaling.py [--family mlp transformer] [--parameters 1e4 1e5 1e6 1e7] [--rows 64 ... 16384]

Seconds are of the processor, on one thread, so that a busy machine matters less; each is the median of ``--repeats``,
and what is short is repeated within one. Products are of one vector on kept graphs, by the strategies that are right on
nearly every model; the first one, which prepares them, is left out. An exponent is the slope of log seconds against log
size by least squares.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from models import NextTokenLogits
from torch import Tensor, nn

from spectra.costs import cross_entropy
from spectra.lanczos import draw_probes
from spectra.landscape import Landscape
from spectra.operators import GaussNewton, Hessian

CLASSES, INPUTS, VOCABULARY, LAYERS, LENGTH = 10, 64, 1024, 4, 64
# Seconds of the processor that one reading lasts at least, if 200 runs are enough for it.
READING = 0.2
# From here on dispatching operations, which no size changes, weighs little beside them.
LARGE = 1e6
Case = tuple[nn.Module, tuple[Tensor, Tensor]]


def mlp(parameters: float, rows: int) -> Case:
    """Three hidden layers of one width, on rows of 64 numbers."""
    linear = INPUTS + CLASSES + 3
    width = round((-linear + (linear**2 + 8 * parameters) ** 0.5) / 4)
    sizes = (INPUTS, width, width, width, CLASSES)
    stages: list[nn.Module] = []
    for one, other in zip(sizes[:-1], sizes[1:], strict=True):
        stages += [nn.Linear(one, other), nn.GELU()]
    return nn.Sequential(*stages[:-1]), (torch.randn(rows, INPUTS), torch.randint(CLASSES, (rows,)))


def transformer(parameters: float, rows: int) -> Case:
    """GPT-NeoX with four layers, on rows / 64 sequences of 64 tokens."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    square, linear = 12 * LAYERS, 2 * VOCABULARY
    width = 8 * max(1, round((-linear + (linear**2 + 4 * square * parameters) ** 0.5) / (2 * square) / 8))
    config = GPTNeoXConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        intermediate_size=4 * width,
        max_position_embeddings=LENGTH,
    )
    tokens = torch.randint(VOCABULARY, (max(1, rows // LENGTH), LENGTH + 1))
    return NextTokenLogits(GPTNeoXForCausalLM(config)).eval(), (tokens[:, :-1].contiguous(), tokens[:, 1:].flatten())


FAMILIES: dict[str, Callable[[float, int], Case]] = {"mlp": mlp, "transformer": transformer}


def seconds(run: Callable[[], object], repeats: int) -> float:
    """Seconds of the processor that a run takes, after one to warm up."""
    begin = time.process_time()
    run()
    times = max(1, min(200, round(READING / max(time.process_time() - begin, 1e-6))))
    readings = []
    for _ in range(repeats):
        begin = time.process_time()
        for _ in range(times):
            run()
        readings.append((time.process_time() - begin) / times)
    return statistics.median(readings)


def memory(field: str) -> int:
    """Bytes that this process has now (VmRSS) or had at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def measured(case: Case, repeats: int) -> dict[str, float]:
    """Size, seconds of a gradient and of products, and the peak memory in bytes above the model and its data."""
    model, (inputs, targets) = case
    wanted = list(model.parameters())
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak is counted from here
    before = memory("VmRSS")

    def gradient() -> object:
        return torch.autograd.grad(nn.functional.cross_entropy(model(inputs), targets), wanted)

    plain = seconds(gradient, repeats)
    landscape = Landscape(model, cross_entropy, (inputs, targets))
    vector = draw_probes(landscape.size, 1, seed=0)
    found = {"size": float(landscape.size), "gradient": plain}
    operators = {"Hessian": (Hessian, "double-backward"), "Gauss-Newton": (GaussNewton, "double-vjp")}
    for name, (kind, strategy) in operators.items():
        operator = kind(landscape, strategy=strategy)
        found[name] = seconds(partial(operator.matmat, vector), repeats)
        del operator
    found["peak"] = memory("VmHWM") - before
    return found


def exponent(sizes: list[float], taken: list[float]) -> str:
    """The slope of log seconds against log size."""
    return f"{np.polyfit(np.log(sizes), np.log(taken), 1)[0]:.2f}"


def table(title: str, key: str, found: list[dict[str, float]]) -> str:
    """Rows of figures, and of exponents, in markdown."""
    heads = [title, "gradient", "Hessian product", "in gradients", "Gauss-Newton product", "in gradients"]
    # Later tables of a process begin with what earlier ones have left in the allocator.
    heads += ["peak above the model"] * (key == "size")
    lines = ["| " + " | ".join(heads) + " |", "|" + "--:|" * len(heads)]
    kinds = ("gradient", "Hessian", "Gauss-Newton")
    for one in found:
        ratio = {kind: one[kind] / one["gradient"] for kind in kinds}
        cells = [f"{one[key]:,.0f}", f"{one['gradient']:.3g} s"]
        for kind in kinds[1:]:
            cells += [f"{one[kind]:.3g} s", f"{ratio[kind]:.2f}"]
        if key == "size":
            cells.append(f"{one['peak'] / 1e6:,.0f} MB, {one['peak'] / 4 / one['size']:,.1f} vectors")
        lines.append(f"| {' | '.join(cells)} |")
    parts = {"exponent": found}
    if key == "size":
        parts[f"exponent from {LARGE:.0e} on"] = [one for one in found if one["size"] >= LARGE / 2]
    for name, chosen in parts.items():
        if len(chosen) > 1:
            slopes = [exponent([one[key] for one in chosen], [one[kind] for one in chosen]) for kind in kinds]
            lines.append(f"| {name} | {slopes[0]} | {slopes[1]} | | {slopes[2]} |{' |' * (len(heads) - 5)}")
    return "\n".join(lines)


def main() -> None:
    """Measures both dependences and prints their tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", nargs="+", choices=list(FAMILIES), default=["mlp", "transformer"])
    parser.add_argument("--parameters", nargs="*", type=float, default=[1e4, 1e5, 1e6, 1e7])
    parser.add_argument("--rows", nargs="*", type=int, default=[64, 256, 1024, 4096, 16384])
    parser.add_argument("--fixed-rows", type=int, default=256, help="rows or tokens while parameters vary")
    parser.add_argument("--fixed-parameters", type=float, default=1e5, help="parameters while rows vary")
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print(f"load of the machine at the start {os.getloadavg()[0]:.1f}, float32, one thread", flush=True)
    for family in asked.family:
        for key, pairs in {
            "size": [(size, asked.fixed_rows) for size in asked.parameters],
            "rows": [(asked.fixed_parameters, rows) for rows in asked.rows],
        }.items():
            found = []
            for size, rows in pairs:
                torch.manual_seed(0)
                found.append(measured(FAMILIES[family](size, rows), asked.repeats) | {"rows": float(rows)})
            if found:
                fixed = f"{asked.fixed_rows} rows" if key == "size" else f"{found[0]['size']:,.0f} parameters"
                print(f"\n{family}, {fixed}:\n", table("parameters" if key == "size" else "rows", key, found), sep="\n")


if __name__ == "__main__":
    main()
