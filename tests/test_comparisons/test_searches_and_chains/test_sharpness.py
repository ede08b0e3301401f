"""Sharpness measures against closed forms, dense matrices and scipy; and the faults of published code."""

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch
from scipy import optimize

from comparisons.evidence import accuracy, error_rate
from comparisons.searches import (
    average_case,
    keskar_sharpness,
    local_entropy,
    m_sharpness,
    pac_bayes_sharpness,
    relative_flatness,
    scales,
    worst_case,
)
from spectra.costs import cross_entropy, mean_squared_error
from spectra.density import SpectralDensity, dense_spectrum
from spectra.landscape import Landscape
from spectra.model import generator
from spectra.operators import Hessian

VALUES = torch.tensor([5.0, 2.0, 1.0, 0.5, 0.1]).double()
# Two-sided, of a normal variable: the failure probability of each statistical test below.
ALPHA = 1e-4
QUANTILE = NormalDist().inv_cdf(1.0 - ALPHA / 2.0)


# Keskar


def test_keskar_finds_the_corner_of_the_box(quadratic) -> None:
    # At x the box is epsilon (|x| + 1); a diagonal form is largest at any corner.
    x, floor = torch.tensor([0.0, 1.0, -3.0, 0.5, 2.0]).double(), 0.7
    landscape = quadratic(torch.diag(VALUES), x, floor=floor)
    rise = 0.5 * float((VALUES * (0.01 * (x.abs() + 1.0)).square()).sum())
    found = keskar_sharpness(landscape, epsilon=0.01)
    # The published fault `/ 1 - f0` would divide by one and subtract the cost.
    assert found.value == pytest.approx(100.0 * rise / (1.0 + floor), rel=1e-9)
    assert found.cautions == ()


def test_keskar_from_the_checkpoint_alone_finds_nothing_at_a_stationary_point(quadratic) -> None:
    landscape = quadratic(torch.diag(VALUES))
    alone = keskar_sharpness(landscape, starts=1)
    assert alone.value == 0.0
    assert "starts=5" in alone.cautions[0]
    several = keskar_sharpness(landscape, starts=5)
    assert several.samples[0] == 0.0
    assert several.value == pytest.approx(50.0 * 1e-6 * float(VALUES.sum()))


def test_keskar_in_a_subspace_is_the_largest_of_all_corners(quadratic, rotated) -> None:
    matrix, x = rotated(VALUES), torch.tensor([1.0, -1.0, 0.5, 0.0, 2.0])
    found = keskar_sharpness(quadratic(matrix, x), epsilon=0.01, subspace=3, starts=20, seed=4)
    # The same subspace, and the maximum of a convex form over a box by trying every corner.
    basis = torch.randn(3, 5, generator=generator(4, "keskar-subspace"), dtype=torch.float64)
    inside = torch.linalg.pinv(basis.T) @ x.double()
    reach = 0.01 * (inside.abs() + 1.0)
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0]).double()] * 3) * reach
    moves = corners @ basis
    largest = float((0.5 * (moves @ matrix) * moves).sum(-1).max())
    assert found.value == pytest.approx(100.0 * largest, rel=1e-9)


def test_keskar_counts_what_the_search_asked(quadratic) -> None:
    asked = 0

    def falling(y):
        nonlocal asked
        asked += 1
        return -0.5 * float((VALUES.numpy() * y**2).sum()), -VALUES.numpy() * y  # zero at the start

    landscape = quadratic(torch.diag(VALUES))
    found = keskar_sharpness(landscape, epsilon=1.0, starts=1)
    options = {"maxiter": 10, "maxfun": 20, "ftol": 0.0, "gtol": 0.0}
    optimize.minimize(falling, np.zeros(5), jac=True, method="L-BFGS-B", bounds=[(-1, 1)] * 5, options=options)
    # And one gradient at the checkpoint for the caution.
    assert (found.cost_evaluations, found.gradient_evaluations) == (asked, asked + 1)


def test_a_slope_at_the_checkpoint_is_said(quadratic) -> None:
    off = quadratic(torch.diag(VALUES), torch.zeros(5), centre=torch.full((5,), 0.5))
    assert "not stationary" in keskar_sharpness(off).cautions[0]
    assert "not stationary" in worst_case(off).cautions[0]
    assert worst_case(quadratic(torch.diag(VALUES))).cautions == ()


# Worst case


def test_the_worst_case_in_a_ball_is_the_largest_eigenvalues(quadratic, rotated) -> None:
    found = worst_case(quadratic(rotated(VALUES)), radius=0.2, steps=30)
    assert found.value == pytest.approx(5.0 * 0.2**2 / 2.0, rel=1e-6)


