"""An independent check of the star domain's and of the sublevel set's mass: subset simulation, no code of ``volume``.

    python benchmarks/star_independent.py data/digits_widths/*.pt --output out/star_independent.json

A cloud of parameter vectors begins as draws of the prior. At every level the half with the higher cost dies, the
other half is doubled, and all are moved by a Markov chain that leaves the prior, restricted to the set so far,
invariant. The mass of the set at a cutoff is the product of the shares that survived. One run gives all cutoffs.
Runs are stored when they end; the same command goes on from there. ``--self-test`` runs a set of known mass instead.

Errors come from independent runs. Too few moves lose parts of the set and give too small a mass, so two sizes of the
cloud and two numbers of moves are to agree. On the digits network of 310 parameters 256 particles and 16 moves are not
enough below a cutoff of about 1: two runs of the star domain differ by 22 nats at 0.01. The table says so, and gives
the lower bound that such runs are.
"""

import argparse
import ctypes
import json
import math
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.special import digamma
from scipy.stats import ncx2
from torch import Tensor

from basinscope.tasks import load_digits
from spectra.checkpoint import read_checkpoint

# Pairs of a point and a place on its ray that are computed at once: their logits stay in a core's cache.
TOGETHER = 24
# Rows that the compiled loop handles at once.
LANES = 16
# Kinds of moves: the share of the cloud's principal directions that one proposal changes.
SHARES = (1.0, 0.25, 0.05)
# Levels over which the cloud's covariance is averaged, and the acceptance that step sizes aim at.
MEMORY, ACCEPTANCE = 20.0, 0.25
# Runs that differ by more than so many deviations of independent particles have lost parts of the set.
APART = 3.0


class Place(Protocol):
    """A cost around an anchor."""

    anchor: Tensor

    def along(self, points: Tensor, which: Tensor, fractions: Tensor) -> Tensor:
        """Costs (pairs,), float64, at ``anchor + fractions x``, x the displacements of rows ``which`` of points."""

    def canonical(self, points: Tensor) -> Tensor:
        """Which points (k,) lie in the anchor's share of the symmetry's orbits."""

    def fold(self, points: Tensor) -> Tensor:
        """The images (k, n) of points in that share."""


def compiled() -> Callable[..., None] | None:
    """The loop of ``star_independent.c``, five times as fast as torch's operators; None without a C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "star_independent.so"
        options = ["-O3", "-march=native", "-mprefer-vector-width=512", "-Wno-psabi", "-shared", "-fPIC"]
        source = Path(__file__).with_suffix(".c")
        subprocess.run([compiler, *options, str(source), "-o", str(library), "-lm"], check=True)
        function = ctypes.CDLL(str(library)).divergence
    function.restype = None
    return function


def distinct(which: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of runs of equal numbers, and which run each number is of."""
    new = torch.ones(len(which), dtype=torch.bool)
    new[1:] = which[1:] != which[:-1]
    return which[new], new.cumsum(0) - 1


