"""The table of models: the cost, its gradient and its Hessian are those of the user's own training loss, or refused.

The truth of a row is the user's loss over the batches as they come; its gradient by central differences of the loss,
its Hessian by central differences of the gradient that torch gives of a plain twin, or of the model itself. The page
``docs/concepts/trust.md`` states how many rows this table and that of losses have together.
"""

from __future__ import annotations

import copy
import math
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, IterableDataset

from spectra.compute import compute_spectrum
from spectra.costs import Part, cross_entropy, mean_squared_error
from spectra.errors import UserError
from spectra.landscape import Landscape
from spectra.operators import Fisher, GaussNewton, Hessian
from spectra.spectrum import SpectrumSettings

K = 3
Batches = list[Any]


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def integers(high: int, *shape: int, seed: int = 5) -> Tensor:
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(seed))


@dataclass
class Row:
    """A model and its data; ``loss`` gives the summed cost of a batch and how many samples it has."""

    name: str
    model: Callable[[], nn.Module]
    batches: Callable[[], Batches]
    cost: Any = cross_entropy
    loss: Callable[[nn.Module, Any], tuple[Tensor, int]] | None = None
    twin: Callable[[nn.Module], nn.Module] | None = None
    options: dict[str, Any] | None = None
    note: str = ""
    inner: bool = True  # whether the cost is a likelihood, whose Gauss-Newton matrix is looked at too


def entropy(model: nn.Module, batch: Any) -> tuple[Tensor, int]:
    outputs = model(batch[0])
    logits = outputs.reshape(-1, outputs.shape[-1])
    return F.cross_entropy(logits, batch[1].reshape(-1), reduction="sum"), len(logits)


def called(model: nn.Module, batch: dict[str, Any]) -> tuple[Tensor, int]:
    logits = model(**{key: value for key, value in batch.items() if key != "labels"})
    return F.cross_entropy(logits.reshape(-1, K), batch["labels"].reshape(-1), reduction="sum"), batch["labels"].numel()


def squares(model: nn.Module, batch: Any) -> tuple[Tensor, int]:
    return (model(batch[0]) - batch[1]).square().mean(-1).sum(), len(batch[0])


def rows_of(*shape: int, targets: tuple[int, ...] = (), count: int = 2) -> Callable[[], Batches]:
    """Two batches of unequal size."""

    def make() -> Batches:
        sizes = (5, 3)[:count]
        return [(numbers(n, *shape, seed=n), integers(K, n, *targets, seed=n)) for n in sizes]

    return make


def tokens(length: int = 4, high: int = 5, targets: bool = False, first: bool = True) -> Callable[[], Batches]:
    def make() -> Batches:
        shapes = [(n, length) if first else (length, n) for n in (4, 3)]
        return [(integers(high, *s, seed=s[0]), integers(K, *(s if targets else s[:1]), seed=s[1])) for s in shapes]

    return make


def chunks() -> Batches:
    """Time first: a text in two chunks of one width, each from a zero state."""
    x, y = integers(5, 8, 2), integers(K, 8, 2, seed=6)
    return [(x[:4], y[:4]), (x[4:], y[4:])]


class Of(nn.Module):
    """A model of a few parts and a function of them."""

    def __init__(self, forward: Callable[..., Any], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.function = forward

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self, *args, **kwargs)


def of(forward: Callable[..., Any], **parts: Callable[[], Any]) -> Callable[[], nn.Module]:
    return lambda: Of(forward, **{name: make() for name, make in parts.items()})


def linear(a: int, b: int = K) -> Callable[[], nn.Module]:
    return lambda: nn.Linear(a, b)


def weight(*shape: int) -> Callable[[], nn.Parameter]:
    return lambda: nn.Parameter(0.5 * torch.randn(*shape))


