"""Learning coefficients by chains against exact values, and how often the reported error covers 200 calls.

``python benchmarks/coefficient_exact.py --output out/coefficient_exact.md`` (minutes; ``--coverage 0`` leaves the
second table out, ``--digits`` adds the digits network to it, ``--only digits --digits`` runs that alone).

The exact value is ``E[nb (L - L*)]`` of the distribution that chains sample, at their temperature and localisation: in
closed form, by quadrature in the plane, or, of ``|B A - T|^2``, with B integrated out in closed form, and A by
quadrature over its singular values (T = 0) or an average over draws. Where a theorem of Aoyagi says what it tends to as
nb grows, that lambda stands beside it. A call is 8 chains with an error over them; coverage is the share of 200 calls
of which the 95 % interval holds the exact value, or, of digits, the mean of all calls.
"""

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from comparisons.langevin import Chains, ChainSettings, deep_linear_coefficient, sample_chains
from spectra.costs import mean_squared_error
from spectra.estimate import from_samples
from spectra.landscape import Landscape

CALLS, CHAINS = 200, 8
Cost = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """A landscape at its minimum, and what chains on it must find.

    Attributes:
        name: of the case.
        landscape: the cost.
        exact: ``E[nb (L - L*)]``.
        nb: inverse temperature times samples.
        localisation: g.
        stiffest: largest curvature where the chains go, roughly, which sets the step.
        limit: lambda, to which the value tends as nb grows; nan where it is not known.
    """

    name: str
    landscape: Landscape
    exact: float
    nb: float
    localisation: float
    stiffest: float
    limit: float = math.nan