class Network:
    """``KL(anchor || model)`` of a network with one hidden layer of GELU, mean over the held-out rows, in nats."""

    def __init__(self, path: Path) -> None:
        parameters = read_checkpoint(path).parameters
        self.hidden, self.pixels = parameters["hidden.weight"].shape
        self.classes = len(parameters["output.bias"])
        self.anchor = torch.cat([tensor.flatten() for tensor in parameters.values()]).float()
        self.inputs = load_digits("heldout")[0].T.contiguous()
        before, weight = self._layers(self.anchor.unsqueeze(0), self.inputs)
        self.before, self.weight = before[0], weight[0]
        units = torch.cat([torch.nn.functional.gelu(self.before.double()), torch.ones(1, before.shape[2]).double()])
        logits = self.weight.double() @ units
        log_probability = logits.log_softmax(0)
        probability = log_probability.exp()
        self.probability = probability.float().flatten()
        self.entropy = float((probability * log_probability).sum(0).mean())
        # What follows the hidden units: ones for the biases, then what brings the anchor's log-sums to zero.
        self.units = torch.ones(TOGETHER, 2, before.shape[2])
        self.units[:, -1] = -logits.logsumexp(0).float()
        self.padded = torch.nn.functional.pad(self.inputs, (0, -self.inputs.shape[1] % LANES)).contiguous()
        self.tables, self.compiled = self._prepare(), compiled()

    def _layers(self, points: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """What is linear in the parameters: input of the units (k, hidden, rows), output weights with biases."""
        k, cut = len(points), self.hidden * self.pixels
        weight = points[:, :cut].reshape(k * self.hidden, self.pixels)
        bias = points[:, cut : cut + self.hidden].reshape(k * self.hidden, 1)
        before = torch.addmm(bias, weight, inputs).view(k, self.hidden, -1)
        rest = points[:, cut + self.hidden :]
        output = rest[:, : self.classes * self.hidden].reshape(k, self.classes, self.hidden)
        return before, torch.cat([output, rest[:, self.classes * self.hidden :].unsqueeze(2)], 2)

    def _by_torch(self, points: Tensor, which: Tensor, fractions: Tensor) -> Tensor:
        costs = []
        for begin in range(0, len(which), TOGETHER):
            rows, inverse = distinct(which[begin : begin + TOGETHER])
            scale = fractions[begin : begin + TOGETHER].float().view(-1, 1, 1)
            before, weight = self._layers(points[rows] - self.anchor, self.inputs)
            if len(rows) < len(inverse):
                before, weight = before[inverse], weight[inverse]
            before = torch.addcmul(self.before, before, scale)
            units = torch.cat([torch.nn.functional.gelu(before), self.units[: len(scale)]], 1)
            weight = torch.cat([torch.addcmul(self.weight, weight, scale), torch.ones(len(scale), self.classes, 1)], 2)
            costs.append(self._divergence(torch.bmm(weight, units)))
        return torch.cat(costs) if costs else torch.zeros(0, dtype=torch.float64)

    def along(self, points: Tensor, which: Tensor, fractions: Tensor) -> Tensor:
        """By the compiled loop where there is a C compiler, else by torch; units' inputs are linear along a ray."""
        if self.compiled is None:
            return self._by_torch(points, which, fractions)
        if not len(which):
            return torch.zeros(0, dtype=torch.float64)
        rows, inverse = distinct(which)
        before, weight = (part.contiguous() for part in self._layers(points[rows] - self.anchor, self.padded))
        scale, costs = fractions.float().contiguous(), torch.empty(len(which), dtype=torch.float64)
        numbers = (len(which), self.hidden, self.classes, self.padded.shape[1] // LANES)
        arrays = (before, self.tables[0], weight, *self.tables[1:], inverse, scale, costs)
        self.compiled(*map(ctypes.c_long, numbers), *(ctypes.c_void_p(array.data_ptr()) for array in arrays))
        return costs / self.inputs.shape[1]

    def _prepare(self) -> list[Tensor]:
        """What the compiled loop reads: rows filled up to whole blocks, with rows that count for nothing."""
        before, weight = self._layers(self.anchor.unsqueeze(0), self.padded)
        probability = self.probability.view(self.classes, -1)
        entropy = torch.special.xlogy(probability, probability).sum(0)
        more = self.padded.shape[1] - self.inputs.shape[1]
        fill = [torch.nn.functional.pad(row, (0, more)) for row in (probability, entropy, torch.ones_like(entropy))]
        return [part.contiguous() for part in (before[0], weight[0], *fill)]

    def _divergence(self, logits: Tensor) -> Tensor:
        """Mean over rows of logits (k, classes, rows), less the anchor's log-sums; along rows loops are vectorised."""
        rows = logits.shape[2]
        mean = torch.mv(logits.flatten(1), self.probability).double() / rows
        # exp is slow where its result is subnormal; what is clamped adds less than e^-87.
        log_sum = logits.clamp(-87.0, 88.0).exp_().sum(1).log_()
        average = log_sum.sum(1, dtype=torch.float64) / rows
        if not bool((log_sum.abs() < 80.0).all()):
            # Near the ends of float32's exponents: with the highest class taken out first.
            average = logits.logsumexp(1).sum(1, dtype=torch.float64) / rows
        return average - mean + self.entropy

    def _alike(self, points: Tensor) -> Tensor:
        """Inner products (k, hidden, hidden) of each point's units with the anchor's."""

        def units(rows: Tensor) -> Tensor:
            cut = self.hidden * self.pixels
            parts = (rows[:, :cut].reshape(len(rows), self.hidden, -1), rows[:, cut : cut + self.hidden].unsqueeze(2))
            output = rows[:, cut + self.hidden :][:, : self.classes * self.hidden]
            return torch.cat([*parts, output.reshape(len(rows), self.classes, self.hidden).transpose(1, 2)], 2)

        return units(points) @ units(self.anchor.unsqueeze(0))[0].T

    def canonical(self, points: Tensor) -> Tensor:
        """No other order of the hidden units is nearer to the anchor."""
        order = np.arange(self.hidden)
        if not len(points):
            return torch.ones(0, dtype=torch.bool)
        best = [linear_sum_assignment(scores, maximize=True)[1] for scores in self._alike(points).numpy()]
        return torch.tensor([bool((columns == order).all()) for columns in best], dtype=torch.bool)

    def fold(self, points: Tensor) -> Tensor:
        """The hidden units in the order that is nearest to the anchor."""
        folded = points.clone()
        cut = self.hidden * self.pixels
        for row, scores in zip(folded, self._alike(points).numpy(), strict=True):
            order = torch.from_numpy(linear_sum_assignment(scores.T, maximize=True)[1])
            row[:cut] = row[:cut].view(self.hidden, -1)[order].flatten()
            row[cut : cut + self.hidden] = row[cut : cut + self.hidden][order]
            output = row[cut + self.hidden :][: self.classes * self.hidden]
            output.copy_(output.view(self.classes, self.hidden)[:, order].flatten())
        return folded


class Ellipsoid:
    """``sum_i l_i x_i^2 / 2`` in rotated axes around an anchor off the prior's centre; it has no symmetry."""

    def __init__(self, curvatures: Tensor, anchor: Tensor, seed: int = 0) -> None:
        source = torch.Generator().manual_seed(seed)
        self.basis = torch.linalg.qr(torch.randn(len(anchor), len(anchor), generator=source))[0]
        self.curvatures, self.along_axes = curvatures, anchor
        self.anchor = self.basis @ anchor

    def along(self, points: Tensor, which: Tensor, fractions: Tensor) -> Tensor:
        """Quadratic along every ray."""
        costs = 0.5 * ((points - self.anchor) @ self.basis).square() @ self.curvatures
        along: Tensor = costs.double()[which] * fractions.square()
        return along

    def canonical(self, points: Tensor) -> Tensor:
        """All."""
        return torch.ones(len(points), dtype=torch.bool)

    def fold(self, points: Tensor) -> Tensor:
        """Themselves."""
        return points


@dataclass(frozen=True)
class Settings:
    """How a run is done.

    Attributes:
        target: ``star`` or ``sublevel``.
        particles: points of the cloud, even.
        moves: proposals for each particle at each level.
        scanned: places of a ray, its end included.
        deviation: the prior's standard deviation.
        fold: restrict to the anchor's share of the symmetry's orbits and count the shares; for ``sublevel`` only.
    """

    target: str = "star"
    particles: int = 256
    moves: int = 24
    scanned: int = 16
    deviation: float = 1.3975
    fold: bool = False


@dataclass
class Cloud:
    """Particles and what their moves know.

    Attributes:
        points: (particles, n).
        costs: (particles,), float64.
        peaks: (particles,) place of the highest cost on the ray, a fraction of it.
        steps: factor of the principal deviations, for each kind of move.
        tried: costs evaluated.
    """

    points: Tensor
    costs: Tensor
    peaks: Tensor
    steps: list[float] = field(default_factory=lambda: [0.5] * len(SHARES))
    tried: int = 0


def costs_below(
    place: Place, points: Tensor, level: float, guess: Tensor, settings: Settings
) -> tuple[Tensor, Tensor, int]:
    """The target's costs where they are below the level, else inf; the places of the peaks; evaluations.

    The cheap tests come first: the end of the ray, then the place where the particle had its peak before.
    """
    count = len(points)
    costs = torch.full((count,), math.inf, dtype=torch.float64)
    peaks = torch.ones(count, dtype=torch.float64)
    rows = torch.arange(count)
    ends = place.along(points, rows, torch.ones(count, dtype=torch.float64))
    tried = count
    rows = rows[ends < level]
    if settings.target == "sublevel":
        costs[rows] = ends[rows]
        return costs, peaks, tried
    inner = rows[guess[rows] < 1.0]
    lost = inner[~(place.along(points, inner, guess[inner]) < level)]
    rows = rows[~torch.isin(rows, lost)]
    grid = torch.linspace(0.0, 1.0, settings.scanned + 1, dtype=torch.float64)
    inside = grid[1:-1]
    values = place.along(points, rows.repeat_interleave(len(inside)), inside.repeat(len(rows)))
    tried += len(inner) + len(values)
    profiles = torch.cat(
        [torch.zeros(len(rows), 1, dtype=torch.float64), values.view(len(rows), len(inside)), ends[rows, None]], 1
    )
    highest, where = highest_along(profiles)
    kept = highest < level
    costs[rows[kept]], peaks[rows[kept]] = highest[kept], where[kept]
    return costs, peaks, tried


def highest_along(profiles: Tensor) -> tuple[Tensor, Tensor]:
    """The highest of equally spaced costs (k, places), by the parabola through it and its neighbours, and where."""
    profiles = profiles.nan_to_num(nan=math.inf)
    count = profiles.shape[1] - 1
    highest, at = profiles.max(1)
    middle = at.clamp(1, count - 1)
    left, centre, right = (profiles.gather(1, (middle + shift)[:, None])[:, 0] for shift in (-1, 0, 1))
    bend = left - 2.0 * centre + right
    shift = 0.5 * (left - right) / bend
    vertex = centre - 0.125 * (right - left).square() / bend
    found = (bend < 0.0) & (shift.abs() < 1.0) & (vertex > highest)
    return torch.where(found, vertex, highest), torch.where(found, middle + shift, at.double()) / count


def move(
    place: Place,
    cloud: Cloud,
    level: float,
    principal: tuple[Tensor, Tensor],
    settings: Settings,
    source: torch.Generator,
) -> None:
    """Every particle tries ``moves`` steps that leave the prior on the set below the level invariant.

    A step is ``theta' = sqrt(1 - B^2) theta + s B xi``, B symmetric with the cloud's principal directions and steps in
    proportion to its deviations there. That is reversible under N(0, s^2 I), so a step is accepted if it stays inside.
    """
    deviations, basis = principal
    rotated = cloud.points @ basis
    accepted: list[list[float]] = [[] for _ in SHARES]
    for _ in range(settings.moves):
        kind = int(torch.randint(len(SHARES), (), generator=source))
        # Steps of several sizes: the set is narrower in some places than in others.
        size = cloud.steps[kind] * 2.0 ** float(torch.rand((), generator=source) * 2.0 - 1.0)
        chosen = torch.rand(rotated.shape, generator=source) < SHARES[kind]
        width = (size * deviations / settings.deviation).clamp(max=1.0) * chosen
        noise = torch.randn(rotated.shape, generator=source) * settings.deviation
        proposed = (1.0 - width.square()).sqrt() * rotated + width * noise
        points = proposed @ basis.T
        costs, peaks, tried = costs_below(place, points, level, cloud.peaks, settings)
        inside = costs < level
        if settings.fold:
            inside[inside.clone()] = place.canonical(points[inside])
        rotated[inside], cloud.points[inside] = proposed[inside], points[inside]
        cloud.costs[inside], cloud.peaks[inside] = costs[inside], peaks[inside]
        cloud.tried += tried
        accepted[kind].append(float(inside.double().mean()))
    for kind, shares in enumerate(accepted):
        if shares:
            cloud.steps[kind] *= math.exp(0.6 * (float(np.mean(shares)) - ACCEPTANCE))
            cloud.steps[kind] = min(cloud.steps[kind], 4.0)


@dataclass
class Found:
    """One run.

    Attributes:
        cutoffs: T, descending.
        log_masses: nats, one for each cutoff.
        levels: costs at which half of the cloud died.
        log_levels: log mass of the set below each of them.
        kept: correlation of the particles before and after the moves of a level, mean over principal directions.
        kept_wide: the same in the widest twentieth of the directions.
        tried: costs evaluated.
        seconds: of the process.
    """

    cutoffs: list[float]
    log_masses: list[float] = field(default_factory=list)
    levels: list[float] = field(default_factory=list)
    log_levels: list[float] = field(default_factory=list)
    kept: list[float] = field(default_factory=list)
    kept_wide: list[float] = field(default_factory=list)
    tried: int = 0
    seconds: float = 0.0


class Population:
    """One cloud on its way down.

    Attributes:
        cloud: particles.
        found: what is known so far.
        covariance: (n, n) of the survivors, averaged over levels.
    """

    def __init__(self, place: Place, cutoffs: list[float], settings: Settings, source: torch.Generator) -> None:
        size = settings.particles
        self.place, self.settings, self.source = place, settings, source
        self.found = Found(sorted(cutoffs, reverse=True))
        points = torch.randn(size, len(place.anchor), generator=source) * settings.deviation
        # Folding leaves the mass as it is: so many shares, each with so small a part of the prior.
        points = place.fold(points) if settings.fold else points
        guess = torch.ones(size, dtype=torch.float64)
        self.cloud = Cloud(points, *costs_below(place, points, math.inf, guess, settings)[:2])
        self.covariance = torch.eye(len(place.anchor)) * settings.deviation**2
        self.log_mass = 0.0
        # Mean log of the share below the lowest cost that dies, if particles are independent.
        self.died = float(digamma(size // 2 + 1) - digamma(size + 1))

    @property
    def done(self) -> bool:
        """All cutoffs are passed."""
        return len(self.found.log_masses) == len(self.found.cutoffs)

    def select(self) -> float:
        """The half with higher costs dies, the other is doubled; the level between them."""
        cloud, half = self.cloud, self.settings.particles // 2
        order = cloud.costs.argsort()
        level = float(cloud.costs[order[half]])
        for cutoff in self.found.cutoffs[len(self.found.log_masses) :]:
            if level < cutoff:
                inside = max(int((cloud.costs < cutoff).sum()), half)
                self.found.log_masses.append(self.log_mass + math.log(inside / self.settings.particles))
        twice = order[:half].repeat(2)
        cloud.points, cloud.costs, cloud.peaks = cloud.points[twice], cloud.costs[twice], cloud.peaks[twice]
        self.log_mass += self.died
        centred = cloud.points[:half] - cloud.points[:half].mean(0)
        self.covariance += (centred.T @ centred / (half - 1) - self.covariance) / MEMORY
        return level

    def descend(self, covariance: Tensor, level: float) -> None:
        """Moves below the level, guided by the covariance of particles that are independent of these."""
        values, basis = torch.linalg.eigh(covariance)
        deviations, half = values.clamp(min=1e-12).sqrt(), self.settings.particles // 2

        def standard() -> Tensor:
            points = self.cloud.points[:half]
            scaled: Tensor = ((points - points.mean(0)) @ basis) / deviations
            return scaled / scaled.square().mean(0).sqrt()

        before = standard()
        move(self.place, self.cloud, level, (deviations, basis), self.settings, self.source)
        kept = (before * standard()).mean(0)
        found = self.found
        found.levels.append(level)
        found.log_levels.append(self.log_mass)
        found.kept.append(float(kept.mean()))
        found.kept_wide.append(float(kept[-max(1, len(kept) // 20) :].mean()))
        found.tried = self.cloud.tried


def simulate(
    place: Place,
    cutoffs: list[float],
    settings: Settings,
    seed: int,
    on_level: Callable[[Found, Cloud], None] = lambda *_: None,
) -> tuple[Found, Found]:
    """Two runs from the prior down to the lowest cutoff, side by side.

    Each population moves with the other's covariance. With its own, particles would take long steps where they
    happen to be spread out, the set would seem to shrink too slowly, and the mass come out too large (measured: by
    12 of 137 nats, for 128 particles in 60 dimensions).
    """
    source = torch.Generator().manual_seed(seed)
    pair = [Population(place, cutoffs, settings, source) for _ in range(2)]
    while not all(population.done for population in pair):
        levels = [population.select() for population in pair]
        guides = [population.covariance.clone() for population in reversed(pair)]
        for population, guide, level in zip(pair, guides, levels, strict=True):
            began = time.process_time()
            population.descend(guide, level)
            population.found.seconds += time.process_time() - began
        on_level(pair[0].found, pair[0].cloud)
    return pair[0].found, pair[1].found


def two_scale_ellipsoid(stiff: int, soft: int, free: int) -> Ellipsoid:
    """So many directions of curvature 100, of curvature 1 and of none, the anchor half a unit off in each."""
    curvatures = torch.cat([torch.full((stiff,), 100.0), torch.ones(soft), torch.zeros(free)])
    return Ellipsoid(curvatures, torch.full((stiff + soft + free,), 0.5))


def log_mass_of_two_scales(place: Ellipsoid, cutoff: float, deviation: float) -> float:
    """Two noncentral chi-squares, convolved by the midpoint rule."""
    laws, scales = [], []
    for curvature in (100.0, 1.0):
        at = place.curvatures == curvature
        laws.append(ncx2(int(at.sum()), float(place.along_axes[at].square().sum()) / deviation**2))
        scales.append(0.5 * curvature * deviation**2)
    top, points = cutoff / scales[0], 20_000
    first = (np.arange(points) + 0.5) * top / points
    logs = laws[0].logpdf(first) + laws[1].logcdf((cutoff - scales[0] * first) / scales[1])
    return float(np.logaddexp.reduce(logs) + math.log(top / points))


def self_test(settings: Settings, repeats: int) -> None:
    """An ellipsoid of known mass, of 60 parameters, through the same code."""
    place, cutoffs = two_scale_ellipsoid(30, 15, 15), [1.0, 0.1, 0.01]
    pairs = [simulate(place, cutoffs, settings, seed) for seed in range(repeats // 2)]
    runs = np.array([found.log_masses for pair in pairs for found in pair])
    print("| cutoff | exact | subset simulation | standard error | deviation of a run |\n|---|---|---|---|---|")
    for cutoff, masses in zip(cutoffs, runs.T, strict=True):
        exact, spread = log_mass_of_two_scales(place, cutoff, settings.deviation), float(masses.std(ddof=1))
        print(f"| {cutoff:g} | {exact:.2f} | {masses.mean():.2f} | {spread / math.sqrt(repeats):.2f} | {spread:.2f} |")


def table(runs: list[dict[str, Any]]) -> str:
    """Means over repeats; runs of other settings have lines of their own."""
    lines = [
        "| network | set | particles | moves | cutoff | repeats | log mass | standard error | deviation of a run "
        "| of independent particles | log of the mean mass | costs of a run | seconds of a run |",
        "|---|" + "---|" * 12,
    ]
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    apart = False
    for run in runs:
        settings = run["settings"]
        key = (run["network"], settings["target"], settings["particles"], settings["moves"])
        groups.setdefault(key, []).append(run["found"])
    for key, group in sorted(groups.items()):
        for at, cutoff in enumerate(group[0]["cutoffs"]):
            masses = np.array([found["log_masses"][at] for found in group])
            spread = float(masses.std(ddof=1)) if len(masses) > 1 else math.nan
            tried, seconds = (float(np.mean([found[name] for found in group])) for name in ("tried", "seconds"))
            # Halvings of the mass, each with a variance of one over the particles.
            ideal = math.sqrt(-float(masses.mean()) / (math.log(2.0) * key[2]))
            mean = float(np.logaddexp.reduce(masses)) - math.log(len(masses))
            apart = apart or spread > APART * ideal
            lines.append(
                f"| {' | '.join(str(part) for part in key)} | {cutoff:g} | {len(group)} | {masses.mean():.2f} | "
                f"{spread / math.sqrt(len(masses)):.2f} | {spread:.2f}{' (!)' if spread > APART * ideal else ''} | "
                f"{ideal:.2f} | {mean:.2f} | {tried:.3g} | {seconds:.0f} |"
            )
    if apart:
        lines.append(
            f"\n(!) Runs differ by more than {APART:g} times what independent particles would: clouds lose whole parts "
            "of the set. Neither the mean nor its standard error can be trusted. The log of the mean mass is then a "
            "stochastic lower bound: it exceeds the truth by k nats with a probability of e^-k at most. Take more "
            "particles."
        )
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    """What was typed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", type=Path, nargs="*", help="of digits networks with one hidden layer")
    parser.add_argument("--target", choices=("star", "sublevel"), default="star")
    parser.add_argument("--cutoffs", type=float, nargs="+", default=[1.0, 0.1, 0.01], help="nats")
    parser.add_argument("--deviation", type=float, default=1.3975, help="standard deviation of the prior")
    parser.add_argument("--repeats", type=int, default=4, help="independent runs, in pairs that help each other")
    parser.add_argument("--particles", type=int, default=256)
    parser.add_argument("--moves", type=int, default=16, help="proposals for each particle at each level")
    parser.add_argument("--scanned", type=int, default=16, help="places of a ray")
    parser.add_argument("--output", type=Path, help="JSON file; runs that it has are not done again")
    parser.add_argument("--self-test", action="store_true", help="an ellipsoid of known mass instead")
    asked = parser.parse_args()
    if asked.particles < 4 or asked.particles % 2 or asked.moves < 1 or asked.scanned < 3:
        parser.error("particles must be even and at least 4, moves at least 1, scanned at least 3")
    if asked.repeats < 2 or asked.repeats % 2:
        parser.error("repeats must be even and at least 2")
    if not asked.self_test and not asked.checkpoints:
        parser.error("give the checkpoints of the networks, or --self-test")
    return asked


def main() -> None:
    """Run what the file does not have yet and print the table."""
    asked = arguments()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    fold = asked.target == "sublevel"
    settings = Settings(asked.target, asked.particles, asked.moves, asked.scanned, asked.deviation, fold)
    if asked.self_test:
        self_test(settings, asked.repeats)
        return
    stored = asked.output is not None and asked.output.exists()
    runs: list[dict[str, Any]] = json.loads(asked.output.read_text()) if stored else []
    cutoffs = sorted(asked.cutoffs, reverse=True)
    for path in asked.checkpoints:
        place = Network(path)
        for seed in range(asked.repeats // 2):
            name = {"network": path.name, "seed": seed, "settings": asdict(settings)}
            done = [run for run in runs if {key: run[key] for key in name} == name]
            if any(run["found"]["cutoffs"] == cutoffs for run in done):
                continue
            for found in simulate(place, cutoffs, settings, seed, show_progress):
                print(f"{path.name} {asked.target} seed {seed}: {found.log_masses}", flush=True)
                runs.append({**name, "found": asdict(found)})
            if asked.output is not None:
                asked.output.parent.mkdir(parents=True, exist_ok=True)
                partial = asked.output.with_suffix(".part")
                partial.write_text(json.dumps(runs))
                partial.replace(asked.output)
    print(table(runs))


def show_progress(found: Found, cloud: Cloud) -> None:
    """One line in fifty levels."""
    if len(found.levels) % 50 == 0:
        inner = float((cloud.peaks < 1.0).double().mean())
        print(
            f"  level {len(found.levels)}: cost {found.levels[-1]:.4g}, log mass {found.log_levels[-1]:.1f}, kept "
            f"{found.kept[-1]:.2f} (wide {found.kept_wide[-1]:.2f}), peaks within the ray {inner:.2f}, "
            f"{found.tried:,} costs, {found.seconds:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
