from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from spectra.costs import cross_entropy, kl_from_anchor, mean_squared_error
from spectra.dense import dense_spectrum
from spectra.fisher import Fisher
from spectra.gauss_newton import GaussNewton
from spectra.gram import gram_rows, gram_spectrum
from spectra.hessian import Hessian
from spectra.landscape import Landscape
from spectra.operators import MatrixOperator

MATRICES: dict[str, Any] = {
    "gauss-newton": GaussNewton,
    "fisher": Fisher,
    "sampled-fisher": lambda landscape: Fisher(landscape, kind="sampled", draws=2, seed=1),
    "empirical-fisher": lambda landscape: Fisher(landscape, kind="empirical"),
}
ROWS = {"gauss-newton": 30, "fisher": 30, "sampled-fisher": 20, "empirical-fisher": 10}
WEIGHTS = torch.linspace(0.5, 2.0, 10, dtype=torch.float64)


def moments(density: Any) -> list[float]:
    """Traces of the first powers and of a smooth function: they tell two spectra of this size apart."""
    functions = [lambda x: x, lambda x: x**2, lambda x: x**3, lambda x: np.log(x + 0.1), lambda x: (x < 1e-9) * 1.0]
    return [float(density.integrate(one).value) for one in functions]


def eigenvalue_moments(values: Tensor) -> list[float]:
    x = values.numpy()
    return [float(v) for v in (x.sum(), (x**2).sum(), (x**3).sum(), np.log(x + 0.1).sum(), (x < 1e-9).sum())]


@pytest.mark.parametrize("l2", [0.0, 0.2])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", list(MATRICES))
def test_gram_is_the_spectrum_of_the_dense_matrix(make: Any, name: str, weighted: bool, l2: float) -> None:
    subject = make("frozen")
    batches = subject.batches
    if weighted:
        batches = [(x, y, WEIGHTS[a : a + len(y)]) for (x, y), a in zip(batches, (0, 8), strict=True)]
    operator = MATRICES[name](Landscape(subject.model, cross_entropy, batches, l2=l2))
    assert gram_rows(operator) == ROWS[name]
    found = gram_spectrum(operator)
    values = torch.linalg.eigvalsh(operator.to_dense()).clamp_min(0.0)
    np.testing.assert_allclose(moments(found), eigenvalue_moments(values), rtol=1e-9, atol=1e-12)
    assert found.size == operator.size


@pytest.mark.parametrize("cost", [mean_squared_error, kl_from_anchor])
def test_gram_of_other_costs(make: Any, cost: Any) -> None:
    subject = make("mlp")
    real = torch.sin(torch.arange(30.0, dtype=torch.float64)).view(10, 3)
    inputs = torch.cat([x for x, _ in subject.batches])
    operator = GaussNewton(Landscape(subject.model, cost, (inputs, real)))
    values = torch.linalg.eigvalsh(operator.to_dense()).clamp_min(0.0)
    np.testing.assert_allclose(moments(gram_spectrum(operator))[:3], eigenvalue_moments(values)[:3], rtol=1e-9)


def test_more_rows_than_parameters(make: Any) -> None:
    subject = make("mlp")
    operator = Fisher(Landscape(subject.model, cross_entropy, subject.batches).restricted("2.bias"))
    assert operator.size == 3
    assert gram_rows(operator) == 30
    values = torch.linalg.eigvalsh(operator.to_dense()).clamp_min(0.0)
    np.testing.assert_allclose(moments(gram_spectrum(operator))[:3], eigenvalue_moments(values)[:3], rtol=1e-9)


def test_a_cost_without_a_square_root_is_refused(make: Any) -> None:
    subject = make("mlp")
    operator = GaussNewton(Landscape(subject.model, lambda f, _: f.square().sum(-1), subject.batches))
    assert gram_rows(operator) is None
    with pytest.raises(ValueError, match="needs a cost with a closed Hessian in the outputs; gauss-newton has none"):
        gram_spectrum(operator)


def test_dense_spectrum_of_an_indefinite_hessian(make: Any) -> None:
    subject = make("mlp")
    operator = Hessian(Landscape(subject.model, cross_entropy, subject.batches))
    values = torch.linalg.eigvalsh(operator.to_dense())
    assert float(values[0]) < 0.0
    found = dense_spectrum(operator)
    for power in (1, 2, 3):
        assert found.integrate(lambda x, p=power: x**p).value == pytest.approx(float((values**power).sum()), rel=1e-10)


def test_dense_refuses_what_is_not_finite() -> None:
    matrix = MatrixOperator(torch.eye(2))
    matrix.matrix[0, 0] = torch.nan
    with pytest.raises(ValueError, match="a product with the matrix is not finite"):
        dense_spectrum(matrix)
