"""Langevin chains against exact values on analytic cases, the step's bias included; and failures on real runs."""

import importlib.util
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from comparisons.langevin import (
    ChainSettings,
    LocalLearningCoefficient,
    deep_linear_coefficient,
    local_learning_coefficient,
    sample_chains,
)
from spectra.costs import cross_entropy, mean_squared_error
from spectra.density import dense_spectrum
from spectra.landscape import Landscape
from spectra.operators import Hessian

PATH = Path(__file__).resolve().parents[3] / "benchmarks" / "coefficient_exact.py"
SPEC = importlib.util.spec_from_file_location("coefficient_exact", PATH)
assert SPEC is not None
assert SPEC.loader is not None
BENCHMARK = importlib.util.module_from_spec(SPEC)
# Its dataclass looks its module up.
sys.modules[SPEC.name] = BENCHMARK
SPEC.loader.exec_module(BENCHMARK)
NB, PULL = 10.0, 1.0
# Two-sided 1e-4 of a normal variable: the failure probability of each comparison below.
NORMAL = 3.9
PLANE = {
    "x2": lambda t: t[..., 0] ** 2,
    "x2y2": lambda t: (t[..., 0] * t[..., 1]) ** 2,
    "x2y4": lambda t: t[..., 0] ** 2 * t[..., 1] ** 4,
    "x4y4": lambda t: (t[..., 0] * t[..., 1]) ** 4,
    "r4": lambda t: t.square().sum(-1) ** 2,
    "x2+y4": lambda t: t[..., 0] ** 2 + t[..., 1] ** 4,
    "(xy-1)2": lambda t: ((1.0 + t[..., 0]) * (1.0 + t[..., 1]) - 1.0) ** 2,
}


def expected(function, step: float) -> tuple[float, float]:
    """``E[nb L]`` on the plane by quadrature: exact, and with what a step of this size adds to first order.

    Euler's chain for ``dx = -(e/2) U' + N(0, e)`` has the density ``exp(-U) (1 + e/2 (|U'|^2 / 4 - U'' / 2))`` but for
    terms of e^2, U'' the Laplacian; on a quadratic this is the known variance ``1 / (a (1 - e a / 4))``.
    """
    x = torch.linspace(-6.0, 6.0, 601, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(x, x, indexing="ij"), -1).reshape(-1, 2).requires_grad_()
    cost = function(grid)
    energy = NB * cost + 0.5 * PULL * grid.square().sum(-1)
    (slope,) = torch.autograd.grad(energy.sum(), grid, create_graph=True)
    bends = [torch.autograd.grad(slope[:, i].sum(), grid, retain_graph=True)[0][:, i] for i in (0, 1)]
    weight = torch.softmax(-energy.detach(), 0)
    value = NB * cost.detach()
    bent = 0.25 * slope.detach().square().sum(-1) - 0.5 * (bends[0] + bends[1])
    mean = float(weight @ value)
    shift = float(weight @ (value * bent)) - mean * float(weight @ bent)
    return mean, mean + 0.5 * step * shift


def chains_on(landscape: Landscape, step: float, chains: int, draws: int, burn_in: int) -> LocalLearningCoefficient:
    settings = ChainSettings(
        inverse_temperature=NB,
        localisation=PULL,
        step_size=step,
        chains=chains,
        draws=draws,
        burn_in=burn_in,
        batch_size=None,
    )
    return local_learning_coefficient(landscape, settings)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", list(PLANE))
def test_chains_are_within_their_own_error_of_the_exact_value(landscape_of, name: str) -> None:
    # The valley bends, so that the square of the step counts for more there.
    step, burn_in = (0.005, 800) if name == "(xy-1)2" else (0.01, 400)
    exact, with_step = expected(PLANE[name], step)
    found = chains_on(landscape_of(PLANE[name], torch.zeros(2)), step, 300, 600, burn_in)
    # Fails with probability 1e-4, but for the square of the step: on x^2 and x^4 it is 0.3 %.
    assert abs(found.estimate.value - with_step) < NORMAL * found.estimate.standard_error + 0.005 * exact
    # The error bar is worth something, and the step adds what small steps may.
    assert found.estimate.standard_error < 0.03 * exact
    assert abs(with_step - exact) < 0.2 * exact
    assert found.chains.scale_reduction < 1.05


