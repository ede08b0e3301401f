"""Determinants by Kronecker factors and with them as a control variate, against dense matrices."""

import numpy as np
import pytest
import torch

from basinscope.tasks.uci_digits import digits_network, load_digits
from comparisons.evidence import Evidence, EvidenceSettings
from comparisons.measures import measures_of
from spectra.costs import cross_entropy
from spectra.errors import UserError
from spectra.landscape import Landscape
from spectra.operators import GaussNewton, KroneckerFactored

CHECKED = {
    "log-determinant-kronecker": ("test_of_the_factors_alone_against_their_dense_matrix",),
    "log-determinant-corrected": ("test_the_corrected_determinant_against_the_dense_one",),
}


def narrow() -> Landscape:
    """The digits network with four hidden units, 310 parameters, as it is initialised, on 64 rows."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = digits_network(4)
    x, y = load_digits("train")
    return Landscape(model, cross_entropy, (x[:64], y[:64]))


def test_of_the_factors_alone_against_their_dense_matrix() -> None:
    landscape = narrow().to(dtype=torch.float64)
    (measure,) = measures_of(["log-determinant-kronecker"])
    reading = measure.compute(Evidence(landscape), k=1e-4)
    shift = 1e-4 / float(landscape.theta.square().mean())
    dense = KroneckerFactored(landscape).to_dense() / shift + torch.eye(landscape.size, dtype=torch.float64)
    assert reading.value == pytest.approx(float(torch.logdet(dense)), rel=1e-9)
    assert reading.details["shift"] == pytest.approx(shift)


def test_the_corrected_determinant_against_the_dense_one() -> None:
    """One softmax layer on the digits, 650 parameters, where the factors are near: over 6 seeds the mean of the errors
    is within five of their standard errors, and the errors are less than a quarter of those without the control."""
    x, y = load_digits("train")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torch.nn.Linear(64, 10)
    landscape, k = Landscape(model, cross_entropy, (x[:256], y[:256])), 1e-3
    values = np.maximum(torch.linalg.eigvalsh(GaussNewton(landscape).to_dense().double()).numpy(), 0.0)
    exact = float(np.log1p(values * float(landscape.theta.double().square().mean()) / k).sum())
    plain, corrected = (measures_of([name])[0] for name in ("log-determinant", "log-determinant-corrected"))
    errors = []
    for seed in range(6):
        settings = EvidenceSettings(probes=6, steps=24, seed=seed)
        evidence = Evidence(landscape, settings=settings, strategies={"gauss-newton": "double-vjp"})
        readings = [
            plain.compute(evidence, k=k),
            *(corrected.compute(evidence, k=k, control=word) for word in ("kronecker", "trace")),
        ]
        assert [one.samples for one in readings] == [6, 6, 6]
        assert corrected.compute(evidence, k=k).value == readings[2].value
        errors.append([one.value - exact for one in readings])
    without, *controlled = np.array(errors).T
    for found in controlled:
        assert abs(found.mean()) < 5.0 * found.std() / 6**0.5 + readings[1].truncation_error
        assert np.sqrt((found**2).mean()) < 0.25 * np.sqrt((without**2).mean())


def test_an_exact_spectrum_is_not_corrected() -> None:
    landscape = narrow().to(dtype=torch.float64).restricted(("output.bias",))
    both = [measures_of([name])[0] for name in ("log-determinant", "log-determinant-corrected")]
    evidence = Evidence(landscape)
    assert both[0].compute(evidence).value == both[1].compute(evidence).value


def test_a_trace_that_is_not_known_is_refused() -> None:
    """Layers' norms are outside of the factors."""
    x, y = load_digits("train")
    model = torch.nn.Sequential(torch.nn.Linear(64, 30), torch.nn.LayerNorm(30), torch.nn.Linear(30, 10))
    evidence = Evidence(Landscape(model, cross_entropy, (x[:32], y[:32])), settings=EvidenceSettings(steps=8))
    (measure,) = measures_of(["log-determinant-corrected"])
    with pytest.raises(UserError, match="trace is not known exactly"):
        measure.compute(evidence, k=1.0, control="trace")
