"""The settings that a calibration has chosen, as a TOML file that ``basinscope compare --settings`` reads."""

from __future__ import annotations

import json
from pathlib import Path

from comparisons.calibration.calibration import Calibration
from comparisons.calibration.preconditioner import pilot_steps
from spectra.errors import UserError
from spectra.files import replace_file

# What a file of settings begins with.
HEAD = "# Settings of the local learning coefficient, by basinscope llc"
MEASURE = "learning-coefficient"


def settings_text(found: Calibration) -> str:
    """The chosen settings with what they are of, as TOML.

    Raises:
        UserError: if the plateau was refused: there is nothing to write.
    """
    cell = found.verdict.cell if found.complete else None
    if cell is None:
        raise UserError(f"there are no settings to write: {found.headline}")
    nb, pull, step = found.axes.at(cell.place)
    settings, burn_in = found.settings, cell.chains.burn_in
    if settings.sampler == "rmsprop":  # there each chain's own burn-in makes the factors
        burn_in = max(burn_in, pilot_steps())
    names: dict[str, float | int | str] = {
        "inverse-temperature": nb,
        "localisation": pull,
        "step-size": step,
        "burn-in": burn_in,
        "chains": settings.members,
        "draws": max(settings.steps - burn_in, 1),
    }
    if settings.sampler != "mala":
        names["batch-size"] = min(settings.batch_size or found.rows, found.rows)
    if settings.sampler != "sgld":
        names["sampler"] = settings.sampler
    told = [
        f"{HEAD}.",
        f"# Of {found.provenance.name}: {found.headline}.",
        "# basinscope compare CHECKPOINT --measures llc --settings THIS_FILE runs chains with them.",
        *(f"# Beware: {caution}." for caution in found.cautions),
    ]
    lines = [" ".join(line.split()) for line in told]
    return "\n".join(
        [*lines, "", f"[{MEASURE}]", *(f"{name} = {json.dumps(value)}" for name, value in names.items()), ""]
    )


def write_settings(path: str | Path, found: Calibration) -> None:
    """Write the chosen settings to a TOML file in one step.

    Args:
        path: the file.
        found: a complete calibration.

    Raises:
        UserError: if the plateau was refused.
        OSError: if the file cannot be written; what was there before is intact.
    """
    replace_file(path, settings_text(found).encode())
