"""Peers on the same language model: processor time, peak memory, and what fails.

    .bench-venv/bin/python benchmarks/peers_language.py --output out/peers_language.md

Each job (a competitor, a size, a kind of work) runs in a process of its own on one thread, in rounds whose order
rotates. Seconds are of the processor; memory is the peak of the resident set above the loaded model and its data.
Before either is taken a tiny model goes through the same work, so that imports on first use are not counted. In the
unit of a gradient, it is the mean over all data in one batch, timed before and after in the same process.

Peers are given a wrapper that returns the logits alone and run inside ``sdpa_kernel(MATH)``, without which they fail
(peers_trials.py); basinscope is given the model as transformers loads it and nothing else.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from competitors import (
    BOTH,
    COMPETITORS,
    Competitor,
    Prepared,
    basinscope_entry,
    curvlinops_block_peer,
    plain_gradient,
    reference_product,
)
from models import NextTokenLogits, Workload
from scaling import memory
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

HERE = Path(__file__).resolve().parent
OURS, CURVLINOPS = "basinscope", "curvlinops 3.0.1"
JOBS = ("hessian", "block", "gauss-newton")
STEPS, BLOCK, LATER = 8, 4, 3
SIZES: dict[str, dict[str, int]] = {
    "tiny": {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "rows": 2, "length": 8},
    "4M": {"vocab_size": 1536, "hidden_size": 256, "num_hidden_layers": 4, "rows": 8, "length": 128},
    "31M": {"vocab_size": 50304, "hidden_size": 256, "num_hidden_layers": 6, "rows": 4, "length": 64},
}


def named_entry(given: Workload, several: bool, matrix: str) -> Prepared:
    """This project without its choice of a strategy: double backward, double vjp, asked for by name."""
    from spectra.compute import compute_spectrum
    from spectra.costs import cross_entropy
    from spectra.landscape import Landscape
    from spectra.plan import make_operator
    from spectra.spectrum import SpectrumSettings

    strategy = {"hessian": "double-backward", "gauss-newton": "double-vjp"}[matrix]
    settings = SpectrumSettings(operator=matrix, engine="slq", deflate=0, strategy=strategy)

    def build() -> Any:
        return make_operator(Landscape(given.model, cross_entropy, given.batches(several)), settings)

    def iterate(operator: Any, probes: int, steps: int) -> None:
        compute_spectrum(operator.landscape, replace(settings, probes=probes, steps=steps)).density.nodes  # noqa: B018

    return replace(basinscope_entry(given, several, matrix), build=build, iterate=iterate)


NAMED = Competitor(f"{OURS}, strategy named", named_entry, BOTH, lockstep=True)
PEERS = (COMPETITORS[0], NAMED, *COMPETITORS[1:4])


def workload(size: str) -> Workload:
    """GPT-NeoX with random weights on random tokens, behind the wrapper that peers need."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    sizes = dict(SIZES[size])
    rows, length = sizes.pop("rows"), sizes.pop("length")
    width = sizes["hidden_size"]
    config = GPTNeoXConfig(**sizes, num_attention_heads=8, intermediate_size=4 * width, max_position_embeddings=length)
    torch.manual_seed(0)
    tokens = torch.randint(config.vocab_size, (rows, length + 1))
    batch = (tokens[:, :-1].contiguous(), tokens[:, 1:].flatten())
    return Workload(size, size, NextTokenLogits(GPTNeoXForCausalLM(config)).eval(), batch, [batch], {})


def as_loaded(given: Workload) -> Workload:
    """The same for basinscope: the model of transformers itself, on what such models take."""

    def item(batch: Any) -> Any:
        return {"input_ids": batch[0]}, batch[1].view_as(batch[0])

    bare: Any = given.model
    pieces = [item(piece) for piece in given.pieces]
    return replace(given, model=bare.language_model, batch=item(given.batch), pieces=pieces)