def chain(*layers: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(*(layer() for layer in layers))


def trained(model: nn.Module) -> nn.Module:
    """Running statistics that are not those of a new model."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    return model


def frozen(model: nn.Module, *names: str) -> nn.Module:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(names))
    return model


def tied() -> nn.Module:
    model = Of(lambda m, x: m.head(torch.tanh(m.inner(m.embed(x)))).mean(1), embed=nn.Embedding(K, 4),
               inner=nn.Linear(4, 4), head=nn.Linear(4, K, bias=False))  # fmt: skip
    model.head.weight = model.embed.weight
    return model


class Low(nn.Module):
    """A linear layer with an adapter of low rank on frozen weights."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.down, self.up = nn.Linear(3, K), nn.Linear(3, 1, bias=False), nn.Linear(1, K, bias=False)
        self.base.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + 0.5 * self.up(self.down(x))


class Caching(nn.Module):
    """Keeps what it has made of its weight at the first call."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.kept = nn.Linear(3, K), None

    def forward(self, x: Tensor) -> Tensor:
        if self.kept is None:
            self.kept = self.linear.weight.t() * 2.0
        return x @ self.kept + self.linear.bias


class Square(torch.autograd.Function):
    """x^2 with a right gradient, whose own derivative is right or wrong."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, right: bool) -> Tensor:
        ctx.save_for_backward(x)
        ctx.right = right
        return x.square()

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return 2.0 * (x if ctx.right else x.detach()) * slope, None


class Scaled(torch.autograd.Function):
    """x whose gradient is twice too large."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(_: Any, slope: Tensor) -> Tensor:
        return 2.0 * slope


def graph(seed: int) -> dict[str, Tensor]:
    links = (numbers(6, 6, seed=seed) > 0.5).double()
    links = links + links.T + torch.eye(6, dtype=torch.float64)
    return {
        "x": numbers(6, 2, seed=seed),
        "adj": links / links.sum(1, keepdim=True),
        "labels": integers(K, 6, seed=seed),
    }


def sparse_graphs(layout: torch.layout) -> Callable[[], Batches]:
    return lambda: [{**graph(s), "adj": graph(s)["adj"].to_sparse(layout=layout)} for s in (1, 2)]


def convolved(m: Any, x: Tensor, adj: Tensor) -> Tensor:
    return m.second(adj @ torch.tanh(m.first(adj @ x)))


def attention(m: Any, x: Tensor, mask: Tensor) -> Tensor:
    return m.head(m.attend(x, x, x, key_padding_mask=mask)[0]).mean(1)


def masked() -> Batches:
    mask = torch.zeros(4, 3, dtype=torch.bool)
    mask[1, 2] = mask[3, 1:] = True
    return [{"x": numbers(4, 3, 4, seed=s), "mask": mask, "labels": integers(K, 4, seed=s)} for s in (1, 2)]


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(4, 2, 5, dropout=0.1, batch_first=True)
    return Of(
        lambda m, x, mask: m.head(m.layer(x, src_key_padding_mask=mask)).sum(1), layer=layer, head=nn.Linear(4, K)
    )


Pair = namedtuple("Pair", "main other")


@dataclass
class Record:
    main: Tensor
    other: Tensor


def two_heads(kind: Callable[..., Any]) -> Callable[[], nn.Module]:
    return of(lambda m, x: kind(m.main(x), m.other(x)), main=linear(3), other=linear(3, 1))


def part_loss(pick: Callable[[Any], Tensor]) -> Callable[[nn.Module, Any], tuple[Tensor, int]]:
    return lambda model, b: (F.cross_entropy(pick(model(b[0])), b[1], reduction="sum"), len(b[1]))


def both(outputs: Any, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs[0], targets, reduction="none") + outputs[1].squeeze(1).square()


def both_loss(model: nn.Module, batch: Any) -> tuple[Tensor, int]:
    return both(model(batch[0]), batch[1]).sum(), len(batch[1])


def plain_norm(model: nn.Module) -> nn.Module:
    """The weights of weight_norm written out: torch's fused kernel has a wrong second derivative."""
    named = dict(model.named_parameters())
    prefix = "0.weight_{}" if "0.weight_g" in named else "0.parametrizations.weight.original{}"
    g, v = (named[prefix.format(one)] for one in (("g", "v") if "0.weight_g" in named else ("0", "1")))

    def forward(m: Any, x: Tensor) -> Tensor:
        return F.linear(torch.tanh(F.linear(x, g * v / v.norm(dim=1, keepdim=True), named["0.bias"])),
                        named["2.weight"], named["2.bias"])  # fmt: skip

    return Of(forward)


def shortened(model: nn.Module) -> nn.Module:
    """``max_norm`` as a function of the weight."""
    table, rest = model[0].weight, model[1:]

    def forward(m: Any, x: Tensor) -> Tensor:
        norms = table.norm(dim=1, keepdim=True)
        return rest(torch.where(norms > 0.7, table * 0.7 / (norms + 1e-7), table)[x])

    return Of(forward)


def with_table(**options: Any) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Embedding(5, 2, **options), nn.Tanh(), nn.Flatten(), nn.Linear(8, K))


def spoilt_padding() -> nn.Module:
    model = with_table(padding_idx=0)()
    nn.init.normal_(model[0].weight)
    return model


def in_place(m: Any, x: Tensor) -> Tensor:
    x += 1.0
    return m.linear(x)


