"""Singular fluctuation and WAIC against conjugate Gaussian models in closed form."""

import math

import pytest
import torch

from comparisons.evidence import Evidence, EvidenceSettings
from comparisons.langevin import ChainSettings, sample_chains, sample_information
from comparisons.measures.singular import fluctuation, widely_applicable
from spectra.costs import cross_entropy, kl_from_anchor, mean_squared_error
from spectra.landscape import Landscape

CHECKED = {
    "singular-fluctuation": ("test_rows_of_a_regression_are_the_closed_form",),
    "waic": ("test_rows_of_a_regression_are_the_closed_form",),
}
# Two-sided 1e-4 of Student's t with 63 degrees of freedom, for 64 chains.
T_64 = 4.16


def regression() -> tuple[Landscape, torch.Tensor, torch.Tensor]:
    """Least squares with residuals, at its minimum; inputs (32, 3) and residuals (32,)."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(32, 3, generator=random, dtype=torch.float64)
    y = x @ torch.tensor([[1.0], [-1.0], [0.5]]).double() + 0.7 * torch.randn(32, 1, generator=random).double()
    theta = torch.linalg.lstsq(x, y).solution
    model = torch.nn.Linear(3, 1, bias=False).double()
    landscape = Landscape(model, mean_squared_error, (x, y), theta=theta.reshape(-1))
    return landscape, x, (y - x @ theta).reshape(-1)


def closed_form(x: torch.Tensor, residuals: torch.Tensor, nb: float, localisation: float) -> dict[str, float]:
    """Of ``c_i = (r_i - x_i u)^2``, u normal: with t = x u of variance s, Var c = 4 r^2 s + 2 s^2, and a normal E."""
    rows = len(x)
    covariance = torch.linalg.inv(nb * 2.0 * x.T @ x / rows + localisation * torch.eye(3).double())
    spread = ((x @ covariance) * x).sum(1)
    variance = float((4.0 * residuals**2 * spread + 2.0 * spread**2).sum())
    training = float((0.5 * torch.log1p(2.0 * spread) + residuals**2 / (1.0 + 2.0 * spread)).mean())
    beta = nb / rows
    return {
        "training_loss": training,
        "functional_variance": variance,
        "fluctuation": 0.5 * beta * variance,
        "criterion": training + beta * variance / rows,
    }


@pytest.mark.parametrize("nb", [32.0, 32.0 / math.log(32.0)])
def test_a_conjugate_model_has_the_closed_form(nb) -> None:
    landscape, x, residuals = regression()
    settings = ChainSettings(
        inverse_temperature=nb,
        localisation=3.0,
        step_size=0.02,
        burn_in=30,
        chains=64,
        draws=200,
        sampler="mala",
        sample_draws=16,
    )
    found = sample_information(landscape, sample_chains(landscape, settings))
    for name, truth in closed_form(x, residuals, nb, 3.0).items():
        one = getattr(found, name)
        # Each fails with probability 1e-4.
        assert abs(one.value - truth) < T_64 * one.standard_error, name
    assert found.functional_variance.standard_error < 0.07 * found.functional_variance.value


def test_a_regular_model_has_half_its_parameters() -> None:
    # Residuals of the variance that the likelihood says, 1/2, and a weak pull: nu tends to d/2 = 3/2.
    random = torch.Generator().manual_seed(1)
    x = torch.randn(4000, 3, generator=random, dtype=torch.float64)
    residuals = math.sqrt(0.5) * torch.randn(4000, generator=random, dtype=torch.float64)
    assert closed_form(x, residuals, 4000.0, 1e-3)["fluctuation"] == pytest.approx(1.5, rel=0.05)


def test_rows_of_a_regression_are_the_closed_form() -> None:
    landscape, x, residuals = regression()
    evidence = Evidence(landscape, settings=EvidenceSettings())
    options = {"inverse_temperature": 32.0, "chains": 64, "localisation": 3.0, "sampler": "mala", "draws": 200}
    truth = closed_form(x, residuals, 32.0, 3.0)
    # Each fails with probability 1e-4.
    for row, name in ((fluctuation, "fluctuation"), (widely_applicable, "criterion")):
        read = row(evidence, **options)
        assert abs(read.value - truth[name]) < T_64 * read.standard_error
        assert read.standard_error < 0.15 * truth[name]
    # One run of chains for both: singular-fluctuation, waic.
    assert sum(name.startswith("chains") for name in evidence.work) == 1


def test_ignored_samples_count_nothing_and_unequal_weights_are_refused(relu_network, classes) -> None:
    inputs, targets = classes
    ignored = targets.clone()
    ignored[20:] = -100
    settings = ChainSettings(
        inverse_temperature=5.0, step_size=1e-3, burn_in=2, draws=20, chains=3, batch_size=None, sample_draws=5
    )

    def found(data: tuple[torch.Tensor, ...]) -> object:
        landscape = Landscape(relu_network(None), cross_entropy, data)
        return sample_information(landscape, sample_chains(landscape, settings))

    whole, half = found((inputs, ignored)), found((inputs[:20], targets[:20]))
    assert whole.criterion.value == pytest.approx(half.criterion.value, rel=1e-9)
    with pytest.raises(ValueError, match="all samples of equal weight"):
        found((inputs, targets, torch.linspace(0.5, 2.0, 40).double()))


def test_a_divergence_is_no_likelihood_of_the_data(relu_network, classes) -> None:
    landscape = Landscape(relu_network(None), kl_from_anchor, classes)
    assert "not the likelihood" in Evidence(landscape, settings=EvidenceSettings()).missing("own-likelihood")
