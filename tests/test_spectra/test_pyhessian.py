import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spectra.costs import cross_entropy, kl_from_anchor, mean_squared_error
from spectra.errors import UserError
from spectra.landscape import Landscape
from spectra.model import Batches
from spectra.pyhessian import inside_pyhessian, pyhessian_density, pyhessian_trace

INPUTS = torch.randn(10, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
CLASSES = torch.arange(10) % 3
UNEVEN = [(INPUTS[:8], CLASSES[:8]), (INPUTS[8:], CLASSES[8:])]


def network(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).to(dtype)


def landscape(**options: object) -> Landscape:
    return Landscape(**({"model": network(), "cost": cross_entropy, "batches": (INPUTS, CLASSES)} | options))


def dense(cost: Callable[[Tensor, Tensor], Tensor], names: tuple[str, ...] = ()) -> Tensor:
    """The Hessian of ``cost(outputs, theta)`` by torch.func, in the parameters named or all of them."""
    model = network()
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    chosen = {name: tensor for name, tensor in tensors.items() if not names or name in names}
    theta = torch.cat([tensor.flatten() for tensor in chosen.values()])

    def of(flat: Tensor) -> Tensor:
        parts = flat.split([tensor.numel() for tensor in chosen.values()])
        shaped = {name: part.view_as(chosen[name]) for name, part in zip(chosen, parts, strict=True)}
        return cost(torch.func.functional_call(model, tensors | shaped, INPUTS), flat)

    return torch.func.hessian(of)(theta)


def plain(outputs: Tensor, _: Tensor) -> Tensor:
    return F.cross_entropy(outputs, CLASSES)


def largest(matrix: Tensor, count: int) -> np.ndarray:
    values = torch.linalg.eigvalsh(matrix)
    return values[values.abs().argsort(descending=True)][:count].numpy()


def pyhessian_eigenvalues(subject: Landscape, count: int, *, iterations: int = 1000, tolerance: float = 1e-6):
    """Eigenvalues of largest magnitude (count,) by PyHessian's power iteration, and their unit vectors (count, n)."""

    def job(hessian: Any) -> tuple[np.ndarray, np.ndarray]:
        values, vectors = hessian.eigenvalues(maxIter=iterations, tol=tolerance, top_n=count)
        rows = [torch.cat([part.detach().reshape(-1).double() for part in vector]) for vector in vectors]
        return np.array(values, dtype=np.float64), torch.stack(rows).numpy()

    return inside_pyhessian(subject, 0, job)


def assert_same_matrix(subject: Landscape, matrix: Tensor) -> None:
    """Products of PyHessian agree with the matrix: its largest eigenvectors are eigenvectors."""
    values, vectors = pyhessian_eigenvalues(subject, 3, iterations=4000, tolerance=1e-9)
    np.testing.assert_allclose(values, largest(matrix, 3), rtol=2e-5)
    residuals = np.linalg.norm(vectors @ matrix.numpy() - values[:, None] * vectors, axis=1)
    assert residuals.max() < 2e-4 * abs(values[0])
    nodes, weights = pyhessian_density(subject, 1, subject.size)
    nodes = nodes[weights > 1e-9]
    ends = torch.linalg.eigvalsh(matrix)[[0, -1]].numpy()
    np.testing.assert_allclose(nodes[[0, -1]], ends, atol=1e-4 * abs(ends).max())


WEIGHTS = torch.linspace(0.0, 2.0, 10, dtype=torch.float64)
MASKED = torch.where(torch.arange(10) % 4 == 0, -100, CLASSES)
REAL = torch.sin(torch.arange(30.0, dtype=torch.float64)).view(10, 3)


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("options", "cost"),
    [
        ({}, plain),
        ({"batches": UNEVEN}, plain),
        ({"batches": Batches(UNEVEN, cache_bytes=0)}, plain),
        ({"l2": 0.3}, lambda outputs, theta: plain(outputs, theta) + 0.15 * theta.square().sum()),
        (
            {"l2": 0.3, "batches": Batches(UNEVEN, cache_bytes=0)},
            lambda outputs, theta: plain(outputs, theta) + 0.15 * theta.square().sum(),
        ),
        (
            {"batches": (INPUTS, CLASSES, WEIGHTS)},
            lambda outputs, _: (F.cross_entropy(outputs, CLASSES, reduction="none") * WEIGHTS).sum() / WEIGHTS.sum(),
        ),
        (
            {"batches": Batches([(INPUTS[:7], MASKED[:7]), (INPUTS[7:], MASKED[7:])], cache_bytes=0)},
            lambda outputs, _: F.cross_entropy(outputs, MASKED),
        ),
        (
            {"cost": mean_squared_error, "batches": (INPUTS, REAL)},
            lambda outputs, _: F.mse_loss(outputs, REAL),
        ),
        (
            {"cost": kl_from_anchor, "batches": INPUTS},
            lambda outputs, _: F.kl_div(outputs.log_softmax(-1), outputs.detach().softmax(-1), reduction="batchmean"),
        ),
        ({"mode": "train"}, plain),
    ],
    ids=[
        "one-batch",
        "uneven-merged",
        "uneven-streamed",
        "l2",
        "l2-streamed",
        "weights",
        "masked-streamed",
        "mse",
        "kl",
        "train",
    ],
)
def test_it_sees_the_hessian_of_the_landscape(
    options: dict[str, object], cost: Callable[[Tensor, Tensor], Tensor]
) -> None:
    anchor = network()(INPUTS).detach()
    if options.get("cost") is kl_from_anchor:
        matrix = dense(
            lambda outputs, _: F.kl_div(
                outputs.log_softmax(-1), anchor.log_softmax(-1), log_target=True, reduction="batchmean"
            )
        )
    else:
        matrix = dense(cost)
    assert_same_matrix(landscape(**options), matrix)