class Theta(nn.Module):
    """Theta itself: the cost makes any function of it."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(size, dtype=torch.float64))

    def forward(self, ones: Tensor) -> Tensor:
        """Theta on each row."""
        return ones * self.theta


def landscape_of(cost: Cost, size: int) -> Landscape:
    """Any function of rows of thetas, around zero."""
    ones = torch.ones(1, size, dtype=torch.float64)
    return Landscape(Theta(size), lambda outputs, _: cost(outputs), (ones, torch.zeros(1)))


def quadratic(values: list[float]) -> Case:
    """Half of a diagonal form: ``1/2 sum nb h / (nb h + g)``."""
    h, nb, g = torch.tensor(values, dtype=torch.float64), 20.0, 1.0
    exact = float(0.5 * (nb * h / (nb * h + g)).sum())
    name = f"quadratic, {sum(v > 0 for v in values)} of {len(values)} directions curved"
    landscape = landscape_of(lambda t: 0.5 * (h * t**2).sum(-1), len(values))
    return Case(name, landscape, exact, nb, g, max(values), 0.5 * sum(v > 0 for v in values))


PLANE: dict[str, tuple[Cost, float]] = {
    "x^2 y^2": (lambda t: (t[..., 0] * t[..., 1]) ** 2, 0.5),
    "x^2 y^4": (lambda t: t[..., 0] ** 2 * t[..., 1] ** 4, 0.25),
    "x^4 y^4": (lambda t: (t[..., 0] * t[..., 1]) ** 4, 0.25),
    "(x^2 + y^2)^2": (lambda t: t.square().sum(-1) ** 2, 0.5),
    "x^2 + y^4": (lambda t: t[..., 0] ** 2 + t[..., 1] ** 4, 0.75),
    "((1 + x) (1 + y) - 1)^2": (lambda t: ((1.0 + t[..., 0]) * (1.0 + t[..., 1]) - 1.0) ** 2, 0.5),
}


def plane(name: str) -> Case:
    """A function of the plane, by quadrature."""
    cost, limit = PLANE[name]
    nb, g = 10.0, 1.0
    axis = torch.linspace(-7.0, 7.0, 1401, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)
    weight = torch.softmax((-nb * cost(grid) - 0.5 * g * grid.square().sum(-1)).reshape(-1), 0)
    exact = float(weight @ (nb * cost(grid)).reshape(-1))
    return Case(f"`{name}`", landscape_of(cost, 2), exact, nb, g, 5.0, limit)


def singular_point(widths: list[int], rank: int) -> list[Tensor]:
    """Matrices ``W_1 .. W_L``, each of which is one on the first ``rank`` places and zero elsewhere."""
    found = []
    for below, above in zip(widths, widths[1:], strict=False):
        matrix = torch.zeros(above, below, dtype=torch.float64)
        matrix[range(rank), range(rank)] = 1.0
        found.append(matrix)
    return found


def deep_linear(widths: list[int], rank: int) -> Landscape:
    """``|W_L ... W_1 - T|_F^2`` around such a point, as a network: rows ``x x^T = n I``, a mean over the outputs."""
    matrices = singular_point(widths, rank)
    model = nn.Sequential(*(nn.Linear(one.shape[1], one.shape[0], bias=False) for one in matrices)).double()
    theta = torch.cat([one.reshape(-1) for one in matrices])
    x = math.sqrt(widths[0] * widths[-1]) * torch.eye(widths[0], dtype=torch.float64)
    target = x
    for one in matrices:
        target = target @ one.T
    return Landscape(model, mean_squared_error, (x, target), theta=theta)


def two_layers(widths: list[int], rank: int, nb: float, g: float, draws: int = 400_000) -> float:
    """``E[nb |B A - T|^2]`` under ``N(A*, 1/g)``, ``N(B*, 1/g)``: B integrated out, A averaged over draws.

    A row b of B has the energy ``nb |A^T b - t|^2 + g/2 |b - b*|^2``, a Gaussian integral.
    """
    first, second = singular_point(widths, rank)
    truth, random = second @ first, torch.Generator().manual_seed(7)
    weights, values = [], []
    for _ in range(draws // 20_000):
        noise = torch.randn(20_000, *first.shape, generator=random, dtype=torch.float64)
        a = first + noise / math.sqrt(g)
        precision = 2.0 * nb * a @ a.mT + g * torch.eye(len(first), dtype=torch.float64)
        inverse = torch.linalg.inv(precision)
        mean = (2.0 * nb * truth @ a.mT + g * second) @ inverse
        left = nb * (mean @ a - truth).square().sum((1, 2))
        spring = 0.5 * g * (mean - second).square().sum((1, 2))
        weights.append(-left - spring - 0.5 * len(truth) * torch.logdet(precision))
        spread = len(truth) * nb * ((a.mT @ inverse) * a.mT).sum((1, 2))
        values.append(left + spread)
    share, value = torch.softmax(torch.cat(weights), 0), torch.cat(values)
    mean_value = float(share @ value)
    error = float((share * (value - mean_value)).square().sum().sqrt())
    if error > 2e-3 * mean_value:
        raise RuntimeError(f"{draws} draws leave an error of {error:.2g} on {mean_value:.4g}")
    return mean_value


def two_layers_of_nothing(widths: list[int], nb: float, g: float, nodes: int = 40) -> float:
    """The same for T = 0: A enters by its singular values t alone, whose density is known.

    ``prod t^(q - h) prod |t_i^2 - t_j^2| exp(-g |t|^2 / 2)`` of a Gaussian matrix (h, q), h <= q; on t ascending it is
    smooth, and Gauss and Legendre's rule is applied to the gaps.
    """
    inputs, hidden, outputs = widths
    assert hidden <= inputs
    x, w = np.polynomial.legendre.leggauss(nodes)
    # Roots closer to zero, where the mass of a cold chain is; the largest gap is 8 standard deviations.
    gaps = 8.0 / math.sqrt(g) * ((x + 1.0) / 2.0) ** 2
    weights = w * (x + 1.0)
    grid = np.meshgrid(*[gaps] * hidden, indexing="ij")
    t = np.cumsum(np.stack(grid), 0)
    log_weight = sum(np.log(one) for one in np.meshgrid(*[weights] * hidden, indexing="ij"))
    log_weight = log_weight + ((inputs - hidden) * np.log(t) - 0.5 * g * t**2).sum(0)
    for i in range(hidden):
        for j in range(i):
            log_weight += np.log(t[i] ** 2 - t[j] ** 2)
    share = 2.0 * nb * t**2 / (2.0 * nb * t**2 + g)
    log_weight += 0.5 * outputs * np.log1p(-share).sum(0)
    weight = np.exp(log_weight - log_weight.max())
    return float((weight * 0.5 * outputs * share.sum(0)).sum() / weight.sum())


def network(widths: list[int], rank: int, nb: float = 20.0, g: float = 2.0) -> Case:
    """A linear network of two layers around the most singular point of its truth."""
    limit = deep_linear_coefficient(widths, rank)[0]
    exact = two_layers(widths, rank, nb, g) if rank else two_layers_of_nothing(widths, nb, g)
    name = f"linear network {'-'.join(map(str, widths))}, truth of rank {rank}"
    return Case(name, deep_linear(widths, rank), exact, nb, g, 12.0, limit)


def cases() -> list[Case]:
    """All of them."""
    wide = [network(widths, rank) for widths, rank in (([2, 2, 2], 0), ([5, 4, 5], 0), ([4, 3, 8], 0), ([2, 2, 2], 1))]
    near = [network(widths, rank, g=6.0) for widths, rank in (([3, 3, 3], 1), ([3, 2, 4], 1), ([3, 3, 3], 2))]
    flat = [quadratic([5.0, 2.0, 1.0, 0.5] * 3), quadratic([4.0, 2.0, 1.0] + [0.0] * 5)]
    return [*flat, *(plane(name) for name in PLANE), *wide, *near]


def settings_of(case: Case, sampler: str, chains: int, draws: int) -> ChainSettings:
    """Steps of a fiftieth of the limit for plain chains, which adds 2 % at most, and of a tenth for accepted ones."""
    limit = 4.0 / (case.nb * case.stiffest + case.localisation)
    step = (0.02 if sampler == "sgld" else 0.1) * limit
    return ChainSettings(
        inverse_temperature=case.nb,
        localisation=case.localisation,
        step_size=step,
        burn_in=max(100, math.ceil(5.0 / (step * case.localisation))),
        chains=chains,
        draws=draws,
        batch_size=None,
        checks=0,
        sampler=sampler,
    )


def calls(chains: Chains, size: int = CHAINS) -> list[Chains]:
    """The chains as calls of so many each: a chain depends on nothing but its own number."""
    rises = chains.rises
    return [replace(chains, rises=rises[start : start + size]) for start in range(0, len(rises), size)]


def covered(chains: Chains, exact: float) -> tuple[int, int]:
    """Calls whose 95 % interval holds the value, and calls."""
    held, found = 0, calls(chains)
    for one in found:
        low, high = from_samples(one.inverse_temperature * one.chain_means).interval()
        held += low <= exact <= high
    return held, len(found)


def exact_table(found: list[Case], draws: int) -> str:
    """Markdown: each case by plain and by accepted chains."""
    lines = ["| case | exact | lambda | mala | errors off | sgld | errors off |", "|---" * 7 + "|"]
    for case in found:
        cells = [case.name, f"{case.exact:.4f}", f"{case.limit:g}"]
        for sampler in ("mala", "sgld"):
            chains = sample_chains(case.landscape, settings_of(case, sampler, 64, draws))
            one = from_samples(case.nb * chains.chain_means)
            off = (one.value - case.exact) / one.standard_error
            cells += [f"{one.value:.4f} ± {one.standard_error:.4f}", f"{off:+.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"


def coverage_table(found: list[Case], count: int, draws: int, digits: bool) -> str:
    """Markdown: of how many calls the interval holds the exact value."""
    lines = ["| case | sampler | calls | held by the 95 % interval |", "|---" * 4 + "|"]
    for case in found:
        chains = sample_chains(case.landscape, settings_of(case, "mala", count * CHAINS, draws))
        held, total = covered(chains, case.exact)
        lines.append(f"| {case.name} | mala | {total} | {held / total:.1%} |")
        print(lines[-1], flush=True)
    if digits:
        from basinscope.tasks import data_folder
        from basinscope.tasks import digits as task
        from spectra.checkpoint import read_checkpoint

        landscape = task(read_checkpoint(data_folder() / "digits_mlp" / "clean_seed0_step00640.pt"))
        options = {"step_size": 1e-3, "localisation": 100.0, "burn_in": 200, "checks": 0}
        chains = sample_chains(landscape, ChainSettings(chains=count * CHAINS, draws=draws, **options))
        # The mean of all calls is itself uncertain by a fourteenth of a call's error.
        held, total = covered(chains, chains.inverse_temperature * chains.mean_rise)
        lines.append(f"| digits, 4,810 parameters | sgld | {total} | {held / total:.1%} |")
        print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[""], help="only the cases whose names contain one of these")
    parser.add_argument("--draws", type=int, default=2000, help="draws of each of 64 chains in the first table")
    parser.add_argument("--coverage", type=int, default=CALLS, help="calls of the second table")
    parser.add_argument("--coverage-draws", type=int, default=300, help="draws of each of their chains")
    parser.add_argument("--digits", action="store_true", help="also the digits network")
    parser.add_argument("--output", type=Path, help="also write the tables to this file")
    options = parser.parse_args()
    np.seterr(all="raise", under="ignore")
    found = cases()
    some = [found[1], found[2], found[8], found[9], found[11]]
    found, some = ([one for one in part if any(word in one.name for word in options.only)] for part in (found, some))
    text = exact_table(found, options.draws)
    if options.coverage:
        text += "\n" + coverage_table(some, options.coverage, options.coverage_draws, options.digits)
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(text)


if __name__ == "__main__":
    main()
