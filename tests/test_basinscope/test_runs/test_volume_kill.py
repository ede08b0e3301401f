"""Ten thousand directions on the digits network, killed at random moments: the same terms to the last bit."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from volume.result import VolumeEstimate
from volume.store import read_study

ROOT = Path(__file__).resolve().parents[3]
CHECKPOINT = ROOT / "data" / "digits_mlp" / "clean_seed0_step00640.pt"
DIRECTIONS, BLOCK = 10_000, 64
KILLS = 4
DEADLINE = 3600.0
ARRAYS = ("log_terms", "evaluations", "unbounded", "monotone", "radial_error")


def start(output: Path) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "basinscope", "volume", str(CHECKPOINT), "--method", "star-domain"]
    words += ["--preconditioner", "adam-second", "--eps", "0.1", "--directions", str(DIRECTIONS)]
    return subprocess.Popen([*words, "--output", str(output), "--resume"], cwd=ROOT, stdout=subprocess.DEVNULL)


def stored(path: Path) -> VolumeEstimate | None:
    return read_study(path).results["star-domain"].sampled if path.exists() else None


@pytest.mark.slow
def test_ten_thousand_directions_killed_at_random_moments(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole.h5", tmp_path / "parts.h5"
    begin = time.monotonic()
    assert start(whole).wait(DEADLINE) == 0
    lasted = time.monotonic() - begin

    generator = np.random.default_rng(0)
    done, advanced = 0, 0
    for _ in range(KILLS):
        process = start(parts)
        time.sleep(generator.uniform(0.1, 0.5) * lasted * (1.0 - done / DIRECTIONS))
        process.kill()
        assert process.wait(DEADLINE) == -signal.SIGKILL
        found = stored(parts)
        before, done = done, 0 if found is None else len(found.log_terms)
        assert done >= before
        assert done % BLOCK == 0
        advanced += done > before
    # Most of the kills have to land in the sampling for the test to say anything.
    assert advanced >= KILLS // 2
    assert start(parts).wait(DEADLINE) == 0
    one, two = stored(whole), stored(parts)
    assert one is not None
    assert two is not None
    assert len(one.log_terms) == DIRECTIONS
    for name in ARRAYS:
        assert getattr(one, name).tobytes() == getattr(two, name).tobytes(), name
    # What a kill in the middle of writing left behind is gone.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parts.h5", "whole.h5"]