def deep_network(depth: int) -> Landscape:
    """``|W_depth ... W_1|_F^2`` of 2 x 2 matrices around zero: a deep linear network whose truth is zero."""
    model = nn.Sequential(*(nn.Linear(2, 2, bias=False) for _ in range(depth))).double()
    # Mean over rows of x x^T = 2 I, and the mean over two outputs: |W x|^2 / 2 becomes |W|_F^2.
    x = 2.0 * torch.eye(2, dtype=torch.float64)
    theta = torch.zeros(4 * depth, dtype=torch.float64)
    return Landscape(model, mean_squared_error, (x, torch.zeros(2, 2, dtype=torch.float64)), theta=theta)


def two_matrices(nb: float) -> float:
    """``E[nb |B A|_F^2]``, unit Gaussians: B integrates to ``det(I + 2 nb A A^T)^-1``, A by its Wishart density."""
    # s = t^2, the eigenvalues of A A^T, have the density |t_1^2 - t_2^2| exp(-(t_1^2 + t_2^2) / 2) in t.
    t = (torch.arange(1600, dtype=torch.float64) + 0.5) * 8.0 / 1600.0
    s = t.square()
    density = (s[:, None] - s[None]).abs() * torch.exp(-0.5 * (s[:, None] + s[None]))
    bound = 2.0 * nb * s
    weight = density / (1.0 + bound)[:, None] / (1.0 + bound)[None]
    share = bound / (1.0 + bound)
    return float((weight * (share[:, None] + share[None])).sum() / weight.sum())


def test_the_integral_tends_to_the_theorem() -> None:
    # The slope of log Z in log nb tends to lambda, here as 1 / log nb; 3/2 is Aoyagi and Watanabe's, 2005, for two
    # 2 x 2 matrices whose true product is zero.
    values = [two_matrices(nb) for nb in (1e2, 1e3, 1e4)]
    assert values == sorted(values)
    assert 0.8 * 1.5 < values[-1] < 1.5


def test_chains_on_a_deep_linear_network() -> None:
    found = chains_on(deep_network(2), 0.004, 200, 1200, 800)
    truth = two_matrices(NB)
    # Fails with probability 1e-4, but for 2 % for the step.
    assert abs(found.estimate.value - truth) < NORMAL * found.estimate.standard_error + 0.02 * truth
    assert found.estimate.standard_error < 0.02 * truth


# Failures, on runs that fail


def penalised() -> tuple[nn.Module, Tensor, Tensor]:
    """A network trained to a minimum of cross-entropy with L2, 60 samples of three classes, few of them clear."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    random = torch.Generator().manual_seed(1)
    x = torch.randn(60, 4, generator=random, dtype=torch.float64)
    y = (x[:, :3] + 0.5 * torch.randn(60, 3, generator=random, dtype=torch.float64)).argmax(1)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=300, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        cost = nn.functional.cross_entropy(model(x), y)
        cost = cost + 0.5 * 0.05 * sum(part.square().sum() for part in model.parameters())
        cost.backward()
        return cost

    optimizer.step(closure)
    return model, x, y


@pytest.mark.slow
def test_the_plain_cost_of_a_penalised_network_gives_a_negative_value_that_is_flagged() -> None:
    model, x, y = penalised()
    found = {}
    for l2 in (0.0, 0.05):
        landscape = Landscape(model, cross_entropy, (x, y), l2=l2)
        settings = ChainSettings(inverse_temperature=1000.0, localisation=60.0, chains=8, draws=300, batch_size=None)
        found[l2] = local_learning_coefficient(landscape, settings, density=dense_spectrum(Hessian(landscape)))
    assert found[0.0].estimate.value < -3.9 * found[0.0].estimate.standard_error
    text = " ".join(found[0.0].cautions)
    assert "the coefficient is negative" in text
    assert "sample the cost that was trained (with its penalty, l2)" in text
    assert "no minimum of this cost" in text
    assert found[0.05].estimate.value > 3.9 * found[0.05].estimate.standard_error
    assert not any("negative" in caution or "no minimum" in caution for caution in found[0.05].cautions)
    assert found[0.05].stationarity.gradient_norm < 1e-5


def test_a_burn_in_that_is_too_short_is_flagged(quadratic) -> None:
    # 40 directions that relax over 2 / (e g) = 2,000 steps, and 300 steps in all from the checkpoint.
    landscape = quadratic(0.02 * torch.eye(40))
    settings = ChainSettings(
        inverse_temperature=10.0, localisation=1.0, step_size=1e-3, burn_in=0, chains=16, draws=300, batch_size=None
    )
    assert "the chains still drift" in " ".join(local_learning_coefficient(landscape, settings).cautions)


def test_a_step_that_is_too_large_is_flagged_and_its_advice_helps(quadratic) -> None:
    landscape = quadratic(torch.diag(torch.linspace(0.5, 5.0, 20)))
    density = dense_spectrum(Hessian(landscape))
    options = {"inverse_temperature": 10.0, "localisation": 1.0, "chains": 16, "batch_size": None}
    large = local_learning_coefficient(
        landscape, ChainSettings(step_size=0.07, burn_in=50, draws=300, **options), density=density
    )
    assert "step_size 0.07 alone changes the value by +1" in " ".join(large.cautions)
    advised = local_learning_coefficient(landscape, ChainSettings(draws=1500, **options), density=density)
    assert advised.prediction is not None
    assert advised.chains.step_size < 0.25 * 0.07
    assert not any("step_size" in caution for caution in advised.cautions)
    exact = advised.prediction.value_without_step.value
    assert abs(large.estimate.value - exact) > 5.0 * abs(advised.estimate.value - exact)
    assert math.isclose(large.prediction.step_limit, 4.0 / 51.0, rel_tol=1e-6)


# Deep linear networks of known coefficient, and how often the error covers


def reduced_rank(inputs: int, hidden: int, outputs: int, rank: int) -> tuple[float, int]:
    """Aoyagi and Watanabe's four cases of two layers, as in their paper of 2005."""
    m, h, n, r = inputs, hidden, outputs, rank
    if n + r <= m + h and m + r <= n + h and h + r <= m + n:
        found = -((h + r) ** 2) - m**2 - n**2 + 2 * (h + r) * m + 2 * (h + r) * n + 2 * m * n
        odd = (m + h + n + r) % 2
        return (found + odd) / 8, 1 + odd
    if m + h < n + r:
        return (h * m - h * r + n * r) / 2, 1
    if n + h < m + r:
        return (h * n - h * r + m * r) / 2, 1
    return m * n / 2, 1


