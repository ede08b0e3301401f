"""What decides the numbers of a tracked training run."""

from __future__ import annotations

import math
from dataclasses import dataclass

from basinscope.choices import one_of
from spectra.errors import UserError, require_counts

QUANTITIES = ("eigenvalues", "trace", "gauss-newton", "gradient-noise", "quadratic-mass")


@dataclass(frozen=True)
class TrackerSettings:
    """Everything that decides the numbers of a recorded step, apart from the model, the cost and the data.

    Attributes:
        quantities: some of ``QUANTITIES``; fewer leave time for more steps. The quadratic mass, which takes more
            products than all others together, is left out unless it is named.
        eigenvalues: number of the largest eigenvalues of the Hessian.
        tolerance: largest residual of an eigenpair, relative to the largest eigenvalue; the error of the eigenvalue
            itself is far smaller.
        products: number of products after which the search for eigenvalues ends, converged or not; a note says so.
        probes: number of probes of each trace, at least 2.
        mass_probes: number of probes of the spectral density that the quadratic mass is made of, at least 2.
        mass_steps: number of Lanczos steps of each.
        samples: number of rows of the data that are differentiated one by one for the gradient noise.
        cutoff: T of the quadratic mass, unit of the cost.
        seed: the one seed that all randomness comes from; each recorded step uses the same probes.
        memory: bytes that graphs and Lanczos bases may take.
    """

    quantities: tuple[str, ...] = QUANTITIES[:-1]
    eigenvalues: int = 3
    tolerance: float = 1e-3
    products: int = 100
    probes: int = 8
    mass_probes: int = 4
    mass_steps: int = 48
    samples: int = 64
    cutoff: float = 0.01
    seed: int = 0
    memory: int = 4 * 2**30

    def __post_init__(self) -> None:
        for quantity in self.quantities:
            one_of("quantities", quantity, QUANTITIES)
        if "trace" in self.quantities and "eigenvalues" not in self.quantities:
            raise UserError("the trace is computed beside the eigenvalues: name both quantities, or neither")
        counts = {
            "eigenvalues": 1,
            "probes": 2,
            "mass_probes": 2,
            "mass_steps": 1,
            "products": 1,
            "samples": 2,
            "seed": 0,
            "memory": 1,
        }
        require_counts(self, counts)
        for name in ("cutoff", "tolerance"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0.0):
                raise UserError(f"{name} must be positive and finite, got {value}")