class Stage:
    """Times stages of a job and sees their peaks, above what the process held when this was made."""

    def __init__(self) -> None:
        self.libc = ctypes.CDLL(None)
        self.seconds: dict[str, float] = {}
        self.peaks: dict[str, int] = {}
        self._clean()
        self.loaded = memory("VmRSS")

    def _clean(self) -> None:
        gc.collect()
        self.libc.malloc_trim(0)

    def __call__(self, name: str, run: Callable[[], Any], times: int = 1) -> Any:
        """Runs it; the median seconds and the peak in bytes are kept under the name."""
        self._clean()
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak is counted from here
        taken, result = [], None
        for _ in range(times):
            result = None
            start = time.process_time()
            result = run()
            taken.append(time.process_time() - start)
        self.seconds[name] = statistics.median(taken)
        self.peaks[name] = memory("VmHWM") - self.loaded
        return result


def run_job(competitor: Competitor, given: Workload, job: str) -> dict[str, Any]:
    """All stages of one job on one model."""
    matrix = "gauss-newton" if job == "gauss-newton" else "hessian"
    ours = competitor.name.startswith(OURS)
    blocks = job == "block" and competitor.name == CURVLINOPS
    prepare = curvlinops_block_peer if blocks else competitor.prepare
    prepared = prepare(as_loaded(given) if ours else given, False, matrix)
    size = sum(one.numel() for one in given.model.parameters())
    vectors = torch.randn(BLOCK if job == "block" else 1, size, generator=torch.Generator().manual_seed(1))
    guard, stage = nullcontext() if ours else sdpa_kernel(SDPBackend.MATH), Stage()
    stage("gradient", partial(plain_gradient, given), 3)
    with guard:
        operator = stage("build", prepared.build)
        stage("first", partial(prepared.products, operator, vectors))
        products = stage("later", partial(prepared.products, operator, vectors), LATER)
        if hasattr(operator, "_check_deterministic"):
            stage("check", operator._check_deterministic)
        del operator
        if job == "hessian":
            stage("slq", lambda: prepared.iterate(prepared.build(), 1, STEPS))
    given.model.zero_grad(set_to_none=True)
    stage("gradient again", partial(plain_gradient, given), 3)
    off = difference(given, matrix, vectors[0], products[0])
    return {"seconds": stage.seconds, "peaks": stage.peaks, "size": size, "off": off}


def difference(given: Workload, matrix: str, vector: Tensor, found: Tensor) -> float:
    """Relative difference of a product from double backward."""
    with sdpa_kernel(SDPBackend.MATH):
        expected = reference_product(given, matrix, vector)
    return float((found - expected).norm() / expected.norm())


