"""Landscapes whose coefficient is known in closed form."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from comparisons.calibration import Calibration, SweepSettings, prepare, run_chains
from spectra.files import Provenance
from spectra.landscape import Landscape


class Theta(nn.Module):
    """Theta itself: the cost makes any function of it."""

    def __init__(self, anchor: Tensor) -> None:
        super().__init__()
        self.theta = nn.Parameter(anchor.clone())

    def forward(self, ones: Tensor) -> Tensor:
        return ones * self.theta


def landscape_of(function: Callable[[Tensor], Tensor], anchor: Tensor) -> Landscape:
    """A function of rows of thetas as a landscape in float64."""
    anchor = anchor.double()
    return Landscape(
        Theta(anchor), lambda outputs, _: function(outputs), (torch.ones(1, len(anchor)).double(), torch.zeros(1))
    )


def quadratic(values: np.ndarray, slope: np.ndarray | None = None) -> Landscape:
    """``b x + x H x / 2`` around zero, H with these eigenvalues on a random basis, b given on that basis."""
    random = np.random.default_rng(0)
    basis = np.linalg.qr(random.standard_normal((len(values), len(values))))[0]
    matrix = torch.from_numpy((basis * values) @ basis.T)
    tilt = torch.from_numpy(basis @ (np.zeros(len(values)) if slope is None else slope))
    return landscape_of(lambda t: 0.5 * ((t @ matrix) * t).sum(-1) + t @ tilt, torch.zeros(len(values)))


def calibrated(landscape: Landscape, metadata: dict | None = None, **changes: object) -> Calibration:
    settings = SweepSettings(**({"batch_size": None, "checks": 1, "penalty": "none"} | changes))  # type: ignore[arg-type]
    found = prepare(landscape, settings, Provenance("here", "ab", dtype="float64"), metadata=metadata)
    return run_chains(landscape, found)


@pytest.fixture(name="landscape_of")
def landscape_of_fixture() -> Callable[..., Landscape]:
    return landscape_of


@pytest.fixture(name="quadratic")
def quadratic_fixture() -> Callable[..., Landscape]:
    return quadratic


@pytest.fixture(name="calibrated")
def calibrated_fixture() -> Callable[..., Calibration]:
    return calibrated
