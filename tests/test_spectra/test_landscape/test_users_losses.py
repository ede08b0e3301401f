"""The table of losses: each is the user's own training loss, or is refused by a sentence that names the cause.

The truth is the loss as a training script has it, averaged over all data, and its dense float64 Hessian by double
backward on the model's own parameters. ``docs/concepts/trust.md`` states the number of rows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spectra.costs import CrossEntropy, Part, binary_cross_entropy, cross_entropy, kl_from_anchor, mean_squared_error
from spectra.errors import UserError
from spectra.landscape import Landscape
from spectra.operators import Fisher, GaussNewton, Hessian

N, K, T = 12, 3, 4
WEIGHTS = torch.tensor([0.2, 1.0, 2.5])


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def classes(*shape: int, seed: int = 5) -> Tensor:
    return torch.randint(0, K, shape, generator=torch.Generator().manual_seed(seed))


def soft(*shape: int, axis: int = -1) -> Tensor:
    return numbers(*shape, seed=7).softmax(axis)


def some_ignored(targets: Tensor, value: int = -100) -> Tensor:
    return torch.where(torch.arange(targets.numel()).reshape(targets.shape) % 3 == 0, value, targets)


class Steps(nn.Module):
    """Outputs (N, K, T) from inputs (N, 2, T); or (N, T, K)."""

    def __init__(self, last: bool = False, width: int = K) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv1d(2, width, 1), last

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv(torch.tanh(x))
        return out.transpose(1, 2) if self.last else out


class Heads(nn.Module):
    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.main, self.other, self.kind = nn.Linear(4, K), nn.Linear(4, 1), kind

    def forward(self, x: Tensor) -> Any:
        return self.kind(self.main(x), self.other(x))


def dense(outputs: int, end: nn.Module | None = None) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, outputs), *([end] if end else []))


FLAT, ROWS = numbers(N, 4, seed=1), numbers(N, 2, T, seed=2)
SQUARE = numbers(N, 2, K, seed=3)
PICTURE = numbers(3, 2, 2, 5, seed=4)
BINARY = (numbers(N, 1, seed=8) > 0).double()
MANY = (numbers(N, K, seed=9) > 0).double()
REAL = numbers(N, K, seed=10)

Loss = Callable[[Any, Any], Tensor]
# Name, model, inputs, targets, what is given as cost, and the training loss: another one where it is None.
Row = tuple[str, Callable[[], nn.Module], Tensor, Any, Any, Loss | None]


def module_row(name: str, model: Callable[[], nn.Module], x: Tensor, y: Any, loss: Any, **options: Any) -> Row:
    """A loss of torch.nn, given unreduced; the truth has reduction="mean"."""
    return name, model, x, y, loss(reduction="none", **options), loss(**options)


def mean_of(cost: Callable[[Any, Any], Tensor]) -> Loss:
    return lambda outputs, targets: cost(outputs, targets).mean()


def contrastive(outputs: Tensor, targets: Tensor) -> Tensor:
    near = F.normalize(outputs, dim=-1)
    return F.cross_entropy(near @ near.T / 0.5, torch.arange(len(near)).roll(1), reduction="none") + 0.0 * targets


def entropy_of(**options: Any) -> Loss:
    return lambda outputs, targets: F.cross_entropy(outputs, targets, **options)


ROWS_OF_LOSSES: list[Row] = [
    ("cross_entropy", lambda: dense(K), FLAT, classes(N), cross_entropy, F.cross_entropy),
    ("cross_entropy ignored", lambda: dense(K), FLAT, some_ignored(classes(N)), cross_entropy, F.cross_entropy),
    ("cross_entropy soft", lambda: dense(K), FLAT, soft(N, K), cross_entropy, F.cross_entropy),
    ("cross_entropy classes second", Steps, ROWS, classes(N, T), cross_entropy, F.cross_entropy),
    (
        "cross_entropy classes last",
        lambda: Steps(last=True),
        ROWS,
        classes(N, T),
        cross_entropy,
        lambda o, t: F.cross_entropy(o.reshape(-1, K), t.reshape(-1)),
    ),
    ("cross_entropy soft second", Steps, ROWS, soft(N, K, T, axis=1), cross_entropy, F.cross_entropy),
    (
        "cross_entropy of pictures",
        lambda: nn.Conv2d(2, K, 1),
        PICTURE,
        classes(3, 2, 5),
        cross_entropy,
        F.cross_entropy,
    ),
    ("cross_entropy axis said", Steps, SQUARE, classes(N, K), CrossEntropy(class_axis=1), F.cross_entropy),
    (
        "cross_entropy last axis said",
        lambda: Steps(last=True),
        SQUARE,
        classes(N, K),
        CrossEntropy(class_axis=-1),
        lambda o, t: F.cross_entropy(o.reshape(-1, K), t.reshape(-1)),
    ),
    module_row("CrossEntropyLoss", lambda: dense(K), FLAT, classes(N), nn.CrossEntropyLoss),
    module_row("CrossEntropyLoss weight", lambda: dense(K), FLAT, classes(N), nn.CrossEntropyLoss, weight=WEIGHTS),
    module_row("CrossEntropyLoss smooth", lambda: dense(K), FLAT, classes(N), nn.CrossEntropyLoss, label_smoothing=0.2),
    module_row(
        "CrossEntropyLoss weight and smooth",
        lambda: dense(K),
        FLAT,
        some_ignored(classes(N)),
        nn.CrossEntropyLoss,
        weight=WEIGHTS,
        label_smoothing=0.3,
    ),
    module_row("CrossEntropyLoss soft", lambda: dense(K), FLAT, soft(N, K), nn.CrossEntropyLoss),
    module_row("CrossEntropyLoss soft weight", lambda: dense(K), FLAT, soft(N, K), nn.CrossEntropyLoss, weight=WEIGHTS),
    module_row(
        "CrossEntropyLoss soft smooth weight",
        lambda: dense(K),
        FLAT,
        soft(N, K),
        nn.CrossEntropyLoss,
        weight=WEIGHTS,
        label_smoothing=0.1,
    ),
    module_row("CrossEntropyLoss ignored", lambda: dense(K), FLAT, some_ignored(classes(N)), nn.CrossEntropyLoss),
    module_row(
        "CrossEntropyLoss other ignored",
        lambda: dense(K),
        FLAT,
        some_ignored(classes(N), 1),
        nn.CrossEntropyLoss,
        ignore_index=1,
    ),
    module_row("CrossEntropyLoss in torch's layout", Steps, SQUARE, classes(N, K), nn.CrossEntropyLoss),
    module_row("CrossEntropyLoss steps weight", Steps, ROWS, classes(N, T), nn.CrossEntropyLoss, weight=WEIGHTS),
    ("CrossEntropyLoss mean", lambda: dense(K), FLAT, classes(N), nn.CrossEntropyLoss(), F.cross_entropy),
    ("CrossEntropyLoss sum", lambda: dense(K), FLAT, classes(N), nn.CrossEntropyLoss(reduction="sum"), F.cross_entropy),
    ("F.cross_entropy", lambda: dense(K), FLAT, classes(N), F.cross_entropy, F.cross_entropy),
    (
        "partial of F.cross_entropy",
        lambda: dense(K),
        FLAT,
        classes(N),
        functools.partial(F.cross_entropy, label_smoothing=0.1, reduction="none"),
        entropy_of(label_smoothing=0.1),
    ),
    module_row("NLLLoss", lambda: dense(K, nn.LogSoftmax(-1)), FLAT, classes(N), nn.NLLLoss),
    module_row(
        "NLLLoss weight",
        lambda: dense(K, nn.LogSoftmax(-1)),
        FLAT,
        some_ignored(classes(N)),
        nn.NLLLoss,
        weight=WEIGHTS,
    ),
    module_row("BCEWithLogitsLoss one", lambda: dense(1), FLAT, BINARY, nn.BCEWithLogitsLoss),
    module_row("BCEWithLogitsLoss many", lambda: dense(K), FLAT, MANY, nn.BCEWithLogitsLoss),
    module_row("BCEWithLogitsLoss weight", lambda: dense(K), FLAT, MANY, nn.BCEWithLogitsLoss, weight=WEIGHTS),
    module_row("BCEWithLogitsLoss positive", lambda: dense(K), FLAT, MANY, nn.BCEWithLogitsLoss, pos_weight=WEIGHTS),
    module_row("BCEWithLogitsLoss steps", Steps, ROWS, soft(N, K, T), nn.BCEWithLogitsLoss),
    (
        "binary_cross_entropy",
        lambda: dense(1),
        FLAT,
        BINARY.long(),
        binary_cross_entropy,
        lambda o, t: F.binary_cross_entropy_with_logits(o, t.double()),
    ),
    module_row("BCELoss", lambda: dense(K, nn.Sigmoid()), FLAT, MANY, nn.BCELoss),
    ("mean_squared_error", lambda: dense(K), FLAT, REAL, mean_squared_error, F.mse_loss),
    module_row("MSELoss", lambda: dense(K), FLAT, REAL, nn.MSELoss),
    module_row("MSELoss steps", Steps, ROWS, numbers(N, K, T), nn.MSELoss),
    ("F.mse_loss", lambda: dense(1), FLAT, BINARY, F.mse_loss, F.mse_loss),
    module_row("L1Loss", lambda: dense(K), FLAT, REAL, nn.L1Loss),
    module_row("SmoothL1Loss", lambda: dense(K), FLAT, REAL, nn.SmoothL1Loss, beta=0.5),
    module_row("HuberLoss", lambda: dense(K), FLAT, REAL, nn.HuberLoss, delta=0.7),
    module_row("KLDivLoss", lambda: dense(K, nn.LogSoftmax(-1)), FLAT, soft(N, K), nn.KLDivLoss),
    (
        "KLDivLoss batchmean",
        lambda: dense(K, nn.LogSoftmax(-1)),
        FLAT,
        soft(N, K),
        nn.KLDivLoss(reduction="batchmean"),
        nn.KLDivLoss(reduction="batchmean"),
    ),
    module_row("PoissonNLLLoss", lambda: dense(K), FLAT, MANY, nn.PoissonNLLLoss),
    module_row("SoftMarginLoss", lambda: dense(K), FLAT, 2.0 * MANY - 1.0, nn.SoftMarginLoss),
    module_row("HingeEmbeddingLoss", lambda: dense(K), FLAT, 2.0 * MANY - 1.0, nn.HingeEmbeddingLoss),
    module_row("MultiLabelSoftMarginLoss", lambda: dense(K), FLAT, MANY, nn.MultiLabelSoftMarginLoss),
    (
        "one's own",
        lambda: dense(K),
        FLAT,
        REAL,
        lambda o, t: (o - t).pow(4).sum(-1),
        mean_of(lambda o, t: (o - t).pow(4).sum(-1)),
    ),
    (
        "one's own of shape (N, 1)",
        lambda: dense(1),
        FLAT,
        BINARY,
        lambda o, t: (o - t).cosh(),
        mean_of(lambda o, t: (o - t).cosh()),
    ),
    (
        "a module of one's own with weights",
        lambda: dense(K),
        FLAT,
        REAL,
        type("Weighted", (nn.Module,), {"forward": lambda _, o, t: ((o - t) ** 2 * WEIGHTS.to(o)).sum(-1)})(),
        mean_of(lambda o, t: ((o - t) ** 2 * WEIGHTS.to(o)).sum(-1)),
    ),
    (
        "tuple outputs",
        lambda: Heads(lambda *both: both),
        FLAT,
        classes(N),
        lambda o, t: F.cross_entropy(o[0], t, reduction="none") + o[1].squeeze(1).square(),
        mean_of(lambda o, t: F.cross_entropy(o[0], t, reduction="none") + o[1].squeeze(1).square()),
    ),
    (
        "part of a mapping",
        lambda: Heads(lambda main, other: {"main": main, "other": other}),
        FLAT,
        classes(N),
        Part("main", cross_entropy),
        lambda o, t: F.cross_entropy(o["main"], t),
    ),
    (
        "part of a tuple, weighted",
        lambda: Heads(lambda *both: both),
        FLAT,
        {"class": classes(N), "value": BINARY},
        Part(1, mean_squared_error, "value"),
        lambda o, t: F.mse_loss(o[1], t["value"]),
    ),
]
REFUSED_LOSSES: list[tuple[str, Callable[[], nn.Module], Tensor, Any, Any, str]] = [
    ("axis of classes unknown", Steps, SQUARE, classes(N, K), cross_entropy, "which axis of outputs .*class_axis=1"),
    ("axis of the divergence unknown", Steps, SQUARE, None, kl_from_anchor, "which axis of outputs .*class_axis=1"),
    ("mean by hand", lambda: dense(K), FLAT, classes(N), lambda o, t: F.cross_entropy(o, t), "one value a sample"),
    (
        "elements by hand",
        lambda: dense(K),
        FLAT,
        REAL,
        lambda o, t: (o - t) ** 2,
        "average the elements of each sample",
    ),
    (
        "ignored under one's own",
        lambda: dense(K),
        FLAT,
        some_ignored(classes(N)),
        lambda o, t: F.cross_entropy(o, t, reduction="none"),
        "have the class -100",
    ),
    ("NLLLoss of logits", lambda: dense(K), FLAT, classes(N), nn.NLLLoss(), "needs log-probabilities as outputs"),
    ("targets broadcast", lambda: dense(1), FLAT, BINARY.squeeze(1), nn.MSELoss(), "targets of the outputs' shape"),
    ("a cost that fails", lambda: dense(K), FLAT, REAL, lambda o, t: o @ t, "the cost .* raised RuntimeError"),
    (
        "class weights too few",
        lambda: dense(4),
        FLAT,
        classes(N),
        nn.CrossEntropyLoss(weight=WEIGHTS),
        "4 class weights",
    ),
    ("targets out of range", lambda: dense(1), FLAT, REAL[:, :1], nn.BCEWithLogitsLoss(), "targets from 0 to 1"),
    ("no tensor", lambda: Heads(lambda *both: both), FLAT, classes(N), cross_entropy, r"use Part\(name, cost\)"),
    (
        "no such part",
        lambda: Heads(lambda *both: both),
        FLAT,
        classes(N),
        Part("main", cross_entropy),
        "have no part 'main': there is tuple of 2",
    ),
]


def made(model: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return model().double()


def whole(parts: Any, like: list[Tensor]) -> Tensor:
    pairs = zip(parts, like, strict=True)
    return torch.cat([(torch.zeros_like(one) if part is None else part).reshape(-1) for part, one in pairs])


def dense_hessian(cost: Tensor, parameters: list[Tensor]) -> Tensor:
    slopes = torch.autograd.grad(cost, parameters, create_graph=True, allow_unused=True)
    flat = whole(slopes, parameters)
    rows = []
    for one in flat:
        if not one.requires_grad:
            rows.append(torch.zeros_like(flat))
            continue
        row = torch.autograd.grad(one, parameters, retain_graph=True, allow_unused=True)
        rows.append(whole(row, parameters))
    return torch.stack(rows).detach()


def output_hessian(model: nn.Module, loss: Loss, x: Tensor, y: Any) -> Tensor:
    """``J^T (d^2 loss / d outputs^2) J`` over all data at once, by torch's own Jacobian and Hessian."""
    parameters = dict(model.named_parameters())
    sizes = [p.numel() for p in parameters.values()]

    def flat_outputs(theta: Tensor) -> Tensor:
        parts = {n: t.view(p.shape) for (n, p), t in zip(parameters.items(), theta.split(sizes), strict=True)}
        return torch.func.functional_call(model, parts, (x,))

    theta = torch.cat([p.detach().reshape(-1) for p in parameters.values()])
    outputs = flat_outputs(theta)
    jacobian = torch.autograd.functional.jacobian(lambda at: flat_outputs(at).reshape(-1), theta)
    inner = torch.autograd.functional.hessian(lambda o: loss(o.view(outputs.shape), y), outputs.detach().reshape(-1))
    return jacobian.T @ inner @ jacobian


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides the total loss")
@pytest.mark.parametrize("row", ROWS_OF_LOSSES, ids=lambda row: row[0])
def test_the_cost_is_the_training_loss(row: Row) -> None:
    _, build, x, y, given, loss = row
    model = made(build)
    truth = loss.double() if isinstance(loss, nn.Module) else loss
    cost = truth(model(x), y)
    landscape = Landscape(model, given, [(x, y)])
    assert landscape.cost() == pytest.approx(cost.item(), rel=1e-12, abs=1e-14)
    slopes = torch.autograd.grad(cost, list(model.parameters()), retain_graph=True, allow_unused=True)
    slope = whole(slopes, list(model.parameters()))
    torch.testing.assert_close(landscape.gradient(), slope, rtol=1e-9, atol=1e-12)
    expected = dense_hessian(truth(model(x), y), list(model.parameters()))
    torch.testing.assert_close(Hessian(landscape).to_dense(), expected, rtol=1e-8, atol=1e-11)


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides the total loss")
@pytest.mark.parametrize("row", [row for row in ROWS_OF_LOSSES if not isinstance(row[3], dict)], ids=lambda row: row[0])
def test_its_gauss_newton_matrix_is_torchs_own(row: Row) -> None:
    _, build, x, y, given, loss = row
    model = made(build)
    if not isinstance(model(x), Tensor):
        pytest.skip("the truth here is of one tensor")
    if row[0].startswith("NLLLoss"):
        pytest.skip(
            "the loss is linear in log-probabilities: its Gauss-Newton matrix is that of the logits, tested below"
        )
    truth = loss.double() if isinstance(loss, nn.Module) else loss
    landscape = Landscape(model, given, [(x, y)])
    expected = output_hessian(model, truth, x, y)
    torch.testing.assert_close(GaussNewton(landscape).to_dense(), expected, rtol=1e-8, atol=1e-11)
    if landscape.likelihood is not None:
        torch.testing.assert_close(Fisher(landscape).to_dense(), expected, rtol=1e-8, atol=1e-11)


