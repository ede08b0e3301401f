"""Curvature as an optimizer meets it: dense matrices, torch's own optimizers, and where their steps diverge."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from comparisons.evidence import Evidence, StoredOptimizer, adam_preconditioner, stored_optimizer
from comparisons.flatness import INVARIANCES
from comparisons.measures import SYMMETRIES, measures_of
from spectra.checkpoint import Checkpoint
from spectra.costs import cross_entropy
from spectra.errors import UserError
from spectra.landscape import Landscape
from spectra.operators import Hessian

CHECKED = {
    "critical-sharpness-adam": ("test_of_adam_against_the_dense_matrix",),
    "preconditioned-sharpness": ("test_of_adam_against_the_dense_matrix",),
    "preconditioned-sharpness-share": ("test_of_adam_against_the_dense_matrix",),
    "gradient-sharpness": ("test_of_sgd_against_the_dense_matrix",),
    "gradient-sharpness-share": ("test_of_sgd_against_the_dense_matrix", "test_of_adam_against_the_dense_matrix"),
}


def network() -> tuple[nn.Sequential, tuple[Tensor, Tensor]]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    random = torch.Generator().manual_seed(1)
    x = torch.randn(40, 4, generator=random, dtype=torch.float64)
    return model, (x, torch.randint(0, 3, (40,), generator=random))


def trained(make: Callable[[Any], torch.optim.Optimizer], steps: int = 7) -> Evidence:
    """A network after some steps, with the state of what took them."""
    model, (x, y) = network()
    optimizer = make(model.named_parameters())
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return evidence_of(Landscape(model, cross_entropy, (x, y)), optimizer.state_dict())


def evidence_of(landscape: Landscape, state: dict[str, Any]) -> Evidence:
    return Evidence(landscape, checkpoint=Checkpoint(Path("model.pt"), "", {}, copy.deepcopy(state), {}))


def value(name: str, evidence: Evidence) -> float:
    (measure,) = measures_of([name])
    return float(measure.compute(evidence).value)


def flat(evidence: Evidence, state: dict[int, dict[str, Tensor]], name: str) -> Tensor:
    return torch.cat([state[place][name].reshape(-1) for place in range(len(evidence.landscape.parameters.names))])


def test_of_adam_against_the_dense_matrix() -> None:
    evidence = trained(lambda named: torch.optim.Adam(named, lr=0.02, betas=(0.8, 0.95), eps=1e-4))
    landscape, state = evidence.landscape, evidence.checkpoint.optimizer["state"]  # type: ignore[union-attr,index]
    # P written out from torch's documentation of Adam, with its two corrections.
    scale = (flat(evidence, state, "exp_avg_sq") / (1 - 0.95**7)).sqrt() + 1e-4
    scale = (1 - 0.8**7) * scale
    hessian, g = Hessian(landscape).to_dense(), landscape.gradient()
    top = float(torch.linalg.eigvalsh(hessian / scale.sqrt() / scale.sqrt()[:, None])[-1])
    limit = 2.0 * 1.8 / (0.2 * 0.02)
    assert value("preconditioned-sharpness", evidence) == pytest.approx(top, rel=1e-9)
    assert value("preconditioned-sharpness-share", evidence) == pytest.approx(top / limit, rel=1e-9)
    d = g / scale
    along = float(d @ hessian @ d / (d @ g))
    assert along < top
    assert value("gradient-sharpness-share", evidence) == pytest.approx(along / limit, rel=1e-9)
    # Of a network it differs from the curvature by what is not quadratic up to h: here the step is found by bisection.
    low, high = 1e-6, 4.0 / along
    cost = lambda step: landscape.cost(landscape.theta - step * d)  # noqa: E731
    assert cost(high) > landscape.anchor_cost
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if cost(middle) > landscape.anchor_cost else (middle, high)
    assert value("critical-sharpness-adam", evidence) == pytest.approx(2.0 / low, rel=2e-3)


def test_the_preconditioner_is_what_torch_divides_by() -> None:
    """A step of torch's Adam is ``eta m / P`` with the m and v that it leaves."""
    model, (x, y) = network()
    optimizer = torch.optim.AdamW(model.named_parameters(), lr=0.01, betas=(0.7, 0.9), weight_decay=0.0)
    for _ in range(3):
        before = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    evidence = evidence_of(Landscape(model, cross_entropy, (x, y)), optimizer.state_dict())
    moved = before - evidence.landscape.theta
    first = flat(evidence, optimizer.state_dict()["state"], "exp_avg")
    assert torch.allclose(moved * adam_preconditioner(evidence), 0.01 * first, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("momentum, nesterov", [(0.0, False), (0.9, False), (0.9, True)])
def test_of_sgd_against_the_dense_matrix(momentum: float, nesterov: bool) -> None:
    evidence = trained(lambda named: torch.optim.SGD(named, lr=0.1, momentum=momentum, nesterov=nesterov))
    landscape = evidence.landscape
    hessian, g = Hessian(landscape).to_dense(), landscape.gradient()
    along = float(g @ hessian @ g / (g @ g))
    limit = 2.0 * (1.0 + momentum) / 0.1 / (1.0 + 2.0 * momentum * nesterov)
    assert value("gradient-sharpness", evidence) == pytest.approx(along, rel=1e-9)
    assert value("gradient-sharpness-share", evidence) == pytest.approx(along / limit, rel=1e-9)


@pytest.mark.parametrize(
    "options",
    [{}, {"momentum": 0.9}, {"momentum": 0.9, "dampening": 0.5}, {"momentum": 0.8, "nesterov": True}],
    ids=str,
)
def test_sgd_diverges_just_beyond_its_limit(options: dict[str, Any]) -> None:
    """Torch's SGD on ``l x^2 / 2``, with l 2 % below and above the limit that is read from its own state."""
    ends = []
    for share in (0.98, 1.02):
        x = nn.Parameter(torch.ones(1, dtype=torch.float64))
        optimizer = torch.optim.SGD([x], lr=0.1, **options)
        limit = stored_optimizer(evidence_of(network_landscape(), optimizer.state_dict())).limit
        for _ in range(2000):
            optimizer.zero_grad()
            (0.5 * share * limit * x.square()).sum().backward()
            optimizer.step()
        ends.append(float(x.detach().abs()))
    assert ends[0] < 1e-3
    assert ends[1] > 1e3 or ends[1] != ends[1]


def test_adam_with_a_fixed_preconditioner_diverges_just_beyond_its_limit() -> None:
    """``m <- b m + (1 - b) g``, ``x <- x - eta m / P``: P is one."""
    limit = StoredOptimizer(0.1, 0.0, 0.9, second=0.999).limit
    assert limit == pytest.approx(38.0 / 0.1)
    ends = []
    for share in (0.98, 1.02):
        x, m = 1.0, 0.0
        for _ in range(2000):
            m = 0.9 * m + 0.1 * share * limit * x
            x -= 0.1 * m
        ends.append(abs(x))
    assert ends[0] < 1e-3
    assert ends[1] > 1e3


def network_landscape() -> Landscape:
    model, data = network()
    return Landscape(model, cross_entropy, data)


def state_with(landscape: Landscape, **group: Any) -> dict[str, Any]:
    """Adam's state as a long run at the checkpoint would leave it: v the mean square of the samples' gradients."""
    names = landscape.parameters.names
    squares = torch.zeros(landscape.size, dtype=torch.float64)
    for batch in landscape.iterate():
        for row in range(batch.rows):
            one = landscape.derived([batch.cut(slice(row, row + 1))])
            squares += one.gradient().square() / batch.rows
    parts = landscape.parameters.unflatten(squares)
    moments = {
        place: {"exp_avg": torch.zeros_like(parts[name]), "exp_avg_sq": parts[name], "step": 10**6}
        for place, name in enumerate(names)
    }
    usual = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 0.0, "weight_decay": 0.0}
    return {
        "state": moments,
        "param_groups": [{**usual, **group, "params": list(range(len(names))), "param_names": list(names)}],
    }


