"""No file of the user's is overwritten: outputs that are inputs, links to them, each other, or of another kind."""

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from basinscope.cli import main

TASK = Path(__file__).parents[1] / "tiny_task.py"


def run(*words: str | Path) -> int:
    return main([str(word) for word in words])


def command(name: str, desk: Path) -> list[str | Path]:
    """A command with all inputs that it can have."""
    task = ("--task", f"{desk / 'task.py'}:tiny")
    reused = [word for file in ("spectrum", "volume", "audit") for word in ("--reuse", desk / f"{file}.h5")]
    words: dict[str, list[str | Path]] = {
        "spectrum": ["spectrum", desk / "model.pt", *task],
        "volume": ["volume", desk / "model.pt", *task, "--against", desk / "volume.h5"],
        "volume against": ["volume", desk / "model.pt", *task, "--against", desk / "start.pt"],
        "bridge": ["bridge", desk / "model.pt", *task],
        "compare": ["compare", desk / "model.pt", *task, "--initial", desk / "start.pt", *reused],
        "audit": ["audit", desk / "model.pt", *task, "--truth", desk / "bridge.h5"],
        "audit known": ["audit", "--known", "--spectrum", desk / "spectrum.h5"],
    }
    return words[name]


INPUTS = {
    "spectrum": ["model.pt", "task.py"],
    "volume": ["model.pt", "task.py", "volume.h5"],
    "volume against": ["model.pt", "start.pt"],
    "bridge": ["model.pt", "task.py"],
    "compare": ["model.pt", "task.py", "start.pt", "spectrum.h5", "volume.h5", "audit.h5"],
    "audit": ["model.pt", "task.py", "bridge.h5"],
    "audit known": ["spectrum.h5"],
}
ENDINGS = {"--output": ".h5", "--plot": ".png", "--agreement-plot": ".svg", "--report": ".html"}
FORMS: dict[str, Callable[[Path, str], Path]] = {
    "itself": lambda path, _: path,
    "another way there": lambda path, _: path.parent / ".." / path.parent.name / path.name,
    "symbolic link": lambda path, ending: linked(path, ending, os.symlink),
    "hard link": lambda path, ending: linked(path, ending, os.link),
    "link to a link": lambda path, ending: linked(linked(path, ".link", os.symlink), ending, os.symlink),
}


def linked(path: Path, ending: str, link: Callable[[Path, Path], None]) -> Path:
    made = path.with_name(f"{path.name}.linked{ending}")
    link(path, made)
    return made


def rows() -> Iterator[tuple[str, str, str, str, str]]:
    for name, inputs in INPUTS.items():
        options = ["--output", "--plot", *(["--agreement-plot", "--report"] if name == "compare" else [])]
        for file, option, form, flag in itertools.product(inputs, options, FORMS, ("--overwrite", "--resume", "")):
            # A plot or a page must have its ending, which only a link to an input has.
            if option == "--output" or "link" in form:
                yield name, file, option, form, flag


def everything(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.lstat().st_mode) for path in sorted(folder.iterdir())}


def refused(capsys: pytest.CaptureFixture[str], code: int) -> str:
    printed = capsys.readouterr()
    assert code == 2, printed
    assert printed.out == ""
    lines = printed.err.splitlines()
    assert len(lines) == 1, printed.err
    return lines[0]


