import math
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.sparse.linalg import eigsh
from torch import Tensor, nn

from spectra.costs import CrossEntropy, cross_entropy, kl_from_anchor, mean_squared_error
from spectra.landscape import Landscape
from spectra.model import Batches
from spectra.operators import (
    GRAPH,
    RECORDING,
    Fisher,
    GaussNewton,
    Hessian,
    MatrixOperator,
    SymmetricOperator,
    curvature,
    record,
    uniforms,
)

Make = Callable[[str], Any]
VECTORS = torch.randn(5, 400, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
SENTENCES = ("on this model", "fails here")


def assert_close(found: Tensor, truth: Tensor, relative: float = 1e-10) -> None:
    assert found.shape == truth.shape
    error = float((found - truth).norm() / truth.norm())
    assert error < relative, f"relative error {error:.2g}"


def landscape_of(subject: Any, **options: Any) -> Landscape:
    return Landscape(
        **({"model": subject.model, "cost": CrossEntropy(class_axis=-1), "batches": subject.batches} | options)
    )


def dense_hessian(subject: Any, theta: Tensor) -> Tensor:
    return subject.hessian(lambda outputs: F.cross_entropy(outputs, subject.targets()), theta)


def scores(outputs: Tensor, classes: Tensor) -> Tensor:
    """(samples, K) gradient of each sample's cross-entropy, written out."""
    return outputs.softmax(-1) - F.one_hot(classes, outputs.shape[-1])


def dense_fisher(subject: Any, theta: Tensor) -> Tensor:
    """Sum over samples and labels, each weighted by its probability."""
    outputs, jacobian = subject.function()(theta).detach(), subject.jacobian(theta)
    total = torch.zeros(len(theta), len(theta), dtype=theta.dtype)
    for label in range(outputs.shape[-1]):
        score = scores(outputs, torch.full((len(outputs),), label))
        rows = torch.einsum("ik,ikn->in", score, jacobian)
        total += torch.einsum("i,in,im->nm", outputs.softmax(-1)[:, label], rows, rows)
    return total / len(outputs)


def dense_empirical(subject: Any, theta: Tensor) -> Tensor:
    outputs = subject.function()(theta).detach()
    rows = torch.einsum("ik,ikn->in", scores(outputs, subject.targets()), subject.jacobian(theta))
    return rows.T @ rows / len(rows)


# Tracing takes seconds, so linearize is tried on those where it matters: plain, wrong, failing, layer norm.
LINEARISED = {"mlp", "slice-copies", "max-pooling", "transformer"}


def every_strategy(
    make: Callable[[str], SymmetricOperator], truth: Tensor, linearise: bool
) -> tuple[set[str], dict[str, str]]:
    """Each strategy is right, or refuses in a sentence: the names of the right ones, and the sentences."""
    right, sentences = set(), {}
    for name, strategy in {"auto": None, **make("auto")._strategies}.items():
        if strategy is not None and strategy.linearised and not linearise:
            continue
        operator = make(name)
        try:
            found = operator.matmat(VECTORS[:, : operator.size])
        except ValueError as problem:
            sentences[name] = str(problem)
            continue
        assert_close(found, VECTORS[:, : operator.size] @ truth)
        if operator.strategy == name or name == "auto":
            right.add(name)
        else:
            sentences[name] = " ".join(operator.notes)
    return right, sentences


class TestZoo:
    def test_hessian(self, specimen: Any) -> None:
        landscape = landscape_of(specimen)
        truth = dense_hessian(specimen, landscape.theta)
        right, sentences = every_strategy(
            lambda name: Hessian(landscape, strategy=name), truth, specimen.name in LINEARISED
        )
        assert {"auto", "double-backward", "recorded"} <= right
        assert all("linearize" in name or "batched" in name for name in sentences)
        assert all(any(part in sentence for part in SENTENCES) for sentence in sentences.values())

    def test_gauss_newton(self, specimen: Any) -> None:
        landscape = landscape_of(specimen)
        truth = dense_fisher(specimen, landscape.theta)
        right, sentences = every_strategy(
            lambda name: GaussNewton(landscape, strategy=name), truth, specimen.name == "mlp"
        )
        assert {"auto", "double-vjp", "recorded"} <= right
        assert all("linearize" in name or "batched" in name for name in sentences)
        assert all(any(part in sentence for part in SENTENCES) for sentence in sentences.values())

    def test_fishers(self, specimen: Any) -> None:
        landscape = landscape_of(specimen)
        vectors = VECTORS[:, : landscape.size]
        assert_close(Fisher(landscape).matmat(vectors), vectors @ dense_fisher(specimen, landscape.theta))
        empirical = Fisher(landscape, kind="empirical").matmat(vectors)
        assert_close(empirical, vectors @ dense_empirical(specimen, landscape.theta))

    def test_away_from_the_anchor(self, specimen: Any) -> None:
        landscape = landscape_of(specimen)
        theta = landscape.theta + 0.1 * torch.cos(torch.arange(landscape.size))
        vectors = VECTORS[:, : landscape.size]
        assert_close(Hessian(landscape, theta=theta).matmat(vectors), vectors @ dense_hessian(specimen, theta))
        assert_close(GaussNewton(landscape, theta=theta).matmat(vectors), vectors @ dense_fisher(specimen, theta))


class TestSteppingBack:
    def test_linearize_is_refused_on_slice_copies(self, make: Make) -> None:
        landscape = landscape_of(make("slice-copies"))
        for name in ("linearize", "linearize-batched"):
            with pytest.raises(ValueError, match=f"strategy {name} (is wrong|fails) on this model"):
                Hessian(landscape, strategy=name).matvec(landscape.theta)

    def test_the_automatic_choice_notes_a_fast_path_that_fails(self, make: Make) -> None:
        operator = Hessian(landscape_of(make("mlp")))
        broken = operator._strategies["batched-backward"]
        wrong = lambda batch: lambda vectors: 1.5 * operator._double_backward(batch)(vectors)  # noqa: E731
        operator._strategies["batched-backward"] = type(broken)("batched-backward", wrong, batched=True)
        operator.matvec(operator.theta)
        assert any("batched-backward differs from double-backward by 0.5" in note for note in operator.notes)
        assert operator.strategy != "batched-backward"

    @pytest.mark.parametrize("kind", [Hessian, GaussNewton])
    @pytest.mark.parametrize("name", ["once", "reentrant"])
    def test_what_cannot_be_differentiated_is_refused(self, custom: Any, make: Make, name: str, kind: Any) -> None:
        subject = make("mlp")
        operator = kind(Landscape(custom(name), cross_entropy, subject.batches))
        # torch raises for neither when only gradients of parameters are asked for: both come out as zero in silence.
        with pytest.raises(
            ValueError, match=f"the {operator.name} cannot be (computed|trusted)|reentrant activation checkpoint"
        ):
            operator.matvec(operator.theta)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("name", ["detaching", "hiding"])
    def test_a_silently_wrong_second_derivative_is_refused(
        self, custom: Any, make: Make, name: str, dtype: torch.dtype
    ) -> None:
        model, subject = custom(name).to(dtype), make("mlp")
        operator = Hessian(Landscape(model, cross_entropy, [(x.to(dtype), y) for x, y in subject.batches]))
        with pytest.raises(ValueError, match="cannot be trusted: its products differ from finite differences by"):
            operator.matvec(operator.theta)

    def test_a_dual_that_is_hidden_from_the_double_vjp_is_refused(self, custom: Any, make: Make) -> None:
        operator = GaussNewton(Landscape(custom("hiding"), cross_entropy, make("mlp").batches))
        with pytest.raises(ValueError, match="gauss-newton cannot be trusted"):
            operator.matvec(operator.theta)

    def test_gauss_newton_is_right_where_only_the_hessian_is_wrong(self, custom: Any, make: Make) -> None:
        subject = make("mlp")
        model, subject.plain = custom("detaching"), Cubic().double()
        subject.plain.load_state_dict(model.state_dict())
        landscape = Landscape(model, cross_entropy, subject.batches)
        assert_close(GaussNewton(landscape).to_dense(), dense_fisher(subject, landscape.theta))

    @pytest.mark.parametrize("activation", [nn.ReLU, nn.Hardtanh, nn.Tanh])
    def test_finite_differences_raise_no_false_alarm(self, activation: type[nn.Module]) -> None:
        torch.manual_seed(1)
        for _ in range(3):
            model = nn.Sequential(
                nn.Linear(20, 300), activation(), nn.Linear(300, 300), activation(), nn.Linear(300, 9)
            )
            operator = Hessian(Landscape(model, cross_entropy, (torch.randn(32, 20), torch.arange(32) % 9)))
            operator.matvec(operator.theta)
            assert operator.notes == ()

    def test_no_false_alarm_where_the_model_computes_in_float32_inside(self) -> None:
        class Single(nn.Linear):
            def forward(self, x: Tensor) -> Tensor:
                return super().forward(x).float().tanh().to(x.dtype)

        torch.manual_seed(0)
        model = nn.Sequential(Single(6, 20), nn.Linear(20, 3))
        operator = Hessian(Landscape(model, cross_entropy, (torch.randn(32, 6), torch.arange(32) % 3)))
        operator.matvec(operator.theta)
        assert operator.notes == ()

    def test_a_compiled_model_or_part_is_run_uncompiled(self, make: Make) -> None:
        subject = make("mlp")
        truth = dense_hessian(subject, subject.theta())
        part = make("mlp")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            part.model[0].compile()
        for model in (torch.compile(subject.model), part.model):
            operator = Hessian(Landscape(model, cross_entropy, subject.batches))
            assert_close(operator.to_dense(), truth)
            assert "the model is compiled" in operator.notes[0]

    @pytest.mark.skipif(
        tuple(map(int, torch.__version__.split(".")[:2])) < (2, 13),
        reason="older releases of torch import it themselves",
    )
    def test_no_compiler_is_imported_for_a_plain_model(self) -> None:
        code = (
            "import sys, torch; from torch import nn; from spectra.costs.builtin import cross_entropy\n"
            "from spectra.landscape.landscape import Landscape; from spectra.operators.hessian import Hessian\n"
            "h = Hessian(Landscape(nn.Linear(3, 2), cross_entropy, (torch.ones(4, 3), torch.arange(4) % 2)))\n"
            "h.matvec(h.theta); print('torch._dynamo' in sys.modules, len(h.notes))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["False", "0"]


@pytest.mark.parametrize("rows, tried", [(1, False), (2, True)])
def test_a_large_model_tries_ways_of_blocks_on_blocks_alone(
    make: Make, monkeypatch: pytest.MonkeyPatch, rows: int, tried: bool
) -> None:
    monkeypatch.setattr(curvature, "_LARGE", 10)
    subject = make("mlp")
    operator = Hessian(landscape_of(subject), memory=2**10)
    batched = operator._strategies["batched-backward"]
    built = []

    def build(batch: Any) -> Any:
        built.append(batch)
        return batched.build(batch)

    operator._strategies["batched-backward"] = type(batched)("batched-backward", build, batched=True)
    vectors = VECTORS[:rows, : operator.size]
    found = operator.matmat(vectors.contiguous())
    assert bool(built) is tried
    assert_close(found, vectors @ dense_hessian(subject, operator.theta))


class Cubic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x) ** 3)