def test_it_sees_only_the_selected_parameters() -> None:
    matrix = dense(plain, ("2.weight", "2.bias"))
    assert_same_matrix(landscape(parameters="2"), matrix)
    assert_same_matrix(landscape(batches=UNEVEN).restricted("2"), matrix)


def test_an_anchor_apart_from_the_models_parameters_is_used() -> None:
    shifted = network()
    with torch.no_grad():
        for parameter in shifted.parameters():
            parameter.add_(1.0)
    theta = torch.cat([parameter.detach().flatten() for parameter in network().parameters()])
    assert_same_matrix(landscape(model=shifted, theta=theta), dense(plain))


class Forgetful(nn.Module):
    """One parameter that the output does not depend on, one on which it depends linearly."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor([2.0]))
        self.unused = nn.Parameter(torch.tensor([1.0]))
        self.height = nn.Parameter(torch.tensor([0.5]))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.slope.square() * inputs + self.height


def test_unused_and_linear_parameters_have_no_curvature() -> None:
    subject = Landscape(Forgetful(), lambda outputs, _: outputs[:, 0], (torch.ones(4, 1), torch.ones(4, 1)))
    nodes, _ = pyhessian_density(subject, 1, 3)
    np.testing.assert_allclose(nodes[0], [0.0, 0.0, 2.0], atol=1e-5)


def test_weights_are_a_measure_and_moments_are_those_of_the_probe() -> None:
    subject, matrix = landscape(), dense(plain)
    nodes, weights = pyhessian_density(subject, 3, 12)
    assert nodes.shape == weights.shape == (3, 12)
    np.testing.assert_allclose(weights.sum(1), 1.0, rtol=1e-12)
    samples = pyhessian_trace(subject, 3).samples
    # The first probe of both starts the same stream, and Lanczos is exact for the first moment.
    assert (nodes * weights).sum(1)[0] * subject.size == pytest.approx(samples[0], rel=1e-5)
    assert nodes.min() >= torch.linalg.eigvalsh(matrix)[0].item() - 1e-9


def test_steps_as_many_as_parameters_find_the_spectrum() -> None:
    subject = landscape(parameters="2")
    nodes, weights = pyhessian_density(subject, 1, subject.size)
    exact = torch.linalg.eigvalsh(dense(plain, ("2.weight", "2.bias"))).numpy()
    # Shifting all logits of a class alike changes nothing: six zeros, of which Lanczos sees one.
    seen = exact[exact > 1e-10 * exact.max()]
    for value in seen:
        assert np.abs(nodes[0][weights[0] > 1e-12] - value).min() < 1e-4 * exact.max()


def test_float32_agrees_with_float64() -> None:
    single = landscape(model=network(torch.float32))
    assert single.dtype == torch.float32
    values, _ = pyhessian_eigenvalues(single, 1)
    assert values[0] == pytest.approx(largest(dense(plain), 1)[0], rel=1e-4)
    nodes, _ = pyhessian_density(single, 1, 10)
    assert nodes.max() == pytest.approx(values[0], rel=1e-4)


def test_the_trace_is_unbiased() -> None:
    """Mean of 3,000 Rademacher probes within 5 exact standard errors: fails with probability below 1e-6."""
    matrix = dense(plain)
    estimate = pyhessian_trace(landscape(), 3000, seed=3)
    spread = (2.0 * (matrix.square().sum() - matrix.diagonal().square().sum())).sqrt().item()
    assert len(estimate.samples) == 3000
    assert abs(estimate.value - matrix.trace().item()) < 5.0 * spread / 3000**0.5
    assert estimate.standard_error == pytest.approx(spread / 3000**0.5, rel=0.1)


def test_the_trace_stops_early_only_when_told_to() -> None:
    hollow = landscape(cost=lambda outputs, targets: -F.cross_entropy(outputs, targets, reduction="none"))
    assert len(pyhessian_trace(hollow, 50).samples) == 50
    # Its rule compares a signed mean: a negative trace stops at the second probe at the latest.
    assert len(pyhessian_trace(hollow, 50, tolerance=1e-3).samples) <= 2
    assert len(pyhessian_trace(landscape(), 500, tolerance=1e-2).samples) < 500


def test_the_identity_does_not_break_it() -> None:
    flat = Landscape(nn.Linear(4, 1), lambda outputs, _: 0.0 * outputs[:, 0], (torch.ones(2, 4), torch.ones(2)), l2=1.0)
    nodes, weights = pyhessian_density(flat, 2, 3)
    np.testing.assert_allclose(nodes[weights > 1e-6], 1.0, rtol=1e-5)
    np.testing.assert_allclose((nodes * weights).sum(1), 1.0, rtol=1e-5)


def test_one_step_is_the_rayleigh_quotient_of_the_probe() -> None:
    subject = landscape()
    nodes, weights = pyhessian_density(subject, 1, 1)
    assert weights.tolist() == [[1.0]]
    assert nodes[0, 0] * subject.size == pytest.approx(pyhessian_trace(subject, 1).value, rel=1e-5)


def test_the_same_seed_repeats_another_differs_and_probes_extend() -> None:
    subject = landscape()
    first, second = pyhessian_density(subject, 2, 5, seed=4), pyhessian_density(subject, 2, 5, seed=4)
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(pyhessian_density(subject, 4, 5, seed=4)[0][:2], first[0])
    assert not np.allclose(pyhessian_density(subject, 2, 5, seed=5)[0], first[0])
    assert not np.allclose(first[0][0], first[0][1])


class SelfSeeding(nn.Module):
    """Draws the same noise in each call by seeding torch."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()

    def forward(self, inputs: Tensor) -> Tensor:
        torch.manual_seed(0)
        return self.inner(inputs) + 0.1 * torch.randn(1, dtype=inputs.dtype)


