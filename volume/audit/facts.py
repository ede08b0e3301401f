"""What is claimed of the star-domain sampler, measured: seven facts on ellipsoids whose volume is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import logsumexp
from scipy.stats import linregress
from torch import Tensor

from spectra.interval import half_width, with_error
from volume.audit.report import Fact
from volume.audit.statistics import FACTORS, Figure, mean_of, overestimates
from volume.rays import ClosedFormCost, StarDomainSettings, log_ellipsoid, star_domain_volume

Array = NDArray[np.float64]
HOLDS = "holds"
# A claim that is held against its measurement may be off by this many standard errors.
ERRORS = 4.0
_CUTOFF = 0.1
_MILD = np.linspace(0.83, 1.17, 200)
_WILD = np.arange(1, 201, dtype=np.float64) ** -1.0


def sampler_facts(seed: int = 0, progress: Callable[[int, int], None] | None = None) -> tuple[Fact, ...]:
    """All seven facts, each measured with the sampler itself.

    Args:
        seed: of the directions.
        progress: called with the facts done and all of them.

    Returns:
        The facts, a to g.
    """
    makers = (jensen, markov, largest_sample, variances, slope_in_cutoff, zero_eigenvalue, trace_tracked)
    found = []
    for number, maker in enumerate(makers):
        if progress is not None:
            progress(number, len(makers))
        found.append(maker(seed))
    return tuple(found)


def jensen(seed: int = 0) -> Fact:
    """(a): the log of an unbiased estimate is biased low, by half its variance if it is normal."""
    terms = _terms(_MILD, 3000, seed)
    gap = mean_of(log_ellipsoid(_MILD, _CUTOFF) - terms)
    variance = float(terms.var(ddof=1))
    error = math.hypot(gap.error, variance / math.sqrt(2.0 * len(terms)))
    low, near = gap.value > -ERRORS * gap.error, abs(gap.value - variance / 2.0) < ERRORS * error
    verdict = HOLDS if low and near else "the mean is low, v/2 is not the gap" if low else "fails"
    measured = f"one direction, n = 200: gap {_pm(gap)} nat, v/2 = {variance / 2.0:.3f}"
    return Fact(
        "a",
        "E[log V] of the estimate is below the true one, by v/2 if it is normal",
        measured,
        verdict,
        gap.value,
        gap.error,
    )


def markov(seed: int = 0) -> Fact:
    """(b): an overestimate by a factor k has a probability of at most 1/k."""
    eigenvalues = _WILD[:60]
    groups = _terms(eigenvalues, 4000, seed).reshape(-1, 8)
    values = logsumexp(groups, axis=1) - math.log(groups.shape[1])
    shares = overestimates(values, log_ellipsoid(eigenvalues, _CUTOFF))
    parts = [
        f"by {k:g}: {s.value:.3f} ({s.interval[0]:.3f} to {s.interval[1]:.3f}), allowed {1.0 / k:g}"
        for k, s in zip(FACTORS, shares, strict=True)
    ]
    broken = any(s.excludes(1.0 / k) for k, s in zip(FACTORS, shares, strict=True))
    measured = f"{len(values)} estimates of 8 directions: {'; '.join(parts)}"
    verdict = "fails" if broken else HOLDS
    return Fact(
        "b",
        "an estimate is k times too large with probability at most 1/k",
        measured,
        verdict,
        shares[0].value,
        math.nan,
    )


def largest_sample(seed: int = 0) -> Fact:
    """(c): the estimate is nearly its largest term."""
    wild, mild = (_terms(values, 4000, seed).reshape(10, 400) for values in (_WILD, _MILD))
    shares = [mean_of(np.exp(rows.max(1) - logsumexp(rows, axis=1))) for rows in (wild, mild)]
    weights = np.exp(wild - logsumexp(wild, axis=1, keepdims=True))
    effective = mean_of(1.0 / (weights**2).sum(1))
    variances = [float(rows.var(ddof=1)) for rows in (wild, mild)]
    measured = (
        f"400 directions, v = {variances[0]:.0f}: largest share {_pm(shares[0])}, {effective.value:.1f} effective; "
        f"v = {variances[1]:.1f}: share {_pm(shares[1])}"
    )
    verdict = "holds where log terms spread, not where v is about 1"
    if not (shares[0].value > 0.3 and shares[1].value < 0.1):
        verdict = "fails"
    claim = "the estimate is nearly the largest sample"
    return Fact("c", claim, measured, verdict, shares[0].value, shares[0].error)


def variances(seed: int = 0) -> Fact:
    """(d): the variances of ``u^T A u`` and of the log term over uniform directions."""
    n, terms = len(_MILD), _terms(_MILD, 3000, seed)
    relative = float(_MILD.var() / _MILD.mean() ** 2)
    # A quadratic crosses at r^2 = 2 T / u^T A u.
    forms = _MILD.mean() * np.exp(-2.0 / n * (terms - terms.mean()))
    error = math.sqrt(2.0 / len(terms))
    first = float(forms.var(ddof=1)) / (2.0 * float(_MILD.var()) / (n + 2))
    second = float(terms.var(ddof=1)) / (n**2 / (2.0 * (n + 2)) * relative)
    fits = abs(first - 1.0) < ERRORS * error + 0.02 and abs(second - 1.0) < ERRORS * error + 0.02
    measured = (
        f"n = 200, over what is claimed: {_pm(Figure(first, error))}; with n^2 {_pm(Figure(second, error))}, "
        f"with n^3 {second / n:.4f}"
    )
    claim = "Var[uAu] = 2 Var(l)/(n+2); Var[-(n/2) log uAu] = n^3/(2(n+2)) Var(l)/mean^2"
    verdict = "the first holds; the second holds with n^2, not n^3" if fits else "fails"
    return Fact("d", claim, measured, verdict, second, error)


def slope_in_cutoff(seed: int = 0) -> Fact:
    """(e): log V against log T has slope n/2."""
    cutoffs = np.logspace(-5, -2, 4)
    values = [float(logsumexp(_terms(_MILD, 16, seed, cutoff=float(cutoff)))) for cutoff in cutoffs]
    line = linregress(np.log(cutoffs), values)
    claimed = len(_MILD) / 2.0
    fits = abs(line.slope - claimed) < ERRORS * line.stderr + 1e-3 * claimed
    half = half_width(float(line.stderr), len(cutoffs) - 2)
    measured = f"n = 200, T = 1e-5 to 1e-2: slope {with_error(float(line.slope), half)}, n/2 = {claimed:g}"
    claim = "log V against log T has slope n/2 for a quadratic"
    return Fact("e", claim, measured, HOLDS if fits else "fails", float(line.slope), float(line.stderr))


def zero_eigenvalue(seed: int = 0) -> Fact:
    """(f): with a zero eigenvalue the median grows without bound; a shift cures that, and leaves the bias."""
    flat, shift = np.array([1.0, 1.0, 0.0]), 0.05
    counts = np.array([16, 64, 256, 1024])
    plain = _terms(flat, 8192, seed)
    shifted = _terms(flat, 8192, seed, correction=shift)
    growths, errors, lines = [], [], []
    for terms in (plain, shifted):
        medians = [float(np.median(_means(terms, int(count)))) for count in counts]
        line = linregress(np.log(counts), medians)
        growths.append(float(line.slope))
        errors.append(float(line.stderr))
        half = half_width(float(line.stderr), len(counts) - 2)
        lines.append(with_error(float(line.slope), half))
    bias = mean_of(_means(shifted, 4) - log_ellipsoid(flat + shift, _CUTOFF))
    grows = growths[0] > ERRORS * errors[0] and growths[1] < 0.25 * growths[0] and bias.value < -ERRORS * bias.error
    measured = (
        f"n = 3: median grows by {lines[0]} nat a nat of directions (theory 1/2), shifted {lines[1]}; its bias at 4 "
        f"directions {_pm(bias)} nat"
    )
    claim = "a zero eigenvalue: the median grows without bound; the shift c cures that, not the bias"
    return Fact("f", claim, measured, HOLDS if grows else "fails", growths[0], errors[0])


def trace_tracked(seed: int = 0) -> Fact:
    """(g): few directions tell of the trace: spectra of one determinant, so of one volume, are told apart by it."""
    n, source = 200, np.random.default_rng(seed)
    draw = np.sort(source.standard_normal(n))
    predicted, found = [], []
    for number, width in enumerate(np.linspace(0.2, 1.2, 12)):
        logs = width * (draw - draw.mean())
        values = np.exp(logs)
        terms = _terms(values, 8, seed + 1000 * (number + 1))
        predicted.append(-0.5 * n * math.log(float(values.mean())))
        found.append(float(logsumexp(terms)) - math.log(len(terms)) - log_ellipsoid(values, _CUTOFF))
    line = linregress(predicted, found)
    measured = (
        f"12 spectra, n = 200, one volume: 8 directions against -(n/2) log(tr/n): slope "
        f"{_pm(Figure(line.slope, line.stderr, len(found) - 2))}, R^2 {line.rvalue**2:.3f}; the truth's slope is 0"
    )
    holds = line.rvalue**2 > 0.9 and line.slope > 0.5
    return Fact(
        "g",
        "a few-sample estimate tracks the trace",
        measured,
        HOLDS if holds else "fails",
        float(line.slope),
        float(line.stderr),
    )


def _terms(eigenvalues: Array, count: int, seed: int, *, cutoff: float = _CUTOFF, correction: float = 0.0) -> Array:
    values = torch.as_tensor(eigenvalues, dtype=torch.float64)

    def cost(x: Tensor) -> Tensor:
        return 0.5 * (x.square() @ values)

    surface = ClosedFormCost(cost, torch.zeros(len(values), dtype=torch.float64))
    settings = StarDomainSettings(cutoff=cutoff, directions=count, nats=1e-3, scan=0, seed=seed, block=1000)
    shift = torch.full_like(values, correction) if correction else None
    return star_domain_volume(surface, settings, correction=shift).log_terms


def _means(terms: Array, count: int) -> Array:
    """Log of the mean of each group of ``count`` terms."""
    return np.asarray(logsumexp(terms.reshape(-1, count), axis=1) - math.log(count))


def _pm(figure: Figure) -> str:
    return with_error(figure.value, figure.half_width)
