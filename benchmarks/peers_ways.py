"""A tiny language model behind each peer's interface, and how far one product is from double backward."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from competitors import COMPETITORS, flat, reference_product, split_like
from models import NextTokenLogits, Workload
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

OURS, PYHESSIAN, EIGENTHINGS, CURVLINOPS = (one.name for one in COMPETITORS[:4])
ORDER = (PYHESSIAN, EIGENTHINGS, CURVLINOPS, OURS)
VOCABULARY, LENGTH, IGNORED = 101, 12, -100
# Rounding of float32 stays below.
RIGHT = 1e-4
Item = tuple[dict[str, Tensor], Tensor]


def model(**changes: Any) -> Any:
    """A GPT-NeoX of two layers, its weights large enough that curvature is no rounding error."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    sizes = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    attention = changes.pop("attention", None)
    config = GPTNeoXConfig(
        **(sizes | {"intermediate_size": 64, "max_position_embeddings": LENGTH, "initializer_range": 0.1} | changes)
    )
    if attention:
        config._attn_implementation = attention
    torch.manual_seed(0)
    return GPTNeoXForCausalLM(config).eval()


def data(*lengths: int) -> Item:
    """Sequences of these lengths, padded with token 0; the token that follows each, ignored where there is none."""
    rows = torch.zeros(len(lengths), LENGTH, dtype=torch.int64)
    generator = torch.Generator().manual_seed(sum(lengths) + len(lengths))
    for row, length in zip(rows, lengths, strict=True):
        row[:length] = torch.randint(1, VOCABULARY, (length,), generator=generator)
    targets = torch.full_like(rows, IGNORED)
    targets[:, :-1] = torch.where(rows[:, 1:] > 0, rows[:, 1:], IGNORED)
    inputs = {"input_ids": rows}
    return (inputs if bool(rows.all()) else inputs | {"attention_mask": (rows > 0).long()}), targets


FULL = (LENGTH,) * 4


class Logits(NextTokenLogits):
    """The wrapper that peers need: logits alone (tokens, vocabulary), the mask told from the padding."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of every position; tokens may be a mapping too."""
        inputs: Any = tokens
        if isinstance(tokens, Tensor):
            inputs = {"input_ids": tokens}
            if not bool(tokens.all()):
                inputs["attention_mask"] = (tokens > 0).long()
        output: Any = self.language_model(**inputs, use_cache=False)
        logits: Tensor = output.logits.flatten(0, 1)
        return logits


class LogitsLoss(nn.Module):
    """Cross-entropy of an output of transformers, with the attribute that curvlinops asks for."""

    reduction = "mean"

    def forward(self, output: Any, targets: Tensor) -> Tensor:
        """Mean over the tokens that count."""
        return functional.cross_entropy(output.logits.flatten(0, 1), targets.flatten())


def wrapped(network: Any, *items: Item) -> Workload:
    """The workload of the speed benchmark's adapters: tokens in, logits out."""
    pieces = [(inputs["input_ids"], targets.flatten()) for inputs, targets in items]
    whole = (torch.cat([tokens for tokens, _ in pieces]), torch.cat([targets for _, targets in pieces]))
    return Workload("tiny", "tiny", Logits(network).train(network.training), whole, pieces, {})


def by_adapter(peer: str, network: Any, items: tuple[Item, ...], vector: Tensor, matrix: str) -> Tensor:
    """A product as the speed benchmark has it; ours as transformers loads the model."""
    given = wrapped(network, *items)
    if peer == OURS:
        given = replace(given, model=network, batch=items[0], pieces=list(items))
    prepare = next(one.prepare for one in COMPETITORS if one.name == peer)
    prepared = prepare(given, len(items) > 1, matrix)
    return prepared.products(prepared.build(), vector.unsqueeze(0))[0]


