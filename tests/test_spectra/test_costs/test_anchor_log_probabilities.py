import gc
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from spectra.costs import kl_from_anchor
from spectra.files import temporary as anchor_file
from spectra.landscape import Landscape
from spectra.operators import GaussNewton

INPUTS = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
BATCHES = [(INPUTS[:5],), (INPUTS[5:],)]
# Log-probabilities of 12 rows of 4 classes in float32.
BYTES = 12 * 4 * 4


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield tmp_path
    gc.collect()


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4))


def landscape(storage: str, budget: int = 2**30) -> Landscape:
    return Landscape(network(), kl_from_anchor, BATCHES, anchor_storage=storage, anchor_bytes=budget, mode="train")


@pytest.mark.parametrize("storage", ["disk", "recompute", "auto"])
def test_each_storage_gives_the_same_cost_and_curvature(storage: str) -> None:
    known, found = landscape("memory"), landscape(storage, budget=BYTES // 2)
    moved = known.theta + 0.3
    assert known.notes == ()
    assert found.cost(moved) == pytest.approx(known.cost(moved), rel=1e-6)
    assert known.cost(moved) > 0.0
    assert torch.equal(found.gradient(moved), known.gradient(moved))
    vector = torch.arange(known.size, dtype=torch.float32)
    products = [GaussNewton(one, strategy="double-vjp").matvec(vector) for one in (known, found)]
    assert torch.equal(*products)


@pytest.mark.parametrize(
    "storage, budget, words",
    [
        ("memory", 1, None),
        ("auto", BYTES, None),
        ("auto", BYTES - 1, "are in a temporary file on disk"),
        ("disk", 2**30, "are in a temporary file on disk"),
        ("recompute", 2**30, "are computed again for each batch, as asked"),
    ],
)
def test_the_choice_is_said(storage: str, budget: int, words: str | None) -> None:
    notes = landscape(storage, budget).notes
    assert notes == () if words is None else words in notes[0]


def test_nothing_is_left_on_disk_even_while_it_is_used(scratch: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    kept = landscape("disk")
    assert len(os.listdir("/proc/self/fd")) > before
    assert list(scratch.iterdir()) == []
    assert kept.cost(kept.theta + 0.3) > 0.0
    del kept
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_full_disk_means_computing_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anchor_file.shutil, "disk_usage", lambda _: SimpleNamespace(free=2**30))
    for storage in ("auto", "disk"):
        found = landscape(storage, budget=1)
        assert "computed again for each batch: neither memory nor disk has room for them" in found.notes[0]
        assert found.cost(found.theta + 0.3) == landscape("memory").cost(found.theta + 0.3)


def test_a_folder_that_cannot_be_written_means_computing_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere/at/all")
    assert "computed again for each batch: neither memory" in landscape("auto", budget=1).notes[0]


def test_the_choice_survives_a_restriction() -> None:
    part = landscape("disk").restricted("0")
    assert "are in a temporary file on disk" in part.notes[0]


def test_a_storage_that_is_unknown() -> None:
    with pytest.raises(ValueError, match="anchor_storage must be one of auto, memory, disk, recompute; got 'tape'"):
        landscape("tape")
