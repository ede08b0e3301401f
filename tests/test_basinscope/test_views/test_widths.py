"""Every view of the results that are kept, on pages of all widths: no line too long, no number or header cut."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.padding import Padding

from basinscope.terminal import show
from basinscope.trajectory import TrajectoryPoint, trajectory_table
from basinscope.views import (
    OtherBridge,
    bridge_table,
    compare,
    comparison_table,
    difference_table,
    invariance_table,
    ranking_parts,
    report_table,
    study_table,
    summarise,
    summary_table,
    volume_difference_table,
    volume_differences,
)
from basinscope.views.sheet import Sheet
from comparisons.comparison import Comparison
from comparisons.findings import findings_of
from comparisons.invariance import Change, InvarianceTable
from comparisons.measures import measures_of
from comparisons.statistics import rank_measures
from comparisons.store import read_comparison
from spectra.store import read_spectrum
from volume.audit import read_report
from volume.bridge import read_bridge
from volume.bridge.result import Diagnostics
from volume.store import read_study

ROOT = Path(__file__).resolve().parents[3]
OLD, DATA = ROOT / "tests" / "old_files" / "0.1", ROOT / "data"
WIDTHS = (60, 80, 100, 120, 200)


def spectrum(path: Path) -> Group:
    return summary_table(summarise(read_spectrum(path)), {})


def difference() -> Group:
    one, other = OLD / "spectrum.h5", OLD / "spectrum.h5"
    return difference_table(compare(read_spectrum(one), read_spectrum(other)), one, other)


def bridge(path: Path) -> Group:
    result, source = read_bridge(path)
    if result.complete:  # cross-checks that take long, each one number of the table
        known = {"multistate": (-789.6, 0.66), "drift": (-0.72, 1.2)}
        rhat, effective = np.full(len(result.rungs) - 1, 1.041), np.full(len(result.rungs) - 1, 172.0)
        result.__dict__.update(known, diagnostics=Diagnostics(rhat, rhat, effective, effective))
    return bridge_table(result, source, {}, OtherBridge("another_bridge.h5", result, source))


def volume_difference() -> Group:
    study = read_study(OLD / "volume.h5")
    return volume_difference_table(volume_differences(study, study), "clean_seed0_step00640.pt", "poisoned_seed0.h5")


def comparison(path: Path, count: int) -> Group:
    whole = read_comparison(path)
    # Rankings by bootstrap take their time.
    few: Comparison = replace(whole, checkpoints=whole.checkpoints[:count], measures=whole.measures[:: count + 1])
    ranked = rank_measures(few, measures_of(few.measures), "gap", seed=0) if count > 3 else ()
    return Group(comparison_table(few, {}), *ranking_parts(findings_of(few, "gap", ranked)))


def invariance() -> Group:
    whole = read_comparison(DATA / "digits_measures.h5")
    before, after = (one.outcomes for one in whole.checkpoints[:2])
    names = ("layer-rescaling", "node-rescaling", "permutation", "parameter-scale")
    changes = tuple(Change(name, 1e-7, after) for name in names)
    known = [name for name in whole.measures[::4] if name in before]
    return invariance_table(Path("clean_seed0.pt"), InvarianceTable(measures_of(known), before, changes))


def trajectory() -> Group:
    study = read_study(OLD / "volume.h5")
    points = [TrajectoryPoint(Path(f"clean_seed0_step{n:05d}.pt"), "clean", n, study) for n in (0, 640)]
    return trajectory_table([*points, TrajectoryPoint(Path("broken.pt"), "broken", None, failure="it is damaged")])


VIEWS: dict[str, Callable[[], Group]] = {
    "spectrum, exact": lambda: spectrum(DATA / "digits_mlp_fisher.h5"),
    "spectrum, layers": lambda: spectrum(OLD / "spectrum.h5"),
    "difference": difference,
    "volume": lambda: study_table(read_study(OLD / "volume.h5"), {}),
    "volume difference": volume_difference,
    "trajectory": trajectory,
    "bridge": lambda: bridge(DATA / "digits_bridge.h5"),
    "bridge, small": lambda: bridge(OLD / "bridge.h5"),
    "audit": lambda: report_table(read_report(OLD / "audit.h5"), {}),
    "comparison": lambda: comparison(DATA / "digits_measures.h5", 5),
    "comparison of one": lambda: comparison(DATA / "digits_measures.h5", 1),
    "comparison, small": lambda: comparison(OLD / "comparison.h5", 1),
    "invariance": invariance,
}


def sheets(part: RenderableType) -> Iterator[Sheet]:
    if isinstance(part, Sheet):
        yield part
    elif isinstance(part, Group):
        for one in part.renderables:
            yield from sheets(one)
    elif isinstance(part, Padding):
        yield from sheets(part.renderable)


@pytest.fixture(scope="module", params=VIEWS)
def view(request: pytest.FixtureRequest) -> Group:
    return VIEWS[request.param]()


def test_no_line_is_too_long_and_no_number_or_header_is_cut(
    view: Group, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = list(sheets(view))
    rows = [(row, one) for one in tables for row in one.rows]
    cells = [cell for row, one in rows for place, cell in enumerate(row.cells) if not one.columns[place].words]
    for width in WIDTHS:
        monkeypatch.setenv("COLUMNS", str(width))
        show(view)
        text = capsys.readouterr().out
        assert max(map(cell_len, text.splitlines())) <= width
        assert "…" not in text.replace(", …", "")
        for cell in set(cells):
            assert text.count(cell) >= cells.count(cell), cell
        for one in tables:
            for column in one.columns if one.header else ():
                assert all(piece in text for piece in re.split(r"[ _/-]", column.title)), column.title
            for words in (cell for row in one.rows for cell in row.cells):
                assert all(word in text for word in words.split())


def test_columns_of_no_method_of_a_study_are_left_out() -> None:
    study = read_study(OLD / "volume.h5")
    (table, *_) = sheets(study_table(study, {}))
    assert len(table.columns) == 10
    (table, *_) = sheets(study_table(replace(study, results={"star-domain": study.results["star-domain"]}), {}))
    assert [column.title for column in table.columns][4:] == [
        "at least (95 %)",
        "largest share",
        "effective samples",
        "evals per direction",
    ]