def test_one_step_is_the_published_perturbation(quadratic, rotated) -> None:
    matrix, centre = rotated(VALUES), torch.tensor([0.3, -0.2, 0.1, 0.0, 0.4]).double()
    x = torch.tensor([1.0, 0.0, -2.0, 0.5, 0.1]).double()
    slope = matrix @ (x - centre)

    def cost(at):
        return 0.5 * float((at - centre) @ matrix @ (at - centre))

    landscape = quadratic(matrix, x, centre=centre)
    plain = worst_case(landscape, radius=0.05, steps=1, starts=1)
    assert plain.value == pytest.approx(cost(x + 0.05 * slope / slope.norm()) - cost(x), rel=1e-9)
    adaptive = worst_case(landscape, radius=0.5, scaling="adaptive", steps=1, starts=1)
    step = 0.5 * x.square() * slope / (x.abs() * slope).norm()
    assert adaptive.value == pytest.approx(cost(x + step) - cost(x), rel=1e-9)


def test_one_step_at_a_minimum_says_that_it_has_no_direction(quadratic) -> None:
    found = worst_case(quadratic(torch.diag(VALUES)), steps=1, starts=1)
    assert found.value == 0.0
    assert "zero" in found.cautions[0]


def test_steps_find_more_than_one_does(quadratic) -> None:
    # Off the minimum in the flattest direction only: one step goes there, the worst case does not.
    centre = torch.tensor([0.0, 0.0, 0.0, 0.0, 0.01])
    landscape = quadratic(torch.diag(VALUES), torch.zeros(5), centre=centre)
    one = worst_case(landscape, radius=0.1, steps=1, starts=1).value
    assert worst_case(landscape, radius=0.1, steps=30).value > 10.0 * one


@pytest.mark.parametrize("zeros", [1, 4, 5])
def test_the_adaptive_worst_case_keeps_its_ball_where_weights_are_zero(quadratic, zeros) -> None:
    # Published code divides by the weights and, the norm being nan, skips the projection.
    x = torch.tensor([1.0, -2.0, 0.5, 3.0, 1.0])
    x[:zeros] = 0.0
    found = worst_case(quadratic(torch.diag(VALUES), x), radius=0.1, scaling="adaptive", steps=40)
    assert found.value == pytest.approx(float((VALUES * x.square()).max()) * 0.1**2 / 2.0, rel=1e-6)


def test_asam_offsets_weights_and_leaves_biases() -> None:
    landscape = Landscape(torch.nn.Linear(3, 2), cross_entropy, (torch.randn(5, 3), torch.zeros(5).long()))
    found = scales(landscape, "asam")
    assert torch.allclose(found[:6], landscape.theta[:6].abs() + 0.01)
    assert torch.equal(found[6:], torch.ones(2))


def test_m_sharpness_weighs_an_uneven_last_batch_by_its_samples() -> None:
    # f(w) = mean x_i^2 w^2 at w = 0: the worst case of a batch is rho^2 times its mean of x_i^2.
    x = torch.tensor([1.0, 2.0, 3.0, 4.0, 6.0]).double().unsqueeze(1)
    model = torch.nn.Linear(1, 1, bias=False).double()
    landscape = Landscape(model, mean_squared_error, [(x[:3], 0 * x[:3]), (x[3:], 0 * x[3:])], theta=torch.zeros(1))
    found = m_sharpness(landscape, size=2, radius=0.1, steps=2)
    assert found.samples == pytest.approx([0.01 * 2.5, 0.01 * 12.5, 0.01 * 36.0])
    assert found.value == pytest.approx(0.01 * float(x.square().mean()))


# Average case


def test_the_average_case_is_half_the_trace(quadratic, rotated) -> None:
    found = average_case(quadratic(rotated(VALUES)), deviation=0.5, pairs=1500)
    truth = 0.5**2 / 2.0 * float(VALUES.sum())  # drawn with variance 0.5 it would be twice that
    assert abs(found.value - truth) < QUANTILE * found.standard_error  # fails with probability 1e-4
    # A variance sum l^2 s^4 / 2 of each draw, the same for both of a pair.
    expected = math.sqrt(0.5**4 / 2.0 * float(VALUES.square().sum()) / 1500)
    assert found.standard_error == pytest.approx(expected, rel=0.2)


