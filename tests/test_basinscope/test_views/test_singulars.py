"""One of a thing is said in the singular, wherever a result says how many it has."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from basinscope.cli import main
from basinscope.terminal import show
from basinscope.views import report_table, study_table
from spectra.interval import over_probes
from volume.audit import read_report
from volume.store import read_study

OLD = Path(__file__).resolve().parents[2] / "old_files" / "0.1"
NOUNS = (
    "probe|product|step|batch|gradient|sample|direction|parameter|repeat|rung|chain|draw|measure|checkpoint|dimension"
)
WRONG = re.compile(rf"(?<![\d.,])1 (?:{NOUNS})(?:e?s)\b")


def test_a_run_of_one_probe_and_one_step(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = f"{Path(__file__).parents[1] / 'tiny_task.py'}:tiny"
    words = ["spectrum", str(checkpoint), "--task", task, "--engine", "slq", "--strategy", "double-backward"]
    assert main([*words, "--probes", "1", "--steps", "1"]) == 0
    out, err = capsys.readouterr()
    assert "slq: 1 probe of 1 step (rough), 1 product by double-backward" in " ".join(out.split())
    assert not WRONG.search(out + err), WRONG.search(out + err)


def test_a_study_of_one_direction_and_one_sample(capsys: pytest.CaptureFixture[str]) -> None:
    study = read_study(OLD / "volume.h5")
    show(study_table(replace(study, samples=1.0, size=1), {}))
    said = capsys.readouterr().out
    assert "1 parameter, 1 sample of" in said
    assert not WRONG.search(said)


def test_an_audit_of_one_repeat(capsys: pytest.CaptureFixture[str]) -> None:
    report = read_report(OLD / "audit.h5")
    show(report_table(replace(report, table=replace(report.table, repeats=1)), {}))
    said = capsys.readouterr().out
    assert "1 repeat a row" in said
    assert "1 does not apply" in said


def test_the_label_of_an_interval_over_one_probe() -> None:
    assert over_probes(1) == "1 probe"
