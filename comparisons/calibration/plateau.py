"""The rule by which a plateau is chosen from a grid, or refused with the reason."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from comparisons.calibration.axes import Axes
from comparisons.calibration.cell import Cell
from spectra.estimate import difference

# Neighbouring step sizes that a plateau needs.
NEIGHBOURS = 3
# A value that changes by more than this share as a setting doubles is of that setting.
LARGEST_CHANGE = 0.1
RULE = (
    "a plateau is three neighbouring step sizes at one temperature and localisation at which all cells are sound (no "
    "chain failed, R-hat at most 1.05, no drift, enough burn-in, a step bias and a slope of at most 10 % of the value "
    "by the spectrum) and no two estimates differ by more than {tolerance:.0%} of their mean, their 95 % interval "
    "included; of these the temperature nearest to n / log n, then the localisation at which the value changes least"
)

Place = tuple[int, int]


@dataclass(frozen=True)
class Run:
    """Neighbouring step sizes of one temperature and localisation.

    Attributes:
        cells: the cells, by ascending step size.
        spread: the largest difference of two of them as a share of their mean, with its 95 % interval.
    """

    cells: tuple[Cell, ...]
    spread: float

    @property
    def middle(self) -> Cell:
        """The cell in the middle; of two the one with the smaller step."""
        return self.cells[(len(self.cells) - 1) // 2]


@dataclass(frozen=True)
class Row:
    """What the step sizes of one temperature and localisation come to.

    Attributes:
        place: place of the temperature and of the localisation.
        cells: all of them, by ascending step size.
        plateau: the widest plateau, the flattest of equally wide ones; None where there is none.
        reason: why there is none; empty where there is one.
    """

    place: Place
    cells: tuple[Cell, ...]
    plateau: Run | None
    reason: str

    @property
    def sound(self) -> int:
        """How many of the cells are sound."""
        return sum(cell.sound for cell in self.cells)


@dataclass(frozen=True)
class Verdict:
    """What the rule comes to.

    Attributes:
        rows: all temperatures and localisations.
        chosen: the row that is chosen; None where the plateau is refused.
        reason: why it is refused; empty where it is not.
        changes: by ``localisation`` and ``inverse temperature``, where there are neighbours with a plateau, the share
            by which the value changes as that setting doubles.
    """

    rows: tuple[Row, ...]
    chosen: Row | None
    reason: str
    changes: Mapping[str, float]

    @property
    def cell(self) -> Cell | None:
        """The cell whose estimate is the answer."""
        return None if self.chosen is None or self.chosen.plateau is None else self.chosen.plateau.middle

    @property
    def cautions(self) -> tuple[str, ...]:
        """What the value still depends on."""
        return tuple(
            f"there is no plateau over the {name}: the value changes by {change:+.0%} as it doubles, and is that of "
            f"this {name} alone"
            for name, change in self.changes.items()
            if abs(change) > LARGEST_CHANGE
        )


def judge(cells: Sequence[Cell], axes: Axes, *, usual: float, tolerance: float) -> Verdict:
    """Applies ``RULE``.

    Args:
        cells: all cells of the grid.
        axes: the grid.
        usual: the usual inverse temperature.
        tolerance: share by which estimates of a plateau may differ.

    Returns:
        The verdict.
    """
    shape = axes.step_sizes.shape
    by_place = {cell.place: cell for cell in cells}
    rows = {
        (warm, pull): _row((warm, pull), [by_place[warm, pull, step] for step in range(shape[2])], tolerance)
        for warm in range(shape[0])
        for pull in range(shape[1])
    }
    flat = [row for row in rows.values() if row.plateau is not None]
    if not flat:
        return Verdict(tuple(rows.values()), None, _refusal(list(rows.values())), {})
    distances = {row.place: abs(math.log(axes.inverse_temperatures[row.place[0]] / usual)) for row in flat}
    nearest = min(distances.values())
    candidates = [row for row in flat if distances[row.place] <= nearest + 1e-9]
    changes = {row.place: _changes(row, rows, axes) for row in candidates}
    chosen = min(candidates, key=lambda row: abs(changes[row.place].get("localisation", math.inf)))
    return Verdict(tuple(rows.values()), chosen, "", changes[chosen.place])


def _row(place: Place, cells: list[Cell], tolerance: float) -> Row:
    """The plateau of one temperature and localisation, or why there is none."""
    if len(cells) < NEIGHBOURS:
        return Row(place, tuple(cells), None, f"a plateau needs {NEIGHBOURS} step sizes, and there are {len(cells)}")
    runs = [
        Run(tuple(cells[first:last]), _spread(cells[first:last]))
        for first in range(len(cells))
        for last in range(first + NEIGHBOURS, len(cells) + 1)
        if all(cell.sound for cell in cells[first:last])
    ]
    flat = [run for run in runs if run.spread <= tolerance]
    if flat:
        best = min(flat, key=lambda run: (-len(run.cells), run.spread))
        return Row(place, tuple(cells), best, "")
    if runs:
        least = min(run.spread for run in runs)
        words = "unknown" if math.isinf(least) else f"{least:.0%}"
        return Row(place, tuple(cells), None, f"sound cells are apart by up to {words} of their mean, errors included")
    kinds = Counter(next(iter(cell.problems)) for cell in cells if not cell.sound)
    told = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    return Row(place, tuple(cells), None, f"no {NEIGHBOURS} neighbouring cells are sound ({told})")


def _spread(cells: Sequence[Cell]) -> float:
    """The largest difference of two cells over their mean, with its 95 % interval; calls are paired by their draws."""
    largest = 0.0
    for number, first in enumerate(cells):
        for second in cells[number + 1 :]:
            apart = difference(first.estimate, second.estimate)
            low, high = apart.interval()
            mean = 0.5 * (first.estimate.value + second.estimate.value)
            reach = max(abs(low), abs(high)) / mean if mean > 0.0 else math.inf
            largest = max(largest, reach if math.isfinite(reach) else math.inf)
    return largest


def _changes(row: Row, rows: Mapping[Place, Row], axes: Axes) -> dict[str, float]:
    """Shares by which the value changes as each setting doubles, over the neighbours that have a plateau."""
    warm, pull = row.place
    found = {}
    sides = {
        "localisation": ([(warm, pull - 1), (warm, pull + 1)], axes.localisations, 1),
        "inverse temperature": ([(warm - 1, pull), (warm + 1, pull)], axes.inverse_temperatures, 0),
    }
    for name, (neighbours, values, which) in sides.items():
        near = [rows[place] for place in neighbours if place in rows and rows[place].plateau is not None]
        if not near:
            continue
        points = sorted([row, *near], key=lambda one: one.place)
        first, last = points[0], points[-1]
        assert first.plateau is not None
        assert last.plateau is not None
        rise = math.log(last.plateau.middle.estimate.value / first.plateau.middle.estimate.value)
        found[name] = 2.0 ** (rise / math.log(values[last.place[which]] / values[first.place[which]])) - 1.0
    return found


def _refusal(rows: Sequence[Row]) -> str:
    """Why no row has a plateau, in a sentence with what to change."""
    if all(len(row.cells) < NEIGHBOURS for row in rows):
        return f"{rows[0].reason}: give --step-sizes more values"
    apart = [row for row in rows if row.reason.startswith("sound cells")]
    if apart:
        return (
            f"{len(apart)} of {len(rows)} rows have {NEIGHBOURS} sound neighbours, but their {apart[0].reason}: {_MORE}"
        )
    kinds = Counter(kind for row in rows for cell in row.cells for kind in cell.problems)
    told = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    total = sum(len(row.cells) for row in rows)
    way_out = _WAY_OUT[kinds.most_common(1)[0][0]]
    return f"no row has {NEIGHBOURS} neighbouring sound cells (of {total} cells: {told}); {way_out}"


_MORE = "more --steps or --calls, or step sizes that lie closer together"
_WAY_OUT = {
    "no minimum": "a larger --localisation, a smaller --inverse-temperature, or --penalty, the l2 of its training",
    "past the limit": "smaller --step-sizes",
    "biased": "smaller --step-sizes",
    "burn-in": "more --steps, or a larger --localisation",
    "rejected": "smaller --step-sizes",
    "failed": "smaller --step-sizes, or a larger --localisation",
    "negative": "a larger --localisation, or --penalty, the l2 of its training",
    "R-hat": "more --steps, or a larger --localisation",
    "drift": "more --steps, or a larger --localisation",
}
