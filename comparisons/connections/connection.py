"""Two checkpoints and the paths between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from comparisons.connections.path import CostPath, PathSettings
from comparisons.connections.peaks import Peak
from spectra.files import Provenance, Result, counted
from spectra.interval import with_error


@dataclass(frozen=True, eq=False, repr=False)
class Connection(Result):
    """The cost along paths from one checkpoint to another.

    Attributes:
        settings: what decides the numbers.
        provenance: where the first checkpoint, the model and the data come from.
        other: where the second checkpoint comes from.
        size: number of parameters n.
        samples: samples of the data whose weight is not zero.
        data_sha256: digest of the data as iterated.
        own_costs: costs of the two checkpoints as they are, with the running statistics of their own.
        layers: hidden layers whose units were matched, each as ``before > after: units moved of units``.
        paths: paths that are begun; the straight one first.
        notes: sentences on what was found and left out.
    """

    settings: PathSettings
    provenance: Provenance
    other: Provenance
    size: int
    samples: float
    data_sha256: str
    own_costs: tuple[float, float]
    layers: tuple[str, ...] = ()
    paths: tuple[CostPath, ...] = ()
    notes: tuple[str, ...] = ()
    _drawn_by: ClassVar[str] = "comparisons.connections:draw_paths"
    _written_by: ClassVar[str] = "comparisons.connections:write_connection"

    @property
    def complete(self) -> bool:
        """Whether no path is left to look at."""
        wanted = 2 if self.layers else 1
        return len(self.paths) == wanted and not any(len(path.next_places(self.settings)) for path in self.paths)

    def path(self, name: str) -> CostPath | None:
        """The path of that name; None if there is none."""
        return next((path for path in self.paths if path.name == name), None)

    def _title(self) -> str:
        names = f"{self.provenance.name} to {self.other.name}"
        return f"connection of {names}, {counted(self.size, 'parameter')}"

    def _facts(self) -> dict[str, str]:
        unit = self.provenance.cost_unit
        found = {f"{path.name} barrier": barrier_in_words(path, unit) for path in self.paths if self.begun(path)}
        return found if self.complete else {**found, "not complete": f"{len(self.records()):,} points so far"}

    def begun(self, path: CostPath) -> bool:
        """Whether a path has all of its first points, so that its barrier says something."""
        return len(path.places) >= self.settings.points

    def _cautions(self) -> tuple[str, ...]:
        unit = self.provenance.cost_unit
        found = [
            f"the {path.name} path: its barrier may be {path.barrier.error:.2g} {unit} higher, more than the "
            f"{path.allowed(self.settings):.2g} allowed, after {len(path.places)} points"
            for path in self.paths
            if not path.known(self.settings)
        ]
        return tuple(found)

    def records(self) -> list[dict[str, Any]]:
        """A row for each point of each path: its share of the way, the cost, and its height above both lines."""
        return [
            {
                "path": path.name,
                "place": float(path.places[number]),
                "cost": float(path.costs[number]),
                "above_chord": float(path.above_chord[number]),
                "above_worse_end": float(path.above_ends[number]),
            }
            for path in self.paths
            for number in range(len(path.places))
        ]


def barrier_in_words(path: CostPath, unit: str) -> str:
    """The barrier of a path with its error and place, or that there is none above rounding."""
    found = path.barrier
    if found.height <= 2.0 * path.noise:
        return f"none above {found.height + found.error + path.noise:.2g} {unit}"
    return f"{height_in_words(found)} {unit} at {found.place:.3f} of the way"


def height_in_words(found: Peak) -> str:
    """The middle between the highest value found and the highest possible one, and half of their distance."""
    return with_error(found.height + found.error / 2.0, found.error / 2.0)
