"""Progress where no bar can be drawn: a line a minute, for the log of a batch job."""

import io

import pytest
from rich.console import Console

from basinscope import progress


def test_a_log_gets_a_line_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 30.0, 61.0, 90.0, 130.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    text = io.StringIO()
    report = progress.lines_report(Console(file=text))
    for done in range(4):
        report(done, 2000, "bridge [rung 3]")
    assert text.getvalue() == ("bridge [rung 3]: 1 of 2,000 after 1 min\nbridge [rung 3]: 3 of 2,000 after 2 min\n")


def test_without_a_terminal_nothing_is_written_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.progress_report() as report:
        report(1, 2, "probes")
    assert capsys.readouterr().err == ""
