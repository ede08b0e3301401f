"""Tables on pages of any width: nothing is cut, nothing is lost, and no line is longer than the page."""

import itertools
import random
import re

import pytest
from rich.cells import cell_len

from basinscope.terminal import show
from basinscope.views.sheet import Column, Sheet


def drawn(sheet: Sheet, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(width))
    show(sheet)
    return capsys.readouterr().out.splitlines()


def sheet() -> Sheet:
    found = Sheet("volumes", [Column("method"), *(Column(f"log V of run {n} (nat)", "right") for n in range(6))])
    found.add_row("masses")
    found.add_row("star-domain", *(f"-{n}23.4 ± 1.{n}" for n in range(6)))
    found.add_row("quadratic", *(f"{n}.5e-0{n}" for n in range(6)), style="yellow")
    return found


def test_a_wide_page_has_each_row_on_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = drawn(sheet(), 200, monkeypatch, capsys)
    assert len(lines) == 4
    assert lines[0].split("  ")[0] == "method"
    assert re.findall(r"log V of run \d \(nat\)", lines[0]) == [f"log V of run {n} (nat)" for n in range(6)]
    assert lines[2].startswith("star-domain")
    assert "-523.4 ± 1.5" in lines[2]


def test_headers_are_broken_before_columns_are_parted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = drawn(sheet(), 100, monkeypatch, capsys)
    (row,) = (line for line in lines if line.startswith("star-domain"))
    assert all(f"-{n}23.4 ± 1.{n}" in row for n in range(6))
    assert len(lines) == 3 + 2  # two lines of headers


def test_columns_that_find_no_room_go_on_beneath_with_the_names_of_their_rows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = drawn(sheet(), 80, monkeypatch, capsys)
    assert sum(line.startswith("star-domain") for line in lines) == 2
    assert sum(line.split()[:1] == ["method"] for line in lines) == 2


def test_rows_are_blocks_where_no_column_fits_beside_the_names(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = Sheet("files", [Column("a name that is long"), Column("value")])
    found.add_row("n" * 50, "12.34 ± 0.05")
    assert drawn(found, 60, monkeypatch, capsys) == [
        "a name that is long:",
        "  " + "n" * 50,
        "  value: 12.34 ± 0.05",
    ]
    one, two = drawn(found, 66, monkeypatch, capsys)
    assert two == "n" * 50 + "  12.34 ± 0.05"
    assert one.split() == ["a", "name", "that", "is", "long", "value"]


def test_no_table_is_cut_or_too_wide(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Of random tables: every cell whole and as often as it was put in, every piece of a header too."""
    random.seed(0)
    for trial, width in itertools.product(range(12), (60, 80, 100, 120, 200)):
        columns = [Column(words(random.randint(1, 4)), random.choice(("left", "right"))) for _ in range(1 + trial)]
        found = Sheet("", columns, gap=random.randint(1, 3))
        for row in range(random.randint(1, 5)):
            found.add_row(f"row{row}名", *(f"{random.gauss(0, 1e3):.6g} ± {random.random():.2g}" for _ in columns[1:]))
        lines = drawn(found, width, monkeypatch, capsys)
        text = "\n".join(lines)
        assert max(map(cell_len, lines)) <= width
        assert not any(line.endswith(" ") for line in lines)
        for row in found.rows:
            for cell in row.cells[1:]:
                assert text.count(cell) >= sum(one.cells.count(cell) for one in found.rows)
        for column in columns:
            assert all(word in text for word in column.title.split())


def words(count: int) -> str:
    return " ".join("".join(random.choices("abcdefg²", k=random.randint(1, 14))) for _ in range(count))