def natural(
    peer: str, network: Any, items: Any, vector: Tensor, matrix: str = "hessian", helped: bool = False, **options: Any
) -> Tensor:
    """A product with the model and the batches as transformers has them; ``helped`` with a loss that takes them."""
    if peer == EIGENTHINGS:
        import hessian_eigenthings as eigenthings

        batches = [inputs | {"labels": labels(inputs)} for inputs, _ in items]
        if matrix == "hessian":
            return eigenthings.HessianOperator(network, batches, eigenthings.hf_lm_loss()).matvec(vector).detach()
        parts = eigenthings.hf_lm_forward(), eigenthings.hf_lm_loss_of_output()
        return eigenthings.GGNOperator(network, batches, *parts).matvec(vector).detach()
    single = [(inputs if len(inputs) > 1 else inputs["input_ids"], targets) for inputs, targets in items]
    if peer == PYHESSIAN:
        import pyhessian

        loss = LogitsLoss() if helped else functional.cross_entropy
        operator = pyhessian.hessian(network, loss, data=single[0], cuda=False)
        pieces = split_like(vector, operator.params)
        return flat(pyhessian.utils.hessian_vector_product(operator.gradsH, operator.params, pieces)).detach()
    if peer == CURVLINOPS:
        import curvlinops

        kind = {"hessian": curvlinops.HessianLinearOperator, "gauss-newton": curvlinops.GGNLinearOperator}[matrix]
        loss = LogitsLoss() if helped else nn.CrossEntropyLoss()
        more = {"check_deterministic": False, "batch_size_fn": rows_of} | options
        return kind(network, loss, list(network.parameters()), single, **more) @ vector
    return by_adapter(OURS, network, tuple(items), vector, matrix)


def in_wrapper(peer: str, network: Any, items: Any, vector: Tensor, matrix: str, **options: Any) -> Tensor:
    """A product of a model in a wrapper that takes a dict and returns logits alone."""
    flattened = [(inputs, targets.flatten()) for inputs, targets in items]
    return natural(peer, Logits(network), flattened, vector, matrix, **options)


def rows_of(inputs: Any) -> int:
    """Sequences of a batch."""
    return len(inputs["input_ids"] if not isinstance(inputs, Tensor) else inputs)


def labels(inputs: dict[str, Tensor]) -> Tensor:
    """What transformers takes as labels: the tokens, padding ignored."""
    return torch.where(inputs["input_ids"] > 0, inputs["input_ids"], IGNORED)


def probe(network: Any) -> Tensor:
    """A random vector of the parameters' dtype."""
    size = sum(one.numel() for one in network.parameters())
    return torch.randn(size, generator=torch.Generator().manual_seed(1)).to(next(network.parameters()).dtype)


def sandwich(given: Workload, vector: Tensor) -> Tensor:
    """One Gauss-Newton product by double vjp, of a mean over the tokens that count."""
    parameters = list(given.model.parameters())
    logits = given.model(given.batch[0])
    dummy = torch.zeros_like(logits, requires_grad=True)
    pulled = torch.autograd.grad(logits, parameters, dummy, create_graph=True)
    (change,) = torch.autograd.grad(pulled, dummy, split_like(vector, parameters), retain_graph=True)
    leaf = logits.detach().requires_grad_()
    (slope,) = torch.autograd.grad(functional.cross_entropy(leaf, given.batch[1]), leaf, create_graph=True)
    (bent,) = torch.autograd.grad(slope, leaf, change)
    return flat(torch.autograd.grad(logits, parameters, bent)).detach()


def distance(found: Tensor, network: Any, items: tuple[Item, ...], vector: Tensor, matrix: str) -> float:
    """Relative distance from double backward in float64 on all data in one batch."""
    # A copy: what a peer has left in the model must not be in the reference.
    exact = wrapped(copy.deepcopy(network).eval().double(), *items)
    for one in exact.model.parameters():
        one.grad = None
    with sdpa_kernel(SDPBackend.MATH):
        if matrix == "hessian":
            expected = reference_product(exact, matrix, vector.double())
        else:
            expected = sandwich(exact, vector.double())
    return float((found.double() - expected).norm() / expected.norm())


def said(off: float) -> str:
    """A distance in words."""
    if off != off:
        return "**not finite**"
    return f"works ({off:.0e})" if off < RIGHT else f"**wrong by {100 * off:.3g} %**"


def attempt(run: Callable[[], str]) -> str:
    """What a run says, or the error's first line."""
    try:
        return run()
    except Exception as problem:
        lines = str(problem).strip().splitlines() or [""]
        line = lines[0][:170].replace("|", "/")
        return f"`{type(problem).__name__}: {line}`"


def compared(
    product: Callable[..., Tensor], network: Any, *items: Item, matrix: str = "hessian", **more: Any
) -> Callable[[str], str]:
    """A trial: one product of each peer against double backward; peers without the matrix are passed over."""

    def trial(peer: str) -> str:
        if matrix not in next(one.matrices for one in COMPETITORS if one.name == peer):
            return "has none"
        fresh, guard = network(), more.get("guard", True) and peer != OURS
        vector = probe(fresh)
        with sdpa_kernel(SDPBackend.MATH) if guard else nullcontext():
            found = product(peer, fresh, items, vector, matrix)
        off = distance(found, fresh, items, vector, matrix)
        return f"runs, off by {100 * off:.2g} %" if more.get("rough") else said(off)

    return trial