@pytest.mark.parametrize("row", list(rows()), ids=" ".join)
def test_an_output_that_is_an_input(
    desk: Path, row: tuple[str, str, str, str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    name, file, option, form, flag = row
    words, target = command(name, desk), FORMS[form](desk / file, ENDINGS[option])
    words += [option, target, *([flag] if flag else [])]
    # A bridge cannot do without an output, and what goes on from nothing needs one too.
    if option != "--output" and (name == "bridge" or flag == "--resume"):
        words += ["--output", desk / "new.h5"]
    before = everything(desk)
    said = refused(capsys, run(*words))
    assert str(target) in said
    assert f"choose another name for {option}" in said
    assert everything(desk) == before


PAIRS = [
    ("spectrum", ("--output", "--plot")),
    ("volume", ("--output", "--plot")),
    ("bridge", ("--output", "--plot")),
    ("audit", ("--output", "--plot")),
    *(("compare", pair) for pair in itertools.combinations(ENDINGS, 2)),
]


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("flag", ["", "--overwrite", "--resume"])
@pytest.mark.parametrize("name, pair", PAIRS)
def test_two_outputs_that_are_one_file(
    desk: Path, name: str, pair: tuple[str, str], flag: str, there: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = desk / f"new{ENDINGS[pair[0]]}", desk / f"other{ENDINGS[pair[1]]}"
    if there:
        shutil.copy(desk / "spectrum.h5", first)
    second.symlink_to(first)
    words = [*command(name, desk), pair[0], first, pair[1], second, *([flag] if flag else [])]
    if "--output" not in pair and flag == "--resume":
        words += ["--output", desk / "third.h5"]
    before = everything(desk) if there else None
    said = refused(capsys, run(*words))
    assert f"{pair[0]} and {pair[1]} name the same file" in said
    assert before is None or everything(desk) == before


def foreign(desk: Path) -> dict[str, bytes]:
    """Files that no command wrote."""
    with h5py.File(desk / "own.h5", "w") as file:
        file["precious"] = np.arange(3)
    own = (desk / "own.h5").read_bytes()
    (desk / "own.h5").unlink()
    return {
        "text": b"dear diary",
        "checkpoint": (desk / "model.pt").read_bytes(),
        "HDF5 of the user's": own,
        "page of the user's": b"<!DOCTYPE html><title>mine</title>",
        "JPEG": b"\xff\xd8\xff\xe0" + bytes(100),
        "program": b"#!/bin/sh\n",
        "XML": b"<?xml version='1.0'?><data/>",
        "zeros": bytes(100),
    }


OPTIONS = [
    *((name, option) for name in ("spectrum", "volume", "bridge", "audit", "audit known") for option in ENDINGS),
    *(("compare", option) for option in ENDINGS),
]
OPTIONS = [row for row in OPTIONS if row[0] == "compare" or row[1] in ("--output", "--plot")]


@pytest.mark.parametrize("kind", ["text", "checkpoint", "HDF5 of the user's", "page of the user's", "JPEG", "program"])
@pytest.mark.parametrize("name, option", OPTIONS)
def test_overwriting_what_no_command_wrote(
    desk: Path, name: str, option: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    target = desk / f"mine{ENDINGS[option]}"
    target.write_bytes(foreign(desk)[kind])
    words = [*command(name, desk), option, target, "--overwrite"]
    if name == "bridge" and option != "--output":
        words += ["--output", desk / "new.h5"]
    before = everything(desk)
    said = refused(capsys, run(*words))
    assert f"{target} is not a" in said
    assert f"so it is not replaced: choose another {option}, or remove it first" in said
    assert everything(desk) == before


@pytest.mark.parametrize("kind", ["spectrum", "volume", "bridge", "comparison", "audit"])
@pytest.mark.parametrize("option", ["--plot", "--report"])
def test_a_figure_or_a_page_does_not_replace_a_result(
    desk: Path, kind: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    target = desk / f"result{ENDINGS[option]}"
    shutil.copy(desk / f"{kind}.h5", target)
    before = everything(desk)
    assert "so it is not replaced" in refused(capsys, run(*command("compare", desk), option, target, "--overwrite"))
    assert everything(desk) == before


@pytest.mark.sampled(7)
@pytest.mark.parametrize("name", ["spectrum", "volume", "bridge", "comparison", "audit"])
@pytest.mark.parametrize("flag", ["", "--overwrite"])
@pytest.mark.parametrize("ending", [".png", ".pdf", ".svg"])
def test_the_figure_of_a_result_that_is_named_like_a_figure(
    desk: Path, name: str, flag: str, ending: str, capsys: pytest.CaptureFixture[str]
) -> None:
    result = (desk / f"{name}.h5").rename(desk / f"{name}{ending}")
    before = everything(desk)
    for words in (["plot", result], ["plot", result, "--output", result]):
        if ending != ".png" and len(words) == 2:
            continue  # its figure is another file then
        assert "is the file of FILE too" in refused(capsys, run(*words, *([flag] if flag else [])))
    assert everything(desk) == before


@pytest.mark.sampled(3)
@pytest.mark.parametrize("kind", ["spectrum", "volume", "bridge", "comparison", "audit", "cut", "damaged", "empty"])
def test_results_are_replaced_by_results(desk: Path, kind: str) -> None:
    target = desk / "again.h5"
    content = (desk / f"{kind}.h5").read_bytes() if (desk / f"{kind}.h5").exists() else b""
    if kind in ("cut", "damaged"):
        whole = (desk / "spectrum.h5").read_bytes()
        content = whole[: len(whole) // 2] if kind == "cut" else whole[:900] + b"damage" + whole[906:]
    target.write_bytes(content)
    words = [*command("spectrum", desk), "--engine", "dense", "--output", target]
    assert run(*words, "--overwrite") == 0
    assert run("show", target) == 0


@pytest.mark.sampled(3)
@pytest.mark.parametrize("ending", [".png", ".pdf", ".svg"])
def test_figures_are_replaced_by_figures(desk: Path, ending: str) -> None:
    target = desk / f"figure{ending}"
    for _ in range(2):
        assert run("plot", desk / "spectrum.h5", "--output", target, "--overwrite") == 0
    before = target.read_bytes()
    assert run("plot", desk / "volume.h5", "--output", target, "--overwrite") == 0
    assert target.read_bytes() != before


def test_pages_are_replaced_by_pages(desk: Path) -> None:
    words = ["compare", desk / "model.pt", "--task", f"{desk / 'task.py'}:tiny", "--measures", "parameter-norm"]
    assert run(*words, "--report", desk / "page.html", "--overwrite") == 0


def test_an_image_that_a_run_reads_is_not_its_figure(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (desk / "images" / "cat").mkdir(parents=True)
    shutil.copy(desk / "plot.png", desk / "images" / "cat" / "1.png")
    words = ["spectrum", desk / "model.pt", "--task", f"image-classifier:images={desk / 'images'}", "--overwrite"]
    said = refused(capsys, run(*words, "--plot", desk / "images" / "cat" / "1.png"))
    assert "is the file of the task too" in said


@pytest.mark.sampled(4)
@pytest.mark.parametrize("kind", ["text", "HDF5 of the user's", "checkpoint"])
@pytest.mark.parametrize("flag", ["", "--overwrite", "--resume"])
def test_a_trajectory_leaves_what_no_command_wrote(desk: Path, kind: str, flag: str) -> None:
    (desk / "model.h5").write_bytes(foreign(desk)[kind])
    before = everything(desk)
    words = ["volume", "--trajectory", desk, "--task", f"{TASK}:tiny", "--method", "ellipsoid-slice", "--output", desk]
    assert run(*words, "--directions", "2", *([flag] if flag else [])) == 0  # the other checkpoint is done
    after = everything(desk)
    assert after.pop("start.h5")
    assert after == before


def test_a_figure_of_a_trajectory_is_none_of_its_results(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (desk / "figure.png").symlink_to(desk / "new" / "start.h5")
    (desk / "new").mkdir()
    words = ["volume", "--trajectory", desk, "--task", f"{TASK}:tiny", "--output", desk / "new", "--overwrite"]
    said = refused(capsys, run(*words, "--method", "ellipsoid-slice", "--plot", desk / "figure.png"))
    assert "choose another name for --plot" in said


def test_checkpoints_of_one_name_have_results_of_their_own(desk: Path) -> None:
    shutil.copy(desk / "model.pt", desk / "model.pth")
    (desk / "new").mkdir()
    words = ["volume", "--trajectory", desk, "--task", f"{TASK}:tiny", "--method", "ellipsoid-slice", "--overwrite"]
    assert run(*words, "--directions", "2", "--output", desk / "new") == 0
    assert sorted(path.name for path in (desk / "new").iterdir()) == ["model.pt.h5", "model.pth.h5", "start.h5"]


def test_the_spectrum_of_an_audit_is_not_its_output(
    desk: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --spectrum, an audit of known cases reads the one that comes with the data."""
    monkeypatch.setenv("BASINSCOPE_DATA", str(desk))
    shipped = (desk / "spectrum.h5").rename(desk / "digits_mlp_fisher.h5")
    before = shipped.read_bytes()
    assert "the file of --spectrum too" in refused(capsys, run("audit", "--known", "--output", shipped, "--overwrite"))
    assert shipped.read_bytes() == before


@pytest.mark.sampled(6)
@pytest.mark.parametrize("length", [255, 250, 239, 200, 101])
@pytest.mark.parametrize("letter", ["x", "ü"])
def test_a_name_as_long_as_the_file_system_allows(desk: Path, length: int, letter: str) -> None:
    size = len(letter.encode())
    target, figure = (desk / (letter * ((length - len(end)) // size) + end) for end in (".h5", ".png"))
    words = [*command("spectrum", desk), "--engine", "dense", "--output", target, "--plot", figure]
    assert run(*words) == 0
    assert run(*words, "--resume") == 0
    assert run("show", target) == 0
    assert figure.exists()
    assert not [path.name for path in desk.iterdir() if path.name.startswith(".")]


def test_a_name_that_is_longer_is_a_sentence(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, run(*command("spectrum", desk), "--output", desk / f"{'x' * 260}.h5"))
    assert said.endswith("File name too long")