def test_the_coefficient_of_two_layers_is_that_of_the_four_cases() -> None:
    sizes = range(1, 7)
    for inputs, hidden, outputs in ((a, b, c) for a in sizes for b in sizes for c in sizes):
        for rank in range(min(inputs, hidden, outputs) + 1):
            assert deep_linear_coefficient([inputs, hidden, outputs], rank) == pytest.approx(
                reduced_rank(inputs, hidden, outputs, rank)
            ), (inputs, hidden, outputs, rank)
    # A layer that is wide enough adds nothing; one matrix alone is regular.
    assert deep_linear_coefficient([3, 4], 2) == (6.0, 1)
    with pytest.raises(ValueError, match="rank must lie between 0 and the smallest"):
        deep_linear_coefficient([3, 2, 4], 3)


def test_the_integral_over_singular_values_tends_to_the_coefficient() -> None:
    for widths in ([2, 2, 2], [8, 3, 4]):
        limit = deep_linear_coefficient(widths, 0)[0]
        values = [BENCHMARK.two_layers_of_nothing(widths, nb, 1.0) for nb in (1e1, 1e2, 1e3, 1e4)]
        assert values == sorted(values)
        assert 0.97 * limit < values[-1] < limit
    # The network and its transposed one, and the other quadrature above.
    turned = [BENCHMARK.two_layers_of_nothing(widths, 20.0, 2.0) for widths in ([4, 3, 8], [8, 3, 4])]
    assert turned[0] == pytest.approx(turned[1], rel=1e-4)
    assert BENCHMARK.two_layers_of_nothing([2, 2, 2], NB, 1.0) == pytest.approx(two_matrices(NB), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(15))
def test_accepted_chains_find_each_exact_case(number: int) -> None:
    case = BENCHMARK.cases()[number]
    chains = sample_chains(case.landscape, BENCHMARK.settings_of(case, "mala", 64, 500))
    error = case.nb * chains.standard_error
    # Fails with probability 1e-4, of Student's t with 63 degrees; 0.3 % for the integrals over draws.
    assert abs(case.nb * chains.mean_rise - case.exact) < 4.16 * error + 0.003 * case.exact
    assert error < 0.06 * case.exact


def test_the_error_covers_what_calls_differ_by() -> None:
    # 400 calls of 8 chains each around a deep linear network whose truth is zero: a singular case.
    case = BENCHMARK.network([2, 2, 2], 0)
    settings = replace(BENCHMARK.settings_of(case, "mala", 3200, 30), burn_in=100, step_size=0.03)
    held, total = BENCHMARK.covered(sample_chains(case.landscape, settings), case.exact)
    assert total == 400
    # Where the intervals hold 95 % of calls, this fails with probability 1e-5.
    assert 0.90 * total <= held <= 0.99 * total