def test_the_gauss_newton_matrix_of_log_probabilities_is_that_of_the_logits() -> None:
    logits, logs = made(lambda: dense(K)), made(lambda: dense(K, nn.LogSoftmax(-1)))
    one = Landscape(logs, nn.NLLLoss(weight=WEIGHTS), (FLAT, classes(N)))
    two = Landscape(logits, nn.CrossEntropyLoss(weight=WEIGHTS), (FLAT, classes(N)))
    torch.testing.assert_close(GaussNewton(one).to_dense(), GaussNewton(two).to_dense(), rtol=1e-9, atol=1e-12)


def test_a_loss_without_second_derivative_is_refused_for_the_hessian_alone() -> None:
    landscape = Landscape(made(lambda: dense(K)), nn.MultiMarginLoss(), (FLAT, classes(N)))
    assert float(landscape.gradient().norm()) > 0.0
    with pytest.raises(UserError, match="derivative for aten::multi_margin_loss_backward is not implemented"):
        Hessian(landscape).to_dense()


@pytest.mark.parametrize("row", REFUSED_LOSSES, ids=lambda row: row[0])
def test_what_cannot_be_told_is_refused(row: tuple[str, Any, Tensor, Any, Any, str]) -> None:
    _, build, x, y, given, message = row
    with pytest.raises(UserError, match=message):
        Landscape(made(build), given, [(x, y)])


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(weight=WEIGHTS),
        nn.BCEWithLogitsLoss(pos_weight=WEIGHTS),
        nn.CrossEntropyLoss(label_smoothing=0.1),
    ],
    ids=["class weights", "positive weights", "smoothing"],
)
def test_the_weights_of_a_loss_follow_the_dtype(loss: nn.Module) -> None:
    y = MANY if isinstance(loss, nn.BCEWithLogitsLoss) else classes(N)
    model = made(lambda: dense(K)).float()
    narrow = Landscape(model, loss, (FLAT.float(), y))
    wide = narrow.to(dtype=torch.float64)
    expected = loss.double()(made(lambda: dense(K))(FLAT), y).item()
    assert narrow.cost() == pytest.approx(expected, rel=1e-5)
    assert wide.cost() == pytest.approx(loss.double()(model.double()(FLAT.float().double()), y).item(), rel=1e-12)
    assert wide.dtype == torch.float64