@pytest.mark.parametrize("name", [name for name in CHECKED if name != "gradient-sharpness"])
def test_only_permutation_leaves_it_where_the_optimizer_changes_too(name: str) -> None:
    landscape = network_landscape()
    before = value(name, evidence_of(landscape, state_with(landscape)))
    (measure,) = measures_of([name])
    for change in INVARIANCES:
        moved = SYMMETRIES[change](landscape)
        after = value(name, evidence_of(moved, state_with(moved)))
        allowed = 3e-3 if name.startswith("critical") else 1e-8
        assert (abs(after - before) < allowed * before) is (change in measure.invariances), change


@pytest.mark.parametrize(
    "group, words",
    [
        ({"lr": 0.0}, "learning rate at the checkpoint is 0"),
        ({"amsgrad": True}, "AMSGrad"),
        ({"lr": "fast"}, "no number for its lr"),
    ],
)
def test_what_no_limit_is_known_of_is_refused(group: dict[str, Any], words: str) -> None:
    landscape = network_landscape()
    with pytest.raises(UserError, match=words):
        value("preconditioned-sharpness-share", evidence_of(landscape, state_with(landscape, **group)))


def test_other_optimizers_and_several_rates_are_refused() -> None:
    landscape = network_landscape()
    state = state_with(landscape)
    state["param_groups"].append({**state["param_groups"][0], "lr": 0.5})
    with pytest.raises(UserError, match="different learning rates"):
        stored_optimizer(evidence_of(landscape, state))
    state["param_groups"] = [{"lr": 0.1, "alpha": 0.99, "momentum": 0.0, "weight_decay": 0.0}]
    with pytest.raises(UserError, match="neither SGD nor Adam"):
        stored_optimizer(evidence_of(landscape, state))
    with pytest.raises(UserError, match="no optimizer state"):
        stored_optimizer(Evidence(landscape))
    with pytest.raises(UserError, match="SGD, which has no preconditioner"):
        adam_preconditioner(trained(lambda named: torch.optim.SGD(named, lr=0.1)))
    state = state_with(landscape)
    for one in state["state"].values():
        one["step"] = 0
    with pytest.raises(UserError, match="has taken no step"):
        adam_preconditioner(evidence_of(landscape, state))


def test_weight_decay_is_said_to_be_left_out() -> None:
    landscape = network_landscape()
    (measure,) = measures_of(["preconditioned-sharpness-share"])
    reading = measure.compute(evidence_of(landscape, state_with(landscape, weight_decay=0.01)))
    assert any("weight decay of 0.01" in caution for caution in reading.cautions)
