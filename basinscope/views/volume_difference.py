"""The difference of two volume studies, method by method, paired by what their randomness has in common."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from scipy.special import logsumexp

from basinscope.terminal import Text
from basinscope.views.summary import finite
from spectra.errors import UserError
from spectra.estimate import Estimate, difference, independent
from spectra.interval import RULE, with_ends
from volume.method_result import MethodResult
from volume.result import BOOTSTRAPS, VolumeEstimate
from volume.study import VolumeStudy


@dataclass(frozen=True)
class VolumeDifference:
    """One method's log-volume of a checkpoint minus that of another.

    Attributes:
        method: its name.
        first: log-volume of the first, nats.
        second: of the second.
        estimate: the difference; its cautions say why not to trust it.
        reason: what its error rests on.
    """

    method: str
    first: float
    second: float
    estimate: Estimate
    reason: str

    @property
    def half_width(self) -> float:
        """Half of the 95 % interval, nats."""
        return self.estimate.half_width()

    @property
    def statement(self) -> str:
        """Which is larger, and how sure that is, in words."""
        value, half = self.estimate.value, self.half_width
        if not math.isfinite(value):
            return "a volume is infinite or the difference unknown: nothing can be said"
        if self.estimate.cautions:
            return f"not to be read alone: {'; '.join(self.estimate.cautions)}"
        if abs(value) <= half:
            return "no difference can be told at 95 %"
        return f"the first is {'larger' if value > 0 else 'smaller'}, by this estimator, whose bias is not in the error"


def volume_differences(first: VolumeStudy, second: VolumeStudy) -> tuple[VolumeDifference, ...]:
    """Log-volumes of the first study minus those of the second, for each method that both have.

    Args:
        first: one study.
        second: the other.

    Returns:
        One difference a method.

    Raises:
        UserError: if the cutoffs, k, sizes (Lebesgue volumes) or methods do not match.
    """
    if first.settings.cutoff != second.settings.cutoff:
        cutoffs = f"{first.settings.cutoff:g} and {second.settings.cutoff:g}"
        raise UserError(f"volumes to compare must share their cutoff, got {cutoffs}")
    methods = [[name for name, one in study.results.items() if not one.failure] for study in (first, second)]
    common = [method for method in methods[0] if method in methods[1]]
    if not common:
        raise UserError(f"volumes to compare must share a method, got {' and '.join(map(', '.join, methods))}")
    return tuple(_difference(first, second, method) for method in common)


def _difference(first: VolumeStudy, second: VolumeStudy, method: str) -> VolumeDifference:
    one, two = first.results[method], second.results[method]
    if one.kind == "volume" and first.size != second.size:
        raise UserError(f"Lebesgue volumes of {first.size} and {second.size} parameters cannot be compared ({method})")
    k = [result.figures.get("k") for result in (one, two)]
    if k[0] != k[1]:
        raise UserError(f"volumes to compare must share their k, got {k[0]} and {k[1]} ({method})")
    if one.sampled is not None and two.sampled is not None:
        estimate, reason = _of_rays(one, two, first.settings.seed == second.settings.seed)
    else:
        estimate, reason = _of_probes(first, second, method)
    found = list(estimate.cautions)
    if one.measure != two.measure:
        found.append(f"the priors differ, {one.measure} and {two.measure}: --prior init or gaussian:S makes them one")
    estimate = replace(estimate, cautions=tuple(dict.fromkeys(found)))
    return VolumeDifference(method, one.log_volume, two.log_volume, estimate, reason)


def _of_probes(first: VolumeStudy, second: VolumeStudy, method: str) -> tuple[Estimate, str]:
    one, two = (study.results[method].estimate for study in (first, second))
    assert one is not None
    assert two is not None
    if not len(one.samples) and not len(two.samples):
        return difference(one, two), "both are exact but for the quadrature"
    same = all(getattr(first.settings, name) == getattr(second.settings, name) for name in ("seed", "steps"))
    if same and first.size == second.size and len(one.samples) == len(two.samples):
        return difference(one, two), "paired by common probes"
    return independent(one, two), "taken as independent: the probes differ"


def _of_rays(one: MethodResult, two: MethodResult, seeded: bool) -> tuple[Estimate, str]:
    left, right = one.sampled, two.sampled
    assert left is not None
    assert right is not None
    cautions: tuple[str, ...] = ()
    if not (one.trusted and two.trusted):
        cautions = ("few directions carry one of the volumes or both: a difference of lower bounds is no bound",)
    value = one.log_volume - two.log_volume
    paired = seeded and left.size == right.size and len(left.log_terms) == len(right.log_terms)
    if paired and math.isfinite(value):
        freedom = min(one.known.degrees, two.known.degrees)
        found = Estimate(value, _paired_error(left, right), cautions=cautions, freedom=freedom)
        return found, "paired by common directions, by bootstrap"
    return replace(independent(one.known, two.known), cautions=cautions), "taken as independent: the directions differ"


def _paired_error(left: VolumeEstimate, right: VolumeEstimate) -> float:
    count = len(left.log_terms)
    picks = np.random.default_rng(0).integers(0, count, (BOOTSTRAPS, count))
    gaps = logsumexp(left.log_terms[picks], axis=1) - logsumexp(right.log_terms[picks], axis=1)
    return float(np.std(gaps, ddof=1))


def volume_difference_table(found: tuple[VolumeDifference, ...], first: str, second: str) -> Group:
    """Differences laid out for a terminal.

    Args:
        found: the differences.
        first: name of the first.
        second: name of the second.

    Returns:
        Something that a rich console prints.
    """
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="bold")
    for title in ("method", first, second, "difference (nat)"):
        table.add_column(title, justify="left" if title == "method" else "right")
    for row in found:
        value, half = row.estimate.value, row.half_width
        text = with_ends(value, row.estimate.interval()) if half > 0.0 else f"{value:.2f}"
        table.add_row(
            row.method, f"{row.first:.2f}", f"{row.second:.2f}", text + (" !" if row.estimate.cautions else "")
        )
    parts: list[RenderableType] = [Text(f"log-volume of {first} minus that of {second}", style="bold"), table]
    parts.append(Text(RULE, style="dim"))
    parts += [Text(f"{row.method}: {row.statement} ({row.reason})") for row in found]
    return Group(*parts)


def volume_difference_json(found: tuple[VolumeDifference, ...], first: str, second: str) -> dict[str, Any]:
    """Differences in plain values.

    Args:
        found: the differences.
        first: name of the first.
        second: name of the second.

    Returns:
        An object that ``json.dumps(..., allow_nan=False)`` takes.
    """
    rows = [
        {
            "method": row.method,
            "first": finite(row.first),
            "second": finite(row.second),
            "difference": finite(row.estimate.value),
            "half_width95": finite(row.half_width),
            "cautions": list(row.estimate.cautions),
            "statement": row.statement,
            "reason": row.reason,
        }
        for row in found
    ]
    return {"first": first, "second": second, "differences": rows}
