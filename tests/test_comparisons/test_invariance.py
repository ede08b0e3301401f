import math

import pytest
import torch
from torch import nn

from comparisons.evidence import EvidenceSettings
from comparisons.invariance import MOVED, SAME, InvarianceTable, check_invariance
from comparisons.measures import in_another_unit, joints, measures_named, permuted, rescaled
from spectra.costs import cross_entropy
from spectra.landscape import Landscape
from spectra.operators import Hessian
from tests.test_comparisons.conftest import classified, relu_network


@pytest.fixture(scope="module")
def table() -> InvarianceTable:
    # 64-16-10 as in the catalogue; 8 probes of 24 steps of 1,210 parameters.
    model = relu_network(16, 64, 10)
    landscape = Landscape(model, cross_entropy, classified(rows=200, inputs=64, classes=10))
    settings = EvidenceSettings(probes=8, steps=24)
    return check_invariance(landscape, measures_named(["curvature", "norms"]), settings)


def test_the_function_does_not_change(table: InvarianceTable) -> None:
    assert [change.failure for change in table.changes] == [""] * 4
    assert max(change.difference for change in table.changes) < 1e-13


def test_the_registry_is_not_contradicted(table: InvarianceTable) -> None:
    assert table.contradictions == ()


@pytest.mark.parametrize("kind", ["layer-rescaling", "node-rescaling"])
def test_rescaling_moves_what_it_should(table: InvarianceTable, kind: str) -> None:
    change = next(one for one in table.changes if one.name == kind)
    for moved in ("hessian-trace", "largest-eigenvalue", "hessian-frobenius", "gradient-variance", "parameter-norm"):
        assert table.verdict(moved, change) == MOVED, moved
    for same in ("path-norm", "fisher-rao", "fisher-rao-empirical", "margin"):
        assert table.verdict(same, change) == SAME, same


def test_a_permutation_moves_nothing(table: InvarianceTable) -> None:
    change = next(one for one in table.changes if one.name == "permutation")
    verdicts = [table.verdict(measure.name, change) for measure in table.measures]
    assert MOVED not in verdicts
    # Without initialisation there is no distance from it, and five eigenvalues may not have converged.
    assert verdicts.count(SAME) >= len(verdicts) - 2


def test_another_unit_divides_curvature_by_its_square(table: InvarianceTable) -> None:
    change = next(one for one in table.changes if one.name == "parameter-scale")
    before, after = table.before["largest-eigenvalue"].reading, change.outcomes["largest-eigenvalue"].reading
    assert before is not None
    assert after is not None
    assert after.value == pytest.approx(before.value / 16.0, rel=1e-6)


def test_a_trace_after_layer_rescaling_against_the_blocks() -> None:
    landscape = Landscape(relu_network(), cross_entropy, classified())
    matrix = Hessian(landscape).to_dense().diagonal()
    moved = Hessian(rescaled(landscape, nodes=False)).to_dense().diagonal()
    first = landscape.parameters.positions("0")
    weight = landscape.parameters.positions("2.weight")
    assert float(moved[first].sum()) == pytest.approx(float(matrix[first].sum()) / 16.0)
    assert float(moved[weight].sum()) == pytest.approx(float(matrix[weight].sum()) * 16.0)


def test_gelu_allows_permutation_only() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 3)).double()
    landscape = Landscape(model, cross_entropy, classified())
    assert [joint.homogeneous for joint in joints(landscape)] == [False]
    with pytest.raises(ValueError, match="rescaling is exact only there"):
        rescaled(landscape, nodes=True)
    other = permuted(landscape)
    assert not torch.equal(other.theta, landscape.theta)
    assert other.cost() == pytest.approx(landscape.cost(), rel=1e-14)


def test_what_reads_hidden_units_otherwise_is_left_alone() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3)).double()
    landscape = Landscape(model, cross_entropy, classified())
    assert joints(landscape) == []
    with pytest.raises(ValueError, match="no hidden units"):
        permuted(landscape)


def test_a_unit_rescales_the_gradient() -> None:
    landscape = Landscape(relu_network(), cross_entropy, classified())
    other = in_another_unit(landscape, factor=2.0)
    ratio = float(landscape.gradient().norm() / other.gradient().norm())
    assert math.isclose(ratio, 2.0, rel_tol=1e-12)