def test_batches_of_a_weighted_loss_are_averaged_over_all_data() -> None:
    """Not over the batches' own means, which have other sums of weights."""
    model, y = made(lambda: dense(K)), classes(N)
    loss = nn.CrossEntropyLoss(weight=WEIGHTS.double())
    batches = [(FLAT[:5], y[:5]), (FLAT[5:], y[5:])]
    assert Landscape(model, loss, batches).cost() == pytest.approx(loss(model(FLAT), y).item(), rel=1e-12)
    apart = Landscape(model, loss, batches, joinable=False)
    assert apart.cost() == pytest.approx(loss(model(FLAT), y).item(), rel=1e-12)


@pytest.mark.slow
def test_the_sampled_fisher_converges_to_the_exact_one() -> None:
    """Twenty thousand draws: each entry within 6 standard errors of its mean, 1e-8 a try for 27 squared entries."""
    for given, y in (
        (nn.BCEWithLogitsLoss(pos_weight=WEIGHTS), MANY),
        (nn.CrossEntropyLoss(weight=WEIGHTS), classes(N)),
    ):
        landscape = Landscape(made(lambda: dense(K)), given, (FLAT, y))
        exact = Fisher(landscape).to_dense()
        found = torch.stack([Fisher(landscape, kind="sampled", draws=500, seed=s).to_dense() for s in range(40)])
        error = found.std(0) / 40**0.5
        assert bool(((found.mean(0) - exact).abs() <= 6.0 * error + 1e-12).all())


def test_contrastive_batches_are_left_as_they_came() -> None:
    model = made(lambda: dense(K))
    batches = [(FLAT[:6], torch.zeros(6)), (FLAT[6:], torch.zeros(6))]
    landscape = Landscape(model, contrastive, batches)
    truth = sum(contrastive(model(x), y).sum() for x, y in batches) / N
    assert landscape.cost() == pytest.approx(truth.item(), rel=1e-12)
    torch.testing.assert_close(
        Hessian(landscape).to_dense(), dense_hessian(truth, list(model.parameters())), rtol=1e-8, atol=1e-11
    )
    assert any("batches are evaluated as they came" in note for note in landscape.notes)
    with pytest.raises(UserError, match="a sample's cost depends on other rows of the outputs"):
        Fisher(landscape, kind="empirical").to_dense()