def test_the_adaptive_average_is_in_units_of_the_weights(quadratic) -> None:
    x = torch.tensor([1.0, -2.0, 0.0, 3.0, 0.5])
    found = average_case(quadratic(torch.diag(VALUES), x), deviation=0.3, scaling="adaptive", pairs=1500)
    truth = 0.3**2 / 2.0 * float((VALUES * x.square()).sum())
    assert abs(found.value - truth) < QUANTILE * found.standard_error  # fails with probability 1e-4


def test_pairs_cancel_the_slope(quadratic) -> None:
    flat = quadratic(1e-9 * torch.eye(5), torch.zeros(5), centre=torch.full((5,), 1e6))
    assert abs(average_case(flat, deviation=0.1, pairs=10).value) < 1e-8


def test_draws_extend_the_sequence_and_depend_on_the_seed(quadratic) -> None:
    landscape = quadratic(torch.diag(VALUES))
    short, long = average_case(landscape, pairs=3), average_case(landscape, pairs=20)
    assert np.array_equal(short.samples, long.samples[:3])
    assert not np.array_equal(short.samples, average_case(landscape, pairs=3, seed=1).samples)


# PAC-Bayes


def one_decision(weights: tuple[float, float]) -> Landscape:
    """Logits (w_1, w_2) for every sample, all of class 0: right where w_1 > w_2."""
    model = torch.nn.Linear(1, 2, bias=False).double()
    return Landscape(
        model, cross_entropy, (torch.ones(3, 1).double(), torch.zeros(3).long()), theta=torch.tensor(weights)
    )


@pytest.mark.parametrize("scaling", ["plain", "adaptive"])
def test_the_noise_found_loses_the_accuracy_asked_for(scaling) -> None:
    w = (1.0, 0.25)
    found = pac_bayes_sharpness(one_decision(w), scaling=scaling, draws=400, depth=25, repeats=1)
    spread = math.sqrt(2.0) if scaling == "plain" else math.hypot(*w)
    # The accuracy is Phi((w_1 - w_2) / (s spread)): within the tolerance 0.01 of 0.9, and with 400 draws within 0.0584
    # (3.9 standard errors, a failure probability of 1e-4).
    ends = [(w[0] - w[1]) / spread / NormalDist().inv_cdf(0.9 + off) for off in (0.0684, -0.0684)]
    assert ends[0] < 1.0 / math.sqrt(found.value) < ends[1]


def test_noise_that_costs_nothing_is_an_upper_bound() -> None:
    found = pac_bayes_sharpness(one_decision((1000.0, 0.0)), draws=5)
    assert found.value == pytest.approx(0.25, rel=1e-3)
    assert "upper bound" in found.cautions[0]


def test_accuracy_is_that_of_the_samples_that_count() -> None:
    x = torch.tensor([[1.0], [1.0], [-1.0], [1.0]])
    batches = [(x[:3], torch.tensor([0, 1, 1])), (x[3:], torch.tensor([-100]))]
    landscape = Landscape(torch.nn.Linear(1, 2, bias=False), cross_entropy, batches, theta=torch.tensor([1.0, 0.0]))
    assert accuracy(landscape) == pytest.approx(2.0 / 3.0)
    assert error_rate(landscape) == pytest.approx(1.0 / 3.0)


def test_accuracy_needs_classes() -> None:
    x = torch.ones(2, 1)
    with pytest.raises(ValueError, match="cross-entropy with classes"):
        pac_bayes_sharpness(Landscape(torch.nn.Linear(1, 1), mean_squared_error, (x, x)))
    assert math.isnan(error_rate(Landscape(torch.nn.Linear(1, 1), mean_squared_error, (x, x))))
    shares = torch.full((2, 2), 0.5)
    assert math.isnan(error_rate(Landscape(torch.nn.Linear(1, 2), cross_entropy, (x, shares))))


# Relative flatness and local entropy


def petzka(landscape: Landscape, name: str, spread: torch.Tensor) -> float:
    """The double sum in so many words, from the dense Hessian, inputs divided by ``spread``."""
    weight = landscape.parameters.unflatten(landscape.theta)[name] * spread
    rows, columns = weight.shape
    hessian = Hessian(landscape.restricted((name,))).to_dense().reshape(rows, columns, rows, columns)
    total = 0.0
    for s in range(rows):
        for t in range(rows):
            block = hessian[s, :, t, :] / torch.outer(spread, spread)
            total += float(weight[s] @ weight[t]) * float(block.trace())
    return total


