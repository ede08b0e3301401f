"""What ranks hold and send for a spectrum of a large model, computed: a markdown table.

Usage: python benchmarks/parallel_traffic.py [--parameters 7e9] [--ranks 64] [--operations 2e14] [--bandwidth 5e10]
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from spectra.ranks import (
    PRODUCT_OPERATIONS,
    Job,
    balanced_tokens,
    held_bytes,
    krylov_handed,
    lanczos_handed,
    on_the_wire,
    product_handed,
)

DEFLATED = 64
KRYLOV_BLOCK = 2


def gigabytes(count: float) -> str:
    """Bytes in words."""
    return f"{count / 1e9:,.3g} GB"


def table(job: Job, operations: float, bandwidth: float) -> str:
    """The figures of one job, each rank's."""
    product = on_the_wire(product_handed(job), job.ranks)
    lanczos = lanczos_handed(job)
    inner = 2.0 * (job.ranks - 1) / job.ranks * lanczos["all_reduce"]
    whole = on_the_wire(lanczos, job.ranks)
    space = Job(job.size, job.ranks, KRYLOV_BLOCK, DEFLATED // KRYLOV_BLOCK, job.itemsize)
    deflation = on_the_wire(krylov_handed(space), job.ranks)
    tokens = balanced_tokens(job.itemsize, operations=operations, bandwidth=bandwidth)
    rows = [
        ("sent for one product with a block", gigabytes(product), f"{product / bandwidth:.3g} s"),
        (f"sent for inner products in {job.steps} steps", f"{inner / 1e3:,.3g} kB", f"{inner / bandwidth:.2g} s"),
        (f"sent for {job.steps} steps of a block", gigabytes(whole), f"{whole / bandwidth:,.3g} s"),
        (
            f"sent for a Krylov space of dimension {DEFLATED}",
            gigabytes(deflation),
            f"{deflation / bandwidth:,.3g} s",
        ),
        *((f"held: {what}", gigabytes(count), "") for what, count in held_bytes(job).items()),
        ("held: in all, without graphs", gigabytes(sum(held_bytes(job).values())), ""),
        ("tokens from which computing takes longer than sending", f"{tokens:,.0f}", ""),
    ]
    lines = ["| each rank | | at the bandwidth |", "|---|--:|--:|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def assumptions(job: Job, operations: float, bandwidth: float) -> str:
    """What the table takes for granted, in sentences."""
    return (
        f"Assumed: {job.size:.3g} parameters on {job.ranks} ranks, vectors of {job.itemsize} bytes a number, blocks of "
        f"{job.block}, {'full' if job.reorthogonalise else 'no'} reorthogonalisation; rings, {bandwidth / 1e9:g} GB/s "
        f"sent by each rank, latency left out; {operations:.2g} operations a second for each rank and "
        f"{PRODUCT_OPERATIONS:g} a product for each parameter and token, attention left out. Each rank has the whole "
        "model in the vectors' precision."
    )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=float, default=7e9)
    parser.add_argument("--ranks", type=int, default=64)
    parser.add_argument("--block", type=int, default=1)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--itemsize", type=int, default=4)
    parser.add_argument("--operations", type=float, default=2e14, help="of a rank, each second")
    parser.add_argument("--bandwidth", type=float, default=5e10, help="bytes that a rank sends each second")
    parser.add_argument("--output", type=Path)
    asked = parser.parse_args()
    job = Job(int(asked.parameters), asked.ranks, asked.block, asked.steps, asked.itemsize)
    command = shlex.join(["python", *sys.argv])
    parts = [f"`{command}`", assumptions(job, asked.operations, asked.bandwidth)]
    text = "\n\n".join([*parts, table(job, asked.operations, asked.bandwidth)]) + "\n"
    if asked.output is not None:
        asked.output.write_text(text, encoding="utf-8")
    print(text, end="")


if __name__ == "__main__":
    main()
