"""One and two ranks on two cores: gradients, products, a Lanczos run and star-domain directions, with the ratio.

Usage: python benchmarks/parallel_scaling.py [--workloads mlp transformer] [--rounds 5] [--output FILE]

Each set-up (one process on one thread, two ranks of one thread each, one process on two threads) is started afresh in
each round, in an order that rotates from round to round. In one start every job is run once to warm up and then
``--repeats`` times; a round's figure is the median of these on the slowest rank, the table's the median over rounds.
Run it on an idle machine: a rank that has to share its core holds up the others.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Ranks and threads of each.
SETUPS = {"1 process": (1, 1), "2 ranks": (2, 1), "1 process, 2 threads": (1, 2)}
BASE = "1 process"


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", default=["mlp", "resnet", "transformer"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--block", type=int, default=4, help="vectors of a product, probes of a Lanczos run")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--directions", type=int, default=8)
    parser.add_argument("--strategy", default="double-backward")
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    parser.add_argument("--child", nargs=4, metavar=("RANK", "RANKS", "MEETING", "RESULT"), help=argparse.SUPPRESS)
    return parser.parse_args()


def jobs(workload: str, asked: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """What is timed, on the landscape of a workload spread over the ranks."""
    import torch
    from models import WORKLOADS

    from spectra.costs import cross_entropy
    from spectra.lanczos import draw_probes, lanczos
    from spectra.landscape import Landscape
    from spectra.operators import Hessian
    from spectra.ranks import Ranks
    from volume.priors import GaussianPrior
    from volume.rays import StarDomainSettings, star_domain_volume

    torch.manual_seed(0)
    made = WORKLOADS[workload]()
    landscape = Landscape(made.model, cross_entropy, made.pieces).over(Ranks.current())
    operator = Hessian(landscape, strategy=asked.strategy)
    vectors = draw_probes(landscape.size, asked.block, seed=0)
    settings = StarDomainSettings(directions=asked.directions, cutoff=0.01)
    prior = GaussianPrior.from_parameters_rms(landscape.theta)
    return {
        "gradient": landscape.gradient,
        f"product with {asked.block} vectors": lambda: operator.matmat(vectors),
        f"Lanczos, {asked.block} probes of {asked.steps} steps": lambda: lanczos(operator, vectors, asked.steps),
        f"star-domain, {asked.directions} directions": lambda: star_domain_volume(landscape, settings, prior=prior),
    }


def run_child(workload: str, asked: argparse.Namespace) -> None:
    """One rank, or the only process: times all jobs and writes them down."""
    import torch
    import torch.distributed as dist

    rank, count, meeting, result = int(asked.child[0]), int(asked.child[1]), asked.child[2], Path(asked.child[3])
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if count > 1:
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=count)
    found: dict[str, float] = {}
    for name, job in jobs(workload, asked).items():
        job()
        seconds = []
        for _ in range(asked.repeats):
            if count > 1:
                dist.barrier()
            start = time.perf_counter()
            job()
            seconds.append(time.perf_counter() - start)
        found[name] = statistics.median(seconds)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    result.write_text(json.dumps({"seconds": found, "peak": peak}), encoding="utf-8")
    if count > 1:
        dist.barrier()
        dist.destroy_process_group()


def start(workload: str, setup: str) -> dict[str, Any]:
    """All ranks of a set-up; the slowest rank's seconds, and the largest rank's memory."""
    count, threads = SETUPS[setup]
    with tempfile.TemporaryDirectory() as folder:
        results = [Path(folder) / f"{rank}.json" for rank in range(count)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        processes = []
        for rank, result in enumerate(results):
            child = ["--workloads", workload, "--child", str(rank), str(count), f"{folder}/meeting", str(result)]
            processes.append(subprocess.Popen([sys.executable, *sys.argv, *child], env=environment))
        codes = [process.wait() for process in processes]
        if any(codes):
            raise SystemExit(f"{setup} failed on {workload}")
        found = [json.loads(result.read_text(encoding="utf-8")) for result in results]
    names = found[0]["seconds"]
    return {
        "seconds": {name: max(one["seconds"][name] for one in found) for name in names},
        "peak": max(one["peak"] for one in found),
    }


def table(workload: str, rounds: list[dict[str, dict[str, Any]]]) -> str:
    """Medians over rounds and their ratios, in markdown."""
    setups = list(SETUPS)
    lines = [
        f"| {workload} | {' | '.join(setups)} | 2 ranks are faster by |",
        f"|---|{'--:|' * (len(setups) + 1)}",
    ]
    for job in rounds[0][BASE]["seconds"]:
        seconds = {setup: statistics.median(one[setup]["seconds"][job] for one in rounds) for setup in setups}
        ratios = [one[BASE]["seconds"][job] / one["2 ranks"]["seconds"][job] for one in rounds]
        cells = [f"{seconds[setup]:.3g} s" for setup in setups]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        lines.append(f"| {job} | {' | '.join(cells)} | {spread} |")
    peaks = [f"{max(one[setup]['peak'] for one in rounds) / 1e6:,.0f} MB" for setup in setups]
    lines.append(f"| peak memory of the largest process | {' | '.join(peaks)} | |")
    return "\n".join(lines)


def main() -> None:
    """Runs the rounds, or is one of their processes."""
    asked = arguments()
    if asked.child is not None:
        run_child(asked.workloads[-1], asked)
        return
    load = os.getloadavg()[0]
    head = f"{asked.rounds} rounds, float32, {asked.strategy}; load of the machine at the start {load:.1f}."
    parts = [head]
    for workload in asked.workloads:
        rounds = []
        for number in range(asked.rounds):
            names = list(SETUPS)
            turned = names[number % len(names) :] + names[: number % len(names)]
            rounds.append({setup: start(workload, setup) for setup in turned})
        parts.append(table(workload, rounds))
    text = "\n\n".join(parts) + "\n"
    if asked.output is not None:
        asked.output.write_text(text, encoding="utf-8")
    print(text, end="")


if __name__ == "__main__":
    main()
