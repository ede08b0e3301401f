"""Paths between networks: barriers in closed form, permuted copies, batch norm, and what is no path."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from comparisons.connections import (
    Connection,
    PathSettings,
    connect_landscapes,
    hidden_layers,
    read_connection,
    recomputed,
    state_of,
    write_connection,
)
from comparisons.measures import arrange, permuted
from spectra.costs import mean_squared_error
from spectra.errors import UserError
from spectra.landscape import Landscape
from spectra.model import generator


def test_a_double_well_has_its_barrier_in_closed_form(networks: ModuleType) -> None:
    # Mean squared error averages over samples the sum over outputs: (a^2 - 1)^2 + b^2.
    one, other = networks.line(torch.tensor([-1.0, 0.5])), networks.line(torch.tensor([1.0, 0.0]))
    scale = one.cost() / 0.25
    found = connect_landscapes(one, other, PathSettings(tolerance=1e-5))
    (path,) = found.paths
    # On the line a = 2t - 1, b = (1 - t)/2: the height above the chord (1 - t)/4 by a fine grid.
    t = np.linspace(0.0, 1.0, 100_001)
    height = scale * (((2 * t - 1) ** 2 - 1) ** 2 + (1 - t) ** 2 / 4 - (1 - t) / 4)
    assert 0.0 <= height.max() - path.barrier.height + 1e-12 <= path.barrier.error + 2e-12
    assert path.barrier.low - 1e-9 <= t[height.argmax()] <= path.barrier.high + 1e-9
    assert path.barrier.error <= 1e-5 * np.ptp(path.costs)
    assert path.distance == pytest.approx(4.25**0.5)
    assert found.complete
    assert any("no aligned path" in note for note in found.notes)


def test_a_quadratic_cost_has_no_barrier() -> None:
    """Of ``x^T H x / 2`` the height above the chord is ``-t (1 - t) d^T H d / 2`` everywhere."""
    model, inputs = nn.Linear(3, 1, bias=False).double(), torch.randn(9, 3, generator=generator(0, "rows")).double()
    one = Landscape(model, mean_squared_error, (inputs, torch.zeros(9, 1).double()), theta=torch.ones(3))
    other = one.at(torch.tensor([-1.0, 2.0, 0.5]))
    (path,) = connect_landscapes(one, other).paths
    d = other.theta - one.theta
    bend = float(d @ (2.0 * inputs.T @ inputs / 9) @ d)
    np.testing.assert_allclose(path.above_chord, -path.places * (1 - path.places) * bend / 2.0, atol=1e-12)
    assert path.barrier.height == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("matching", ["weights", "activations"])
def test_a_permuted_copy_is_joined_without_a_barrier(networks: ModuleType, matching: str) -> None:
    model = nn.Sequential(nn.Linear(3, 7), nn.Tanh(), nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 2))
    one = networks.landscape(model, 0)
    straight, aligned = connect_landscapes(one, permuted(one, seed=3), PathSettings(matching=matching)).paths
    assert straight.barrier.height > 0.05
    assert straight.barrier.height > 100.0 * straight.barrier.error
    assert np.ptp(aligned.costs) < 1e-12
    assert aligned.distance < 1e-12
    assert aligned.barrier.height + aligned.barrier.error <= 2.0 * aligned.noise


@pytest.mark.parametrize(
    "model, inputs, layers",
    [
        ("Own", (3,), {"first": "second", "second": "third"}),
        ("Residual", (3,), {"inner": "back"}),
        ("convolutions", (1, 8, 8), {"0": "3", "3": "8", "8": "10"}),
    ],
)
def test_units_that_may_change_places_are_found_in_any_model(
    networks: ModuleType, model: str, inputs: tuple[int, ...], layers: dict[str, str]
) -> None:
    one = networks.landscape(getattr(networks, model)(), 0, inputs, classes=2 if len(inputs) == 1 else 3)
    tensors = one.parameters.unflatten(one.theta) | state_of(one)
    found = hidden_layers(one, tensors)
    assert {joint.before: joint.after for joint in found} == layers
    assert [joint.odd for joint in found] == [joint.before == "first" for joint in found]
    # Any order of theirs costs the same, batch norm's running statistics moved along; to rounding in float64.
    for number, joint in enumerate(found):
        order = torch.randperm(joint.units, generator=generator(1, "order", number))
        arrange(tensors, joint, order, torch.ones(joint.units))
    moved = one.with_state({name: tensors[name] for name in state_of(one)})
    theta = one.parameters.flatten(tensors)
    assert float((theta - one.theta).norm()) > 0.1
    assert moved.cost(theta) == pytest.approx(one.cost(), rel=1e-12)


def batch_norm_network(networks: ModuleType, seed: int) -> Landscape:
    """With running statistics that are those of its data, as after training."""
    one = networks.landscape(networks.convolutions(), seed, (1, 8, 8), 3)
    state = recomputed(one, one.theta, state_of(one))
    with torch.no_grad():
        for name, buffer in one.model.named_buffers():
            buffer.copy_(state[name])
    # Both ends of a path to a copy cost nothing, and what is between does.
    batches = [(batch.inputs, batch.targets) for batch in one.iterate()]
    one.model.eval()
    with torch.no_grad():
        return Landscape(one.model, mean_squared_error, [(inputs, one.model(inputs)) for inputs, _ in batches])


def test_running_statistics_of_the_first_layer_are_those_of_the_whole_data_and_nothing_is_left_behind(
    networks: ModuleType,
) -> None:
    one = networks.landscape(networks.convolutions(), 0, (1, 8, 8), 3)
    before = {name: tensor.clone() for name, tensor in one.model.state_dict().items()}
    found = recomputed(one, one.theta, state_of(one))
    first = one.model[0](torch.cat([batch.inputs for batch in one.iterate()])).detach()
    wide = first.transpose(0, 1).flatten(1)
    torch.testing.assert_close(found["1.running_mean"], wide.mean(1))
    torch.testing.assert_close(found["1.running_var"], wide.var(1))
    for name, tensor in one.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert not any(module.training != one.model.training for module in one.model.modules())
    assert not any(module._forward_pre_hooks for module in one.model.modules())
    # One batch: all layers as torch's own train mode has them.
    whole = Landscape(
        one.model,
        one.cost_function,
        tuple(map(torch.cat, zip(*((b.inputs, b.targets) for b in one.iterate()), strict=True))),
    )
    found = recomputed(whole, whole.theta, state_of(whole))
    twin = networks.convolutions().double()
    twin.load_state_dict(before)
    for module in twin.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum, module.num_batches_tracked = None, torch.tensor(0)
    twin.train()(next(whole.iterate()).inputs)
    for name, buffer in twin.named_buffers():
        if "running" in name:
            torch.testing.assert_close(found[name], buffer)


def test_batch_norm_is_computed_anew_on_the_way_and_a_permuted_copy_is_joined(networks: ModuleType) -> None:
    one = batch_norm_network(networks, 0)
    tensors = one.parameters.unflatten(one.theta) | state_of(one)
    for number, joint in enumerate(hidden_layers(one, tensors)):
        order = torch.randperm(joint.units, generator=generator(1, "order", number))
        arrange(tensors, joint, order, torch.ones(joint.units))
    twin = networks.convolutions().double()
    twin.load_state_dict(one.model.state_dict() | tensors)
    other = Landscape(twin, one.cost_function, one.batches)
    assert other.cost() == pytest.approx(0.0, abs=1e-20)
    found = connect_landscapes(one, other, PathSettings(points=9))
    straight, aligned = found.paths
    assert straight.barrier.height > 0.01
    assert np.ptp(aligned.costs) < 1e-12
    assert any("2 batch norm layers are computed anew" in note for note in found.notes)
    # At a point of the way: the cost with the moments of the data there, as train mode has them in one batch each.
    theta = torch.lerp(one.theta, other.theta, 0.5)
    middle = float(straight.costs[list(straight.places).index(0.5)])
    state = recomputed(one, theta, state_of(one))
    assert middle == pytest.approx(one.with_state(state).cost(theta), rel=1e-12)
    stale = connect_landscapes(one, other, PathSettings(points=9, statistics="interpolate"))
    assert float(stale.paths[0].costs[list(stale.paths[0].places).index(0.5)]) != pytest.approx(middle, rel=1e-3)
    assert any("stale" in note for note in stale.notes)


def test_what_is_not_one_model_on_one_set_of_data_is_refused(networks: ModuleType) -> None:
    one = networks.landscape(networks.Own(), 0)
    wide = networks.Own()
    wide.first = nn.Linear(4, 6)
    other = networks.landscape(wide, 0, (4,))
    with pytest.raises(UserError, match=r"first\.weight has shape \(6, 3\) in the first and \(6, 4\)"):
        connect_landscapes(one, other)
    with pytest.raises(UserError, match="no parameter first"):
        connect_landscapes(one, networks.landscape(nn.Sequential(nn.Linear(3, 2)), 0))
    with pytest.raises(UserError, match="different data"):
        connect_landscapes(one, networks.landscape(networks.Own(), 1, rows=30))
    tanh, relu = (nn.Sequential(nn.Linear(3, 4), kind(), nn.Linear(4, 2)) for kind in (nn.Tanh, nn.ReLU))
    with pytest.raises(UserError, match="other outputs"):
        connect_landscapes(networks.landscape(tanh, 0), networks.landscape(relu, 1))


def test_a_cost_that_is_not_finite_on_the_way_is_refused(networks: ModuleType) -> None:
    data = torch.zeros(4, 1, dtype=torch.float64), torch.zeros(4, 1, dtype=torch.float64)
    one, other = (Landscape(networks.Pole(place), mean_squared_error, data) for place in (-1.0, 1.0))
    with pytest.raises(UserError, match=r"not finite at 0\.5000 of the straight path"):
        connect_landscapes(one, other)


def test_a_killed_connection_goes_on_to_the_same_numbers(networks: ModuleType, tmp_path: Path) -> None:
    one, other = (networks.landscape(networks.Own(), seed) for seed in (0, 1))
    kept: list[Connection] = []
    whole = connect_landscapes(one, other, PathSettings(tolerance=1e-5), on_round=kept.append)
    assert len(kept) > 6
    for part in kept[:-1]:
        write_connection(tmp_path / "part.h5", part)
        stored = read_connection(tmp_path / "part.h5")
        assert not stored.complete or stored.paths[-1] is kept[-1].paths[-1]
    resumed = connect_landscapes(one, other, whole.settings, resume=read_connection(tmp_path / "part.h5"))
    early = connect_landscapes(one, other, whole.settings, resume=kept[2])
    for found in (resumed, early):
        for path, truth in zip(found.paths, whole.paths, strict=True):
            assert np.array_equal(path.places, truth.places)
            np.testing.assert_allclose(path.costs, truth.costs, rtol=0.0, atol=1e-14)
