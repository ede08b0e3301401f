"""What ranks hold and send for a spectrum of a large model, computed: a markdown table.

Usage: python benchmarks/parallel_traffic.py [--parameters 7e9] [--ranks 64] [--operations 2e14] [--bandwidth 5e10]

For runs that no one machine can make; a test holds the counts against those of a run. On the wire a ring turns B bytes
handed to an all-reduce into ``2 (R - 1) / R B`` sent by each of R ranks, to a reduce-scatter into ``(R - 1) / R B``,
and B bytes of each rank handed to an all-gather into ``(R - 1) B``.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

DEFLATED = 64
KRYLOV_BLOCK = 2
# Multiplications and additions of a product with one vector for each parameter and token: a gradient takes 6, a product
# of the Hessian on a kept graph about twice that (docs/scale.md, cost against parameters and data).
PRODUCT_OPERATIONS = 12.0
_DOUBLE = 8


@dataclass(frozen=True)
class Job:
    """A Lanczos run on several ranks.

    Attributes:
        size: number of parameters n.
        ranks: number of ranks R.
        block: probes that share each product.
        steps: Lanczos steps.
        itemsize: bytes of a number in a vector.
        reorthogonalise: whether the basis is held.
    """

    size: int
    ranks: int
    block: int = 1
    steps: int = 64
    itemsize: int = 4
    reorthogonalise: bool = True

    @property
    def width(self) -> int:
        """Columns of each rank's slice."""
        return -(-self.size // self.ranks)


def product_handed(job: Job) -> Counter[str]:
    """Bytes that a rank hands over for one product with a block: the slices joined, the results summed and sliced.

    Args:
        job: the run.

    Returns:
        By kind of operation.
    """
    slices = job.block * job.width * job.itemsize
    return Counter({"all_gather": slices, "reduce_scatter": slices * job.ranks})


def lanczos_handed(job: Job) -> Counter[str]:
    """Bytes that a rank hands over in a Lanczos run: products, and inner products of slices.

    Args:
        job: the run; no probe breaks down.

    Returns:
        By kind of operation.
    """
    handed: Counter[str] = Counter({"all_reduce": _DOUBLE * job.block})
    for step in range(job.steps):
        handed += product_handed(job)
        handed["all_reduce"] += 2 * _DOUBLE * job.block
        if job.reorthogonalise:
            handed["all_reduce"] += job.block * (step + 1) * job.itemsize
    return handed


def krylov_handed(job: Job) -> Counter[str]:
    """Bytes that a rank hands over for a block Krylov space of ``steps`` steps, orthogonalised throughout.

    Args:
        job: the run; ``block`` is that of the space, and no direction of it vanishes.

    Returns:
        By kind of operation.
    """
    square = job.block * job.block * job.itemsize
    handed: Counter[str] = Counter({"all_gather": square})
    for step in range(job.steps):
        known = (step + 1) * square
        handed += product_handed(job)
        # Twice against all that is known, then the next block: its triangular factor twice, once more against all.
        handed += Counter({"all_reduce": 3 * known + square, "all_gather": 2 * square})
    return handed


def on_the_wire(handed: Counter[str], ranks: int) -> float:
    """Bytes that each rank sends where rings carry the operations.

    Args:
        handed: bytes that it hands over, by kind of operation.
        ranks: number of ranks R.

    Returns:
        Bytes.
    """
    share = (ranks - 1) / ranks
    factors = {"all_reduce": 2.0 * share, "reduce_scatter": share, "all_gather": float(ranks - 1)}
    return sum(factors[kind] * count for kind, count in handed.items())


def held_bytes(job: Job) -> dict[str, int]:
    """What a rank holds at the height of a Lanczos run, graphs and activations left out.

    Args:
        job: the run.

    Returns:
        Bytes, by what takes them.
    """
    whole, sliced = job.size * job.itemsize, job.width * job.itemsize
    return {
        "parameters of the model": whole,
        "theta": whole,
        "block joined, and its products": 2 * job.block * whole,
        "slices of the present and the last vectors": 3 * job.block * sliced,
        "slices of the basis": job.block * job.steps * sliced if job.reorthogonalise else 0,
    }


def held_in_pieces(job: Job, largest: int) -> dict[str, int]:
    """What a rank holds at the height of a Lanczos run of a model that stays sharded, activations left out.

    Args:
        job: the run.
        largest: number of elements of the largest parameter, which is joined while a module uses it.

    Returns:
        Bytes, by what takes them.
    """
    sliced, joined = job.width * job.itemsize, largest * job.itemsize
    return {
        "shards of the model, and theta": 2 * sliced,
        "the gradient twice, a product twice and its sum": 5 * job.block * sliced,
        "the largest parameter, its gradient, and what is sent": 4 * joined,
        "slices of the present and the last vectors": 3 * job.block * sliced,
        "slices of the basis": job.block * job.steps * sliced if job.reorthogonalise else 0,
    }


def balanced_tokens(itemsize: int, *, operations: float, bandwidth: float) -> float:
    """Tokens a rank from which on a product takes longer than its vectors take to travel, whatever the model's size.

    Args:
        itemsize: bytes of a number in a vector.
        operations: of a rank, each second.
        bandwidth: bytes that a rank sends each second.

    Returns:
        Tokens, for many ranks.
    """
    return 2.0 * itemsize / bandwidth * operations / PRODUCT_OPERATIONS


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
