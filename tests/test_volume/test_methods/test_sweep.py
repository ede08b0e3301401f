"""Volumes across cutoffs: slopes in closed form, common directions, and bumps seen at one cutoff alone."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from spectra.landscape import Landscape
from volume.estimator import VolumeEstimator
from volume.method_result import from_sample
from volume.methods import sample_cutoffs
from volume.methods.sweep_sampling import _followed
from volume.noise import cost_noise, noise_caution
from volume.preconditioners import Identity
from volume.priors import GaussianPrior, Lebesgue, Parabola
from volume.rays import Rays, StarDomainSettings, star_domain_volume
from volume.study import VolumeSettings
from volume.sweep import CutoffSweep, parse_sweep

SIZE = 12
CUTOFFS = parse_sweep("1e-4:1:9")


class Bowl(torch.nn.Module):
    def __init__(self, anchor: torch.Tensor) -> None:
        super().__init__()
        self.theta = torch.nn.Parameter(anchor.clone())

    def forward(self, ones: torch.Tensor) -> torch.Tensor:
        return ones * self.theta


def bowl(values: torch.Tensor, quartic: float = 0.0) -> Landscape:
    """``sum 1/2 l_i x_i^2 + q (|x|^2)^2`` around the origin, in float64."""

    def cost(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return 0.5 * (values * outputs.square()).sum(-1) + quartic * outputs.square().sum(-1).square() + 0 * targets

    size = len(values)
    return Landscape(Bowl(torch.zeros(size).double()), cost, (torch.ones(1, size).double(), torch.zeros(1).double()))


VALUES = torch.logspace(0, 1.5, SIZE, dtype=torch.float64)


def swept(landscape: Landscape, settings: StarDomainSettings, cutoffs: np.ndarray = CUTOFFS) -> CutoffSweep:
    found = sample_cutoffs(landscape, cutoffs, settings, prior=Lebesgue(), preconditioner=Identity())
    results = tuple(from_sample("star-domain", one, "lebesgue", "identity", np.nan) for one in found)
    return CutoffSweep(cutoffs, {"star-domain": results})


def test_the_slope_of_a_quadratic_under_lebesgue_is_half_the_dimension() -> None:
    sweep = swept(bowl(VALUES), StarDomainSettings(directions=40, nats=1e-8))
    assert sweep.slopes("star-domain") == pytest.approx(np.full(9, SIZE / 2), abs=1e-6)


def test_far_out_on_a_quartic_the_slope_is_a_quarter_of_it() -> None:
    cutoffs = parse_sweep("1e6:1e8:5")
    sweep = swept(bowl(VALUES, quartic=1.0), StarDomainSettings(directions=40, nats=1e-8), cutoffs)
    # 1/2 l r^2 against r^4 = T: a relative 16 / sqrt(1e6) at most.
    assert sweep.slopes("star-domain") == pytest.approx(np.full(5, SIZE / 4), rel=0.02)


def test_each_cutoff_of_a_sweep_has_the_terms_of_a_run_of_its_own() -> None:
    landscape, settings = bowl(VALUES, quartic=3.0), StarDomainSettings(directions=70, nats=1e-8)
    sweep = swept(landscape, settings)
    for cutoff, result in zip(CUTOFFS, sweep.results["star-domain"], strict=True):
        own = star_domain_volume(landscape, StarDomainSettings(cutoff=float(cutoff), directions=70, nats=1e-8))
        assert result.sampled is not None
        assert np.allclose(result.sampled.log_terms, own.log_terms, rtol=0.0, atol=1e-6)
        assert result.sampled.cutoff == cutoff
    # Followed outwards a crossing takes few evaluations: two of them are the scan's.
    spent = [one.sampled.evaluations.mean() for one in sweep.results["star-domain"] if one.sampled is not None]
    assert np.mean(spent) < 8.0


def test_a_sweep_that_is_resumed_is_the_whole_sweep_to_the_bit() -> None:
    landscape, whole = bowl(VALUES, quartic=3.0), StarDomainSettings(directions=100, block=32)
    options = {"prior": GaussianPrior(1.0), "preconditioner": Identity()}
    part = sample_cutoffs(landscape, CUTOFFS, StarDomainSettings(directions=64, block=32), **options)  # type: ignore[arg-type]
    resumed = sample_cutoffs(landscape, CUTOFFS, whole, resume=part, **options)  # type: ignore[arg-type]
    once = sample_cutoffs(landscape, CUTOFFS, whole, **options)  # type: ignore[arg-type]
    for one, two in zip(resumed, once, strict=True):
        assert one.log_terms.tobytes() == two.log_terms.tobytes()


def test_a_bump_that_a_larger_cutoff_sees_ends_the_ray_for_the_smaller_one() -> None:
    def costs(rows: np.ndarray, radii: np.ndarray) -> np.ndarray:
        return np.asarray(radii**2 / 2 + (np.abs(radii - 0.5) < 0.02))

    zero = np.zeros(1)
    rays = Rays(costs, zero, False, Parabola(zero, zero, zero, zero + np.inf), zero + 10.0, 3, "identity")
    # Crossings of 0.2 and 0.281 at 0.632 and 0.75: the scan of the second alone, at 0.25 and 0.5, meets the bump.
    small, large = _followed(rays, np.array([0.2, 0.28125]), 0.1, StarDomainSettings(nats=1e-6))
    assert not large.monotone[0]
    assert not small.monotone[0]
    assert 0.25 <= small.radius[0] <= large.radius[0] <= 0.5


def test_slopes_of_the_quadratic_mass_are_those_of_chi_square() -> None:
    settings = VolumeSettings(methods=("quadratic-mass", "shifted-determinant"), prior="gaussian:1")
    estimator = VolumeEstimator(bowl(torch.ones(SIZE).double()), settings, GaussianPrior(1.0))
    cutoffs = parse_sweep("0.01:1:41")
    sweep = CutoffSweep(cutoffs, {name: estimator.sweep(name, cutoffs) for name in settings.methods})
    chi = stats.chi2(SIZE)
    exact = chi.pdf(2 * cutoffs) * 2 * cutoffs / chi.cdf(2 * cutoffs)
    # The saddlepoint's error hardly changes with the cutoff; differences over a tenth of a nat are good to 1e-3.
    assert sweep.slopes("quadratic-mass") == pytest.approx(exact, abs=5e-3)
    assert sweep.half_effective_dimensions("quadratic-mass") == pytest.approx(exact, abs=0.6)
    assert sweep.slopes("shifted-determinant") == pytest.approx(np.full(41, SIZE / 2), abs=1e-9)


def test_slopes_without_enough_cutoffs_or_with_infinite_volumes_are_not_numbers() -> None:
    result = swept(bowl(VALUES), StarDomainSettings(directions=3)).results["star-domain"][0]
    assert np.isnan(CutoffSweep(np.ones(1), {"star-domain": (result,)}).slopes("star-domain")).all()


@pytest.mark.parametrize("text", ["1:2", "2:1:5", "0:1:5", "1e-3:1:1", "a:b:c", "1e-3:inf:4", "1:2:1000", "1:2:3.5"])
def test_what_is_no_sweep_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="LOW:HIGH:COUNT"):
        parse_sweep(text)


def network(dtype: torch.dtype) -> Landscape:
    path = Path(__file__).resolve().parents[2] / "test_basinscope" / "tiny_task.py"
    specification = importlib.util.spec_from_file_location("tiny_task", path)
    assert specification is not None
    assert specification.loader is not None
    task = importlib.util.module_from_spec(specification)
    sys.modules["tiny_task"] = task
    specification.loader.exec_module(task)
    torch.manual_seed(0)
    from spectra.costs import cross_entropy, kl_from_anchor

    landscape = Landscape(task.network(), cross_entropy, task.rows())
    return landscape.to(dtype=dtype).with_cost(kl_from_anchor)


def test_the_noise_is_what_float32_differs_from_float64() -> None:
    single, double = network(torch.float32), network(torch.float64)
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(64, single.size, generator=generator)
    theta = double.theta + 1e-2 * rows.double()
    theta = theta.float().double()
    gap = (single.costs(theta.float()) - single.anchor_cost) - (double.costs(theta) - double.anchor_cost)
    # One is the largest of 16 draws, the other of 64: alike within a factor of ten.
    assert 0.1 < cost_noise(single) / float(gap.abs().max()) < 10.0
    assert cost_noise(double) < 1e-7 * cost_noise(single)


def test_the_noise_is_said_where_it_moves_a_nat() -> None:
    assert noise_caution(1e-8, 1.1e-5, 2000, "float32") == ""
    said = noise_caution(1e-8, 1e-6, 2000, "float32")
    assert "about 10 nats" in said
    assert "above 1e-05" in said
    assert "--dtype float64" in said
    assert "--dtype" not in noise_caution(1e-16, 1e-15, 2000, "float64")
