"""Slices: the quadratic model by dense Hessians, where it breaks in closed form, planes through three checkpoints."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from comparisons.connections import (
    CostSlice,
    SliceSettings,
    read_slice,
    recomputed,
    slice_landscape,
    state_of,
    write_slice,
)
from spectra.costs import mean_squared_error
from spectra.errors import UserError
from spectra.landscape import Landscape


def dense(landscape: Landscape) -> Tensor:
    """The Hessian by torch's own double differentiation of the whole cost."""
    model, batches = landscape.model, list(landscape.iterate())

    def cost(theta: Tensor) -> Tensor:
        tensors = landscape.parameters.unflatten(theta)
        sums = [
            landscape.cost_function(torch.func.functional_call(model, tensors, (b.inputs,)), b.targets).sum()
            for b in batches
        ]
        return sum(sums) / sum(len(b.targets) for b in batches)

    return torch.func.hessian(cost)(landscape.theta)


@pytest.mark.parametrize("axes", [(1, 2), (2, -1)])
def test_the_plane_is_that_of_the_eigenvectors_and_its_model_that_of_the_dense_hessian(
    networks: ModuleType, axes: tuple[int, int]
) -> None:
    one = networks.landscape(networks.Own(), 0)
    found = slice_landscape(one, settings=SliceSettings(axes=axes, points=5))
    hessian, slope = dense(one), one.gradient()
    values, vectors = torch.linalg.eigh(hessian)
    for place, number in enumerate(axes):
        which = len(values) - number if number > 0 else -number - 1
        assert found.eigenvalues[place] == pytest.approx(float(values[which]), rel=1e-8, abs=1e-9)
        along = float(torch.as_tensor(found.directions[place]) @ vectors[:, which])
        assert abs(along) == pytest.approx(1.0, abs=1e-6)
        largest = found.directions[place][np.abs(found.directions[place]).argmax()]
        assert largest > 0.0
    rows = torch.as_tensor(found.directions)
    np.testing.assert_allclose(found.curvature, (rows @ hessian @ rows.T).numpy(), atol=1e-10)
    np.testing.assert_allclose(found.slope, (rows @ slope).numpy(), atol=1e-12)
    # Each point of the window costs what its parameters cost, one at a time.
    for row, column in [(0, 0), (1, 3), (2, 2), (4, 1)]:
        theta = one.theta + found.x[column] * rows[0] + found.y[row] * rows[1]
        assert found.costs[row, column] == pytest.approx(one.cost(theta), rel=1e-12)
        step = theta - one.theta
        model = one.cost() + float(slope @ step) + 0.5 * float(step @ hessian @ step)
        assert found.models[row, column] == pytest.approx(model, rel=1e-9)
    assert found.costs[2, 2] == pytest.approx(one.cost(), rel=1e-12)
    assert found.complete


