"""Speed of 8 x 50 stochastic Lanczos quadrature beside three other packages, in plain gradients a vector.

Run it with ``make bench``, or in the environment of requirements.txt as
``python benchmarks/spectra_speed.py --output out/spectra_speed.md``.

Each workload runs in a child process for each number of threads. A round runs every competitor once, in an
order that rotates from round to round, with a plain gradient (all data in one batch) timed before and after
each; what is reported is the median over rounds of time / (probes x steps) / gradient. Where probes run one
after another, one probe tells the time of all. On the two large workloads a round moreover does not run all
products, but, for every competitor alike: the building of the operator and its first products (with ours, all
checks and the choice of a strategy), a few products more, which stand for all others, and its own Lanczos
iteration of all steps with products that cost next to nothing. ``--whole`` runs everything instead.
"""

import argparse
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
LEAST_GRADIENT_SECONDS = 0.3


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", default=["mlp", "resnet", "transformer"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--probes", type=int, default=8)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--only", nargs="+", help="run only competitors whose names contain one of these")
    parser.add_argument("--whole", action="store_true", help="run all products on the large workloads too")
    parser.add_argument("--output", type=Path, help="also write the tables to this file")
    parser.add_argument("--raw", type=Path, help="file of the timings, written after each round")
    parser.add_argument("--tables-only", action="store_true", help="make the tables from the file --raw, run nothing")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def timed(job: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that a job takes, and what it returns."""
    start = time.perf_counter()
    result = job()
    return time.perf_counter() - start, result


def gradient_seconds(workload: Any) -> float:
    """Mean time of a plain gradient, over as long a time as a short run takes."""
    from competitors import plain_gradient

    times: list[float] = []
    while sum(times) < LEAST_GRADIENT_SECONDS or len(times) < 2:
        times.append(timed(lambda: plain_gradient(workload))[0])
    return statistics.mean(times)


def slq_seconds(entry: Any, prepared: Any, size: int, options: argparse.Namespace, whole: bool) -> float:
    """Seconds of building the operator and all probes and steps, from a part that determines them."""
    import torch

    probes, steps, lockstep = options.probes, options.steps, entry["competitor"].lockstep
    build, operator = timed(prepared.build)
    some = probes if lockstep else 1
    if whole:
        return build + timed(lambda: prepared.iterate(operator, some, steps))[0] * probes / some
    rows = torch.randn(some if lockstep else 3, size)
    first = timed(lambda: prepared.products(operator, rows))[0]
    later = timed(lambda: prepared.products(operator, rows))[0]
    free = prepared.free(operator)
    lanczos = timed(lambda: prepared.iterate(free, some, steps))[0] * probes / some
    return build + first + later * (probes * steps / len(rows) - 1.0) + lanczos


def size_of(workload: Any) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in workload.model.parameters())


def disagreement(workload: Any, prepared: Any, matrix: str) -> float:
    """Relative difference of one product from double backward."""
    import torch
    from competitors import reference_product

    vector = torch.randn(size_of(workload), generator=torch.Generator().manual_seed(1))
    expected = reference_product(workload, matrix, vector)
    found = prepared.products(prepared.build(), vector.unsqueeze(0))[0]
    return float((found - expected).norm() / expected.norm())


def entries(workload: Any, only: list[str] | None) -> list[dict[str, Any]]:
    """All rows of the table for a workload: competitor, matrix and arrangement of the data."""
    from competitors import COMPETITORS

    return [
        {"competitor": competitor, "matrix": matrix, "several": several, "rounds": []}
        for matrix in workload.goals
        for several in (False, True)
        for competitor in COMPETITORS
        if matrix in competitor.matrices and (not only or any(word in competitor.name for word in only))
    ]


def run_entry(entry: dict[str, Any], workload: Any, options: argparse.Namespace) -> None:
    """One round of one competitor; a failure is kept in its row."""
    competitor = entry["competitor"]
    whole = options.whole or workload.name == "mlp"
    try:
        prepared = competitor.prepare(workload, entry["several"], entry["matrix"])
        if "difference" not in entry:
            entry["difference"] = disagreement(workload, prepared, entry["matrix"])
        before = gradient_seconds(workload)
        seconds = slq_seconds(entry, prepared, size_of(workload), options, whole)
        workload.model.zero_grad(set_to_none=True)
        entry["rounds"].append([seconds, (before + gradient_seconds(workload)) / 2.0])
    except Exception as problem:
        entry["failure"] = f"{type(problem).__name__}: {problem}"
    workload.model.zero_grad(set_to_none=True)
    gc.collect()


def child(options: argparse.Namespace) -> None:
    """Measures one workload at one number of threads and prints the timings as JSON."""
    import torch
    from models import WORKLOADS
    from torch.nn.attention import SDPBackend, sdpa_kernel

    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads[0])
    torch.manual_seed(0)
    workload = WORKLOADS[options.workloads[0]]()
    rows = entries(workload, options.only)
    with sdpa_kernel(SDPBackend.MATH):
        for number in range(options.rounds):
            shift = number * max(1, len(rows) // options.rounds)
            for entry in rows[shift:] + rows[:shift]:
                if "failure" not in entry:
                    seconds, _ = timed(lambda entry=entry: run_entry(entry, workload, options))
                    label = f"round {number + 1} of {options.rounds}, {entry['matrix']}, {entry['competitor'].name}"
                    print(f"{label}: {seconds:.1f} s", file=sys.stderr, flush=True)
            shown = [entry | {"competitor": entry["competitor"].name} for entry in rows]
            result = {"title": workload.title, "size": size_of(workload), "goals": workload.goals, "rows": shown}
            print(json.dumps({"workload": workload.name, "threads": options.threads[0]} | result), flush=True)


def run_child(workload: str, threads: int, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Runs a child process for a workload and a number of threads; yields what it has measured after each round."""
    command = [sys.executable, str(HERE / "spectra_speed.py"), "--child", "--workloads", workload]
    for name in ("rounds", "probes", "steps"):
        command += [f"--{name}", str(getattr(options, name))]
    command += ["--threads", str(threads), *(["--whole"] if options.whole else [])]
    command += ["--only", *options.only] if options.only else []
    limits = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    print(f"{workload}, {threads} thread(s)", file=sys.stderr, flush=True)
    with subprocess.Popen(command, env=os.environ | limits, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            yield json.loads(line)
    if process.returncode:
        raise SystemExit(f"the child process for {workload} on {threads} thread(s) ended with {process.returncode}")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All workloads and numbers of threads; what is there so far is saved after each round."""
    import torch

    about = {"torch": torch.__version__, "python": platform.python_version(), "cores": os.cpu_count()}
    about |= {"probes": options.probes, "steps": options.steps}
    runs: dict[tuple[str, int], dict[str, Any]] = {}
    for workload in options.workloads:
        for threads in options.threads:
            for run in run_child(workload, threads, options):
                runs[workload, threads] = run
                save(options.raw, json.dumps({"about": about, "runs": list(runs.values())}))
    return {"about": about, "runs": list(runs.values())}


def save(path: Path | None, text: str) -> None:
    """Writes a file, if one was asked for."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def main() -> None:
    """Runs what the command line asks for and prints the tables."""
    options = arguments()
    if options.child:
        child(options)
        return
    from speed_tables import tables

    measured = json.loads(options.raw.read_text()) if options.tables_only else measure(options)
    text = tables(measured)
    print(text)
    save(options.output, text)


if __name__ == "__main__":
    main()
