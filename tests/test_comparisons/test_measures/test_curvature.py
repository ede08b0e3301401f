import math

import numpy as np
import pytest
import torch

from comparisons.evidence import Evidence, EvidenceSettings, layer_traces, prior_width
from comparisons.measures import REGISTRY, combined, measures_named, measures_of
from comparisons.measures.curvature import hessian as curvature
from comparisons.measures.curvature import spectral_sums as determinants
from comparisons.words import FAMILIES
from spectra.errors import UserError
from spectra.estimate import Estimate
from spectra.landscape import Landscape
from spectra.operators import GaussNewton, Hessian


def test_readings_of_a_quadratic(quadratic_evidence: Evidence, eigenvalues: np.ndarray) -> None:
    trace, top = eigenvalues.sum(), eigenvalues.max()
    expected = {
        curvature.hessian_trace: trace,
        curvature.largest_eigenvalue: top,
        curvature.hessian_frobenius: math.sqrt((eigenvalues**2).sum()),
        curvature.largest_over_trace: top / trace,
        curvature.first_over_fifth: 6.0 / 0.5,
        curvature.smallest_over_largest: 0.125 / 6.0,
        curvature.negative_mass: 0.125 / np.abs(eigenvalues).sum(),
    }
    for measure, value in expected.items():
        reading = measure(quadratic_evidence)
        assert reading.value == pytest.approx(value, rel=1e-9), measure.__name__
        assert reading.half_width <= 1e-9 * abs(value)
        assert reading.trusted


def dense(operator: Hessian | GaussNewton) -> np.ndarray:
    return np.asarray(np.linalg.eigvalsh(operator.to_dense().numpy()))


def test_readings_of_a_network_against_dense_matrices(network_evidence: Evidence) -> None:
    landscape = network_evidence.landscape
    values = np.maximum(dense(GaussNewton(landscape)), 0.0)
    s = float(landscape.theta.square().mean().sqrt())
    share = values[values > 1e-14] / values.sum()
    expected = {
        determinants.log_determinant: np.log1p(values * s**2).sum(),
        determinants.effective_dimension: (values / (values + 1.0 / (30.0 * s**2))).sum(),
        determinants.participation_ratio: values.sum() ** 2 / (values**2).sum(),
        determinants.effective_rank: math.exp(-(share * np.log(share)).sum()),
    }
    for measure, value in expected.items():
        assert measure(network_evidence).value == pytest.approx(value, rel=1e-7), measure.__name__
    assert prior_width(network_evidence) == pytest.approx(s)


def test_the_derived_shift_solves_its_condition(network_evidence: Evidence) -> None:
    reading = determinants.log_determinant_derived(network_evidence)
    landscape = network_evidence.landscape
    values, vectors = np.linalg.eigh(GaussNewton(landscape).to_dense().numpy())
    s = float(landscape.theta.square().mean().sqrt())
    m = vectors.T @ landscape.theta.numpy()
    c = reading.details["shift"]
    # K'(t) at t = -1/(c s^2), written out from MATH.md section 3.
    t = -1.0 / (c * s**2)
    bend = 1.0 - t * s**2 * values
    slope = (0.5 * s**2 * values / bend + 0.5 * values * m**2 / bend**2).sum()
    assert slope == pytest.approx(network_evidence.settings.cutoff, rel=1e-4)
    assert reading.value == pytest.approx(np.log1p(np.maximum(values, 0.0) / c).sum(), rel=1e-6)


def test_quadratic_mass_against_sampling(network_evidence: Evidence) -> None:
    settings = EvidenceSettings(cutoff=0.5, probes=4, steps=16)
    evidence = Evidence(network_evidence.landscape, settings=settings)
    reading = determinants.quadratic_basin_mass(evidence)
    landscape = evidence.landscape
    matrix = GaussNewton(landscape).to_dense().numpy()
    s = float(landscape.theta.square().mean().sqrt())
    draws = np.random.default_rng(0).normal(0.0, s, (200_000, landscape.size)) - landscape.theta.numpy()
    share = (0.5 * np.einsum("ij,ij->i", draws @ matrix, draws) <= 0.5).mean()
    error = math.sqrt((1.0 - share) / (share * 200_000))
    # Four standard errors of the draws (failure probability 6e-5), and what the saddlepoint allows for itself.
    assert abs(reading.value - math.log(share)) < 4.0 * error + reading.half_width


