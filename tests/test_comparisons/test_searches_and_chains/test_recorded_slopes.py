"""Passes replayed from a recording: the same numbers, other rows, and the plain passes where none can be made."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from comparisons.langevin import ChainSettings, minibatches, sample_chains
from comparisons.langevin.minibatches import RECORD_AFTER, Minibatches
from comparisons.langevin.recording import recorded_slopes
from spectra.costs import cross_entropy, mean_squared_error
from spectra.landscape import Landscape

CHAINS, ROWS = 3, 8


def batches_of(model: nn.Module, data: tuple[Tensor, ...], size: int | None, cost=cross_entropy) -> Minibatches:
    return Minibatches(Landscape(model, cost, data), size)


def asked(found: Minibatches, times: int) -> list[tuple[Tensor, Tensor]]:
    """Costs and gradients at other parameters and other rows each time, beside those of one chain at a time."""
    random, theta = torch.Generator().manual_seed(0), found._landscape.theta
    for _ in range(times):
        thetas = theta + 0.1 * torch.randn(CHAINS, len(theta), generator=random, dtype=theta.dtype)
        index = found.draw([random] * CHAINS)
        one = found.slopes(thetas, index)
        alone = [found._looped(thetas[chain : chain + 1], index[chain : chain + 1]) for chain in range(CHAINS)]
    costs, slopes = (torch.cat(parts) for parts in zip(*alone, strict=True))
    same = found._anchor.sum() if found.size == found.rows else found._anchor[index].sum(1)
    factor = found.rows / found.size
    return [one, (factor * (costs - same), factor * slopes)]


def assert_right(found: Minibatches, *, recorded: bool) -> None:
    (rises, slopes), (plain_rises, plain_slopes) = asked(found, RECORD_AFTER + 3)
    assert found.vmapped
    assert found.recorded is recorded
    assert torch.allclose(rises, plain_rises, rtol=1e-10, atol=1e-12)
    assert torch.allclose(slopes, plain_slopes, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("size", [ROWS, None])
def test_a_recording_gives_what_one_chain_at_a_time_gives(relu_network, classes, size) -> None:
    assert_right(batches_of(relu_network(None), classes, size), recorded=True)


def test_weights_ignored_samples_and_other_costs_are_recorded(relu_network, classes) -> None:
    inputs, targets = classes
    targets = targets.clone()
    targets[::7] = -100
    weights = torch.linspace(0.5, 2.0, 40).double()
    assert_right(batches_of(relu_network(None), (inputs, targets, weights), ROWS), recorded=True)
    real = torch.randn(40, 3, generator=torch.Generator().manual_seed(3)).double()
    assert_right(batches_of(relu_network(None), (inputs, real), ROWS, mean_squared_error), recorded=True)


def test_embeddings_of_whole_numbers_are_recorded() -> None:
    random = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Embedding(11, 4), nn.Flatten(), nn.Tanh(), nn.Linear(12, 5)).double()
    tokens, targets = torch.randint(11, (40, 3), generator=random), torch.randint(5, (40,), generator=random)
    assert_right(batches_of(model, (tokens, targets), ROWS), recorded=True)


def test_what_reads_values_is_not_recorded() -> None:
    def slopes(thetas: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        factor = 2.0 if float(thetas.sum()) > 0.0 else 3.0
        return factor * thetas.sum(1) + index.sum(1), factor * thetas

    assert recorded_slopes(slopes, torch.ones(2, 3), torch.zeros(2, 1, dtype=torch.long), 4) is None


def test_a_recording_that_would_differ_is_not_handed_out() -> None:
    calls = []

    def slopes(thetas: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        # Does something else at each call, as a network that switches its branches would.
        calls.append(None)
        return thetas.sum(1) * len(calls) + index.sum(1), thetas * len(calls)

    assert recorded_slopes(slopes, torch.ones(2, 3), torch.zeros(2, 1, dtype=torch.long), 4) is None


def test_positions_that_the_dtype_does_not_hold_are_not_recorded() -> None:
    def slopes(thetas: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        return thetas.sum(1) + index.sum(1), thetas

    thetas, index = torch.ones(2, 3), torch.zeros(2, 1, dtype=torch.long)
    assert recorded_slopes(slopes, thetas, index, 2**23) is not None
    assert recorded_slopes(slopes, thetas, index, 2**23 + 1) is None
    assert recorded_slopes(slopes, thetas.double(), index, 2**30) is not None


def test_another_number_of_chains_takes_the_plain_passes(relu_network, classes) -> None:
    found = batches_of(relu_network(None), classes, ROWS)
    asked(found, RECORD_AFTER + 1)
    assert found.recorded
    thetas = found._landscape.theta + 0.1 * torch.ones(2, len(found._landscape.theta)).double()
    index = torch.arange(16).view(2, 8)
    costs, slopes = found._looped(thetas, index)
    rises, found_slopes = found.slopes(thetas, index)
    assert torch.allclose(found_slopes, 5.0 * slopes, rtol=1e-10)
    assert torch.allclose(rises, 5.0 * (costs - found._anchor[index].sum(1)), rtol=1e-10)


def test_chains_do_not_depend_on_the_recording(relu_network, classes, monkeypatch) -> None:
    landscape = Landscape(relu_network(None), cross_entropy, classes)
    settings = ChainSettings(inverse_temperature=5.0, step_size=1e-3, burn_in=0, draws=40, chains=4, batch_size=8)
    recorded = sample_chains(landscape, settings).rises
    monkeypatch.setattr(minibatches, "RECORD_AFTER", 1000)
    plain = sample_chains(landscape, settings).rises
    assert np.allclose(recorded, plain, rtol=1e-9, atol=1e-14)


def test_a_chain_that_overflows_at_its_last_step_has_failed(quadratic) -> None:
    # The step multiplies the distance by 1e200 or so: finite costs until the last move leaves the finite numbers.
    landscape = quadratic(torch.eye(1))
    settings = ChainSettings(
        inverse_temperature=1e300, localisation=0.0, step_size=1e300, burn_in=0, draws=2, chains=2, batch_size=None
    )
    found = sample_chains(landscape, settings)
    assert found.failed.all()
