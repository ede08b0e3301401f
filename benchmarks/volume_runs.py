"""Runs behind the figures of volumes: as the command makes them, kept under ``out/`` and continued if cut off."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from basinscope.runs import Machine, VolumeRequest, run_volume
from basinscope.tasks import data_folder
from volume.study import VolumeSettings, VolumeStudy

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "out" / "volume_figures"
FIGURES = ROOT / "docs" / "figures"
TRAINED = "clean_seed0_step00640"


def study_of(
    name: str, label: str, *, preconditioner: str = "adam-second", dtype: str | None = None, **settings: Any
) -> VolumeStudy:
    """The study of a digits checkpoint, from its file if it is there.

    Args:
        name: of the checkpoint.
        label: of the file.
        preconditioner: of the directions; default Adam's second moment, of the paper's those that do best.
        dtype: default the model's.
        settings: of the study.

    Returns:
        The study, complete.
    """
    KEPT.mkdir(parents=True, exist_ok=True)
    request = VolumeRequest(
        checkpoint=data_folder() / "digits_mlp" / f"{name}.pt",
        settings=VolumeSettings(**settings),
        preconditioner=preconditioner,
        machine=Machine(dtype=dtype),
        output=KEPT / f"{label}_{name}.h5",
        resume=True,
        command=f"python benchmarks/volume_figures.py ({label})",
    )
    study = run_volume(request, lambda *_: None)
    print(f"{label} {name}: done", file=sys.stderr, flush=True)
    return study
