"""What is read from the text of a room's files is what its rows say, in each family."""

import subprocess
import sys
from typing import Any

import pytest

from basinscope.tasks import TaskRow
from comparisons.measures import REGISTRY
from spectra.members import member, members, stated
from spectra.operators import OperatorRow
from volume.audit import NAMES
from volume.methods import MethodRow
from volume.preconditioners import PreconditionerRow
from volume.priors import PriorRow

FAMILIES: dict[str, Any] = {
    "spectra.operators": OperatorRow,
    "volume.priors": PriorRow,
    "volume.preconditioners": PreconditionerRow,
    "volume.methods": MethodRow,
    "basinscope.tasks": TaskRow,
}


@pytest.mark.parametrize("room", FAMILIES)
def test_the_text_says_what_the_rows_say(room: str) -> None:
    rows = members(room, FAMILIES[room])
    assert [row.name for row in rows] == list(stated(room))
    for row in rows:
        assert member(room, row.name, FAMILIES[room]) is row
        constants = stated(room)[row.name].constants
        assert {name: getattr(row, name) for name in constants} == constants
        # What is left out of the text, or is no constant there, must not be something that others read from it.
        for name, value in vars(row).items():
            if isinstance(value, bool | str) and name not in ("name", *constants):
                assert value == type(row).__dataclass_fields__[name].default, (row.name, name)


def test_a_name_is_one_rows() -> None:
    for names in (NAMES, [measure.name for measure in REGISTRY]):
        assert len(set(names)) == len(names)


def test_names_are_read_without_torch() -> None:
    code = "import sys; from spectra.members import stated; " + "; ".join(f"stated({room!r})" for room in FAMILIES)
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; print(sorted({{'torch', 'numpy', 'scipy'}} & set(sys.modules)))"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"
