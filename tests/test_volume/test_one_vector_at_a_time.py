import subprocess
import sys

import pytest
import torch
from torch import nn

from spectra.costs import cross_entropy, kl_from_anchor
from spectra.landscape import Landscape
from volume import descent as descents
from volume.descent import descent
from volume.noise import cost_noise

INPUTS = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))


def landscape(dtype: torch.dtype = torch.float32) -> Landscape:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).to(dtype)
    return Landscape(model, kl_from_anchor, (INPUTS, torch.zeros(20, dtype=torch.int64)))


@pytest.mark.parametrize("numbers", [1, 200])
def test_large_models_are_looked_at_one_vector_at_a_time_with_the_same_result(
    numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = landscape(torch.float64).with_cost(cross_entropy)
    known = descent(whole), cost_noise(landscape())
    seen: list[int] = []
    costs = Landscape.costs

    def counted(self: Landscape, thetas: torch.Tensor) -> torch.Tensor:
        seen.append(len(thetas))
        return costs(self, thetas)

    monkeypatch.setattr(Landscape, "costs", counted)
    monkeypatch.setattr(descents, "NUMBERS", numbers)
    found = descent(whole), cost_noise(landscape())
    assert max(seen) == max(1, numbers // whole.size)
    assert sum(seen) >= descents.RADII + 16
    # One at a time and vmapped the last bits differ, and they are what the noise is made of.
    assert found[0].gradient_norm == known[0].gradient_norm
    assert found[0].fall == pytest.approx(known[0].fall, rel=1e-12)
    assert known[0].fall > 0.1
    assert 0.2 < found[1] / known[1] < 5.0


def test_the_noise_of_half_precision_is_that_of_its_weights() -> None:
    """Weights of eight bits: moved by roundings of their own, not by those of float32, which change nothing."""
    half, single = cost_noise(landscape(torch.bfloat16)), cost_noise(landscape())
    assert half > 1e3 * single


# Nine million parameters: the most that a process of its own had above what it had before, in parameter vectors.
MEASURED = """
import torch
from pathlib import Path
from torch import nn
from spectra.costs import cross_entropy
from spectra.landscape import Landscape
from volume import descent as descents
from volume.descent import descent
from volume.noise import cost_noise

def memory(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

torch.set_num_threads(1)
descents.NUMBERS = 1
model = nn.Sequential(nn.Linear(8, 3000), nn.Tanh(), nn.Linear(3000, 3000), nn.Tanh(), nn.Linear(3000, 3))
one = Landscape(model, cross_entropy, (torch.randn(2, 8), torch.zeros(2, dtype=torch.int64)))
one.gradient()
for run in (cost_noise, descent):
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    run(one)
    print((memory("VmHWM") - before) / 4 / one.size)
"""


def test_noise_and_descent_take_no_more_than_five_vectors() -> None:
    """Four of float32 and what the allocator keeps; with copies in float64 the noise took seven."""
    found = subprocess.run([sys.executable, "-c", MEASURED], capture_output=True, text=True, check=True, timeout=300)
    assert all(1.0 < float(line) < 5.0 for line in found.stdout.split()), found.stdout
