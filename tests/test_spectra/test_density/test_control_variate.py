"""Control variates: what they take away, what they leave unbiased, and that their mean is zero."""

import numpy as np
import pytest
import torch
from torch import nn

from spectra.costs import cross_entropy
from spectra.density import controlled, kronecker_controls
from spectra.errors import UserError
from spectra.estimate import from_samples
from spectra.lanczos import krylov_space, probes_of
from spectra.landscape import Landscape
from spectra.operators import GaussNewton, KroneckerFactored


def landscape() -> Landscape:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    random = torch.Generator().manual_seed(1)
    x = torch.randn(30, 5, generator=random, dtype=torch.float64)
    return Landscape(model, cross_entropy, (x, torch.randint(0, 3, (30,), generator=random)))


@pytest.mark.parametrize("deflated", [False, True])
def test_controls_have_mean_zero(deflated: bool) -> None:
    """Over 2000 probes, with and without a deflated space: within five standard errors (failure below 1e-6)."""
    at = landscape()
    operator, factored = GaussNewton(at, strategy="double-vjp"), KroneckerFactored(at)
    space = krylov_space(operator, probes_of(operator, 2, seed=0, stream="starts"), 4) if deflated else None
    probes = probes_of(operator, 2000, seed=1)
    probes = probes if space is None else space.complement(probes)
    controls = kronecker_controls(factored, probes, lambda x: (x / 0.01).log1p(), space)
    assert abs(controls.mean()) < 5.0 * controls.std() / 2000**0.5
    assert controls.std() > 0.1


def test_an_estimate_with_a_control_is_unbiased_covers_and_is_narrower() -> None:
    """600 estimates of 8 samples with correlation 0.9: the mean within five standard errors, 95 % intervals cover at
    least 91 % (binomial, failure below 1e-5 at 95 %), and the error is about 0.5 of the plain one."""
    random, values, covered, plain = np.random.default_rng(0), [], 0, []
    for _ in range(600):
        control = random.normal(size=8)
        samples = 3.0 + 2.0 * (0.9 * control + (1.0 - 0.81) ** 0.5 * random.normal(size=8))
        found = controlled(from_samples(samples), control)
        low, high = found.interval()
        values.append(found.value)
        plain.append(samples.mean())
        covered += low < 3.0 < high
    assert abs(np.mean(values) - 3.0) < 5.0 * np.std(values) / 600**0.5
    assert covered / 600 > 0.91
    assert np.std(values) < 0.65 * np.std(plain)


def test_useless_controls_leave_the_estimate_nearly_as_it_is() -> None:
    random = np.random.default_rng(1)
    samples = random.normal(size=12)
    same = controlled(from_samples(samples, truncation_error=0.5, cautions=("a word",)), np.zeros(12))
    assert same.value == pytest.approx(samples.mean())
    assert same.truncation_error == 0.5
    assert same.cautions == ("a word",)
    with pytest.raises(UserError, match="as many as samples"):
        controlled(from_samples(samples), np.zeros(3))
    with pytest.raises(UserError, match="needs 5 probes"):
        controlled(from_samples(samples[:4]), np.zeros(4))
