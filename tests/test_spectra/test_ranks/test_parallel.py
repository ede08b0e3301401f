"""Several ranks give the numbers of one process."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from spectra.landscape import share_of_rows
from spectra.model import Batch
from spectra.model.batches import as_batch
from spectra.ranks import ALONE, Ranks

WORKER = Path(__file__).with_name("parallel_worker.py")
DEADLINE = 300.0


def worker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("parallel_worker", WORKER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def on_ranks(count: int, folder: Path, parts: tuple[str, ...]) -> list[dict[str, NDArray[np.float64]]]:
    """What each of several ranks finds."""
    outputs = [folder / f"{count}_{rank}.npz" for rank in range(count)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, str(WORKER), str(folder / f"meeting_{count}")]
    started = [
        subprocess.Popen([*words, str(rank), str(count), str(output), *parts], env=environment)
        for rank, output in enumerate(outputs)
    ]
    assert [process.wait(DEADLINE) for process in started] == [0] * count
    return [dict(np.load(output)) for output in outputs]


def check(count: int, folder: Path, *parts: str) -> None:
    alone = worker().results(ALONE, parts)
    together = on_ranks(count, folder, parts)
    assert alone
    for found in together:
        assert found.keys() == alone.keys()
        for name, value in alone.items():
            scale = np.abs(value).max(initial=0.0)
            np.testing.assert_allclose(found[name], value, rtol=1e-6, atol=1e-9 * scale, err_msg=name)
            # To the bit on all ranks: else two might decide differently.
            np.testing.assert_array_equal(found[name], together[0][name], err_msg=name)


def test_two_ranks_give_the_numbers_of_one_process(tmp_path: Path) -> None:
    parts = ("refused", "traffic", "costs", "spectra", "rows", "directions", "chains", "bridges")
    check(2, tmp_path, *parts, "pieces", "refused in pieces")


@pytest.mark.slow
def test_three_ranks_give_the_numbers_of_one_process(tmp_path: Path) -> None:
    check(3, tmp_path, "traffic", "costs", "spectra", "rows", "directions", "chains", "bridges", "sharded", "pieces")


@pytest.mark.slow
def test_models_sharded_or_wrapped_by_torch_are_read_as_they_are(tmp_path: Path) -> None:
    check(2, tmp_path, "sharded", "wrapped")


@pytest.mark.slow
def test_models_in_pieces_without_second_derivatives_and_in_other_layouts(tmp_path: Path) -> None:
    check(2, tmp_path, "fully sharded", "differences", "laid out")


@pytest.mark.slow
def test_a_rank_that_hangs_is_noticed_after_the_timeout(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, str(WORKER), str(tmp_path / "meeting")]
    outputs = [str(tmp_path / f"{rank}.npz") for rank in range(2)]
    started = [
        subprocess.Popen([*words, str(rank), "2", outputs[rank], "hanging"], env=environment) for rank in range(2)
    ]
    assert [process.wait(DEADLINE) for process in started] == [0, 0]
    assert 2.5 < float(np.load(outputs[0])["seconds"]) < 15.0


def batch(rows: int) -> Batch:
    return as_batch((torch.arange(rows), torch.zeros(rows)))


@pytest.mark.parametrize("lengths", [(7,), (8, 8, 2), (1, 1, 1), (1, 30)])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_shares_are_all_rows_in_order_once(lengths: tuple[int, ...], count: int) -> None:
    batches = [batch(length) for length in lengths]
    shares = [share_of_rows(batches, Ranks(rank, count)) for rank in range(count)]
    rows = [one.inputs for share in shares for one in share]
    torch.testing.assert_close(torch.cat(rows), torch.cat([one.inputs for one in batches]))
    held = [sum(one.rows for one in share) for share in shares]
    assert max(held) - min(held) <= 1


def test_batches_that_cannot_be_cut_stay_whole() -> None:
    graph = as_batch(((torch.zeros(5, 2), torch.zeros(2, 9)), torch.zeros(5)))
    shares = [share_of_rows([graph, graph, graph], Ranks(rank, 2)) for rank in range(2)]
    assert [len(share) for share in shares] == [1, 2]
    with pytest.raises(ValueError, match="too few batches that can be cut for 2 ranks, 1: use fewer ranks"):
        share_of_rows([graph], Ranks(0, 2))
    whole = [share_of_rows([batch(8), batch(8)], Ranks(rank, 2), whole_batches=True) for rank in range(2)]
    assert [[one.rows for one in share] for share in whole] == [[8], [8]]


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="too few rows for 3 ranks, 2"):
        share_of_rows([batch(2)], Ranks(0, 3))