def penalised(outputs: Tensor, targets: Tensor) -> Tensor:
    penalty = sum(parameter.square().sum() for parameter in OWNER[-1].parameters())
    return F.cross_entropy(outputs, targets, reduction="none") + 0.1 * penalty


def with_kept(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, reduction="none") + 0.1 * OWNER[-1].hidden.square().sum(-1)


def writing(outputs: Tensor, targets: Tensor) -> Tensor:
    targets += 1
    return F.cross_entropy(outputs, targets % K, reduction="none")


def packed() -> Batches:
    lengths = torch.tensor([3, 2])
    return [
        (nn.utils.rnn.pack_padded_sequence(numbers(3, 2, 2, seed=s), lengths), integers(K, 2, seed=s)) for s in (1, 2)
    ]


def owned(kind: Callable[..., nn.Module], *args: int) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        OWNER.append(kind(*args))
        return OWNER[-1]

    return make


OWNER: list[Any] = []  # the model that costs with penalties look into, as a training script's global one
HIDDEN = {"a": linear(3, 4), "b": linear(4)}
MODELS: list[Row] = [
    Row("mlp", chain(linear(3, 4), nn.Tanh, linear(4)), rows_of(3), loss=entropy),
    Row("one batch", chain(linear(3, 4), nn.GELU, linear(4)), rows_of(3, count=1), loss=entropy),
    Row("relu", chain(linear(3, 4), nn.ReLU, linear(4)), rows_of(3), loss=entropy),
    Row("relu in place", chain(linear(3, 4), lambda: nn.ReLU(inplace=True), linear(4)), rows_of(3), loss=entropy),
    Row("convolution", chain(lambda: nn.Conv1d(2, 2, 2), nn.Tanh, nn.Flatten, linear(6)), rows_of(2, 4), loss=entropy),
    Row(
        "batch norm in eval mode",
        lambda: trained(chain(lambda: nn.Conv2d(1, 2, 2), lambda: nn.BatchNorm2d(2), nn.ReLU, nn.Flatten, linear(8))()),
        rows_of(1, 3, 3),
        loss=entropy,
    ),
    Row(
        "batch norm in train mode",
        lambda: chain(linear(3, 4), lambda: nn.BatchNorm1d(4), nn.Tanh, linear(4))().train(),
        rows_of(3),
        loss=entropy,
        options={"mode": "train"},
    ),
    Row(
        "group norm",
        chain(lambda: nn.Conv1d(2, 4, 1), lambda: nn.GroupNorm(2, 4), nn.Flatten, linear(12)),
        rows_of(2, 3),
        loss=entropy,
    ),  # fmt: skip
    Row("layer norm", chain(linear(3, 4), lambda: nn.LayerNorm(4), nn.Tanh, linear(4)), rows_of(3), loss=entropy),
    Row(
        "instance norm",
        chain(lambda: nn.Conv1d(2, 2, 1), lambda: nn.InstanceNorm1d(2, affine=True), nn.Flatten, linear(8)),
        rows_of(2, 4),
        loss=entropy,
    ),  # fmt: skip
    Row("dropout in eval mode", chain(linear(3, 4), nn.Dropout, nn.Tanh, linear(4)), rows_of(3), loss=entropy),
    Row(
        "statistics of the batch",
        of(lambda m, x: m.b(torch.tanh(m.a(x) - m.a(x).mean(0))), **HIDDEN),
        rows_of(3),
        loss=entropy,
        note="batches are evaluated as they came",
    ),
    Row(
        "lstm, batch first",
        of(
            lambda m, x: m.head(m.cell(m.embed(x))[0][:, -1]),
            embed=lambda: nn.Embedding(5, 2),
            cell=lambda: nn.LSTM(2, 3, batch_first=True),
            head=linear(3),
        ),
        tokens(),
        loss=entropy,
    ),  # fmt: skip
    Row(
        "lstm, time first",
        of(
            lambda m, x: m.head(m.cell(m.embed(x))[0]),
            embed=lambda: nn.Embedding(5, 2),
            cell=lambda: nn.LSTM(2, 2),
            head=linear(2),
        ),  # fmt: skip
        chunks,
        loss=entropy,
        note="batches are evaluated as they came",
    ),
    Row(
        "gru, time first",
        of(
            lambda m, x: m.head(m.cell(m.embed(x))[0]),
            embed=lambda: nn.Embedding(5, 2),
            cell=lambda: nn.GRU(2, 2),
            head=linear(2),
        ),  # fmt: skip
        chunks,
        loss=entropy,
        note="batches are evaluated as they came",
    ),
    Row(
        "simple recurrence",
        of(lambda m, x: m.head(m.cell(x)[1][0]), cell=lambda: nn.RNN(2, 3, batch_first=True), head=linear(3)),
        rows_of(4, 2),
        loss=entropy,
    ),  # fmt: skip
    Row(
        "attention with a mask",
        of(attention, attend=lambda: nn.MultiheadAttention(4, 2, batch_first=True), head=linear(4)),
        masked,
        loss=called,
    ),  # fmt: skip
    Row("encoder layer with a mask", encoder, masked, loss=called),
    Row(
        "causal attention",
        of(
            lambda m, x: m.head(F.scaled_dot_product_attention(m.q(x), m.q(x), x, is_causal=True)).sum(1),
            q=linear(4, 4),
            head=linear(4),
        ),  # fmt: skip
        rows_of(3, 4),
        loss=entropy,
    ),
    Row("embedding", with_table(), tokens(), loss=entropy),
    Row("sparse embedding", with_table(sparse=True), tokens(), loss=entropy, twin=lambda m: copy_with(m, sparse=False)),
    Row(
        "embedding scaled by frequency",
        with_table(scale_grad_by_freq=True),
        tokens(),
        loss=entropy,
        twin=lambda m: copy_with(m, scale_grad_by_freq=False),
    ),  # fmt: skip
    Row("embedding of a largest norm", with_table(max_norm=0.7), tokens(), loss=entropy, twin=shortened),
    Row(
        "padding as a variable",
        spoilt_padding,
        tokens(),
        loss=entropy,
        options={"padding": "variable"},
        twin=lambda m: copy_with(m, padding_idx=None),
    ),  # fmt: skip
    Row(
        "padding that is masked",
        of(
            lambda m, x: (m.head(m.embed(x)) * (x > 0).unsqueeze(-1)).mean(1),
            embed=lambda: nn.Embedding(5, 2, padding_idx=0),
            head=linear(2),
        ),  # fmt: skip
        tokens(),
        loss=entropy,
    ),
    Row(
        "bag of embeddings",
        of(lambda m, x: m.head(m.bag(x)), bag=lambda: nn.EmbeddingBag(5, 2, padding_idx=0), head=linear(2)),
        tokens(),
        loss=entropy,
    ),  # fmt: skip
    Row(
        "sparse bag",
        of(lambda m, x: m.head(m.bag(x)), bag=lambda: nn.EmbeddingBag(5, 2, mode="sum", sparse=True), head=linear(2)),
        tokens(),
        loss=entropy,
        twin=lambda m: copy_with(m, "bag", sparse=False),
    ),  # fmt: skip
    Row(
        "functional embedding",
        of(lambda m, x: m.head(F.embedding(x, m.table, sparse=True)).mean(1), table=weight(5, 2), head=linear(2)),
        tokens(),
        loss=entropy,
        twin=lambda m: Of(lambda _, x: m.head(m.table[x]).mean(1)),
    ),  # fmt: skip
    Row(
        "two graphs",
        of(convolved, first=linear(2, 3), second=linear(3)),
        lambda: [graph(1), graph(2)],
        loss=called,
        note="batches are evaluated as they came",
    ),  # fmt: skip
    Row(
        "sparse graphs",
        of(convolved, first=linear(2, 3), second=linear(3)),
        sparse_graphs(torch.sparse_coo),
        loss=called,
    ),  # fmt: skip
    Row(
        "compressed graphs",
        of(convolved, first=linear(2, 3), second=linear(3)),
        sparse_graphs(torch.sparse_csr),
        loss=called,
        twin=lambda m: Of(lambda _, x, adj: m(x, adj.to_dense())),
    ),  # fmt: skip
    Row("tied weights", tied, tokens(high=K), loss=entropy),
    Row("frozen layer", lambda: frozen(chain(linear(3, 4), nn.Tanh, linear(4))(), "0"), rows_of(3), loss=entropy),
    Row("adapter", Low, rows_of(3), loss=entropy),
    Row(
        "weight_norm by a hook",
        lambda: nn.Sequential(hooked(nn.Linear(3, 4)), nn.Tanh(), nn.Linear(4, K)),
        rows_of(3),
        loss=entropy,
        twin=plain_norm,
    ),  # fmt: skip
    Row(
        "weight_norm by a parametrization",
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), nn.Tanh(), nn.Linear(4, K)),
        rows_of(3),
        loss=entropy,
        twin=plain_norm,
    ),
    Row(
        "spectral_norm in eval mode",
        lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(3, K)).eval(),
        rows_of(3),
        loss=entropy,
    ),  # fmt: skip
    Row("orthogonal", lambda: nn.utils.parametrizations.orthogonal(nn.Linear(3, K)), rows_of(3), loss=entropy),
    Row("forward hook", lambda: with_hook(nn.Linear(3, K)), rows_of(3), loss=entropy),
    Row("tuple outputs", two_heads(lambda *b: b), rows_of(3), cost=both, loss=both_loss, inner=False),
    Row(
        "part of a tuple",
        two_heads(lambda *b: b),
        rows_of(3),
        cost=Part(0, cross_entropy),
        loss=part_loss(lambda o: o[0]),
    ),  # fmt: skip
    Row(
        "part of a named tuple",
        two_heads(Pair),
        rows_of(3),
        cost=Part("main", cross_entropy),
        loss=part_loss(lambda o: o.main),
    ),  # fmt: skip
    Row(
        "part of a mapping",
        two_heads(lambda a, b: {"a": a, "b": b}),
        rows_of(3),
        cost=Part("a", cross_entropy),
        loss=part_loss(lambda o: o["a"]),
    ),  # fmt: skip
    Row(
        "part of a record",
        two_heads(Record),
        rows_of(3),
        cost=Part("main", cross_entropy),
        loss=part_loss(lambda o: o.main),
    ),  # fmt: skip
    Row(
        "several inputs",
        of(lambda m, x, y: m.a(x) * m.b(y), a=linear(3), b=linear(2)),
        lambda: [((numbers(4, 3, seed=s), numbers(4, 2, seed=s)), integers(K, 4, seed=s)) for s in (1, 2)],
        loss=lambda m, b: (F.cross_entropy(m(*b[0]), b[1], reduction="sum"), len(b[1])),
    ),  # fmt: skip
    Row(
        "a named tuple as input",
        of(lambda m, p: m.a(p.main) + p.other, a=linear(3)),
        lambda: [(Pair(numbers(4, 3, seed=s), numbers(4, K, seed=s)), integers(K, 4, seed=s)) for s in (1, 2)],
        loss=lambda m, b: (F.cross_entropy(m(b[0]), b[1], reduction="sum"), len(b[1])),
    ),  # fmt: skip
    Row(
        "writes into its input",
        of(in_place, linear=linear(3)),
        rows_of(3),
        loss=lambda m, b: (F.cross_entropy(m(b[0].clone()), b[1], reduction="sum"), len(b[1])),
    ),  # fmt: skip
    Row(
        "keeps its weights from the first call",
        Caching,
        rows_of(3),
        loss=entropy,
        twin=lambda m: Of(lambda _, x: x @ (m.linear.weight.t() * 2.0) + m.linear.bias),
    ),  # fmt: skip
    Row("custom function", of(lambda m, x: m.b(Square.apply(m.a(x), True)), **HIDDEN), rows_of(3), loss=entropy),
    Row(
        "checkpoint",
        of(lambda m, x: m.b(checkpoint(lambda v: torch.tanh(m.a(v)), x, use_reentrant=False)), **HIDDEN),
        rows_of(3),
        loss=entropy,
    ),  # fmt: skip
    Row(
        "complex numbers at an odd place",
        of(
            lambda m, x: (torch.view_as_complex(m.pairs) * x.sum(1).unsqueeze(1)).abs() + m.odd,
            odd=weight(1),
            pairs=weight(K, 2),
        ),  # fmt: skip
        rows_of(3),
        loss=entropy,
    ),
    Row(
        "a parameter without effect",
        of(lambda m, x: m.a(x), a=linear(3), unused=linear(2, 2)),
        rows_of(3),
        loss=entropy,
        note="the cost does not depend on unused.weight, unused.bias",
    ),  # fmt: skip
    Row(
        "regression",
        chain(linear(3, 4), nn.Tanh, linear(4, 2)),
        lambda: [(numbers(n, 3, seed=n), numbers(n, 2, seed=n + 1)) for n in (5, 3)],
        cost=mean_squared_error,
        loss=squares,
    ),
    Row(
        "data of inference mode",
        linear(3),
        lambda: inferred(rows_of(3)()),
        loss=lambda m, b: entropy(m, (b[0].clone(), b[1])),
    ),  # fmt: skip
    Row(
        "arrays of numpy",
        linear(3),
        lambda: [(x.numpy(), y.numpy()) for x, y in rows_of(3)()],
        loss=lambda m, b: entropy(m, tuple(map(torch.from_numpy, b))),
    ),  # fmt: skip
]


