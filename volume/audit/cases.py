"""The cases whose truth is known: balls, ellipsoids, Lp balls, wells, a thin star; 2 to 100,000 parameters.

In all of them the cost never falls along a ray from the anchor. So the sublevel set is the star domain, and one number
is the truth of both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import hyp1f1, ndtr
from torch import Tensor

from spectra.landscape import Landscape
from spectra.model import generator
from spectra.operators import MatrixOperator, SymmetricOperator
from volume.audit.case import AuditCase
from volume.audit.convolution import log_product_wells
from volume.audit.reading import BOTH, DETERMINANT, TRACE, VOLUME, Truth
from volume.priors import GaussianPrior, Lebesgue, Prior
from volume.quadratic import HartleyRotated, ParameterModule, QuadraticForm, from_components, log_distribution
from volume.rays import ClosedFormCost, log_ball, log_ellipsoid, log_gaussian_ball, log_power_ball

Array = NDArray[np.float64]
CLOSED = "closed form"
# T of the quadratic cases.
CUTOFF = 0.01
# Where log-determinants of the cases are shifted, in units of the largest eigenvalue.
SHIFT = 1e-3
_LARGEST_DENSE = 1000
# Numbers drawn for a sampler's directions at most, so that no case takes minutes.
_DRAWN = 2_000_000


def quadratic_case(
    name: str,
    eigenvalues: Array,
    cutoff: float,
    truth: Truth,
    *,
    prior: Prior | None = None,
    anchor: Array | None = None,
) -> AuditCase:
    """``C = 1/2 x^T H x`` with a prescribed spectrum (n,) on a random basis, its trace and log-determinant known too.

    The anchor (n,) is given by its components on the eigenvectors. Up to 1,000 parameters the curvature is a dense
    matrix on a basis uniform over rotations, and a torch model is made of it; beyond, the basis is a fast random
    rotation.
    """
    size = len(eigenvalues)
    values = torch.as_tensor(eigenvalues, dtype=torch.float64)
    source = generator(0, f"audit/{name}")
    operator: SymmetricOperator
    if size <= _LARGEST_DENSE:
        basis = torch.linalg.qr(torch.randn(size, size, generator=source, dtype=torch.float64))[0]
        matrix = (basis * values) @ basis.T
        operator = MatrixOperator((matrix + matrix.T) / 2.0)
        place = torch.zeros(size, dtype=torch.float64) if anchor is None else basis @ torch.as_tensor(anchor)
    else:
        rotated = HartleyRotated(values, source)
        operator = rotated
        place = torch.zeros(size, dtype=torch.float64)
        if anchor is not None:
            place = rotated.from_eigenvectors(torch.as_tensor(anchor).unsqueeze(0))[0]

    def cost(x: Tensor) -> Tensor:
        forms = operator.forms(x) if isinstance(operator, HartleyRotated) else (operator.matmat(x) * x).sum(-1)
        return 0.5 * forms

    shift = SHIFT * float(values.max())
    logs = float(np.log(eigenvalues + shift).sum())
    return AuditCase(
        name,
        ClosedFormCost(cost, place),
        cutoff,
        {
            VOLUME: truth,
            TRACE: Truth(float(values.sum()), 0.0, "sum of the eigenvalues"),
            DETERMINANT: Truth(logs, 0.0, f"sum over the eigenvalues, shift {shift:.3g}"),
        },
        prior=prior or Lebesgue(),
        operator=operator,
        shift=shift,
        landscape=_landscape(cost, place) if size <= _LARGEST_DENSE else None,
    )


def _landscape(cost: Callable[[Tensor], Tensor], anchor: Tensor) -> Landscape:
    def at(outputs: Tensor, targets: Tensor) -> Tensor:
        return cost(outputs - targets)

    module = ParameterModule(anchor)
    return Landscape(module, at, (torch.ones(1, 1, dtype=torch.float64), anchor.unsqueeze(0)))


def ball_case(size: int) -> AuditCase:
    """A ball of radius ``sqrt(2 T)`` in n dimensions: every direction is exact."""
    truth = Truth(log_ball(math.sqrt(2.0 * CUTOFF), size), 0.0, CLOSED, of=BOTH)
    cost = ClosedFormCost(lambda x: 0.5 * x.square().sum(-1), torch.zeros(size, dtype=torch.float64))
    return AuditCase(f"ball-{size}", cost, CUTOFF, {VOLUME: truth}, most_directions=max(2, _DRAWN // size))


def ellipsoid_case(name: str, eigenvalues: Array) -> AuditCase:
    """An ellipsoid with these positive eigenvalues (n,), under Lebesgue measure."""
    truth = Truth(log_ellipsoid(eigenvalues, CUTOFF), 0.0, CLOSED, of=BOTH)
    return quadratic_case(name, eigenvalues, CUTOFF, truth)


def degenerate_case(size: int = 60, rank: int = 20, standard_deviation: float = 0.5) -> AuditCase:
    """Equal eigenvalues and as many zeros as you like, under a Gaussian prior off the origin: chi-square, exact.

    Args:
        size: n.
        rank: number of eigenvalues that are one.
        standard_deviation: s of the prior.

    Returns:
        The case.
    """
    cutoff = 0.2
    eigenvalues = np.concatenate([np.ones(rank), np.zeros(size - rank)])
    anchor = np.linspace(-0.3, 0.3, size)
    distance = float(np.linalg.norm(anchor[:rank])) / standard_deviation
    radius = math.sqrt(2.0 * cutoff) / standard_deviation
    truth = Truth(log_gaussian_ball(radius, rank, 1.0, distance), 0.0, "non-central chi-square, exact", of=BOTH)
    prior = GaussianPrior(standard_deviation)
    return quadratic_case(f"degenerate-{size}", eigenvalues, cutoff, truth, prior=prior, anchor=anchor)


def measured_case(name: str, eigenvalues: Array) -> AuditCase:
    """A measured spectrum on a random basis, under a standard normal prior; the anchor is a draw of that prior.

    Args:
        name: name of the case.
        eigenvalues: (n,) of a checkpoint; those below zero are rounding and count as zero.

    Returns:
        The case; its truth is the saddlepoint's with all eigenvalues and components known, with its own error.
    """
    values = np.maximum(np.asarray(eigenvalues, dtype=np.float64), 0.0)
    anchor = torch.randn(len(values), generator=generator(0, f"audit/{name}/anchor"), dtype=torch.float64).numpy()
    measure = from_components(values, anchor)
    tail = log_distribution(
        QuadraticForm(values, np.ones(len(values)), measure.nodes, measure.masses), np.array([CUTOFF])
    )
    truth = Truth(
        float(tail.log_probability[0]), float(tail.error[0]), "saddlepoint with all eigenvalues known", of=BOTH
    )
    return quadratic_case(name, values, CUTOFF, truth, prior=GaussianPrior(1.0), anchor=anchor)


def power_case(power: float, size: int) -> AuditCase:
    """``C = sum |x_i|^p``: Dirichlet's volumes, the curvature at the anchor zero or infinite unless p = 2."""
    cutoff = 1.0
    truth = Truth(log_power_ball(power, cutoff, np.ones(size)), 0.0, "Dirichlet's integral", of=BOTH)
    cost = ClosedFormCost(lambda x: x.abs().pow(power).sum(-1), torch.zeros(size, dtype=torch.float64))
    return AuditCase(f"l{power:g}-ball-{size}", cost, cutoff, {VOLUME: truth})


