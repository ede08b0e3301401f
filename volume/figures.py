"""Which figure a study is drawn as."""

from __future__ import annotations

from matplotlib.figure import Figure

from volume.plots import volume_figure
from volume.study import VolumeStudy
from volume.sweep_plots import sweep_figure


def study_figure(study: VolumeStudy) -> Figure:
    """A sweep over cutoffs if the study has one, else what its directions say."""
    if study.sweep is not None and study.sweep.results:
        return sweep_figure(study)
    return volume_figure(study)
