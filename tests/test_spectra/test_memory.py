"""Memory: what a run adds to the process, measured in a child by its peak resident set."""

import subprocess
import sys

import pytest

PROBE = """
import resource, sys
import torch
from spectra.compute import compute_spectrum
from spectra.costs import mean_squared_error
from spectra.landscape import Landscape
from spectra.spectrum import SpectrumSettings

probes, steps = int(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)
model = torch.nn.Sequential(torch.nn.Linear(2236, 2236), torch.nn.Tanh(), torch.nn.Linear(2236, 2236))
landscape = Landscape(model, mean_squared_error, (torch.randn(16, 2236), torch.randn(16, 2236)))
with open("/proc/self/statm") as file:
    before = int(file.read().split()[1]) * resource.getpagesize()
settings = SpectrumSettings(probes=probes, steps=steps, deflate=0, reorthogonalise="none", block=probes)
spectrum = compute_spectrum(landscape, settings)
assert spectrum.density.runs.steps == steps
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print((peak - before) / (4 * landscape.size * probes))
"""


def vectors_per_probe(probes: int, steps: int) -> float:
    """Peak resident set added by a run on 10 million parameters, in parameter vectors a probe."""
    command = [sys.executable, "-c", PROBE, str(probes), str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    return float(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_ten_million_parameters_stay_under_twelve_vectors_a_probe() -> None:
    assert vectors_per_probe(4, 6) < 12


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("probes", [1, 4])
def test_a_hundred_steps_take_no_more(probes: int) -> None:
    assert vectors_per_probe(probes, 100) < 12
