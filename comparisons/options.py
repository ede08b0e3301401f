"""Options of measures: what each is called, what it takes and what it means, stated in the measure's own row."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from spectra.errors import UserError

Value = int | float | str | None
# Options of one measure, and of several by the measure's name.
Values = Mapping[str, Value]
Chosen = Mapping[str, Values]


@dataclass(frozen=True)
class Option:
    """One option of a measure.

    Attributes:
        name: what the command line, TOML files and Python call it, words joined by hyphens.
        default: its value where none is given; None where the settings of all measures, or the checkpoint, decide.
        meaning: what it is, with its unit.
        kind: type of its values; needed where the default is None.
        usual: what a default of None comes to.
        least: smallest value.
        above: value that it must lie above.
        most: largest value.
        words: allowed words, of a word.
    """

    name: str
    default: Value
    meaning: str
    kind: type[int] | type[float] | type[str] | None = None
    usual: str = ""
    least: float = -math.inf
    above: float = -math.inf
    most: float = math.inf
    words: tuple[str, ...] = ()

    @property
    def keyword(self) -> str:
        """The argument of the measure's function that takes it."""
        return self.name.replace("-", "_")

    @property
    def type(self) -> type[int] | type[float] | type[str]:
        """Type of its values."""
        return self.kind or type(self.default)  # type: ignore[return-value]

    @property
    def shown_default(self) -> str:
        """Its default in words."""
        return self.usual if self.default is None else f"{self.default:g}" if self.type is float else str(self.default)

    @property
    def allowed(self) -> str:
        """What it takes, in words.

        >>> Option("starts", 5, "number of searches", least=1).allowed
        'a whole number of at least 1'
        """
        if self.type is str:
            return f"one of {', '.join(self.words)}" if self.words else "a word"
        ends = []
        if math.isfinite(self.least):
            ends.append(f"of at least {self.least:g}")
        if math.isfinite(self.above):
            ends.append(f"above {self.above:g}")
        if math.isfinite(self.most):
            ends.append(f"{'and ' if ends else ''}at most {self.most:g}")
        return " ".join(("a whole number" if self.type is int else "a number", *ends))

    def checked(self, measure: str, value: object) -> Value:
        """The value in its type; a text, as the command line has it, is read.

        Args:
            measure: name of the measure, for the message.
            value: what was given.

        Returns:
            The value.

        Raises:
            UserError: if it is of another type, or out of range.

        >>> Option("localisation", 100.0, "pull to the checkpoint", above=0.0).checked("wbic", "5")
        5.0
        """
        if value is None and self.default is None:
            return None
        try:
            found = self._read(value)
        except (ValueError, OverflowError):
            found = None
        if found is None or not self._within(found):
            raise UserError(f"{measure}.{self.name} must be {self.allowed}, got {value!r}")
        return found

    def _read(self, value: Any) -> Value:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            return None
        if self.type is str or (self.type is int and isinstance(value, float)):
            return value if isinstance(value, self.type) else None
        return self.type(value)

    def _within(self, value: Value) -> bool:
        if isinstance(value, str):
            return bool(value) and (not self.words or value in self.words)
        assert value is not None
        return math.isfinite(value) and self.least <= value <= self.most and value > self.above


# Options of several families. Without them the settings of all measures decide, or the checkpoint.
CUTOFF = Option("cutoff", None, "cost T that bounds the basin, unit of the cost", float, usual="--cutoff", above=0.0)
PRIOR = Option(
    "prior",
    None,
    "standard deviation s of the Gaussian prior, unit of the parameters",
    float,
    usual="root mean square of the parameters",
    above=0.0,
)
SHIFT = Option("k", None, "number k of the shift k / s²", float, usual="--k", above=0.0)
