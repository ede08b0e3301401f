"""What a language model costs: one gradient, one Gauss-Newton and one Hessian product, in seconds and in memory.

    python benchmarks/language_scale.py CHECKPOINT text=FILE,length=64,sequences=20

Seconds are of the processor, so that a busy machine does not matter; memory is the peak above the loaded model, in
vectors of as many numbers as the model has parameters.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from basinscope.choices import read_bytes
from basinscope.tasks import make_landscape, task_name
from spectra.checkpoint import read_checkpoint
from spectra.costs import kl_from_anchor
from spectra.lanczos import draw_probes
from spectra.landscape import Landscape
from spectra.operators import GaussNewton, Hessian

PRODUCTS = {"gauss-newton": (GaussNewton, "double-vjp"), "hessian": (Hessian, "double-backward")}


def memory(field: str) -> int:
    """Bytes that this process has now (VmRSS) or had at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def measured(what: str, run: Callable[[], object], vector: int | None = None) -> float:
    """Runs it, prints what it took (memory in vectors of so many bytes), and returns its seconds of the processor."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak is counted from here
    before, start, wall = memory("VmRSS"), time.process_time(), time.perf_counter()
    run()
    seconds, passed = time.process_time() - start, time.perf_counter() - wall
    peak = memory("VmHWM")
    vectors = "" if vector is None else f", {(peak - before) / vector:.1f} vectors above {before / vector:.1f}"
    print(
        f"{what:>28}: {seconds:8.1f} s of processor, {passed:8.1f} s passed; peak {peak / 1e9:.2f} GB{vectors}",
        flush=True,
    )
    return seconds


def main() -> None:
    """Measures one checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("task", help="a task, or options of the checkpoint's own")
    parser.add_argument("--block", type=int, default=1, help="vectors in one block")
    parser.add_argument("--only", choices=list(PRODUCTS), help="one of the products")
    parser.add_argument("--memory", default="4GiB", help="what kept graphs may take; see basinscope spectrum")
    parser.add_argument("--kl", action="store_true", help="measure a divergence from the anchor too")
    given = parser.parse_args()
    checkpoint = read_checkpoint(given.checkpoint)
    made: list[Landscape] = []
    name = task_name(given.task, checkpoint)
    measured("load, and cost at the anchor", lambda: made.append(make_landscape(name, checkpoint)))
    landscape = made[0]
    vector = landscape.size * landscape.theta.element_size()
    print(f"{landscape.size:,} parameters, {landscape.total_weight:.0f} tokens, cost {landscape.cost():.6f} nat")
    print("; ".join(landscape.notes))
    gradient = measured("gradient", landscape.gradient, vector)
    if given.kl:
        anchored: list[Landscape] = []
        measured("anchor", lambda: anchored.append(landscape.with_cost(kl_from_anchor)), vector)
        print("; ".join(anchored[0].notes))
        moved = landscape.theta * 1.001
        measured("divergence", lambda: print(f"{anchored[0].cost(moved):.6g} nat"), vector)
        del anchored[0], moved
    vectors = draw_probes(landscape.size, given.block, seed=0, kind="rademacher", stream="scale")
    for product, (kind, strategy) in PRODUCTS.items():
        if given.only in (None, product):
            operator = kind(landscape, strategy=strategy, memory=read_bytes("--memory", given.memory))
            measured(f"{product}, first vector", partial(operator.matmat, vectors[:1]), vector)
            seconds = measured(f"{product} x {given.block}", partial(operator.matmat, vectors), vector)
            print("; ".join([f"{product}: {seconds / given.block / gradient:.2f} gradients a vector", *operator.notes]))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
