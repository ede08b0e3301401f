import math
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from scipy import stats
from torch import nn

from comparisons.evidence import Evidence, EvidenceSettings, extent_of
from comparisons.flatness import Reading
from comparisons.measures import volumes
from spectra.costs import KLFromAnchor, cross_entropy
from spectra.landscape import Landscape
from tests.test_comparisons.conftest import classified, quadratic, relu_network


def test_a_slice_of_a_ball_is_exact() -> None:
    evidence = Evidence(quadratic((2.0, 2.0, 2.0)), settings=EvidenceSettings(cutoff=0.09, directions=8))
    reading = volumes.ellipsoid_slice(evidence)
    # {x^2 < 0.09}: a ball of radius 0.3 in three dimensions.
    assert reading.value == pytest.approx(math.log(4.0 / 3.0 * math.pi * 0.3**3), abs=2e-3)
    assert evidence.work["ellipsoid-slice"].evaluations >= 8


def test_the_star_domain_of_a_ball_is_a_noncentral_chi_square() -> None:
    landscape = quadratic((2.0, 2.0, 2.0))
    evidence = Evidence(landscape, settings=EvidenceSettings(cutoff=0.09, directions=2000))
    reading = volumes.star_domain(evidence)
    # {|theta - anchor|^2 < 0.09} under N(0, s^2), s the anchor's root mean square.
    variance = float(landscape.theta.square().mean())
    truth = stats.ncx2.logcdf(0.09 / variance, 3, 3.0)
    # Four standard errors: fails with probability 6e-5.
    assert abs(reading.value - truth) < 4.0 * reading.standard_error
    assert 0.0 < reading.standard_error < 0.02


def test_basins_are_measured_on_held_out_rows_under_kl() -> None:
    model = relu_network()
    train, held_out = (Landscape(model, cross_entropy, classified(seed)) for seed in (1, 2))
    chosen = volumes.basin_landscape(Evidence(train, held_out=held_out))
    assert isinstance(chosen.cost_function, KLFromAnchor)
    assert chosen.batches.sha256 == held_out.batches.sha256
    alone = volumes.basin_landscape(Evidence(train))
    assert alone.batches.sha256 == train.batches.sha256


def test_few_directions_are_called_a_bound() -> None:
    x = torch.randn(40, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model = nn.Linear(12, 3).double()
    landscape = Landscape(model, cross_entropy, (x, torch.arange(40) % 3))
    reading = volumes.star_domain(Evidence(landscape, settings=EvidenceSettings(directions=4)))
    assert not reading.trusted
    assert "directions carry" in reading.cautions[0] or "lower bound" in reading.cautions[0]
    assert reading.details["bits"] == pytest.approx(-reading.value / math.log(2.0))


@pytest.mark.parametrize("measure", [volumes.star_domain, volumes.ellipsoid_slice])
def test_a_cutoff_within_the_rounding_of_the_cost_is_said(measure: Callable[[Evidence], Reading]) -> None:
    model = relu_network().float()
    inputs, targets = classified(1)
    landscape = Landscape(model, cross_entropy, (inputs.float(), targets))
    coarse, fine = (
        measure(Evidence(landscape, settings=EvidenceSettings(directions=4, cutoff=cutoff))) for cutoff in (1e-9, 0.01)
    )
    assert "rounding noise" in coarse.cautions[-1]
    assert math.isinf(coarse.standard_error)
    assert not any("rounding noise" in caution for caution in fine.cautions)


def test_a_stored_volume_is_taken_under_its_own_options_alone() -> None:
    stored = SimpleNamespace(failure="")
    found = []
    for options in ({}, {"ellipsoid-slice": {"directions": 4}}):
        settings = EvidenceSettings(cutoff=0.09, directions=8, options=options)
        evidence = Evidence(quadratic((2.0, 2.0, 2.0)), settings=settings)
        evidence.stored_study = SimpleNamespace(results={"ellipsoid-slice": stored}, cost_noise=0.0)
        asked = volumes._Asked(**options.get("ellipsoid-slice", {}))
        found.append((volumes.method_result(evidence, "ellipsoid-slice", asked), evidence))
    (same, first), (other, second) = found
    assert same is stored
    assert first.notes == ()
    assert other.log_volume == pytest.approx(math.log(4.0 / 3.0 * math.pi * 0.09**1.5), rel=1e-6)
    assert second.notes == ("the stored ellipsoid-slice was not reused: this one has options of its own",)
    assert extent_of(first).stored == {"ellipsoid-slice"}
