"""Results as tables of other programs: alone on stdout, escaped, and as CSV with every digit."""

import io
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas
import pytest

from basinscope import load
from basinscope.cli import main
from basinscope.views import summarise
from basinscope.views.printed import typeset
from basinscope.views.sheet import Column, Sheet

OLD = Path(__file__).resolve().parents[2] / "old_files" / "0.1"
KINDS = ("spectrum", "volume", "audit", "comparison")
Printed = Callable[..., tuple[str, str]]


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Printed:
    def run(kind: str, *words: str | Path) -> tuple[str, str]:
        assert main(["show", str(OLD / f"{kind}.h5"), *map(str, words)]) == 0
        found = capsys.readouterr()
        return found.out, found.err

    return run


def frame(text: str) -> pandas.DataFrame:
    return pandas.read_csv(io.StringIO(text))


def test_csv_has_the_numbers_of_the_result_in_full(printed: Printed) -> None:
    found = frame(printed("volume", "--table", "csv")[0])
    records = load(OLD / "volume.h5").records()
    for name in ("log_volume", "standard_error", "low95", "high95"):
        assert found[name].to_numpy() == pytest.approx(np.array([row[name] for row in records]), rel=1e-15)
    assert set(found["unit"]) == {"nat"}
    audit = frame(printed("audit", "--table", "csv")[0])
    assert list(audit["estimator"]) == [row["estimator"] for row in load(OLD / "audit.h5").records()]


def test_csv_of_a_spectrum_has_value_errors_and_unit_of_each_number(printed: Printed) -> None:
    out, err = printed("spectrum", "--table", "csv")
    found, summary = frame(out), summarise(load(OLD / "spectrum.h5"))
    trace = found[(found["quantity"] == "trace") & found["layer"].isna()].iloc[0]
    assert trace["value"] == pytest.approx(summary.trace.value, rel=1e-15)
    assert trace["standard_error"] == pytest.approx(summary.trace.standard_error, rel=1e-15)
    assert (trace["low95"], trace["high95"]) == pytest.approx(summary.trace.interval(), rel=1e-15)
    assert trace["unit"] == "nat / parameter²"
    sums = found[found["quantity"] == "log det(H + cI)"]
    assert list(sums["shift"]) == pytest.approx([at.shift for at in summary.shifts], rel=1e-15)
    values = [at.logdet.value for at in summary.shifts if at.logdet is not None]
    assert list(sums["value"]) == pytest.approx(values, rel=1e-15)
    assert sums["cautions"].str.contains("below the quadrature's resolution").sum() == 2
    assert list(found["layer"].dropna().unique()) == [int(name) for name in summary.traces]
    assert "! effective dimension at 0.0018" in err


def test_csv_of_a_difference_has_both_sides(printed: Printed) -> None:
    found = frame(printed("spectrum", "--against", OLD / "spectrum.h5", "--table", "csv")[0])
    assert np.array_equal(found["first"].to_numpy(), found["second"].to_numpy())
    assert set(found["difference"]) == {0.0}
    assert list(found["unit"][:3]) == ["nat / parameter²", "nat / parameter²", "nat"]
    found = frame(printed("volume", "--against", OLD / "volume.h5", "--table", "csv")[0])
    assert list(found["method"]) == ["quadratic-mass", "star-domain", "shifted-determinant"]
    assert set(found["difference"]) == {0.0}


@pytest.mark.parametrize("kind", KINDS)
def test_markdown_and_latex_are_whole_tables_and_nothing_else(printed: Printed, kind: str) -> None:
    shown = printed(kind)[0]
    for form, cells in (("md", r"(?<!\\)\|"), ("latex", r"(?<!\\)&")):
        out, err = printed(kind, "--table", form)
        parts = out.strip().split("\n\n")
        tables = [part for part in parts if not part.startswith("**")]
        for table in tables:
            lines = [line for line in table.splitlines() if not re.match(r"%|\\(begin|end|hline)", line)]
            assert len({len(re.split(cells, line)) for line in lines}) == 1
            assert all(line.startswith("|") if form == "md" else line.endswith(r"\\") for line in lines)
        if kind == "comparison":  # its heading is left out
            continue
        for number in set(re.findall(r"(?<![\w.-])\d+\.\d+(?!\w|\.|e)", shown)):
            assert number in out + err, number


@pytest.mark.parametrize("kind", KINDS)
def test_latex_has_no_sign_that_it_would_obey(printed: Printed, kind: str) -> None:
    out = printed(kind, "--table", "latex")[0]
    body = "\n".join(line for line in out.splitlines() if not line.startswith("% "))
    assert body.isascii()
    plain = re.sub(r"\\begin\{tabular\}\{[lr]+\}|\\end\{tabular\}|\$[^$\n]*\$|\\[%&#_{}$]|\\\\|\\\w+(\{\})?", "", body)
    assert not re.search(r"[\\%#_{}$^~]", plain)


def test_signs_of_names_are_escaped() -> None:
    sheet = Sheet("a\nb", [Column("run_1|2"), Column("x & y", "right")])
    sheet.add_row("50 % of #1", "-3.0e-05")
    assert typeset([sheet], "md").splitlines()[0] == r"| run_1\|2 | x & y |"
    assert typeset([sheet], "latex").splitlines()[1:4] == [
        r"run\_1$|$2 & x \& y \\",
        r"\hline",
        r"50 \% of \#1 & $-$3.0$\times10^{-5}$ \\",
    ]
    assert typeset([sheet, sheet], "latex").startswith("% a b\n")


COMMANDS = ("spectrum x.pt", "volume x.pt", "bridge x.pt --output y.h5", "compare x.pt", "audit --known", "show x.h5")


@pytest.mark.parametrize("command", COMMANDS)
def test_table_is_refused_with_json_and_with_other_words(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--table", "md", "--json"]) == 2
    assert capsys.readouterr().err == "--table and --json exclude each other: give one of them\n"
    assert main([*command.split(), "--table", "html"]) == 2
    assert "--table must be one of md, csv, latex" in capsys.readouterr().err
