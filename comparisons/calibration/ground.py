"""What was found of the cost that is sampled, in numbers and in a sentence."""

from __future__ import annotations

from dataclasses import dataclass

from comparisons.calibration.axes import LARGEST_FALL


@dataclass(frozen=True)
class Ground:
    """The cost that is sampled, and how nearly the checkpoint is a minimum of it.

    Attributes:
        penalty: its coefficient l2 of ``l2/2 |theta|^2``.
        source: where that is from: ``task``, ``given``, ``metadata`` or ``fitted``.
        task_gradient: norm of the gradient of the task's cost at the checkpoint.
        gradient: norm of that of the cost that is sampled.
        lowered: the largest share of a value that the slope takes away on the grid.
        task_lowered: the same under the task's own cost.
    """

    penalty: float
    source: str
    task_gradient: float
    gradient: float
    lowered: float
    task_lowered: float

    @property
    def stationary(self) -> bool:
        """Whether no value is lowered by much."""
        return self.lowered <= LARGEST_FALL

    def sentence(self, unit: str) -> str:
        """What was found, for people."""
        where = {"metadata": "of the checkpoint's metadata", "fitted": "that leaves the least gradient"}
        plain = (
            f"the checkpoint is no minimum of the task's cost: its slope ({self.task_gradient:.3g} {unit}/parameter)"
        )
        taken = "more than the value" if not self.task_lowered < 1.0 else f"up to {self.task_lowered:.0%} of the value"
        if self.source in where:
            return (
                f"{plain} would take {taken} away; sampled is the cost with the penalty l2 = {self.penalty:.3g} "
                f"{where[self.source]}, of which it is one (--penalty none samples the task's cost)"
            )
        with_it = f" with the penalty l2 = {self.penalty:.3g}" if self.penalty else ""
        if self.stationary:
            share = f"its slope takes at most {self.lowered:.1%} of a value away"
            return f"the checkpoint is a minimum of the cost{with_it} as far as chains can tell: {share}"
        taken = "more than the value" if not self.lowered < 1.0 else f"up to {self.lowered:.0%} of a value"
        return (
            f"the checkpoint is no minimum of the cost{with_it}: its slope ({self.gradient:.3g} {unit}/parameter) "
            f"takes {taken} away; a stronger localisation holds it, and where that does not suffice warmer chains"
        )