def test_a_model_that_seeds_torch_does_not_repeat_the_probes() -> None:
    for batches in ((INPUTS, CLASSES), Batches(UNEVEN, cache_bytes=0)):
        samples = pyhessian_trace(landscape(model=SelfSeeding(), batches=batches), 6).samples
        assert len(set(samples.round(9))) > 1


class WithNorm(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 3))


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_everything_is_left_as_found(mode: str) -> None:
    model: nn.Module = WithNorm().double()
    if mode == "train":
        model[2] = nn.Identity()
    model.train()
    model[1].eval()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    model[3].weight.requires_grad_(False)
    subject = landscape(model=model, parameters="0", mode=mode)
    gradient = model[0].weight.grad
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    random = torch.get_rng_state()
    pyhessian_density(subject, 2, 3)
    pyhessian_trace(subject, 2)
    pyhessian_eigenvalues(subject, 1)
    assert [module.training for module in model.modules()] == modes
    assert model[0].weight.grad is gradient
    assert bool((gradient == 1.0).all())
    assert [parameter.grad is None for parameter in model.parameters()].count(False) == 1
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    with pytest.raises(RuntimeError, match="deprecated"):
        torch.eig(torch.eye(2))
    assert torch.get_default_dtype() == torch.float32


def test_surroundings_come_back_after_a_failure() -> None:
    broken = []

    def failing(outputs: Tensor, targets: Tensor) -> Tensor:
        if broken:
            raise RuntimeError("as planned")
        return F.cross_entropy(outputs, targets, reduction="none")

    subject = landscape(cost=failing)
    broken.append(True)
    random = torch.get_rng_state()
    with pytest.raises(UserError, match="the cost failing raised RuntimeError: as planned"):
        pyhessian_trace(subject, 2)
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda subject: pyhessian_density(subject, 0, 3), "probes must be at least 1, got 0"),
        (lambda subject: pyhessian_density(subject, 1, 44), "steps must be between 1 and .* 43, got 44"),
        (lambda subject: pyhessian_trace(subject, 0), "probes must be at least 1, got 0"),
    ],
)
def test_impossible_requests_are_refused(call: Callable[[Landscape], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(landscape())


def test_the_package_is_imported_only_when_asked_for() -> None:
    check = "import sys, spectra.pyhessian; sys.exit('pyhessian' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
