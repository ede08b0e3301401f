"""The sharpness family in the registry: what rows read, spend, and claim to be invariant to."""

import numpy as np
import pytest
import torch

from comparisons.evidence import Evidence, EvidenceSettings
from comparisons.measures.sharpness.around import MEASURES
from spectra.costs import cross_entropy
from spectra.landscape import Landscape
from spectra.operators import GaussNewton

BY_NAME = {measure.name: measure for measure in MEASURES}


def test_rows_of_a_quadratic_read_its_closed_forms(quadratic) -> None:
    values = torch.tensor([5.0, 2.0, 1.0, 0.5, 0.1]).double()
    x = torch.tensor([1.0, -1.0, 2.0, 0.5, 0.0]).double()
    evidence = Evidence(quadratic(torch.diag(values), x))
    box = 1e-3 * (x.abs() + 1.0)
    expected = {
        "keskar": 50.0 * float((values * box.square()).sum()),
        "worst-case": 5.0 * 0.05**2 / 2.0,
        "adaptive-worst-case": float((values * x.square()).max()) * 0.5**2 / 2.0,
        "sam": 0.0,
    }
    for name, value in expected.items():
        # Twenty steps of a power iteration whose two largest values are 5 and 4.
        close = 0.01 if name == "adaptive-worst-case" else 1e-6
        assert BY_NAME[name].compute(evidence).value == pytest.approx(value, rel=close), name
    assert "zero" in BY_NAME["sam"].compute(evidence).cautions[0]


def test_local_entropy_is_that_of_the_dense_gauss_newton_matrix(relu_network, classes) -> None:
    landscape = Landscape(relu_network(None), cross_entropy, classes)
    shift = 1.0 / float(landscape.theta.square().mean()) / 40.0
    values = torch.linalg.eigvalsh(GaussNewton(landscape).to_dense())
    found = BY_NAME["local-entropy"].compute(Evidence(landscape)).value
    assert found == pytest.approx(-0.5 * float(torch.log1p(values / shift).sum()), rel=1e-9)


def test_a_budget_bounds_what_a_row_spends(relu_network, classes) -> None:
    landscape = Landscape(relu_network(None), cross_entropy, classes)
    whole, cut = Evidence(landscape), Evidence(landscape, settings=EvidenceSettings(budget=30))
    for name in ("worst-case", "average-case", "relative-flatness", "keskar"):
        _, dear = whole.watch(BY_NAME[name].compute)
        _, cheap = cut.watch(BY_NAME[name].compute)
        assert cheap.in_gradients < dear.in_gradients, name
        # No fewer than two starts of Keskar's search, of at most 20 costs and gradients each, and the corners.
        assert cheap.in_gradients <= (80.0 if name == "keskar" else 45.0), name


def test_declared_invariances_hold_on_rescaled_neurons(relu_network, classes) -> None:
    factors = torch.tensor([4.0, 0.25, 2.0, 1.0, 0.5, 3.0]).double()
    both = [Evidence(Landscape(relu_network(each), cross_entropy, classes)) for each in (None, factors)]
    for measure in MEASURES:
        if "node-rescaling" not in measure.invariances:
            continue
        before, after = (measure.compute(evidence) for evidence in both)
        # Within what two sets of probes may differ: each row fails with probability 1e-4.
        allowed = 1e-9 * before.value + 3.9 * np.hypot(before.standard_error, after.standard_error)
        assert abs(after.value - before.value) <= allowed, measure.name
