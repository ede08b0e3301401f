"""One law suite for every prior, and the refusals."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate

from spectra.model import generator, select_parameters
from volume.priors import GaussianPrior, Lebesgue, UniformPrior, parse_prior, prior_forms

DEVIATIONS = torch.tensor([0.3, 1.0, 2.5], dtype=torch.float64)
ANCHOR = torch.tensor([0.2, -0.5, 0.4], dtype=torch.float64)
# A prior joins by the forms of its row, with a number for each letter; those without total mass stay out.
NUMBERS = {"S": "0.7", "A": "1.3", "NU": "30"}
FORMS = [":".join(NUMBERS.get(part, part) for part in form.split(":")) for form in prior_forms() if form != "init"]
PARSED = {form: parse_prior(form, ANCHOR) for form in FORMS}
PRIORS = {form: prior for form, prior in PARSED.items() if prior.proper} | {"by parameter": GaussianPrior(DEVIATIONS)}
each_prior = pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)


def unit_rows(count: int, size: int, seed: int = 0) -> torch.Tensor:
    rows = torch.randn(count, size, generator=generator(seed, "directions"), dtype=torch.float64)
    return rows / rows.norm(dim=1, keepdim=True)


@each_prior
def test_integrates_to_one_over_rays(prior) -> None:
    """Radial integral of each ray, averaged over 4000 directions: standard error 1 to 2 %, 5 of them."""
    ray = prior.ray(ANCHOR, unit_rows(4000, 3))
    assert np.isfinite(ray.reach(3)).all()
    terms = 4 * math.pi * np.exp(ray.log_integral(ray.extent, 3))
    assert abs(terms.mean() - 1.0) < 5 * terms.std(ddof=1) / math.sqrt(len(terms))
    assert terms.std() / math.sqrt(len(terms)) < 0.05


@each_prior
def test_ray_is_the_log_density(prior) -> None:
    directions = unit_rows(20, 3, seed=1)
    ray = prior.ray(ANCHOR, directions)
    for share in (0.0, 0.3, 0.999):
        radius = share * np.minimum(ray.extent, 4.0)
        stepped = ANCHOR + torch.as_tensor(radius)[:, None] * directions
        expected = [prior.log_density(theta) for theta in stepped]
        np.testing.assert_allclose(ray.at(radius), expected, rtol=1e-12, atol=1e-12)
    if np.isfinite(ray.extent).all():
        beyond = ANCHOR + torch.as_tensor(1.0001 * ray.extent)[:, None] * directions
        assert all(prior.log_density(theta) == -math.inf for theta in beyond)
        assert np.all(ray.at(1.0001 * ray.extent) == -np.inf)


@each_prior
def test_the_radial_integral_and_no_mass_beyond_the_reach(prior) -> None:
    ray = prior.ray(ANCHOR, unit_rows(3, 3))
    for i, reach in enumerate(ray.reach(3)):
        one = ray.taken(np.array([i]))

        def density(log_r: float, one=one) -> float:
            r = math.exp(log_r)
            return math.exp(float(one.at(np.array([r]))[0])) * r**3

        def mass(low: float, high: float, density=density) -> float:
            ends = np.linspace(low, high, 30)
            return sum(integrate.quad(density, *pair)[0] for pair in zip(ends, ends[1:], strict=False))

        for radius in (0.1, 1.0, reach):
            end = min(radius, one.extent[0])
            integral = float(one.log_integral(np.array([end]), 3)[0])
            assert math.log(mass(math.log(end) - 20.0, math.log(end))) == pytest.approx(integral, abs=1e-9)
            step = math.log(mass(math.log(end) - 20.0, math.log(end) - 1e-4))
            assert float(one.log_slope(np.array([end]), 3)[0]) == pytest.approx(
                (integral - step) / 1e-4, rel=1e-2, abs=1e-5
            )
        if math.isinf(one.extent[0]):
            assert mass(math.log(reach), math.log(reach) + 5.0) < 1e-15


@pytest.mark.parametrize("form", [form for form in FORMS if not form.startswith("gaussian")])
def test_a_name_is_parsed_to_the_same_prior(form: str) -> None:
    assert parse_prior(PARSED[form].name, ANCHOR) == PARSED[form]


@each_prior
def test_samples_follow_the_density(prior) -> None:
    """The mean of 1{x in a cube} / rho(x) is the cube's volume; 5 standard errors (p < 1e-6)."""
    draws = prior.sample(generator(3, "draws"), 40_000, 3)
    assert torch.equal(draws, prior.sample(generator(3, "draws"), 40_000, 3))
    cube = 0.25
    inside = (draws.abs() < cube).all(1)
    weights = np.zeros(len(draws))
    weights[inside.numpy()] = [math.exp(-prior.log_density(theta)) for theta in draws[inside]]
    assert abs(weights.mean() - (2 * cube) ** 3) < 5 * weights.std() / math.sqrt(len(draws))