def test_a_quadratic_cost_is_its_model_and_breaks_nowhere() -> None:
    inputs = torch.randn(9, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model = nn.Linear(3, 1, bias=False).double()
    one = Landscape(model, mean_squared_error, (inputs, torch.ones(9, 1).double()), theta=torch.ones(3))
    found = slice_landscape(one, settings=SliceSettings(points=7))
    np.testing.assert_allclose(found.costs, found.models, rtol=1e-10)
    assert [one.radius for one in found.departures] == [np.inf] * 4
    assert min(one.looked for one in found.departures) > float(one.theta.norm())


class Quartic(nn.Module):
    """Its squared output is ``(a^2 + k a^4) / 2 + b^2``."""

    def __init__(self, quartic: float) -> None:
        super().__init__()
        self.place, self.quartic = nn.Parameter(torch.zeros(2, dtype=torch.float64)), quartic

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.place
        return torch.sqrt((a**2 + self.quartic * a**4) / 2.0 + b**2 + 1.0).expand(len(x), 1)


def test_the_place_where_the_model_breaks_is_that_of_the_closed_form() -> None:
    quartic = 3.0
    data = torch.zeros(4, 1, dtype=torch.float64), torch.zeros(4, 1, dtype=torch.float64)
    one = Landscape(Quartic(quartic), mean_squared_error, data)
    found = slice_landscape(one, settings=SliceSettings(points=5))
    # Off by a share k a^2 along a, whose eigenvalue is the smaller one; along b the cost is the model.
    truth = (0.1 / quartic) ** 0.5
    first, second = found.departures[:2], found.departures[2:]
    assert found.eigenvalues.tolist() == pytest.approx([2.0, 1.0])
    assert all(np.isinf(ray.radius) for ray in first)
    for ray in second:
        assert truth <= ray.radius <= truth * 1.01
        assert ray.cost == pytest.approx(0.5 * (ray.radius**2 + quartic * ray.radius**4), rel=1e-6)
        assert ray.first == ray.radius
    assert found.y[-1] == pytest.approx(2.0 * max(ray.radius for ray in second))


class Kinked(nn.Module):
    """Its squared output is ``1 + a^2 / 2 + b^2 + 2 s relu(a - 0.01)``: a kink whose slope a parabola soon outgrows."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.place, self.slope = nn.Parameter(torch.zeros(2, dtype=torch.float64)), slope

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.place
        return torch.sqrt(1.0 + a**2 / 2.0 + b**2 + self.slope * torch.relu(a - 0.01)).expand(len(x), 1)


def test_a_kink_near_by_is_told_and_is_not_where_the_model_ends() -> None:
    slope = 0.01
    data = torch.zeros(4, 1, dtype=torch.float64), torch.zeros(4, 1, dtype=torch.float64)
    found = slice_landscape(Landscape(Kinked(slope), mean_squared_error, data), settings=SliceSettings(points=3))
    # Off by 2 s (r - 0.01) / r^2: above 10 % between the roots of 0.1 r^2 = 2 s (r - 0.01), and never again.
    near, far = sorted(np.roots([0.1, -2.0 * slope, 2.0 * slope * 0.01]))
    plus, minus = found.departures[2:]
    assert near <= plus.first <= near * 2.0**0.5
    assert plus.radius == np.inf
    assert plus.looked > 10.0 * far
    assert (minus.first, minus.radius) == (np.inf, np.inf)


def test_three_checkpoints_lie_in_their_plane(networks: ModuleType) -> None:
    one, two, three = (networks.landscape(networks.Own(), seed) for seed in range(3))
    found = slice_landscape(one, (two, three), SliceSettings(points=8))
    rows = torch.as_tensor(found.directions)
    np.testing.assert_allclose((rows @ rows.T).numpy(), np.eye(2), atol=1e-12)
    for place, cost, other in zip(found.places, found.place_costs, (two, three), strict=True):
        theta = one.theta + torch.as_tensor(place) @ rows
        torch.testing.assert_close(theta, other.theta)
        assert cost == pytest.approx(other.cost(), rel=1e-12)
        assert found.x[0] < place[0] < found.x[-1]
        assert found.y[0] < place[1] < found.y[-1]
    assert found.places[0, 1] == pytest.approx(0.0, abs=1e-12)
    assert np.abs(found.x).min() == 0.0
    np.testing.assert_allclose(found.curvature, (rows @ dense(one) @ rows.T).numpy(), atol=1e-10)
    middle = one.at(0.5 * (one.theta + two.theta))
    with pytest.raises(UserError, match="one line"):
        slice_landscape(one, (middle, two))
    with pytest.raises(UserError, match="the same"):
        slice_landscape(one, (one.at(one.theta), two))
    with pytest.raises(UserError, match="one checkpoint or through three"):
        slice_landscape(one, (two,))


def test_batch_norm_on_a_plane_says_what_it_does(networks: ModuleType) -> None:
    one, two, three = (networks.landscape(networks.convolutions(), seed, (1, 8, 8), 3) for seed in range(3))
    alone = slice_landscape(one, settings=SliceSettings(points=3))
    assert any("stay the checkpoint's own" in note for note in alone.notes)
    assert alone.costs[1, 1] == pytest.approx(one.cost(), rel=1e-12)
    plane = slice_landscape(one, (two, three), SliceSettings(points=3))
    assert not plane.has_model
    assert any("no quadratic model" in note for note in plane.notes)
    theta = one.theta + torch.as_tensor([plane.x[2], plane.y[0]]) @ torch.as_tensor(plane.directions)
    anew = one.with_state(recomputed(one, theta, state_of(one))).cost(theta)
    assert plane.costs[0, 2] == pytest.approx(anew, rel=1e-9)


def test_axes_that_are_none_are_refused(networks: ModuleType) -> None:
    one = networks.line(torch.tensor([1.0, 0.0]))
    with pytest.raises(UserError, match="two different eigenvectors"):
        SliceSettings(axes=(1, 1))
    with pytest.raises(UserError, match=r"--axes 3 is beyond the 2 parameters"):
        slice_landscape(one, settings=SliceSettings(axes=(1, 3)))
    with pytest.raises(UserError, match="are one eigenvector"):
        slice_landscape(one, settings=SliceSettings(axes=(2, -1)))


def test_a_killed_slice_goes_on_to_the_same_numbers(networks: ModuleType, tmp_path: Path) -> None:
    one = networks.landscape(networks.Own(), 0)
    kept: list[CostSlice] = []
    whole = slice_landscape(one, settings=SliceSettings(points=6), on_rows=kept.append)
    assert [part.rows_done for part in kept] == list(range(7))
    write_slice(tmp_path / "part.h5", kept[2])
    stored = read_slice(tmp_path / "part.h5")
    assert (stored.rows_done, stored.complete) == (2, False)
    resumed = slice_landscape(one, settings=whole.settings, resume=stored)
    for name in ("x", "y", "costs", "directions", "curvature", "slope", "eigenvalues"):
        assert np.array_equal(getattr(resumed, name), getattr(whole, name)), name
    assert [vars(ray) for ray in resumed.departures] == [vars(ray) for ray in whole.departures]