def test_relative_flatness_is_the_double_sum(relu_network, classes) -> None:
    landscape = Landscape(relu_network(None), cross_entropy, classes)
    spread = classes[0].std(0, unbiased=False)
    truth = petzka(landscape, "first.weight", spread)
    exact = relative_flatness(landscape, "first", probes=None)
    assert exact.value == pytest.approx(truth, rel=1e-9)
    assert exact.products == 4 * 4
    sampled = relative_flatness(landscape, "first.weight", probes=300)
    assert abs(sampled.value - truth) < QUANTILE * sampled.standard_error  # fails with probability 1e-4
    plain = relative_flatness(landscape, "first", probes=None, normalised=False)
    assert plain.value == pytest.approx(petzka(landscape, "first.weight", torch.ones(4).double()), rel=1e-9)


def test_normalised_inputs_make_it_invariant_to_rescaled_neurons(relu_network, classes) -> None:
    factors = torch.tensor([4.0, 0.25, 2.0, 1.0, 0.5, 3.0]).double()
    one = Landscape(relu_network(None), cross_entropy, classes)
    two = Landscape(relu_network(factors), cross_entropy, classes)
    assert two.anchor_cost == pytest.approx(one.anchor_cost, abs=1e-14)
    for layer in ("first", "second"):
        values = [relative_flatness(each, layer, probes=None).value for each in (one, two)]
        assert values[1] == pytest.approx(values[0], rel=1e-9)
    plain = [relative_flatness(each, "second", probes=None, normalised=False).value for each in (one, two)]
    assert plain[1] > 1.2 * plain[0] or plain[0] > 1.2 * plain[1]


def test_a_constant_input_is_left_as_it_is_and_said() -> None:
    x = torch.randn(10, 2, generator=torch.Generator().manual_seed(0)).double()
    x[:, 1] = 3.0
    landscape = Landscape(torch.nn.Linear(2, 2).double(), cross_entropy, (x, torch.arange(10) % 2))
    found = relative_flatness(landscape, "weight", probes=None)
    spread = torch.stack([x[:, 0].std(unbiased=False), torch.tensor(1.0)])
    assert found.value == pytest.approx(petzka(landscape, "weight", spread), rel=1e-9)
    assert "constant" in found.cautions[0]


def test_adaptive_measures_do_not_see_rescaled_neurons(relu_network, classes) -> None:
    factors = torch.tensor([4.0, 0.25, 2.0, 1.0, 0.5, 3.0]).double()
    one = Landscape(relu_network(None), cross_entropy, classes)
    two = Landscape(relu_network(factors), cross_entropy, classes)

    def moved(measure) -> float:
        return measure(two).value / measure(one).value

    assert moved(lambda it: worst_case(it, scaling="adaptive")) == pytest.approx(1.0, abs=1e-9)
    assert moved(lambda it: average_case(it, scaling="adaptive", deviation=0.1)) == pytest.approx(1.0, abs=1e-9)
    assert abs(moved(worst_case) - 1.0) > 0.05
    assert abs(moved(average_case) - 1.0) > 0.05


def test_local_entropy_is_the_integral() -> None:
    # In two dimensions by Gauss-Hermite quadrature of the window.
    values, stiffness, inverse = np.array([2.0, 0.3]), 1.5, 4.0
    nodes, weights = np.polynomial.hermite_e.hermegauss(150)
    x = nodes / math.sqrt(stiffness)
    parts = [float((weights * np.exp(-inverse * 0.5 * value * x**2)).sum()) for value in values]
    integral = math.log(parts[0] * parts[1] / stiffness)
    density = SpectralDensity.from_eigenvalues(values)
    found = local_entropy(density, stiffness=stiffness, inverse_temperature=inverse)
    assert found.value == pytest.approx(integral, rel=1e-9)


def test_local_entropy_that_does_not_exist_is_refused(quadratic) -> None:
    density = dense_spectrum(Hessian(quadratic(torch.diag(torch.tensor([1.0, -2.0])))))
    with pytest.raises(ValueError, match="not positive definite"):
        local_entropy(density, stiffness=1.0)


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda it: keskar_sharpness(it, epsilon=0.0), "epsilon must be positive"),
        (lambda it: keskar_sharpness(it, subspace=6), "subspace must lie between 1 and"),
        (lambda it: worst_case(it, scaling="relative"), "scaling must be one of plain, adaptive, asam"),
        (lambda it: worst_case(it, steps=0), "steps must be at least 1"),
        (lambda it: average_case(it, deviation=math.inf), "deviation must be positive and finite"),
        (lambda it: relative_flatness(it, "theta"), "weight of two dimensions"),
    ],
)
def test_settings_out_of_range_are_refused(quadratic, call, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        call(quadratic(torch.diag(VALUES)))