def wells_case(size: int = 20, cutoff: float = 8.0, standard_deviation: float = 1.5) -> AuditCase:
    """``C = sum_i (cosh x_i - 1)`` under a centred Gaussian prior: far from quadratic at the cutoff.

    Args:
        size: n.
        cutoff: T.
        standard_deviation: s of the prior.

    Returns:
        The case; its truth is by one-dimensional distribution functions and convolution.
    """

    def inner(y: Array) -> Array:
        return np.asarray(2.0 * ndtr(np.arccosh(1.0 + y) / standard_deviation) - 1.0)

    value, error = log_product_wells(inner, size, cutoff)
    anchor = torch.zeros(size, dtype=torch.float64)
    surface = ClosedFormCost(lambda x: (torch.cosh(x) - 1.0).sum(-1), anchor)
    return AuditCase(
        f"wells-{size}",
        surface,
        cutoff,
        {
            VOLUME: Truth(value, error, "one-dimensional distributions, convolved", of=BOTH),
            TRACE: Truth(float(size), 0.0, CLOSED),
            DETERMINANT: Truth(size * math.log1p(SHIFT), 0.0, CLOSED),
        },
        prior=GaussianPrior(standard_deviation),
        operator=MatrixOperator(torch.eye(size, dtype=torch.float64)),
        shift=SHIFT,
        landscape=_landscape(surface.formula, anchor),
    )


def thin_star_case(size: int = 20, sharpness: float = 1.0) -> AuditCase:
    """Two thin arms: the radius along u is ``exp(a u_1^2)``, the cost ``T (|x| / radius)^2``; not convex.

    ``V = V_n 1F1(1/2; n/2; n a)``, from ``E[exp(n a u_1^2)]`` over the sphere.
    """
    cutoff = 1.0
    arms = math.log(float(hyp1f1(0.5, size / 2.0, size * sharpness)))
    truth = Truth(log_ball(1.0, size) + arms, 0.0, "closed form, a confluent hypergeometric function", of=BOTH)

    def cost(x: Tensor) -> Tensor:
        square = x.square().sum(-1)
        share = x[:, 0].square() / square.clamp_min(1e-300)
        return cutoff * square * torch.exp(-2.0 * sharpness * share)

    return AuditCase(f"thin-star-{size}", ClosedFormCost(cost, torch.zeros(size).double()), cutoff, {VOLUME: truth})


def known_cases(measured: Mapping[str, Array] | None = None) -> tuple[AuditCase, ...]:
    """The cases of ``basinscope audit --known``.

    Args:
        measured: spectra of checkpoints to put on random bases, by name.

    Returns:
        The cases, in order of their kind.
    """
    power_law = np.arange(1, 101, dtype=np.float64) ** -1.0
    cases = [
        ball_case(2),
        ball_case(100_000),
        ellipsoid_case("ellipsoid-flat-400", np.linspace(0.85, 1.15, 400)),
        ellipsoid_case("ellipsoid-power-law-100", power_law),
        degenerate_case(),
        power_case(1.0, 20),
        power_case(4.0, 50),
        wells_case(),
        thin_star_case(),
    ]
    cases += [measured_case(name, values) for name, values in (measured or {}).items()]
    return tuple(cases)