@each_prior
def test_scale_is_the_standard_deviation(prior) -> None:
    draws = prior.sample(generator(4, "draws"), 40_000, 3)
    np.testing.assert_allclose(draws.std(0), prior.scale(3), rtol=5 / math.sqrt(2 * 40_000))
    assert abs(draws.mean(0) / prior.scale(3)).max() < 5 / math.sqrt(40_000)


@each_prior
def test_proper_and_named(prior) -> None:
    assert prior.proper
    assert prior.name


def test_float32_directions_of_many_parameters() -> None:
    """Pieces of columns add up; coefficients are those of float64 on the same numbers."""
    n = 70_000
    theta, rows = torch.randn(n, generator=generator(0, "t")), unit_rows(2, n).float()
    scales = torch.linspace(0.5, 2.0, n, dtype=torch.float64)
    ray = GaussianPrior(scales).ray(theta, rows)
    np.testing.assert_allclose(ray.linear, (rows.double() * theta.double() / scales**2).sum(1), rtol=1e-9)
    np.testing.assert_allclose(ray.quadratic, (rows.double() / scales).square().sum(1), rtol=1e-12)
    box = UniformPrior(float(theta.abs().max()) * 2).ray(theta, rows)
    room = 2 * theta.abs().max().double() - rows.double().sign() * theta.double()
    np.testing.assert_allclose(box.extent, (room / rows.double().abs()).amin(1), rtol=1e-12)


def test_lebesgue() -> None:
    prior = Lebesgue()
    ray = prior.ray(ANCHOR, unit_rows(2, 3))
    assert not prior.proper
    assert prior.log_density(ANCHOR) == 0.0
    assert np.all(ray.at(np.full(2, 1e200)) == 0.0)
    assert np.all(np.isinf(ray.reach(3)))
    assert bool(torch.isinf(prior.scale(3)).all())
    with pytest.raises(ValueError, match="no total mass"):
        prior.sample(generator(0, "x"), 1, 3)


def test_from_initialisation_follows_the_layout() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    stated = {"1.bias": 4.0, "0.weight": 1.0, "1.weight": 3.0, "0.bias": 2.0}
    metadata = {"initialisation_standard_deviations": stated}
    layout = select_parameters(model)
    prior = parse_prior("init", torch.ones(13), layout=layout, metadata=metadata)
    assert prior.scale(13).tolist() == [1.0] * 6 + [2.0] * 3 + [3.0] * 3 + [4.0]
    part = parse_prior("init", torch.ones(4), layout=select_parameters(model, "1"), metadata=metadata)
    assert part.scale(4).tolist() == [3.0] * 3 + [4.0]
    for bad, message in (
        (None, "has no initialisation"),
        ({"0.weight": 1.0}, "lacks 0.bias"),
        ({**stated, "1.bias": 0.0}, "1.bias must be positive"),
    ):
        with pytest.raises(ValueError, match=message):
            GaussianPrior.from_initialisation({"initialisation_standard_deviations": bad}, layout)


def test_parse() -> None:
    theta = torch.tensor([3.0, 4.0])
    assert parse_prior("gaussian", theta).scale(2)[0] == pytest.approx(math.sqrt(12.5))
    assert parse_prior("gaussian:0.25", theta).scale(2).tolist() == [0.25, 0.25]
    assert parse_prior("uniform:5", theta) == UniformPrior(5.0)
    assert parse_prior("ball:6", theta) == UniformPrior(6.0, "ball")
    assert parse_prior("lebesgue", theta) == Lebesgue()


@pytest.mark.parametrize(
    "text, message",
    [
        ("gaussian:0", "positive finite number, got 0"),
        ("gaussian:-1", "positive finite number, got -1"),
        ("gaussian:nan", "positive finite number, got nan"),
        ("uniform:inf", "positive finite number, got inf"),
        ("uniform", "prior must be gaussian"),
        ("gaussian:wide", "number after the colon, got 'wide'"),
        ("cauchy", "prior must be gaussian"),
        ("init", "parameters have names"),
    ],
)
def test_refused_words(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_prior(text, torch.ones(2))


def test_refusals() -> None:
    with pytest.raises(ValueError, match="root mean square of the parameters must be positive and finite, got 0"):
        parse_prior("gaussian", torch.zeros(2))
    with pytest.raises(ValueError, match="got 0 in 1 of 2 parameters"):
        GaussianPrior(torch.tensor([1.0, 0.0]))
    with pytest.raises(ValueError, match="has 3 standard deviations, expected 2"):
        GaussianPrior(DEVIATIONS).log_density(torch.ones(2))
    with pytest.raises(ValueError, match="outside of the prior uniform:0.1"):
        UniformPrior(0.1).ray(ANCHOR, unit_rows(1, 3))
    with pytest.raises(ValueError, match="shape must be box or ball"):
        UniformPrior(1.0, "cube")
    with pytest.raises(ValueError, match=r"directions must have shape \(k, 3\), got \(1, 2\)"):
        Lebesgue().ray(ANCHOR, unit_rows(1, 2))
