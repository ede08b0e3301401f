"""Progress where no bar can be drawn: a line a minute, for the log of a batch job."""

import io
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from rich.console import Console
from rich.file_proxy import FileProxy
from rich.progress import Progress

from basinscope import spectrum
from basinscope.runs import announce, progress
from spectra.costs import mean_squared_error
from spectra.landscape import Landscape


def written(monkeypatch: pytest.MonkeyPatch, *reports: tuple[float, int, int, str]) -> list[str]:
    """Lines of a log that reports (seconds, done, total, what) leave."""
    clock = iter([0.0, *(seconds for seconds, *_ in reports)])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    text = io.StringIO()
    report = progress.lines_report(Console(file=text))
    for _, *rest in reports:
        report(*rest)  # type: ignore[arg-type]
    return text.getvalue().splitlines()


def test_a_log_gets_a_line_a_minute_with_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    times = (30.0, 61.0, 90.0, 130.0)
    rung = [(seconds, done + 6, 10, "bridge [rung 3]") for done, seconds in enumerate(times)]
    # 31 s a step, then 33 on average.
    assert written(monkeypatch, *rung) == [
        "bridge [rung 3]: 7 of 10 after 1 min, about 93 s left",
        "bridge [rung 3]: 9 of 10 after 2 min, about 33 s left",
    ]


def test_long_work_says_how_long_once_a_step_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at the first report of a part, which has what was prepared in its time; a part of its own begins anew."""
    reports = [(20.0, 1, 128, "spectrum"), (41.0, 2, 128, "spectrum"), (45.0, 3, 128, "spectrum")]
    assert written(monkeypatch, *reports, (50.0, 0, 20, "mass"), (55.0, 20, 20, "mass"), (56.0, 0, 5, "last")) == [
        "spectrum: 2 of 128 after 1 min, about 44 min left"
    ]


def test_all_work_in_one_unit_has_one_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row of an audit has a name of its own, and yet tells how long the others take."""
    clock = iter([0.0, 0.0, 61.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    text = io.StringIO()
    report = progress.lines_report(Console(file=text), "rows")
    report(0, 3, "ball: first")
    report(1, 3, "ball: second")
    assert text.getvalue() == "ball: second: 1 of 3 after 1 min, about 2 min left\n"


def test_work_of_seconds_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert written(monkeypatch, *((0.1 * done, done, 500, "probes") for done in range(500))) == []


def test_a_plan_goes_above_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under a bar stderr is what prints above it; a console of one's own would write on into the bar's line."""
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=80)
    monkeypatch.setattr("sys.stderr", FileProxy(console, text))
    with Progress(console=console, redirect_stderr=False, redirect_stdout=False) as bar:
        bar.add_task("noise", total=1)
        announce("plan: star-domain")
    (line,) = (line for line in text.getvalue().splitlines() if "plan:" in line)
    assert line.endswith("plan: star-domain")
    assert "noise" not in line.rpartition("\x1b[2K")[2]


def test_without_a_terminal_nothing_is_written_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.progress_report() as report:
        report(1, 2, "probes")
    assert capsys.readouterr().err == ""


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a notebook's page has shown, one text after another, in a stand-in for IPython with a kernel."""
    shown: list[str] = []

    class Handle:
        def update(self, text: str) -> None:
            shown.append(text)

    library, display = ModuleType("IPython"), ModuleType("IPython.display")
    library.get_ipython = lambda: SimpleNamespace(kernel=object())  # type: ignore[attr-defined]
    display.HTML = str  # type: ignore[attr-defined]
    display.display = lambda text, display_id: Handle()  # type: ignore[attr-defined]  # noqa: ARG005
    monkeypatch.setitem(sys.modules, "IPython", library)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return shown


def test_a_notebook_gets_a_bar_in_its_page_that_is_gone_at_the_end(
    page: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([10.0, 10.1, 70.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    with progress.progress_report("products") as report:
        for done in (0, 1, 4):
            report(done, 10, "<probes>")
    assert page == [
        "<progress value='0' max='10'></progress> &lt;probes&gt;: 0 of 10",
        "<progress value='4' max='10'></progress> &lt;probes&gt;: 4 of 10, about 90 s left",
        "",
    ]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("asked, shown", [(None, True), (True, True), (False, False)])
def test_python_calls_show_progress_in_notebooks_unless_told_not_to(
    page: list[str], asked: bool | None, shown: bool
) -> None:
    model, inputs = torch.nn.Linear(2, 1, bias=False), torch.eye(2)
    landscape = Landscape(model, mean_squared_error, (inputs, torch.zeros(2, 1)))
    told: list[str] = []
    spectrum(landscape, engine="dense", progress=asked)
    assert bool(page) == shown
    page.clear()
    spectrum(landscape, engine="dense", progress=lambda *report: told.append(report[2]))
    assert told
    assert not page


def test_elsewhere_python_calls_show_it_only_when_asked_to(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, inputs = torch.nn.Linear(2, 1, bias=False), torch.eye(2)
    landscape = Landscape(model, mean_squared_error, (inputs, torch.zeros(2, 1)))
    monkeypatch.setattr(progress, "LINE_EVERY", 0.0)
    for asked, lines in ((None, 0), (False, 0), (True, 1)):
        spectrum(landscape, engine="dense", progress=asked)
        assert (len(capsys.readouterr().err.splitlines()) >= 1) == bool(lines)
