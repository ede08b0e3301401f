import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from spectra.costs import KLFromAnchor, cross_entropy, kl_from_anchor, mean_squared_error
from spectra.errors import UserError
from spectra.landscape import Landscape
from spectra.model import Batch, Batches
from spectra.operators import Fisher, GaussNewton, Hessian

INPUTS = torch.randn(10, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
TARGETS = torch.arange(10) % 3
SOFT = torch.full((10, 3), 1.0 / 3.0, dtype=torch.float64)
UNEVEN = [(INPUTS[:8], TARGETS[:8]), (INPUTS[8:], TARGETS[8:])]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


class Keyword(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = network()

    def forward(self, *, x: Tensor, scale: Tensor) -> Tensor:
        return self.inner(x) * scale


def plain_cost(model: nn.Module, rows: slice = slice(None)) -> float:
    return float(F.cross_entropy(model(INPUTS[rows]), TARGETS[rows]).detach())


class TestData:
    @pytest.mark.parametrize(
        "batches",
        [
            (INPUTS, TARGETS),
            UNEVEN,
            [Batch(*UNEVEN[0]), Batch(*UNEVEN[1])],
            DataLoader(TensorDataset(INPUTS, TARGETS), batch_size=4),
            Batches(UNEVEN, cache_bytes=0),
        ],
        ids=["tensors", "list", "batch objects", "loader", "not kept"],
    )
    def test_every_form_of_data_gives_the_mean_over_samples(self, batches: Any) -> None:
        landscape = Landscape(network(), cross_entropy, batches)
        assert landscape.cost() == pytest.approx(plain_cost(network()), rel=1e-14)
        assert landscape.total_weight == 10

    def test_mappings_are_keyword_arguments(self) -> None:
        scale = torch.ones(10, 1, dtype=torch.float64)
        items = [{"x": x, "scale": scale[: len(x)], "labels": y} for x, y in UNEVEN]
        assert Landscape(Keyword(), cross_entropy, items).cost() == pytest.approx(plain_cost(network()), rel=1e-14)

    def test_inputs_alone(self) -> None:
        landscape = Landscape(network(), kl_from_anchor, INPUTS)
        assert landscape.cost() == pytest.approx(0.0, abs=1e-14)

    @pytest.mark.parametrize(
        "batches, message",
        [
            ((one for one in UNEVEN), "is an iterator, which can be read only once"),
            ([], "the data is empty"),
            (DataLoader(TensorDataset(INPUTS, TARGETS), batch_size=5, shuffle=True), "not deterministic: two passes"),
        ],
        ids=["generator", "empty", "shuffled"],
    )
    def test_unusable_data_is_refused(self, batches: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Landscape(network(), cross_entropy, batches)

    @pytest.mark.parametrize("batches", [3, ["text"], [(INPUTS, TARGETS, TARGETS, TARGETS)]])
    def test_what_is_no_data_is_refused(self, batches: Any) -> None:
        with pytest.raises(TypeError, match="must be (tensors or|a tensor)"):
            Landscape(network(), cross_entropy, batches)

    def test_small_batches_are_merged_and_nothing_changes(self) -> None:
        merged = Landscape(network(), cross_entropy, UNEVEN)
        apart = Landscape(network(), cross_entropy, Batches(UNEVEN, cache_bytes=0))
        assert [batch.rows for batch in merged.iterate()] == [10]
        assert [batch.rows for batch in apart.iterate()] == [8, 2]
        assert merged.cost() == pytest.approx(apart.cost(), rel=1e-15)
        torch.testing.assert_close(merged.gradient(), apart.gradient(), rtol=1e-13, atol=0.0)
        torch.testing.assert_close(Hessian(merged).to_dense(), Hessian(apart).to_dense(), rtol=1e-11, atol=1e-15)

    def test_batches_of_other_shapes_are_not_merged(self) -> None:
        model = nn.Conv1d(1, 3, 2).double()
        long, short = torch.randn(2, 1, 5, dtype=torch.float64), torch.randn(2, 1, 3, dtype=torch.float64)
        items = [(long, torch.zeros(2, 3, 4).double()), (short, torch.zeros(2, 3, 2).double())]
        landscape = Landscape(model, mean_squared_error, items)
        assert [batch.rows for batch in landscape.iterate()] == [2, 2]

    def test_kept_batches_are_moved_once(self) -> None:
        landscape = Landscape(network(), cross_entropy, UNEVEN)
        first, second = (next(landscape.iterate()) for _ in range(2))
        assert first.inputs is second.inputs
        assert first.targets is second.targets


class TestRefusals:
    @pytest.mark.parametrize("value", [torch.nan, torch.inf])
    def test_data_that_is_not_finite_names_batch_and_value(self, value: float) -> None:
        broken = INPUTS.clone()
        broken[9, 0] = value
        items = Batches([(broken[:8], TARGETS[:8]), (broken[8:], TARGETS[8:])], cache_bytes=0)
        with pytest.raises(ValueError, match="not finite: batch 1 gives nan"):
            Landscape(nn.Sequential(nn.Linear(4, 3)).double(), cross_entropy, items)

    def test_merged_data_that_is_not_finite_still_names_the_users_batch(self) -> None:
        broken = INPUTS.clone()
        broken[9, 0] = torch.nan
        with pytest.raises(ValueError, match="not finite: batch 1 gives nan"):
            Landscape(network(), cross_entropy, [(broken[:8], TARGETS[:8]), (broken[8:], TARGETS[8:])])

    def test_a_cost_that_is_not_one_value_a_sample(self) -> None:
        def averaged(outputs: Tensor, targets: Tensor) -> Tensor:
            return F.cross_entropy(outputs, targets)

        with pytest.raises(ValueError, match=r"cost averaged must return one value a sample.* got shape \(\)"):
            Landscape(network(), averaged, (INPUTS, TARGETS))

    @pytest.mark.parametrize(
        "cost, targets, message",
        [
            (cross_entropy, SOFT * 1.1, "sum to 1 in each row as soft targets, got a row sum of 1.1"),
            (cross_entropy, SOFT - torch.tensor([[0.5, -0.5, 0.0]]), "as soft targets, got a negative one, -0.166667"),
            (cross_entropy, SOFT * torch.nan, "got a row sum of nan"),
            (
                cross_entropy,
                INPUTS[:, :1],
                r"needs classes \(integers\) of shape \(10,\) or probabilities of shape \(10, 3\), got float64 targets "
                r"of shape \(10, 1\); for real targets use mean_squared_error",
            ),
            (cross_entropy, TARGETS[:, None].expand(10, 2), r"shape \(10,\) .* got int64 targets of shape \(10, 2\)"),
            (cross_entropy, TARGETS + 1, "needs classes from 0 to 2, or -100 for samples to ignore, got 3"),
            (cross_entropy, None, "^cost cross-entropy needs targets, the data has none$"),
            (mean_squared_error, None, "^cost mean-squared-error needs targets, the data has none$"),
            (mean_squared_error, TARGETS, r"targets of the outputs' shape \(10, 3\), got \(10,\)"),
        ],
    )
    def test_targets_that_are_none_for_the_cost(self, cost: Any, targets: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Landscape(network(), cost, [(INPUTS, targets)])

    def test_one_output_has_no_cross_entropy(self) -> None:
        with pytest.raises(ValueError, match=r"outputs of shape \(..., K\), K at least 2, got \(10, 1\)"):
            Landscape(nn.Linear(4, 1).double(), cross_entropy, (INPUTS, INPUTS[:, :1]))

    def test_soft_targets_rounded_to_half_precision_and_small_integers_pass(self) -> None:
        assert Landscape(network(), cross_entropy, (INPUTS, SOFT.half())).total_weight == 10
        found = Landscape(network(), cross_entropy, (INPUTS, TARGETS.to(torch.int8))).cost()
        assert found == pytest.approx(plain_cost(network()), rel=1e-14)

    @pytest.mark.parametrize("weights", [-torch.ones(10), torch.ones(10) * torch.nan])
    def test_weights(self, weights: Tensor) -> None:
        with pytest.raises(ValueError, match="weights must be non-negative and finite"):
            Landscape(network(), cross_entropy, (INPUTS, TARGETS, weights.double()))
        with pytest.raises(ValueError, match=r"weights must have shape \(10,\), got \(3,\)"):
            Landscape(network(), cross_entropy, (INPUTS, TARGETS, torch.ones(3)))
        with pytest.raises(ValueError, match="weights sum to zero"):
            Landscape(network(), cross_entropy, (INPUTS, TARGETS, torch.zeros(10)))

    @pytest.mark.parametrize(
        "options, message",
        [
            ({"mode": "test"}, "mode must be eval or train, got 'test'"),
            ({"l2": -1.0}, "l2 must be finite and non-negative, got -1.0"),
            ({"theta": torch.zeros(3)}, r"theta must have shape \(43,\), got \(3,\)"),
            ({"parameters": "layer*"}, "no trainable parameter matches 'layer\\*'; the model has 0.weight"),
        ],
    )
    def test_options(self, options: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Landscape(network(), cross_entropy, (INPUTS, TARGETS), **options)

    def test_dropout_in_train_mode(self) -> None:
        model = nn.Sequential(nn.Dropout(0.5), network())
        assert Landscape(model, cross_entropy, (INPUTS, TARGETS)).cost() == pytest.approx(plain_cost(network()))
        with pytest.raises(ValueError, match="the model is not deterministic: two calls .* dropout"):
            Landscape(model, cross_entropy, (INPUTS, TARGETS), mode="train")


def snapshot(model: nn.Module) -> list[Any]:
    modes = [module.training for module in model.modules()]
    tensors = [one.detach().clone() for one in (*model.parameters(), *model.buffers())]
    identities = [id(one) for one in model.parameters()]
    gradients = [None if one.grad is None else one.grad.clone() for one in model.parameters()]
    flags = [one.requires_grad for one in model.parameters()]
    return [modes, tensors, identities, gradients, flags, random.getstate(), torch.get_rng_state(), np.random.rand]


def assert_same(before: list[Any], after: list[Any]) -> None:
    for one, two in zip(before, after, strict=True):
        if isinstance(one, list):
            assert len(one) == len(two)
            assert all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in zip(one, two, strict=True))
        elif isinstance(one, Tensor):
            assert torch.equal(one, two)
        else:
            assert one == two


CALLS: dict[str, Callable[[Landscape], Any]] = {
    "cost": lambda landscape: landscape.cost(landscape.theta + 1.0),
    "gradient": lambda landscape: landscape.gradient(),
    "outputs": lambda landscape: landscape.outputs(landscape.theta + 1.0),
    "hessian": lambda landscape: Hessian(landscape).matvec(landscape.theta),
    "gauss-newton": lambda landscape: GaussNewton(landscape).matvec(landscape.theta),
    "sampled": lambda landscape: Fisher(landscape, kind="sampled").matvec(landscape.theta),
    "float32": lambda landscape: landscape.to(dtype=torch.float32).gradient(),
    "restricted": lambda landscape: Hessian(landscape).restricted("0").matvec(landscape.theta[:16]),
    "wrong theta": lambda landscape: pytest.raises(ValueError, landscape.cost, torch.zeros(2)),
    "interrupted": lambda landscape: pytest.raises(KeyboardInterrupt, landscape.evaluation.inside, {}, interrupt),
}


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("name", list(CALLS))
def test_the_model_is_left_as_found(name: str, mode: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)).double()
    model = nn.Sequential(*model[:2], model[2], model[3].eval())
    model[3].bias.requires_grad_(False)
    model[0].weight.grad = torch.ones_like(model[0].weight)
    before = snapshot(model)
    landscape = Landscape(model, mean_squared_error, (INPUTS, INPUTS[:, :2]), mode=mode)
    CALLS[name](landscape)
    assert_same(before, snapshot(model))
    names = sorted(model.state_dict())
    assert names == sorted(
        nn.Sequential(nn.Linear(4, 4, bias=False), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)).state_dict()
    )


class TestValues:
    def test_costs_are_float64_sums(self) -> None:
        model = network().float()
        batches = [(x.float(), y) for x, y in UNEVEN]
        landscape = Landscape(model, cross_entropy, batches, l2=0.1)
        thetas = landscape.theta + 0.3 * torch.randn(3, landscape.size)
        truth = []
        for theta in thetas:
            torch.nn.utils.vector_to_parameters(theta, model.parameters())
            each = F.cross_entropy(model(INPUTS.float()), TARGETS, reduction="none").detach().double()
            truth.append(sum(each.tolist()) / 10 + 0.05 * sum(v * v for v in theta.double().tolist()))
        found = landscape.costs(thetas)
        assert found.dtype == torch.float64
        # The network's own float32 rounding differs between 8 + 2 and 10 rows; the sums do not.
        np.testing.assert_allclose(found.numpy(), truth, rtol=1e-6)

    def test_gradient_is_the_derivative_of_the_cost(self) -> None:
        landscape = Landscape(network(), cross_entropy, UNEVEN, l2=0.2)
        thetas = torch.stack([landscape.theta, landscape.theta + 0.2])
        steps = 1e-6 * torch.eye(landscape.size, dtype=torch.float64)
        for theta, slope in zip(thetas, landscape.gradients(thetas), strict=True):
            truth = (landscape.costs(theta + steps) - landscape.costs(theta - steps)) / 2e-6
            torch.testing.assert_close(slope, truth, rtol=1e-6, atol=1e-9)

    @pytest.mark.parametrize("cached", [True, False])
    def test_anchors_are_kept_or_computed_again(self, cached: bool) -> None:
        data = Batches(UNEVEN, cache_bytes=0)
        storage = "memory" if cached else "recompute"
        landscape = Landscape(network(), kl_from_anchor, data, anchor_storage=storage)
        assert (landscape._anchors.kept is not None) == cached
        other = Landscape(network(), kl_from_anchor, (INPUTS, TARGETS))
        theta = landscape.theta + 0.1
        assert landscape.cost(theta) == pytest.approx(other.cost(theta), rel=1e-12)
        torch.testing.assert_close(landscape.gradient(theta), other.gradient(theta), rtol=1e-11, atol=1e-14)

    @pytest.mark.parametrize("cached", [True, False])
    @pytest.mark.parametrize("weighted", [True, False])
    def test_ignored_samples_are_ignored_under_the_divergence_too(self, cached: bool, weighted: bool) -> None:
        labels = torch.where(torch.arange(10) % 2 == 1, -100, TARGETS)
        weights = torch.linspace(0.5, 2.0, 10, dtype=torch.float64)
        batches = [(INPUTS[a:b], labels[a:b], *([weights[a:b]] if weighted else [])) for a, b in ((0, 8), (8, 10))]
        storage = "memory" if cached else "recompute"
        entropy = Landscape(network(), cross_entropy, batches, anchor_storage=storage)
        landscape = entropy.with_cost(kl_from_anchor)
        kept = labels >= 0
        each = weights[kept] if weighted else torch.ones(5, dtype=torch.float64)
        assert landscape.total_weight == entropy.total_weight == pytest.approx(float(each.sum()), rel=1e-15)
        fewer = Landscape(network(), kl_from_anchor, [(INPUTS[kept], TARGETS[kept], each)])
        theta = landscape.theta + 0.1
        assert landscape.cost(theta) == pytest.approx(fewer.cost(theta), rel=1e-12)
        torch.testing.assert_close(landscape.gradient(theta), fewer.gradient(theta), rtol=1e-11, atol=1e-14)
        torch.testing.assert_close(Fisher(landscape).to_dense(), Fisher(entropy).to_dense(), rtol=1e-11, atol=1e-15)
        every = Landscape(network(), KLFromAnchor(ignore_index=-1), batches)
        assert every.total_weight == pytest.approx(float(weights.sum()) if weighted else 10.0)

    def test_dtype_and_restriction(self) -> None:
        landscape = Landscape(network().float(), cross_entropy, [(x.float(), y) for x, y in UNEVEN])
        double = landscape.to(dtype=torch.float64)
        assert double.dtype == torch.float64
        assert double.cost() == pytest.approx(landscape.cost(), rel=1e-6)
        assert next(landscape.model.parameters()).dtype == torch.float32
        moved = Landscape(network(), cross_entropy, UNEVEN, theta=torch.ones(43))
        part = moved.restricted("2.*")
        assert part.size == 18
        assert part.cost() == pytest.approx(moved.cost(), rel=1e-12)
        torch.testing.assert_close(part.gradient(), moved.gradient()[25:], rtol=1e-13, atol=1e-16)
        assert part.to(dtype=torch.float32).cost() == pytest.approx(moved.cost(), rel=1e-5)

    @pytest.mark.parametrize(
        "patterns, names",
        [
            ("*", ["0.weight", "0.bias", "2.weight", "2.bias"]),
            ("0", ["0.weight", "0.bias"]),
            ("*.weight", ["0.weight", "2.weight"]),
            ("*,!*.bias", ["0.weight", "2.weight"]),
            ("!0", ["2.weight", "2.bias"]),
            (["2.bias", "0.bias"], ["0.bias", "2.bias"]),
        ],
    )
    def test_patterns(self, patterns: Any, names: list[str]) -> None:
        landscape = Landscape(network(), cross_entropy, (INPUTS, TARGETS), parameters=patterns)
        assert list(landscape.parameters.names) == names
        truth = dict(network().named_parameters())
        assert torch.equal(landscape.theta, torch.cat([truth[name].detach().reshape(-1) for name in names]))


def test_iterating_twice_gives_the_same(tmp_path: Any) -> None:
    class Reads:
        passes = 0

        def __iter__(self) -> Iterator[Any]:
            type(self).passes += 1
            return iter(UNEVEN)

    landscape = Landscape(network(), cross_entropy, Reads())
    passes = Reads.passes
    landscape.costs(landscape.theta.repeat(3, 1))
    landscape.gradient()
    assert Reads.passes == passes, "data that is kept is not read from its source again"


class Hiding(nn.Module):
    """Parameters that autograd does not see, in several ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.inner, self.last, self.way = nn.Linear(4, 4), nn.Linear(4, 3), way
        self.level = nn.Parameter(torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        if self.way == "checkpoint":
            return self.last(checkpoint(self.inner, x.clone().requires_grad_(), use_reentrant=True))
        if self.way == "checkpoint without graph":
            return self.last(checkpoint(self.inner, x, use_reentrant=True))
        if self.way == "detached":
            return self.last(self.inner(x).detach())
        if self.way == "threshold":
            return self.last((self.inner(x).relu() > self.level) * self.inner(x))
        return self.last(self.inner(x))


class TestHiddenParameters:
    @pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize(
        "way, message",
        [
            ("checkpoint", "has a reentrant activation checkpoint, which hides the parameters inside"),
            ("checkpoint without graph", "the cost depends on inner.weight, but autograd sees no derivative by it"),
            (
                "detached",
                "on inner.weight, .* found in the model: detach.* leave the parameter out with parameters='!inner",
            ),
        ],
    )
    def test_a_gradient_that_leaves_parameters_out_is_refused(self, way: str, message: str, dtype: Any) -> None:
        torch.manual_seed(0)
        landscape = Landscape(Hiding(way).to(dtype), cross_entropy, (INPUTS.to(dtype), TARGETS))
        for _ in range(2):
            with pytest.raises(ValueError, match=message):
                landscape.gradient()

    @pytest.mark.parametrize("way", ["threshold", "unused"])
    def test_parameters_whose_gradient_is_zero_raise_no_alarm(self, way: str) -> None:
        torch.manual_seed(0)
        landscape = Landscape(Hiding(way), cross_entropy, (INPUTS.float(), TARGETS))
        assert float(landscape.gradient()[landscape.parameters.positions("level")].norm()) == 0.0
        part = Landscape(Hiding("detached"), cross_entropy, (INPUTS.float(), TARGETS), parameters="last")
        assert float(part.gradient().norm()) > 0.0


def test_a_second_landscape_leaves_the_graphs_of_the_first_usable() -> None:
    """Checking determinism must not write into buffers that kept graphs refer to."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    data = (torch.randn(10, 3), torch.randint(2, (10,)))
    first = Hessian(Landscape(model, cross_entropy, data), strategy="double-backward")
    vectors = torch.randn(2, first.size)
    before = first.matmat(vectors)
    Landscape(model, cross_entropy, data)
    assert torch.equal(first.matmat(vectors), before)


def test_at_another_anchor_it_is_a_landscape_made_there() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)).double()
    inputs = torch.randn(12, 3, dtype=torch.float64)
    batches = [(inputs[:8], torch.arange(8) % 2), (inputs[8:], torch.arange(4) % 2)]
    first = Landscape(model, cross_entropy, batches, l2=0.1)
    with torch.no_grad():
        for tensor in (*model.parameters(), model[1].running_mean):
            tensor += 0.1
    for found in (first.at(), first.at(first.parameters.flatten(dict(model.named_parameters())))):
        made = Landscape(model, cross_entropy, batches, l2=0.1)
        assert torch.equal(found.theta, made.theta)
        assert found.cost() == pytest.approx(made.cost(), rel=1e-12)
        torch.testing.assert_close(found.gradient(), made.gradient(), rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(found.costs(first.theta[None]), made.costs(first.theta[None]), rtol=1e-12, atol=0.0)
    assert first.cost() != pytest.approx(found.cost(), rel=1e-6)
    divergence = Landscape(model, kl_from_anchor, batches).at(first.theta)
    assert divergence.cost() == pytest.approx(0.0, abs=1e-12)
    assert divergence.costs(made.theta[None]).item() > 1e-6
    with pytest.raises(UserError, match=r"parameter 0\.weight is not finite"):
        first.at(first.theta * torch.nan)


class TestRestricted:
    @pytest.mark.parametrize("cost", [cross_entropy, kl_from_anchor], ids=["cross-entropy", "kl"])
    @pytest.mark.parametrize("l2", [0.0, 0.3])
    def test_is_what_is_made_anew_and_evaluates_nothing(self, cost: Any, l2: float) -> None:
        model, calls = network(), [0]
        model.register_forward_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
        moved = Landscape(model, cost, UNEVEN, l2=l2).at(torch.linspace(-1.0, 1.0, 43, dtype=torch.float64))
        before = calls[0]
        part = moved.restricted("2.*")
        assert calls[0] == before
        anew = moved._again(
            parameters=part.parameters.names,
            theta=part.theta,
            background=moved.evaluation.background | moved.parameters.unflatten(moved.theta),
        )
        assert calls[0] > before
        assert part.parameters == anew.parameters
        assert (part.total_weight, part.samples, part.notes) == (anew.total_weight, anew.samples, anew.notes)
        assert part.anchor_cost == pytest.approx(anew.anchor_cost, rel=1e-14, abs=1e-15)
        thetas = part.theta + 0.1 * torch.randn(3, part.size, generator=torch.Generator().manual_seed(2)).double()
        assert torch.allclose(part.costs(thetas), anew.costs(thetas), rtol=1e-13, atol=1e-15)
        assert torch.allclose(part.gradient(thetas[0]), anew.gradient(thetas[0]), rtol=1e-13, atol=1e-15)
        # And of a part a part.
        again = part.restricted("2.bias")
        moved_bias = part.theta + torch.tensor([0.0] * 15 + [1.0] * 3).double()
        penalties = again.anchor_cost - part.anchor_cost
        assert again.cost(again.theta + 1.0) == pytest.approx(part.cost(moved_bias) + penalties, rel=1e-13)

    def test_notes_of_the_whole_s_gradient_are_not_those_of_a_part(self) -> None:
        class Unused(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.used, self.idle = nn.Linear(4, 3).double(), nn.Linear(4, 3).double()

            def forward(self, x: Tensor) -> Tensor:
                return self.used(x)

        landscape = Landscape(Unused(), cross_entropy, (INPUTS, TARGETS))
        landscape.gradient()
        assert any("does not depend on idle" in note for note in landscape.notes)
        assert not any("does not depend on" in note for note in landscape.restricted("used").notes)

    def test_data_of_a_model_of_several_dtypes_follows_the_variables(self) -> None:
        class Mixed(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first, self.last = nn.Linear(4, 5).double(), nn.Linear(5, 3)

            def forward(self, x: Tensor) -> Tensor:
                return self.last(torch.tanh(self.first(x.double())).float())

        part = Landscape(Mixed(), cross_entropy, (INPUTS, TARGETS)).restricted("last")
        assert part.dtype == torch.float32
        assert part.gradient().isfinite().all()
