"""The code and the commands of README and the documentation, run as they stand, page by page.

A page runs from top to bottom in a folder of its own that has ``data/``:

- ``python`` blocks share one namespace; in ``console`` blocks a line that begins with ``$`` is a command;
- a block with a title is written to that file;
- a block with the title "prints" has to be among what the block before it printed;
- a block after ``<!-- slow -->`` runs with the slow tests.
"""

from __future__ import annotations

import contextlib
import io
import math
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from basinscope.cli import main

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"(?P<slow><!-- slow -->\s*)?^```(?P<language>\w+)(?: title=\"(?P<title>[^\"\n]+)\")?\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
NUMBER = re.compile(r"(?<![\w.])[-+]?\d[\d,]*\.?\d*(?:e[-+]?\d+)?(?!\w)")
# Sums over products in float32 differ from machine to machine; what is shown has three or four figures.
TOLERANCE = 0.02


@dataclass(frozen=True)
class Block:
    """A fenced block, and the line of the page that it begins at."""

    language: str
    title: str | None
    text: str
    slow: bool
    line: int


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            found["language"],
            found["title"],
            found["text"],
            bool(found["slow"]),
            text.count("\n", 0, found.start()) + 1,
        )
        for found in BLOCK.finditer(text)
    ]


def runs(block: Block) -> bool:
    return block.language == "python" or (
        block.language == "console" and re.search(r"^\$ ", block.text, re.M) is not None
    )


def cases() -> Iterator[Any]:
    for page in PAGES:
        blocks = [block for block in blocks_of(page) if runs(block)]
        name = page.relative_to(ROOT).as_posix()
        if any(not block.slow for block in blocks):
            yield pytest.param(page, False, id=name)
        if any(block.slow for block in blocks):
            yield pytest.param(page, True, id=f"{name}, slow blocks too", marks=pytest.mark.slow)


@pytest.mark.parametrize("page, slow_too", list(cases()))
def test_a_page_runs_from_top_to_bottom(
    page: Path, slow_too: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").symlink_to(ROOT / "data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    namespace: dict[str, Any] = {"__name__": page.stem}
    printed: str | None = None
    for block in blocks_of(page):
        where = f"{page.relative_to(ROOT)}, block at line {block.line}"
        if block.title == "prints":
            if printed is not None:
                check_shown(block.text, printed, where)
        elif block.slow and not slow_too:
            printed = None
        elif block.title:
            Path(block.title).write_text(block.text, encoding="utf-8")
        elif runs(block):
            printed = run(block, namespace, where)


def run(block: Block, namespace: dict[str, Any], where: str) -> str:
    """What a block prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        if block.language == "python":
            exec(compile("\n" * block.line + block.text, where, "exec"), namespace)
        else:
            for line in block.text.replace("\\\n", " ").splitlines():
                if line.startswith("$ "):
                    command(shlex.split(line[2:], comments=True), f"{where}: {line}")
    return printed.getvalue()


def command(words: list[str], where: str) -> None:
    """Run ``basinscope ...`` or ``python FILE ...`` in this process, which has torch in it already."""
    if words[0] == "basinscope":
        assert main(words[1:]) == 0, where
    else:
        assert words[0] == "python", (
            f"{where}: only basinscope and python are run here; write other commands in a `sh` block"
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", words[1:])
            runpy.run_path(words[1], run_name="__main__")


def check_shown(shown: str, printed: str, where: str) -> None:
    """Each line that the page shows is printed, in this order: the same words, and numbers that are near."""
    remaining = iter(printed.splitlines())
    for line in shown.splitlines():
        if line.strip() and line.strip() != "…":
            assert any(alike(line, other) for other in remaining), f"{where}: not printed: {line}\n{printed}"


def alike(shown: str, printed: str) -> bool:
    if NUMBER.sub("0", shown).split() != NUMBER.sub("0", printed).split():
        return False
    pairs = zip(NUMBER.findall(shown), NUMBER.findall(printed), strict=True)
    return all(
        math.isclose(float(one.replace(",", "")), float(other.replace(",", "")), rel_tol=TOLERANCE)
        for one, other in pairs
    )


def test_a_shown_number_that_is_off_is_found() -> None:
    check_shown("trace  4.371 ± 0.042 nat\n", "first\ntrace    4.372 ± 0.042 nat\n", "here")
    with pytest.raises(AssertionError, match="not printed"):
        check_shown("trace  4.371 nat\n", "trace  5.371 nat\n", "here")
    with pytest.raises(AssertionError, match="not printed"):
        check_shown("trace  4.371 nat\n", "sum  4.371 nat\n", "here")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_fence_is_read_as_one(page: Path) -> None:
    """A title without quotes makes the site's builder take the block for a paragraph, and nothing would run it here."""
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("```") and not line.startswith("````"):
            assert re.fullmatch(r"```(\w+( title=\"[^\"]+\")?)?", line), line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_and_paths_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        # Pages of the reference are made while the site is built, one for each room that has a stub.
        stub = ROOT.joinpath(*Path(target).stem.split("."), "__init__.pyi")
        assert stub.exists() if "reference/" in target else (page.parent / target).exists(), target
    for path in re.findall(r"`((?:spectra|volume|comparisons|basinscope|tests|docs|benchmarks|data)/[\w/.-]+)`", text):
        assert (ROOT / path).exists(), path