class TestCosts:
    def test_penalty_weights_and_ignored_samples(self, make: Make) -> None:
        subject = make("mlp")
        weights = torch.linspace(0.0, 2.0, 10, dtype=torch.float64)
        targets = torch.where(torch.arange(10) % 4 == 1, -1, subject.targets())
        batches = [
            (x, targets[a:b], weights[a:b]) for (x, _), (a, b) in zip(subject.batches, [(0, 8), (8, 10)], strict=True)
        ]
        landscape = Landscape(subject.model, CrossEntropy(ignore_index=-1), batches, l2=0.3)
        mass = weights * (targets >= 0)

        def cost(outputs: Tensor) -> Tensor:
            return (F.cross_entropy(outputs, targets.clamp_min(0), reduction="none") * mass).sum() / mass.sum()

        ridge = 0.3 * torch.eye(landscape.size, dtype=torch.float64)
        assert_close(Hessian(landscape).to_dense(), subject.hessian(cost, landscape.theta) + ridge)
        outputs, jacobian = subject.function()(landscape.theta).detach(), subject.jacobian(landscape.theta)
        p = outputs.softmax(-1)
        middle = (torch.diag_embed(p) - p[:, :, None] * p[:, None]) * (mass / mass.sum())[:, None, None]
        truth = torch.einsum("ikn,ikl,ilm->nm", jacobian, middle, jacobian) + ridge
        assert_close(GaussNewton(landscape).to_dense(), truth)
        assert_close(Fisher(landscape).to_dense(), truth)

    def test_soft_labels(self, make: Make) -> None:
        subject = make("mlp")
        soft = torch.softmax(torch.sin(torch.arange(30.0, dtype=torch.float64)).view(10, 3), -1)
        inputs = torch.cat([x for x, _ in subject.batches])
        landscape = Landscape(subject.model, cross_entropy, (inputs, soft))
        truth = subject.hessian(lambda outputs: -(soft * outputs.log_softmax(-1)).sum(-1).mean(), landscape.theta)
        assert_close(Hessian(landscape).to_dense(), truth)

    def test_mean_squared_error(self, make: Make) -> None:
        subject = make("mlp")
        real = torch.sin(torch.arange(30.0, dtype=torch.float64)).view(10, 3)
        batches = [(x, real[a:b]) for (x, _), (a, b) in zip(subject.batches, [(0, 8), (8, 10)], strict=True)]
        landscape = Landscape(subject.model, mean_squared_error, batches)
        truth = subject.hessian(lambda outputs: F.mse_loss(outputs, real), landscape.theta)
        assert_close(Hessian(landscape).to_dense(), truth)
        jacobian = subject.jacobian(landscape.theta)
        truth = 2.0 * torch.einsum("ikn,ikm->nm", jacobian, jacobian) / 30
        assert_close(GaussNewton(landscape).to_dense(), truth)
        assert_close(Fisher(landscape).to_dense(), truth)
        drawn = Fisher(landscape, kind="sampled", draws=4000).to_dense()
        assert_close(drawn, truth, 0.1)

    def test_divergence_from_the_anchor(self, make: Make) -> None:
        subject = make("mlp")
        landscape = landscape_of(subject, cost=kl_from_anchor)
        assert landscape.cost() == pytest.approx(0.0, abs=1e-12)
        fisher = dense_fisher(subject, landscape.theta)
        assert_close(Hessian(landscape).to_dense(), fisher)
        assert_close(Fisher(landscape).to_dense(), fisher)
        theta = landscape.theta + 0.2
        log_p = subject.function()(landscape.theta).detach().log_softmax(-1)

        def cost(outputs: Tensor) -> Tensor:
            return F.kl_div(outputs.log_softmax(-1), log_p, log_target=True, reduction="batchmean")

        assert landscape.cost(theta) == pytest.approx(float(cost(subject.function()(theta))), rel=1e-12)
        assert_close(Hessian(landscape, theta=theta).to_dense(), subject.hessian(cost, theta))

    def test_a_cost_of_the_users_own(self, make: Make) -> None:
        subject = make("mlp")

        def quartic(outputs: Tensor, targets: Tensor) -> Tensor:
            return ((outputs.sum(-1) - targets) ** 4) + outputs.square().sum(-1)

        landscape = landscape_of(subject, cost=quartic)
        target = subject.targets()
        truth = subject.hessian(lambda outputs: quartic(outputs, target).mean(), landscape.theta)
        assert_close(Hessian(landscape).to_dense(), truth)
        outputs, jacobian = subject.function()(landscape.theta).detach(), subject.jacobian(landscape.theta)
        middle = 12.0 * (outputs.sum(-1) - target) ** 2
        total = jacobian.sum(1)
        truth = torch.einsum("i,in,im->nm", middle, total, total) + 2.0 * torch.einsum(
            "ikn,ikm->nm", jacobian, jacobian
        )
        operator = GaussNewton(landscape)
        assert_close(operator.to_dense(), truth / 10)
        assert not operator.definite
        with pytest.raises(ValueError, match="needs a cost that is a likelihood .* got quartic"):
            Fisher(landscape)

    def test_sampled_targets(self, make: Make) -> None:
        subject = make("mlp")
        landscape = landscape_of(subject)
        few = Fisher(landscape, kind="sampled", draws=3, seed=5)
        batch = next(landscape.iterate())
        outputs, jacobian = subject.function()(landscape.theta).detach(), subject.jacobian(landscape.theta)
        drawn = few.scores(outputs, batch)
        assert drawn.shape == (3, 10, 3)
        labels = (outputs.softmax(-1) - drawn).argmax(-1)
        truth = torch.zeros(landscape.size, landscape.size, dtype=torch.float64)
        for draw in labels:
            rows = torch.einsum("ik,ikn->in", scores(outputs, draw), jacobian)
            truth += rows.T @ rows / 30
        assert_close(few.to_dense(), truth)
        again, other = (Fisher(landscape, kind="sampled", draws=3, seed=seed).to_dense() for seed in (5, 6))
        assert torch.equal(few.to_dense(), few.to_dense())
        assert_close(again, truth)
        assert float((other - truth).norm()) > 1e-3
        # 2,000 draws a sample: standard error of an entry about 2 %; 10 % of the norm is far outside chance.
        assert_close(
            Fisher(landscape, kind="sampled", draws=2000).to_dense(), dense_fisher(subject, landscape.theta), 0.1
        )

    def test_gradients_at_drawn_targets_have_the_matrix_as_second_moment(self, make: Make) -> None:
        subject = make("mlp")
        landscape = landscape_of(subject)
        drawn = Fisher(landscape, kind="sampled", draws=2000, seed=1).gradient_draws()
        truth = dense_fisher(subject, landscape.theta)
        apart = float((drawn.T @ drawn / len(drawn) - truth).norm())
        # Root mean square of that for normal vectors; its square is a sum of hundreds of terms.
        deviation = math.sqrt((float(truth.trace()) ** 2 + float(truth.square().sum())) / len(drawn))
        assert apart <= 2.0 * deviation
        assert 2.0 * deviation < 0.3 * float(truth.norm())
        with pytest.raises(ValueError, match="only the sampled Fisher draws targets"):
            Fisher(landscape).gradient_draws()

    @pytest.mark.parametrize("cost", [cross_entropy, mean_squared_error])
    def test_draws_depend_on_a_samples_place_alone(self, cost: Any) -> None:
        torch.manual_seed(0)
        model = nn.Linear(4, 3).double()
        inputs, classes = torch.randn(600, 4, dtype=torch.float64), torch.arange(600) % 3
        targets = classes if cost is cross_entropy else F.one_hot(classes, 3).double()

        def drawn(*cuts: int) -> Tensor:
            ends = (*cuts, 10 if cuts[-1] < 10 else 600)
            pairs = zip((0, *cuts), ends, strict=True)
            batches = Batches([(inputs[a:b], targets[a:b]) for a, b in pairs], cache_bytes=0)
            landscape = Landscape(model, cost, batches)
            fisher = Fisher(landscape, kind="sampled", draws=2, seed=3)
            parts = zip(landscape.outputs(), landscape.iterate(), strict=True)
            return torch.cat([fisher.scores(outputs, batch) for outputs, batch in parts], dim=1)

        small, whole = drawn(8), drawn(300)
        assert small.shape == (2, 10, 3)
        for found in (drawn(5), whole[:, :10]):
            torch.testing.assert_close(found, small, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(drawn(255, 257, 513), whole, rtol=1e-12, atol=1e-14)
        assert float((whole[0] - whole[1]).norm()) > 1.0
        assert float((whole[:, :256] - whole[:, 256:512]).norm()) > 1.0
        halves = Batches([(inputs[:5], targets[:5]), (inputs[5:10], targets[5:10])], cache_bytes=0)
        merged, apart = Landscape(model, cost, (inputs[:10], targets[:10])), Landscape(model, cost, halves)
        matrices = [Fisher(one, kind="sampled", seed=3).to_dense() for one in (merged, apart)]
        assert_close(*matrices)
        block = Fisher(merged, kind="sampled", seed=3).restricted("weight").to_dense()
        assert_close(block, matrices[0][:12, :12])

    def test_draws_follow_the_models_distribution(self) -> None:
        # 200,000 draws: standard error of each mean below 0.0012 (class 1: 0.0011); five of them, two-sided: 6e-7.
        rows = torch.tensor([[0.0, 1.0, -torch.inf]], dtype=torch.float64)
        scores = cross_entropy.sample_scores(rows, lambda count: uniforms(0, range(1), (200_000, count)), None)
        assert float(scores.mean(0).abs().max()) < 0.006
        assert float(scores[..., 2].abs().max()) == 0.0, "a class of probability zero is never drawn"
        noise = mean_squared_error.sample_scores(
            rows[:, :2], lambda count: uniforms(0, range(1), (200_000, count)), None
        )
        assert float(noise.mean(0).abs().max()) < 0.012
        assert float((noise.square().mean(0) - 1.0).abs().max()) < 0.02


class TestBlocksAndMemory:
    @pytest.mark.parametrize("kind", [Hessian, GaussNewton])
    @pytest.mark.parametrize("memory", [1, 2**30])
    def test_blocks_of_every_size(self, make: Make, kind: Any, memory: int) -> None:
        subject = make("mlp")
        landscape = landscape_of(subject, batches=Batches(subject.batches))
        truth = dense_hessian(subject, landscape.theta) if kind is Hessian else dense_fisher(subject, landscape.theta)
        ways = kind(landscape)._strategies.items()
        names = ["auto", *(name for name, way in ways if memory > 1 or not way.linearised)]
        operators = [kind(landscape, strategy=name, memory=memory) for name in names]
        for operator in operators:
            for count in (1, 2, 7):
                vectors = torch.randn(count, landscape.size, dtype=torch.float64)
                assert_close(operator.matmat(vectors), vectors @ truth)
            assert any("rebuilt for each block" in note for note in operator.notes) == (memory == 1)

    @pytest.mark.parametrize("kind", [Hessian, GaussNewton])
    def test_a_product_is_recorded_only_where_the_memory_allows_it(
        self, make: Make, kind: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        landscape = landscape_of(make("mlp"))
        recorded: list[Any] = []

        def recording(function: Any, probe: torch.Tensor) -> Any:
            recorded.append(function)
            return record(function, probe)

        monkeypatch.setattr("spectra.operators.curvature.record", recording)
        need = kind(landscape).graph_memory
        room = need.all() + (RECORDING - GRAPH) * need.saved
        for memory, tried in ((room, True), (room - 1, False)):
            recorded.clear()
            operator = kind(landscape, memory=memory)
            operator.matmat(torch.randn(1, landscape.size, dtype=torch.float64))
            assert bool(recorded) == tried
            assert not any("rebuilt" in note for note in operator.notes)

    def test_data_that_is_not_held_in_memory(self, make: Make) -> None:
        subject = make("mlp")
        landscape = landscape_of(subject, batches=Batches(subject.batches, cache_bytes=0))
        operator = Hessian(landscape)
        assert_close(operator.to_dense(), dense_hessian(subject, landscape.theta))
        assert any("not held in memory" in note for note in operator.notes)

    def test_vectors_are_not_changed_and_wrong_shapes_refused(self, make: Make) -> None:
        operator = Hessian(landscape_of(make("mlp")))
        vectors = torch.randn(2, operator.size, dtype=torch.float64)
        kept = vectors.clone()
        first, second = operator.matmat(vectors), operator.matmat(vectors)
        assert torch.equal(vectors, kept)
        assert torch.equal(first, second)
        assert operator.matmat(vectors.T.contiguous().T).allclose(first, rtol=1e-13)
        with pytest.raises(ValueError, match=r"vectors must have shape \(k, 43\), got \(43, 2\)"):
            operator.matmat(vectors.T)

    def test_an_unknown_strategy(self, make: Make) -> None:
        with pytest.raises(ValueError, match="strategy must be auto or one of double-backward, .*; got 'fast'"):
            Hessian(landscape_of(make("mlp")), strategy="fast")

    def test_a_cost_without_curvature(self) -> None:
        model = nn.Linear(3, 1, bias=False).double()
        landscape = Landscape(model, lambda outputs, _: outputs[:, 0], (torch.ones(4, 3, dtype=torch.float64),))
        assert torch.equal(Hessian(landscape).to_dense(), torch.zeros(3, 3, dtype=torch.float64))


class TestDerivedOperators:
    @pytest.mark.parametrize("kind", [Hessian, GaussNewton, Fisher])
    def test_layers(self, make: Make, kind: Any) -> None:
        subject = make("mlp")
        landscape = landscape_of(subject)
        operator = kind(landscape)
        whole = operator.to_dense()
        places = landscape.parameters.positions("2")
        assert places.tolist() == list(range(25, 43))
        assert_close(operator.restricted("2").to_dense(), whole[places][:, places])
        away = kind(landscape, theta=landscape.theta + 0.1)
        block = away.to_dense()[places][:, places]
        assert_close(away.restricted("2").to_dense(), block)
        assert_close(away.restricted("2").shifted(0.5).to_dense(), block + 0.5 * torch.eye(18))
        assert_close(operator.shifted(0.5).restricted("2").to_dense(), whole[places][:, places] + 0.5 * torch.eye(18))
        with pytest.raises(ValueError, match="no parameter of the landscape matches 'layer9'; it has 0.weight"):
            operator.restricted("layer9")

    def test_scipy_agrees(self, make: Make) -> None:
        subject = make("transformer")
        operator = Hessian(landscape_of(subject))
        exact = torch.linalg.eigvalsh(dense_hessian(subject, operator.theta)).numpy()
        largest = eigsh(operator.to_scipy(), k=4, which="LA", return_eigenvectors=False)
        smallest = eigsh(operator.to_scipy(), k=2, which="SA", return_eigenvectors=False)
        np.testing.assert_allclose(np.sort(largest), exact[-4:], rtol=1e-9)
        np.testing.assert_allclose(np.sort(smallest), exact[:2], rtol=1e-8)

    def test_definiteness(self, make: Make) -> None:
        landscape = landscape_of(make("mlp"))
        assert not Hessian(landscape).definite
        assert GaussNewton(landscape).definite
        assert Fisher(landscape).shifted(1.0).definite
        assert not Fisher(landscape).shifted(-1.0).definite

    def test_a_matrix(self) -> None:
        matrix = torch.tensor([[2.0, 1.0], [1.0, 3.0]])
        assert torch.equal(MatrixOperator(matrix).matmat(torch.eye(2)), matrix)
        with pytest.raises(ValueError, match="must be symmetric"):
            MatrixOperator(torch.tensor([[2.0, 1.0], [0.0, 3.0]]))
        with pytest.raises(TypeError, match="no named parameters"):
            MatrixOperator(matrix).restricted("a")


def test_float32_agrees_to_its_rounding(make: Make) -> None:
    subject = make("transformer")
    truth = dense_hessian(subject, subject.theta())
    landscape = landscape_of(subject).to(dtype=torch.float32)
    assert_close(Hessian(landscape).to_dense().double(), truth, 1e-5)


def test_train_mode_batch_norm(make: Make, spelt_out: Any) -> None:
    subject = make("batch-norm")
    subject.batches = [(torch.cat([x for x, _ in subject.batches]), subject.targets())]
    before = {name: buffer.clone() for name, buffer in subject.model.named_buffers()}
    operator = Hessian(landscape_of(subject, mode="train"))
    found = operator.to_dense()
    spelt_out(subject.plain, nn.BatchNorm2d)
    assert_close(found, dense_hessian(subject, operator.theta))
    assert all(torch.equal(buffer, before[name]) for name, buffer in subject.model.named_buffers())
