"""The independent check of the bridge, itself checked: its cost against the network's own, its mass against a law."""

import importlib.util
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from basinscope.tasks import digits_network, load_digits

PATH = Path(__file__).resolve().parents[3] / "benchmarks" / "star_independent.py"
SPEC = importlib.util.spec_from_file_location("star_independent", PATH)
assert SPEC is not None
assert SPEC.loader is not None
CHECK = importlib.util.module_from_spec(SPEC)
# Its dataclasses look their module up.
sys.modules[SPEC.name] = CHECK
SPEC.loader.exec_module(CHECK)
HIDDEN = 3


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, torch.nn.Module]:
    torch.manual_seed(0)
    model = digits_network(HIDDEN)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    path = tmp_path_factory.mktemp("independent") / "network.pt"
    torch.save(model.state_dict(), path)
    return CHECK.Network(path), model.double()


@pytest.mark.parametrize("scale", [0.03, 1.4])
@pytest.mark.parametrize("by", ["along", "_by_torch"])
def test_costs_along_rays_are_those_of_the_network(
    network: tuple[object, torch.nn.Module], scale: float, by: str
) -> None:
    place, model = network
    inputs = load_digits("heldout")[0].double()
    source = torch.Generator().manual_seed(1)
    points = place.anchor + scale * torch.randn(6, len(place.anchor), generator=source)
    fractions = torch.rand(30, generator=source, dtype=torch.float64)
    which = torch.arange(6).repeat_interleave(5)
    found = getattr(place, by)(points, which, fractions)
    expected = []
    for row, fraction in zip(which, fractions, strict=True):
        logs = []
        for at in (0.0, float(fraction)):
            theta = place.anchor.double() + at * (points[row] - place.anchor).double()
            torch.nn.utils.vector_to_parameters(theta, model.parameters())
            logs.append(model(inputs).log_softmax(1).detach())
        expected.append(float((logs[0].exp() * (logs[0] - logs[1])).sum(1).mean()))
    # Logits of some tens in single precision, averaged over 773 rows.
    assert found.numpy() == pytest.approx(np.array(expected), rel=2e-5, abs=3e-6)


def test_folding_reorders_hidden_units_and_nothing_else(network: tuple[object, torch.nn.Module]) -> None:
    place, _ = network
    points = torch.randn(300, len(place.anchor), generator=torch.Generator().manual_seed(2))
    folded, which, ends = place.fold(points), torch.arange(300), torch.ones(300, dtype=torch.float64)
    assert place.along(folded, which, ends).numpy() == pytest.approx(place.along(points, which, ends).numpy(), rel=1e-4)
    assert folded.sort(1).values.equal(points.sort(1).values)
    assert bool(place.canonical(folded).all())
    # One of 3! shares: a count beyond four standard deviations has probability below 1e-4.
    share = 1.0 / math.factorial(HIDDEN)
    assert abs(int(place.canonical(points).sum()) - 300 * share) < 4.0 * math.sqrt(300 * share * (1.0 - share))


def test_the_highest_cost_of_a_ray_is_found_between_places_too() -> None:
    grid = torch.linspace(0.0, 1.0, 17, dtype=torch.float64)
    peaks = torch.tensor([0.03, 0.31, 0.77, 0.98, 1.4], dtype=torch.float64).unsqueeze(1)
    highest, where = CHECK.highest_along(2.0 - (grid - peaks).square())
    assert where.numpy() == pytest.approx(peaks[:, 0].clamp(max=1.0).numpy())
    assert highest.numpy() == pytest.approx([2.0, 2.0, 2.0, 2.0, 2.0 - 0.16])


@pytest.mark.parametrize("target", ["star", "sublevel"])
def test_an_ellipsoid_has_its_mass(target: str) -> None:
    # 31 levels of 200 particles: independent ones would give a run a standard deviation of 0.4, so the mean of two 0.3.
    place = CHECK.two_scale_ellipsoid(6, 4, 2)
    settings = CHECK.Settings(target=target, particles=200, moves=8)
    runs = CHECK.simulate(place, [1.0, 0.3], settings, seed=0)
    for at, cutoff in enumerate((1.0, 0.3)):
        exact = CHECK.log_mass_of_two_scales(place, cutoff, settings.deviation)
        assert np.mean([run.log_masses[at] for run in runs]) == pytest.approx(exact, abs=1.5)


@pytest.mark.slow
def test_few_particles_in_many_dimensions_do_not_mislead_each_other() -> None:
    # Moves by a cloud's own covariance gave masses 12 nats too large here. The spread of a run is 1.5 nats, of the
    # mean of two 1.1: four of that have probability below 1e-4.
    place = CHECK.two_scale_ellipsoid(30, 15, 15)
    settings = CHECK.Settings(target="sublevel", particles=128, moves=32)
    runs = CHECK.simulate(place, [1.0], settings, seed=0)
    exact = CHECK.log_mass_of_two_scales(place, 1.0, settings.deviation)
    assert np.mean([run.log_masses[0] for run in runs]) == pytest.approx(exact, abs=4.4)


def test_runs_that_do_not_agree_are_said() -> None:
    def run(log_mass: float) -> dict[str, object]:
        found = CHECK.Found([0.1], [log_mass], tried=10, seconds=1.0)
        return {"network": "a.pt", "settings": vars(CHECK.Settings(particles=256)), "found": vars(found)}

    # 160 halvings: independent particles would give a deviation of 0.75.
    assert "(!)" not in CHECK.table([run(-111.0), run(-110.0)])
    text = CHECK.table([run(-100.0), run(-120.0)])
    assert "Neither the mean nor its standard error can be trusted" in text
    # log((e^-100 + e^-120) / 2)
    assert "| -100.69 |" in text