def test_layer_traces_against_the_dense_blocks(network_landscape: Landscape) -> None:
    evidence = Evidence(network_landscape, settings=EvidenceSettings(probes=50))
    matrix = Hessian(network_landscape).to_dense()
    found = layer_traces(evidence)
    for layer, names in network_landscape.parameters.layers().items():
        place = network_landscape.parameters.positions(names)
        exact = float(matrix.diagonal()[place].sum())
        # 400 probes: five standard errors fail with probability 1e-6.
        assert abs(found[layer].value - exact) < 5.0 * found[layer].standard_error
    reading = curvature.largest_layer_trace(evidence)
    assert reading.value == max(reading.details.values())
    assert set(reading.details) == {"0", "2"}
    assert evidence.work["layer-traces"].products == 400


def test_jackknife_of_a_ratio_covers(eigenvalues: np.ndarray) -> None:
    # 400 ratios of means of 8 pairs: 95 % intervals cover in at least 88 % (binomial, failure below 1e-6 at 95 %).
    generator, covered = np.random.default_rng(1), 0
    for _ in range(400):
        pairs = generator.multivariate_normal([2.0, 5.0], [[0.3, 0.2], [0.2, 0.4]], size=8)
        first, second = (Estimate(float(column.mean()), 1.0, samples=column) for column in pairs.T)
        reading = combined(lambda a, b: a / b, first, second)
        covered += abs(reading.value - 0.4) <= reading.half_width
    assert covered / 400 > 0.88


def test_estimates_of_different_probes_do_not_combine() -> None:
    one, two = Estimate(1.0, 1.0, samples=np.ones(2)), Estimate(1.0, 1.0, samples=np.ones(3))
    with pytest.raises(ValueError, match=r"share their probes, got \[2, 3\]"):
        combined(lambda a, b: a + b, one, two)


def test_items_are_computed_once_and_charged_to_each(network_evidence: Evidence) -> None:
    first, alone = network_evidence.watch(curvature.hessian_trace)
    second, again = network_evidence.watch(curvature.hessian_frobenius)
    assert alone.products == again.products == network_evidence.work["hessian-spectrum"].products > 0
    assert not isinstance(first, ValueError)
    assert not isinstance(second, ValueError)
    # The second took no time of its own to speak of: the spectrum's is charged to both.
    assert again.seconds >= network_evidence.work["hessian-spectrum"].seconds


def test_what_fails_fails_alike_each_time(network_landscape: Landscape) -> None:
    evidence, calls = Evidence(network_landscape), []

    def build(tally: object) -> int:
        calls.append(tally)
        raise UserError("no such thing")

    for _ in range(2):
        with pytest.raises(ValueError, match="no such thing"):
            evidence.item("thing", build)
    assert len(calls) == 1


def test_a_budget_bounds_the_products(network_landscape: Landscape) -> None:
    landscape = Landscape(torch.nn.Linear(200, 3).double(), network_landscape.cost_function, _wide())
    evidence = Evidence(landscape, settings=EvidenceSettings(budget=200))
    curvature.hessian_trace(evidence)
    assert evidence.work["hessian-spectrum"].products <= 1.5 * 100


def _wide() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 200, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, 3, (500,), generator=generator)


def test_the_registry_is_sound() -> None:
    names = [measure.name for measure in REGISTRY]
    assert len(set(names)) == len(names)
    assert {measure.name for measure in measures_named(["curvature"])} >= {"hessian-trace", "log-determinant"}
    with pytest.raises(ValueError, match="did you mean hessian-trace"):
        measures_named(["hesian-trace"])


def test_names_that_files_hold_are_taken_as_they_are() -> None:
    # A measure bears the name of its family: typed, it is the family; stored, it is the measure.
    (shared,) = {measure.name for measure in REGISTRY} & set(FAMILIES)
    assert len(measures_named([shared])) > 1
    assert [measure.name for measure in measures_of([shared])] == [shared]
    assert measures_of(["all", "curvature", "gone"]) == ()
    assert measures_of([measure.name for measure in REGISTRY]) == REGISTRY