MODELS += [
    Row(
        "a cost with a penalty on the model's parameters",
        owned(nn.Linear, 3, K),
        rows_of(3),
        cost=penalised,
        inner=False,
        loss=lambda m, b: (penalised(m(b[0]), b[1]).sum(), len(b[1])),
    ),  # fmt: skip
    Row(
        "a cost of what a layer has kept",
        owned(lambda: Keeping()),
        rows_of(3),
        cost=with_kept,
        inner=False,
        loss=lambda m, b: (with_kept(m(b[0]), b[1]).sum(), len(b[1])),
    ),  # fmt: skip
    Row(
        "a cost that writes into its targets",
        linear(3),
        rows_of(3),
        cost=writing,
        inner=False,
        loss=lambda m, b: (writing(m(b[0]), b[1].clone()).sum(), len(b[1])),
    ),  # fmt: skip
    Row(
        "packed sequences",
        of(lambda m, x: m.head(m.cell(x)[1][0]), cell=lambda: nn.RNN(2, 3), head=linear(3)),
        packed,
        loss=entropy,
    ),  # fmt: skip
]


class Keeping(nn.Module):
    """Keeps its hidden values for a penalty on them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.hidden = nn.Linear(3, 4), nn.Linear(4, K), torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        self.hidden = torch.tanh(self.a(x))
        return self.b(self.hidden)


def copy_with(model: nn.Module, name: str = "0", **options: Any) -> nn.Module:
    """A twin that shares its parameters, and whose embedding has other options."""
    twin = copy.copy(model)
    twin._modules = dict(model._modules)
    twin._modules[name] = copy.copy(model._modules[name])
    for key, value in options.items():
        setattr(twin._modules[name], key, value)
    return twin


def hooked(module: nn.Module) -> nn.Module:
    return nn.utils.weight_norm(module)


def with_hook(module: nn.Module) -> nn.Module:
    module.register_forward_hook(lambda _, args, out: out * torch.tanh(args[0]).sum(1, keepdim=True))
    return module


def inferred(batches: Batches) -> Batches:
    with torch.inference_mode():
        return [(x * 1.0, y) for x, y in batches]


def mean_loss(row: Row, model: nn.Module, batches: Batches) -> Tensor:
    assert row.loss is not None
    sums = [row.loss(model, batch) for batch in batches]
    return sum(cost for cost, _ in sums) / sum(count for _, count in sums)


def flat(parts: Any, like: list[Tensor]) -> Tensor:
    pairs = zip(parts, like, strict=True)
    return torch.cat([(torch.zeros_like(one) if part is None else part).reshape(-1) for part, one in pairs])


class Truth:
    """The loss of a row as a function of its trainable parameters, moved in place."""

    def __init__(self, row: Row, model: nn.Module) -> None:
        self.row, self.batches = row, row.batches()
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.model = model if row.twin is None else row.twin(model)

    def at(self, move: Tensor) -> Tensor:
        with torch.no_grad():
            for p, part in zip(self.parameters, move.split([p.numel() for p in self.parameters]), strict=True):
                p.add_(part.view(p.shape))
        return move

    def loss(self) -> Tensor:
        if isinstance(self.model, Caching):
            self.model.kept = None
        return mean_loss(self.row, self.model, self.batches)

    def slope(self) -> Tensor:
        return flat(torch.autograd.grad(self.loss(), self.parameters, allow_unused=True), self.parameters)

    def differences(self, function: Callable[[], Tensor], step: float) -> Tensor:
        """Central differences of a function of the parameters, one row a parameter."""
        size, found = sum(p.numel() for p in self.parameters), []
        for place in range(size):
            move = torch.zeros(size, dtype=torch.float64)
            move[place] = step
            self.at(move)
            ahead = function().detach()
            self.at(-2.0 * move)
            behind = function().detach()
            self.at(move)
            found.append((ahead - behind) / (2.0 * step))
        return torch.stack(found)


def made(row: Row) -> nn.Module:
    torch.manual_seed(0)
    model = row.model().double()
    return model if row.options and row.options.get("mode") == "train" else model.eval()


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("row", MODELS, ids=lambda row: row.name)
def test_the_landscape_is_the_users(row: Row) -> None:
    model = made(row)
    given = made(row)
    landscape = Landscape(given, row.cost, row.batches(), **(row.options or {}))
    slope, matrix = landscape.gradient(), Hessian(landscape).to_dense()
    OWNER.append(model)
    truth = Truth(row, model)
    assert landscape.cost() == pytest.approx(truth.loss().item(), rel=1e-11)
    expected = truth.differences(lambda: truth.loss(), 1e-6).reshape(-1)
    torch.testing.assert_close(slope, expected, rtol=1e-6, atol=1e-9)
    expected = truth.differences(truth.slope, 1e-6)
    torch.testing.assert_close(matrix, expected, rtol=1e-5, atol=1e-8)
    if row.note:
        assert any(row.note in note for note in landscape.notes), landscape.notes
    if row.inner:
        torch.testing.assert_close(
            GaussNewton(landscape).to_dense(), Fisher(landscape).to_dense(), rtol=1e-9, atol=1e-12
        )
    once = [parameter.detach().clone() for parameter in made(row).parameters()]
    assert all(torch.equal(a, b) for a, b in zip(once, given.parameters(), strict=True))


REFUSED_MODELS: list[tuple[str, Callable[[], nn.Module], Callable[[], Batches], str]] = [
    ("padding that counts", spoilt_padding, tokens(), "depends on a padding row .row 0 of 0.weight.* padding_idx=None"),
    (
        "a gradient that is not one",
        of(lambda m, x: m.b(Scaled.apply(m.a(x))), **HIDDEN),
        rows_of(3),
        "the gradient cannot be trusted.*most by a.weight.*autograd.Function Scaled",
    ),  # fmt: skip
    (
        "a second derivative that is not one",
        of(lambda m, x: m.b(Square.apply(m.a(x), False)), **HIDDEN),
        rows_of(3),
        "the hessian cannot be trusted.*autograd.Function Square",
    ),  # fmt: skip
    (
        "detached",
        of(lambda m, x: m.b(torch.tanh(m.a(x)).detach()), **HIDDEN),
        rows_of(3),
        r"depends on a.weight.*detach\(",
    ),
    (
        "detached in part",
        of(lambda m, x: m.b(m.a(x).detach() * m.a(x)), **HIDDEN),
        rows_of(3),
        r"the gradient cannot be trusted.*detach\(\) \(test_users_models.py, line",
    ),  # fmt: skip
    (
        "no_grad",
        lambda: Of(without_gradient, a=nn.Linear(3, 4), b=nn.Linear(4, K)),
        rows_of(3),
        "torch.no_grad .test_users",
    ),
    ("data", of(lambda m, x: m.b(x @ m.a.weight.data.t()), **HIDDEN), rows_of(3), r"depends on a.weight.*\.data \("),
    (
        "straight-through rounding",
        of(lambda m, x: m.b(m.a(x) + (m.a(x).round() - m.a(x)).detach()), **HIDDEN),
        rows_of(3),
        r"cannot be trusted.*round\(\) \(test_users_models",
    ),  # fmt: skip
    (
        "reentrant checkpoint",
        of(lambda m, x: m.b(checkpoint(m.a, x.requires_grad_(), use_reentrant=True)), **HIDDEN),
        rows_of(3),
        "reentrant activation checkpoint",
    ),  # fmt: skip
    (
        "dropout that is always on",
        of(lambda m, x: m.b(F.dropout(m.a(x), 0.5, training=True)), **HIDDEN),
        rows_of(3),
        "not deterministic.*dropout",
    ),  # fmt: skip
    (
        "counts its calls",
        lambda: Of(counting, a=nn.Linear(3, K)),
        rows_of(3),
        "not deterministic.*from one call to the next",
    ),
    (
        "two paths",
        of(lambda m, x: m.a(x) * (1.0 if torch.is_grad_enabled() else 2.0), a=linear(3)),
        rows_of(3),
        "with gradients switched on than off",
    ),  # fmt: skip
    (
        "writes into its weight",
        lambda: Of(shrinking, a=nn.Linear(3, K)),
        rows_of(3),
        "writes into its parameter a.weight",
    ),
    (
        "a weight that is not a number",
        lambda: spoilt(nn.Linear(3, K)),
        rows_of(3),
        "parameter weight is not finite at the anchor: it holds nan",
    ),  # fmt: skip
    (
        "raises",
        of(lambda m, x: m.missing(x), a=linear(3)),
        rows_of(3),
        r"the model raised AttributeError.*test_users_models.py, line \d+",
    ),  # fmt: skip
]


def without_gradient(m: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        hidden = m.a(x)
    return m.b(hidden)


def counting(m: Any, x: Tensor) -> Tensor:
    m.calls = getattr(m, "calls", 0) + 1
    return m.a(x) * m.calls


def shrinking(m: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        m.a.weight.mul_(0.5)
    return m.a(x)


def spoilt(layer: nn.Linear) -> nn.Linear:
    with torch.no_grad():
        layer.weight[0, 0] = math.nan
    return layer


@pytest.mark.parametrize("row", REFUSED_MODELS, ids=lambda row: row[0])
def test_what_cannot_be_right_is_refused(row: tuple[str, Callable[[], nn.Module], Callable[[], Batches], str]) -> None:
    _, build, batches, message = row
    torch.manual_seed(0)
    with pytest.raises(UserError, match=f"(?s){message}"):
        Hessian(Landscape(build().double().eval(), cross_entropy, batches())).to_dense()


def test_a_penalty_inside_of_the_cost_has_no_gauss_newton_matrix() -> None:
    model = owned(nn.Linear, 3, K)().double()
    landscape = Landscape(model, penalised, rows_of(3)())
    with pytest.raises(UserError, match="depends on the parameters by other ways too .* l2= for the penalty"):
        GaussNewton(landscape).to_dense()


@pytest.mark.parametrize(
    "model, batches, cost, message",
    [
        (lambda: nn.Linear(3, K), rows_of(3), lambda o, t: F.dropout(o, 0.5).sum(-1) + t, "is not deterministic"),
        (lambda: nn.LazyLinear(K), rows_of(3), cross_entropy, "has no shape yet .a lazy module"),
        (lambda: "a path", rows_of(3), cross_entropy, "must be a torch.nn.Module, got str"),
        (
            lambda: nn.Linear(3, K),
            lambda: [(torch.nested.nested_tensor([numbers(3)]), integers(K, 1))],
            cross_entropy,
            "nested tensors cannot be read as data",
        ),  # fmt: skip
    ],
    ids=["cost with dropout", "lazy", "no model", "nested"],
)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype")
def test_what_is_no_model_cost_or_data(model: Any, batches: Any, cost: Any, message: str) -> None:
    made = model()
    with pytest.raises(UserError, match=message):
        Landscape(made if isinstance(made, str) else made.double(), cost, batches())


@pytest.mark.filterwarnings("ignore:`torch.jit.*` is deprecated:DeprecationWarning")
def test_torchscript_is_refused() -> None:
    with pytest.raises(UserError, match="a TorchScript model cannot be evaluated at other parameters"):
        Landscape(torch.jit.script(nn.Linear(3, K)), cross_entropy, rows_of(3)())


def test_a_padding_row_that_is_held_constant() -> None:
    """As in training: its rows and columns of the Hessian are zero, the rest is that of the variable one."""
    model, batches = spoilt_padding().double(), tokens()()
    held = Landscape(model, cross_entropy, batches, padding="constant")
    free = Landscape(model, cross_entropy, batches, padding="variable")
    expected = Hessian(free).to_dense()
    assert float(expected[:2].norm()) > 0.0
    expected[:2] = expected[:, :2] = 0.0
    torch.testing.assert_close(Hessian(held).to_dense(), expected, rtol=1e-9, atol=1e-12)
    assert held.cost(held.theta + torch.eye(held.size, dtype=torch.float64)[0]) == pytest.approx(held.cost(), rel=1e-12)
    assert any("row 0 of 0.weight is padding and is held constant" in note for note in held.notes)


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        return iter([(numbers(3, seed=s), integers(K, seed=s)) for s in range(8)])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_workers_that_repeat_the_data_are_refused() -> None:
    with pytest.raises(UserError, match="2 workers give 16 rows of a data set of 8"):
        Landscape(nn.Linear(3, K).double(), cross_entropy, DataLoader(Stream(), batch_size=4, num_workers=2))


def test_half_precision_is_said() -> None:
    model = made(MODELS[0]).bfloat16()
    landscape = Landscape(model, cross_entropy, [(x.bfloat16(), y) for x, y in rows_of(3)()])
    spectrum = compute_spectrum(landscape, SpectrumSettings(engine="dense"))
    assert any("bfloat16" in note and "float64" in note for note in spectrum.notes)
    wide = Landscape(
        made(MODELS[0]).bfloat16().double(), cross_entropy, [(x.bfloat16().double(), y) for x, y in rows_of(3)()]
    )
    truth = compute_spectrum(wide, SpectrumSettings(engine="dense")).density.trace().value
    low, high = spectrum.density.trace().interval()
    assert low < truth < high
    assert not spectrum.density.trace().exact


def test_autocast_inside_is_said() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return m.b(torch.tanh(m.a(x))).float()

    torch.manual_seed(0)
    model = Of(forward, a=nn.Linear(3, 4), b=nn.Linear(4, K))
    landscape = Landscape(model, cross_entropy, [(x.float(), y) for x, y in rows_of(3)()])
    spectrum = compute_spectrum(landscape, SpectrumSettings(engine="dense"))
    assert any("autocast or half precision inside" in note for note in spectrum.notes)
    assert spectrum.density.coarseness > 1e-3
