"""What ranks send one another for a spectrum, and what each holds: on paper, for runs that no one machine can make.

A test holds the counts against those of a run. On the wire a ring turns B bytes handed to an all-reduce into
``2 (R - 1) / R B`` sent by each of R ranks, to a reduce-scatter into ``(R - 1) / R B``, and B bytes of each rank handed
to an all-gather into ``(R - 1) B``.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

# Multiplications and additions of a product with one vector for each parameter and token: a gradient takes 6, a product
# of the Hessian on a kept graph about twice that (README, cost of a product in gradients).
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

    >>> dict(product_handed(Job(10, ranks=2)))
    {'all_gather': 20, 'reduce_scatter': 40}
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

    >>> on_the_wire(product_handed(Job(100, ranks=4)), 4)  # as an all-reduce of the vector: 2 (R - 1) / R 400
    600.0
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


def balanced_tokens(itemsize: int, *, operations: float, bandwidth: float) -> float:
    """Tokens a rank from which on a product takes longer than its vectors take to travel, whatever the model's size.

    Args:
        itemsize: bytes of a number in a vector.
        operations: of a rank, each second.
        bandwidth: bytes that a rank sends each second.

    Returns:
        Tokens, for many ranks.

    >>> balanced_tokens(4, operations=1.2e13, bandwidth=1e9)
    8000.0
    """
    return 2.0 * itemsize / bandwidth * operations / PRODUCT_OPERATIONS