def child(size: str, number: int, job: str) -> None:
    """One job; prints what was measured as JSON."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    run_job(PEERS[number], workload("tiny"), job)
    print(json.dumps(run_job(PEERS[number], workload(size), job)))


def ask(size: str, number: int, job: str) -> dict[str, Any]:
    """A job in a process of its own; a failure is its last line."""
    command = [sys.executable, str(HERE / "peers_language.py"), "--child", size, str(number), job]
    limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    done = subprocess.run(command, env=os.environ | limits, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failure": (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1][:200]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(sizes: list[str], rounds: int, raw: Path) -> dict[str, Any]:
    """All jobs, round by round; what is there is kept in the file ``raw``, and not measured again."""
    found: dict[str, Any] = json.loads(raw.read_text()) if raw.exists() else {}
    raw.parent.mkdir(parents=True, exist_ok=True)
    for size in sizes:
        for turn in range(rounds):
            for job in JOBS:
                for place in range(len(PEERS)):
                    number = (place + turn) % len(PEERS)
                    key = f"{size}/{turn}/{job}/{PEERS[number].name}"
                    if key in found or (job not in PEERS[number].matrices and job != "block"):
                        continue
                    start = time.perf_counter()
                    found[key] = ask(size, number, job)
                    raw.write_text(json.dumps(found, indent=1))
                    note = found[key].get("failure", "")
                    print(f"{key}: {time.perf_counter() - start:.0f} s {note}", file=sys.stderr, flush=True)
    return found


def spread(values: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def gradient(run: dict[str, Any]) -> float:
    """Seconds of a gradient in that process."""
    seconds = run["seconds"]
    return float(statistics.mean([seconds["gradient"], seconds["gradient again"]]))


def cells(name: str, runs: dict[str, list[dict[str, Any]]], vector: int) -> list[str]:
    """A line of the table: time in gradients, and peaks in MB and vectors."""

    def time_of(job: str, stage: str, per: int = 1) -> str:
        return spread([run["seconds"][stage] / per / gradient(run) for run in runs[job]]) if runs.get(job) else "–"

    def peak(job: str, *stages: str) -> str:
        if not runs.get(job):
            return "–"
        most = statistics.median(max(run["peaks"][stage] for stage in stages) for run in runs[job])
        return f"{most / 1e6:,.0f} ({most / vector:.1f})"

    times = [time_of("hessian", stage) for stage in ("build", "first", "later")]
    times += [time_of("block", "later", BLOCK), time_of("hessian", "slq")]
    times += [time_of("gauss-newton", stage) for stage in ("first", "later")]
    peaks = [peak("hessian", "build", "first", "later"), peak("block", "first", "later"), peak("hessian", "slq")]
    peaks.append(peak("gauss-newton", "build", "first", "later"))
    off = [f"{runs[job][0]['off']:.0e}" if runs.get(job) else "–" for job in ("hessian", "gauss-newton")]
    return [f"| {name} | {' | '.join(times)} |", f"| {name} | {' | '.join([*peaks, *off])} |"]


def size_tables(size: str, found: dict[str, Any]) -> list[str]:
    """Both tables of a size, and the seconds of a gradient."""
    by: dict[str, dict[str, list[dict[str, Any]]]] = {}
    failures = []
    for key, run in found.items():
        which, _, job, name = key.split("/")
        if which == size and "failure" in run:
            failures.append(f"{name}, {job}: {run['failure']}")
        elif which == size:
            by.setdefault(name, {}).setdefault(job, []).append(run)
    whole = [run for jobs in by.values() for runs in jobs.values() for run in runs]
    vector = whole[0]["size"] * 4
    seconds = statistics.median(gradient(run) for run in whole)
    peak = statistics.median(run["peaks"]["gradient"] for run in whole)
    checks = [run["seconds"]["check"] / gradient(run) for run in by.get(CURVLINOPS, {}).get("hessian", [])]
    sizes = SIZES[size]
    lines = [
        f"**{whole[0]['size']:,} parameters, {sizes['rows']} x {sizes['length']} tokens.** A gradient: {seconds:.2f} s "
        f"of the processor, peak {peak / 1e6:,.0f} MB ({peak / vector:.1f} vectors). In gradients:",
        "",
        "| | build | first product | a later one | a vector of a block of 4 | SLQ, 1 x 8, with build | "
        "Gauss-Newton, first | a later one |",
        "|---|" + "--:|" * 7,
    ]
    rows = [cells(peer.name, by[peer.name], vector) for peer in PEERS if peer.name in by]
    lines += [row[0] for row in rows]
    lines += [
        "",
        "Peak above the loaded model, MB (parameter vectors), and relative distance from double backward:",
        "",
    ]
    lines += ["| | product | block of 4 | SLQ | Gauss-Newton | Hessian off | Gauss-Newton off |", "|---|" + "--:|" * 6]
    lines += [row[1] for row in rows]
    if checks:
        lines += ["", f"curvlinops' own check for determinism, on by default, is not in `build`: {spread(checks)}."]
    return [*lines, *(["", *failures] if failures else []), ""]


def main() -> None:
    """Measures, tries, and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="*", choices=list(SIZES), default=["4M", "31M"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--raw", type=Path, default=Path("out/peers_language.json"), help="measured so far; goes on")
    parser.add_argument("--output", type=Path, help="also write the tables to this file")
    parser.add_argument("--without-trials", action="store_true", help="no table of what fails")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        child(asked.child[0], int(asked.child[1]), asked.child[2])
        return
    found = measure(asked.sizes, asked.rounds, asked.raw)
    lines = [line for size in asked.sizes for line in size_tables(size, found)]
    if not asked.without_trials:
        from peers_trials import trials_table

        lines += trials_table()
    text = "\n".join(lines)
    print(text)
    if asked.output:
        asked.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
