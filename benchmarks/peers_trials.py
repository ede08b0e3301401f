"""What fails on a causal language model of transformers: trials on a tiny one, each peer the way it is documented.

    .bench-venv/bin/python benchmarks/peers_trials.py

A cell says what one product did: it works (relative distance from double backward of the mean over all tokens), is
wrong by so much, or the first line of the error. Peers run inside ``sdpa_kernel(MATH)`` but for the first rows.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from competitors import COMPETITORS
from peers_ways import (
    CURVLINOPS,
    EIGENTHINGS,
    FULL,
    LENGTH,
    ORDER,
    OURS,
    PYHESSIAN,
    attempt,
    by_adapter,
    compared,
    data,
    in_wrapper,
    model,
    natural,
    probe,
    said,
    wrapped,
)
from torch import Tensor, nn
from torch.func import grad, hessian, jacrev, jvp
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel


def output_trial(matrix: str) -> Callable[[str], str]:
    """The model as it is; for those that fail, a loss that takes what it returns."""

    def trial(peer: str) -> str:
        first = attempt(lambda: compared(natural, model, data(*FULL), matrix=matrix)(peer))
        if not first.startswith("`"):
            return first
        cacheless = partial(model, use_cache=False)
        helped = compared(lambda *given: natural(*given, helped=True), cacheless, data(*FULL), matrix=matrix)
        second = attempt(lambda: helped(peer))
        return f"{first}; cache off, and a loss that takes `.logits`: {second}"

    return trial


def masked_trial(peer: str) -> str:
    """Padding in one batch: inputs with their mask; else told from the tokens by a wrapper."""
    items = data(12, 9, 5, 3)
    if peer == CURVLINOPS:
        return f"in a wrapper that takes a dict: {attempt(lambda: compared(in_wrapper, model, items)(peer))}"
    first = attempt(lambda: compared(natural, model, items)(peer))
    if not first.startswith("`"):
        return first
    return f"{first}; mask told from the tokens in a wrapper: {compared(by_adapter, model, items)(peer)}"


def counted(*given: Any) -> Tensor:
    """A product of curvlinops whose batches count by the tokens that are predicted."""
    return in_wrapper(*given, batch_size_fn=lambda inputs: int(inputs["attention_mask"][:, 1:].sum()))


def uneven_trial(peer: str) -> str:
    """Batches of unequal token counts."""
    items = data(12, 12, 11), data(4, 3, 2)
    first = compared(by_adapter, model, *items)(peer)
    if peer != CURVLINOPS:
        return first
    second = attempt(lambda: compared(counted, model, *items)(peer))
    return f"{first}; dict inputs and a `batch_size_fn` that counts their mask: {second}"


def unlike(one: Tensor, other: Tensor) -> str:
    """How far two products of one operator are apart."""
    return f"**two products differ by {100 * float((one - other).norm() / one.norm()):.3g} %, unsaid**"


def checked_curvlinops(network: Any, parameters: Any, batches: Any) -> Any:
    """The Hessian of curvlinops with its check for determinism, as is its default."""
    import curvlinops

    return curvlinops.HessianLinearOperator(network, nn.CrossEntropyLoss(), parameters, batches)


def dropout_trial(peer: str) -> str:
    """A model in train mode with dropout: whether two products agree, and whether that is seen."""
    network = model(hidden_dropout=0.1, attention_dropout=0.1).train()
    vector, items = probe(network), (data(*FULL),)
    with nullcontext() if peer == OURS else sdpa_kernel(SDPBackend.MATH):
        if peer == CURVLINOPS:
            given = wrapped(network, *items)
            return attempt(lambda: str(checked_curvlinops(given.model, list(network.parameters()), given.pieces)))
        one, other = (by_adapter(peer, network, items, vector, "hessian") for _ in range(2))
    if not torch.equal(one, other):
        return unlike(one, other)
    return f"evaluated without dropout; the model is in {'train' if network.training else 'eval'} mode afterwards"


class Changing:
    """Batches whose tokens differ from pass to pass, as of a loader with augmentation."""

    def __init__(self) -> None:
        self.passes = 0

    def __iter__(self) -> Iterator[Any]:
        self.passes += 1
        inputs, targets = data(*FULL)
        yield inputs["input_ids"].roll(self.passes, 1), targets.flatten()


def changing_trial(peer: str) -> str:
    """Data that differ from pass to pass: whether that is seen."""
    given: Any = replace(wrapped(model(), data(*FULL)), pieces=Changing())
    vector = probe(given.model)
    prepared = next(one.prepare for one in COMPETITORS if one.name == peer)(given, True, "hessian")
    with sdpa_kernel(SDPBackend.MATH):
        if peer == CURVLINOPS:
            parameters = list(given.model.parameters())
            return attempt(lambda: str(checked_curvlinops(given.model, parameters, given.pieces)))
        if peer == OURS:
            return attempt(lambda: str(prepared.build()))
        operator = prepared.build()
        one, other = (prepared.products(operator, vector.unsqueeze(0))[0] for _ in range(2))
    return unlike(one, other)


def again_trial(peer: str) -> str:
    """A second operator on the same model, after a first."""

    def second(*given: Any) -> Tensor:
        # Not by the adapter, which clears the gradients that PyHessian leaves.
        for _ in range(2):
            found = natural(*given, helped=peer == PYHESSIAN) if peer != CURVLINOPS else in_wrapper(*given)
        return found

    return compared(second, model, data(*FULL))(peer)


def norm_trial(peer: str) -> str:
    """One LayerNorm in torch alone, its weight and input varied at once, in each way that the peer differentiates.

    The reference is a finite difference of the gradient. Under ``vmap``, which is what ``jacrev`` runs, torch 2.13
    has the gradient of the weight as a sum of (input - mean) / deviation * slope, in which the saved mean and
    deviation are constants.
    """
    torch.manual_seed(0)
    theta, vector = torch.randn(2, 5 + 20, dtype=torch.float64)

    def cost(theta: Tensor) -> Tensor:
        return functional.layer_norm(theta[5:].view(4, 5), (5,), theta[:5]).pow(3).sum()

    ways = {
        "double backward": lambda: torch.autograd.functional.vhp(cost, theta, vector)[1],
        "`jvp` of `grad`": lambda: jvp(grad(cost), (theta,), (vector,))[1],
        "`jvp` of `jacrev`": lambda: jvp(jacrev(cost), (theta,), (vector,))[1],
        "`torch.func.hessian`": lambda: hessian(cost)(theta) @ vector,
    }
    names = {CURVLINOPS: ["`jvp` of `jacrev`", "`torch.func.hessian`"], OURS: ["double backward", "`jvp` of `grad`"]}
    step = 1e-5 * vector
    expected = (grad(cost)(theta + step) - grad(cost)(theta - step)) / 2e-5
    offs = {name: float((ways[name]() - expected).norm() / expected.norm()) for name in names.get(peer, list(ways)[:1])}
    return "; ".join(f"{name}: {said(off)}" for name, off in offs.items())


def written_out(values: Tensor, shape: Any, weight: Tensor, bias: Tensor, eps: float) -> Tensor:  # noqa: ARG001
    """LayerNorm over the last axis in elementary operations."""
    centred = values - values.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * weight + bias


def mended_trial(peer: str) -> str:
    """The Hessians that curvlinops has wrong: by a gradient without ``vmap``; and as it is, LayerNorm written out."""
    if peer != CURVLINOPS:
        return "–"
    full = compared(by_adapter, model, data(*FULL))
    trials = [
        compared(by_adapter, EAGER, data(*FULL), guard=False),
        full,
        compared(by_adapter, partial(model, tie_word_embeddings=True), data(*FULL)),
        compared(by_adapter, partial(model, hidden_act="silu"), data(*FULL)),
        compared(in_wrapper, model, data(12, 9, 5, 3)),
        compared(counted, model, data(12, 12, 11), data(4, 3, 2)),
        compared(by_adapter, model, data(*FULL[:3]), data(LENGTH)),
        half(torch.bfloat16),
        half(torch.float16),
    ]
    with patch("curvlinops.hessian.jacrev", grad):
        found = "; ".join(dict.fromkeys(trial(peer) for trial in trials))
    with patch("torch.nn.functional.layer_norm", written_out):
        return f"by `grad` for `jacrev`, all: {found}; LayerNorm written out: {full(peer)}"


def resumed() -> str:
    """Kills a run of ours by SIGKILL after its second probe, goes on from the file, and compares."""
    from spectra.store import read_spectrum

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "spectrum.h5"
        ended = subprocess.run([sys.executable, __file__, "--killed", str(file)], check=False, capture_output=True)
        stored = read_spectrum(file).spectrum
        rest, whole = run_spectrum(resume=stored), run_spectrum()
    same = bool((rest.density.nodes == whole.density.nodes).all())
    found = f"{stored.density.runs.probes} probes in the file after signal {-ended.returncode}"
    return f"{found}; resumed, {'the same to the bit' if same else '**differs**'}"


def run_spectrum(**more: Any) -> Any:
    """Four probes of 8 steps, a probe a block."""
    from spectra.compute import compute_spectrum
    from spectra.costs import cross_entropy
    from spectra.landscape import Landscape
    from spectra.spectrum import SpectrumSettings

    settings = SpectrumSettings(probes=4, steps=8, block=1, engine="slq", deflate=0, strategy="double-backward")
    return compute_spectrum(Landscape(model(), cross_entropy, [data(*FULL)]), settings, **more)


def killed(file: Path) -> None:
    """The run that is killed."""
    from spectra.files import Provenance
    from spectra.store import write_spectrum

    def keep(spectrum: Any) -> None:
        write_spectrum(file, spectrum, Provenance("trial", ""))
        if spectrum.density.runs.probes == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    run_spectrum(on_block=keep)


def resume_trial(peer: str) -> str:
    """Whether a killed run leaves anything; for peers, whether their source writes any file."""
    if peer == OURS:
        return resumed()
    package = {PYHESSIAN: "pyhessian", EIGENTHINGS: "hessian_eigenthings", CURVLINOPS: "curvlinops"}[peer]
    home = Path(next(iter(importlib.import_module(package).__path__)))
    sources = {path.name: path.read_text(encoding="utf-8") for path in home.rglob("*.py")}
    marks = (".save(", "open(", "pickle", "h5py", "resume")
    writers = [name for name, source in sources.items() if any(mark in source for mark in marks)]
    return f"files are mentioned in {', '.join(writers)}" if writers else "all lost: no module writes or reads a file"


def half(kind: torch.dtype) -> Callable[[str], str]:
    """Weights in half precision; the reference has the same weights in float64, so that this is rounding."""
    return compared(by_adapter, lambda: model().to(kind), data(*FULL), rough=True)


def slq_trial(peer: str) -> str:
    """One probe of 8 steps on bfloat16 weights."""
    given = wrapped(model().to(torch.bfloat16), data(*FULL))
    prepared = next(one.prepare for one in COMPETITORS if one.name == peer)(given, False, "hessian")
    with sdpa_kernel(SDPBackend.MATH):
        prepared.iterate(prepared.build(), 1, 8)
    return "runs"


EAGER = partial(model, attention="eager")
TRIALS: dict[str, Callable[[str], str]] = {
    "attention as loaded, Hessian": compared(by_adapter, model, data(*FULL), guard=False),
    "attention as loaded, Gauss-Newton": compared(by_adapter, model, data(*FULL), guard=False, matrix="gauss-newton"),
    '`attn_implementation="eager"`, Hessian': compared(by_adapter, EAGER, data(*FULL), guard=False),
    "inside `sdpa_kernel(MATH)`, Hessian": compared(by_adapter, model, data(*FULL)),
    "inside `sdpa_kernel(MATH)`, Gauss-Newton": compared(by_adapter, model, data(*FULL), matrix="gauss-newton"),
    "forward returns a ModelOutput, Hessian": output_trial("hessian"),
    "the same ModelOutput, Gauss-Newton": output_trial("gauss-newton"),
    "tied weights": compared(by_adapter, partial(model, tie_word_embeddings=True), data(*FULL)),
    '`hidden_act="silu"`': compared(by_adapter, partial(model, hidden_act="silu"), data(*FULL)),
    "padding in one batch, with its mask": masked_trial,
    "two batches of 3 padded sequences, 32 and 6 tokens predicted": uneven_trial,
    "two batches of 3 and 1 full sequences": compared(by_adapter, model, data(*FULL[:3]), data(LENGTH)),
    "torch alone, one LayerNorm, as the peer differentiates": norm_trial,
    "bfloat16 weights, product": half(torch.bfloat16),
    "float16 weights, product": half(torch.float16),
    "the wrong Hessians of curvlinops, altered": mended_trial,
    "bfloat16 weights, SLQ": slq_trial,
    "train mode with dropout": dropout_trial,
    "batches that differ from pass to pass": changing_trial,
    "a second operator on the same model": again_trial,
    "killed after 2 of 4 probes": resume_trial,
}


def tried(peer: str) -> dict[str, str]:
    """All trials of one peer."""
    warnings.simplefilter("ignore")
    return {title: attempt(lambda trial=trial: trial(peer)) for title, trial in TRIALS.items()}


def trials_table() -> list[str]:
    """All trials of all peers, each peer in a process of its own, in markdown."""
    columns = []
    for peer in ORDER:
        done = subprocess.run([sys.executable, __file__, "--peer", peer], capture_output=True, text=True, check=True)
        columns.append(json.loads(done.stdout.splitlines()[-1]))
    rows = [f"| {title} | {' | '.join(column[title] for column in columns)} |" for title in TRIALS]
    return [f"| | {' | '.join(ORDER)} |", "|---|" + "---|" * len(ORDER), *rows]


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["--peer"]:
        print(json.dumps(tried(sys.argv[2])))
    elif sys.argv[1:2] == ["--killed"]:
        killed(Path(sys.argv[2]))
    else:
        print("\n".join(trials_table()))
