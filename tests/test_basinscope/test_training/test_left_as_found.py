"""A training run with a tracker is the same, bit for bit, as one without."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from basinscope.training import QUANTITIES, Tracker

EFFORT: dict[str, Any] = {"quantities": QUANTITIES, "eigenvalues": 1, "probes": 2, "mass_probes": 2, "mass_steps": 4}


def network() -> nn.Module:
    torch.manual_seed(0)
    parts = [nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 2)]
    model = nn.Sequential(*parts)
    model[3].eval()  # one module in another mode than the others
    return model


def trained(kind: str, tracked: bool) -> tuple[Any, ...]:
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    model = network()
    inputs = torch.randn(48, 3)
    rows = TensorDataset(inputs, (inputs[:, 0] > 0).long())
    loader = DataLoader(rows, batch_size=8, shuffle=True)
    kinds = {
        "sgd": lambda: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        "adam": lambda: torch.optim.AdamW(model.parameters(), lr=0.01),
    }
    optimizer = kinds[kind]()
    data = DataLoader(rows, batch_size=16)
    tracker = Tracker(model, nn.CrossEntropyLoss(), data, every=5, share=None, **EFFORT)
    drawn, step = [], 0
    for _ in range(2):
        for x, y in loader:
            if tracked:
                grads = [one.grad for one in model.parameters()]
                with torch.autocast("cpu", dtype=torch.bfloat16):  # measured in the parameters' own dtype all the same
                    tracker.step(step, optimizer=optimizer)
                assert all(one is two.grad for one, two in zip(grads, model.parameters(), strict=True))
            optimizer.zero_grad(set_to_none=False)
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            drawn.append((random.random(), np.random.rand()))  # noqa: NPY002
            step += 1
    if tracked:
        assert [one.step for one in tracker.curves.readings] == [0, 5, 10]
        assert all(one.cost > 0.0 and one.eigenvalues[0] > 0.0 for one in tracker.curves.readings)
        assert "another mode of BatchNorm1d and Dropout" in tracker.curves.notes[-1]
    modes = [module.training for module in model.modules()]
    return model.state_dict(), [one.grad for one in model.parameters()], torch.get_rng_state(), drawn, modes


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_training_is_the_same_to_the_bit(kind: str) -> None:
    (state, grads, rng, drawn, modes), other = trained(kind, tracked=True), trained(kind, tracked=False)
    assert state.keys() == other[0].keys()
    assert all(torch.equal(one, other[0][name]) for name, one in state.items())
    assert all(torch.equal(one, two) for one, two in zip(grads, other[1], strict=True))
    assert torch.equal(rng, other[2])
    assert (drawn, modes) == other[3:]
