"""The calibration error: a definition written out sample by sample, and classifiers that are calibrated."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from comparisons.evidence import Evidence
from comparisons.measures import measures_of
from comparisons.measures.calibration import binned_error
from spectra.costs import cross_entropy
from spectra.errors import UserError
from spectra.landscape import Landscape

CHECKED = {"calibration-error": ("test_the_definition_bin_by_bin",)}


def logits_as_model(logits: torch.Tensor, classes: torch.Tensor) -> Landscape:
    """A landscape whose outputs are these logits."""
    model = nn.Linear(logits.shape[1], logits.shape[1], bias=False).double()
    return Landscape(model, cross_entropy, (logits, classes), theta=torch.eye(logits.shape[1]).double().reshape(-1))


def drawn(rows: int, temperature: float, seed: int = 0) -> Landscape:
    """Classes drawn from a softmax, of which the model sees logits ``1 / temperature`` times as large."""
    random = torch.Generator().manual_seed(seed)
    logits = 2.0 * torch.randn(rows, 4, generator=random, dtype=torch.float64)
    classes = torch.multinomial(logits.softmax(1), 1, generator=random).squeeze(1)
    return logits_as_model(logits / temperature, classes)


@pytest.mark.parametrize("bins", [1, 7, 15])
def test_the_definition_bin_by_bin(bins: int) -> None:
    landscape = drawn(300, 0.5)
    (measure,) = measures_of(["calibration-error"])
    batch = next(landscape.iterate())
    rows = list(zip(batch.inputs.softmax(1), batch.targets, strict=True))
    error = 0.0
    for number in range(bins):
        low, high = number / bins, (number + 1) / bins
        held = [(float(p.max()), int(p.argmax()) == int(y)) for p, y in rows if low < float(p.max()) <= high]
        if held:
            error += len(held) / 300 * abs(sum(p - hit for p, hit in held) / len(held))
    reading = measure.compute(Evidence(landscape), bins=bins)
    assert reading.value == pytest.approx(error, rel=1e-12)
    assert reading.details["accuracy"] == pytest.approx(sum(int(p.argmax()) == int(y) for p, y in rows) / 300)


def test_a_calibrated_model_has_what_chance_makes_and_a_confident_one_more() -> None:
    """Mean over 60 draws of 300: chance's size is known to 12 % (five standard errors, failure below 1e-6)."""
    (measure,) = measures_of(["calibration-error"])
    found = [measure.compute(Evidence(drawn(300, 1.0, seed))) for seed in range(60)]
    mean = np.mean([one.value for one in found])
    expected = np.mean([one.details["expected of a calibrated model"] for one in found])
    assert mean == pytest.approx(expected, rel=0.12)
    assert measure.compute(Evidence(drawn(300, 0.4))).value > 2.5 * expected


def test_an_edge_belongs_to_the_bin_below_and_ignored_samples_to_none() -> None:
    assert binned_error(np.array([0.5, 0.6]), np.array([True, False]), 2)[0] == pytest.approx((0.5 + 0.6) / 2)
    value, chance = binned_error(np.array([1.0, 1.0]), np.array([True, True]), 10)
    assert (value, chance) == (0.0, 0.0)
    logits = torch.tensor([[3.0, 0.0], [0.0, 3.0], [0.0, 3.0]]).double()
    (measure,) = measures_of(["calibration-error"])
    reading = measure.compute(Evidence(logits_as_model(logits, torch.tensor([0, 1, -100]))))
    assert reading.details["accuracy"] == 1.0
    assert reading.value == pytest.approx(1.0 - 1.0 / (1.0 + math.exp(-3.0)))


def test_held_out_rows_are_read_where_they_are_asked_for() -> None:
    (measure,) = measures_of(["calibration-error"])
    training, other = drawn(200, 1.0), drawn(200, 0.3, seed=1)
    both = Evidence(training, held_out=other)
    assert measure.compute(both, data="held-out").value == measure.compute(Evidence(other)).value
    with pytest.raises(UserError, match="no held-out data"):
        measure.compute(Evidence(training), data="held-out")
