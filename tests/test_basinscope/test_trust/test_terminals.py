"""What reaches the terminal: in any encoding and width, whatever names hold and tasks print, and with --json alone."""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from basinscope.cli import main
from basinscope.terminal import LONG, PAGE_WIDTH, QUOTED, say, visible

Words = list[str]
NAMES = (
    "a[b].pt",
    "[red]x.pt",
    "a$b$.pt",
    "a$b.pt",
    "$\\frac$.pt",
    "e\x1b[31m.pt",
    "t\x07b\ru.pt",
    "n\nl.pt",
    "turned\u202e.pt",
    "ü☃.pt",
    "<b>&amp;.pt",
    "%s{x}.pt",
    "a_b^c.pt",
    os.fsdecode(b"\xff\xfe.pt"),
    f"{'w' * 245}.pt",
)
# Tasks that print or leave, appended to the tiny one.
NOISY = """

def prints(checkpoint):
    print("{from the task}")
    model = loaded(checkpoint)
    model.register_forward_pre_hook(lambda module, inputs: print("{forward}"))
    return Landscape(model, cross_entropy, rows())


def prints_below(checkpoint):
    import os
    os.write(1, b"{from below}\\n")
    return tiny(checkpoint)


def warns(checkpoint):
    import warnings
    warnings.warn("mind \\x1b[31m this")
    return tiny(checkpoint)


def exits(checkpoint):
    raise SystemExit(0)


def stops(checkpoint):
    class Mine(BaseException):
        pass
    raise Mine("enough")


def after(checkpoint, calls, error):
    model, seen = loaded(checkpoint), []
    def hook(module, inputs):
        seen.append(1)
        if len(seen) > calls:
            raise error
    model.register_forward_pre_hook(hook)
    return Landscape(model, cross_entropy, rows())


def exits_later(checkpoint):
    return after(checkpoint, 12, SystemExit(0))


def fails_later(checkpoint):
    return after(checkpoint, 12, KeyError("\\x1b[31mmine"))


def interrupts_later(checkpoint):
    return after(checkpoint, 12, KeyboardInterrupt())


def closes(checkpoint):
    import sys
    sys.stdout.close()
    return tiny(checkpoint)
"""


@pytest.fixture(scope="module")
def table(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with results and noisy tasks, which no test here changes."""
    folder = tmp_path_factory.mktemp("table") / "desk"
    shutil.copytree(shelf, folder)
    (folder / "task.py").write_text((folder / "task.py").read_text() + NOISY)
    return folder


def commands(folder: Path, model: str = "model.pt", task: str = "tiny") -> dict[str, Words]:
    source = [str(folder / model), "--task", f"{folder / 'task.py'}:{task}"]
    known = ["--known", "--cases", "ball-2", "--estimators", "star-domain", "--repeats", "2", "--directions", "2"]
    return {
        "spectrum": ["spectrum", *source, "--engine", "dense", "--per-layer"],
        "volume": ["volume", *source, "--method", "ellipsoid-slice", "--directions", "2"],
        "compare": ["compare", *source, "--measures", "parameter-norm"],
        "audit": ["audit", *known, "--no-facts"],
        **{f"show {kind}": ["show", str(folder / f"{kind}.h5")] for kind in KINDS},
        **{f"{command} --help": [command, "--help"] for command in ("spectrum", "volume", "bridge", "compare")},
    }


KINDS = ("spectrum", "volume", "bridge", "comparison", "audit")
COMPUTING = ("spectrum", "volume", "compare")
EVERY = (*COMPUTING, "audit", *(f"show {kind}" for kind in KINDS))
HELPS = tuple(f"{command} --help" for command in ("spectrum", "volume", "bridge", "compare"))


def ran(words: Words, encoding: str = "utf-8") -> tuple[int, str, str]:
    """Exit code and what was printed, through streams of some encoding that refuse what it lacks."""
    raw = io.BytesIO(), io.BytesIO()
    out, err = (io.TextIOWrapper(one, encoding=encoding, write_through=True) for one in raw)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("default")  # as in a process of its own
        code = main(words)
    texts = [one.getvalue().decode(encoding) for one in raw]
    return code, texts[0], texts[1]


def sentence(err: str) -> str:
    lines = [line for line in err.splitlines() if not line.startswith(("plan: ", "memory: "))]
    assert len(lines) == 1, err
    return lines[0]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "cp437", "shift_jis", "koi8-r"])
@pytest.mark.parametrize("command", [*EVERY, *HELPS])
def test_an_encoding_that_lacks_characters(table: Path, command: str, encoding: str) -> None:
    code, out, _ = ran(commands(table)[command], encoding)
    assert code == 0
    utf = ran(commands(table)[command])[1]
    assert re.findall(r"\d+\.\d+", out) == re.findall(r"\d+\.\d+", utf)


@pytest.mark.sampled(17)
@pytest.mark.parametrize("name", NAMES, ids=ascii)
@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
@pytest.mark.parametrize("command", COMPUTING)
def test_names_are_shown_and_never_obeyed(table: Path, tmp_path: Path, command: str, encoding: str, name: str) -> None:
    shutil.copy(table / "model.pt", tmp_path / name)
    shutil.copy(table / "task.py", tmp_path / "task.py")
    words = [*commands(tmp_path, name)[command], "--plot", str(tmp_path / "plot.png")]
    if command == "compare":
        words += ["--report", str(tmp_path / "page.html")]
    code, out, err = ran(words, encoding)
    assert code == 0, err
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202e]", out + err)
    if command != "compare" and encoding == "utf-8":
        stem = visible(name.split("\n")[0].removesuffix(".pt"))
        assert stem in out.replace("\n", "") or stem[:80] in out.replace("\n", "")
    assert (tmp_path / "plot.png").stat().st_size > 1000


@pytest.mark.parametrize("task", ["tiny", "prints", "prints_below", "warns"])
@pytest.mark.parametrize("command", COMPUTING)
def test_json_is_alone_on_stdout(table: Path, command: str, task: str, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        code = main([*commands(table, task=task)[command], "--json"])
    out, err = capfd.readouterr()
    if task == "prints_below":  # goes to the process's own stdout, which pytest holds here
        out = out.replace("{from below}\n", "")
    assert code == 0
    assert isinstance(json.loads(out), dict)
    assert out.count("\n") == 1
    assert ("{from the task}" in err) == (task == "prints")
    assert ("task.py, line" in err) == (task == "warns")
    assert "\x1b" not in err


@pytest.mark.parametrize("command", COMPUTING)
def test_a_table_is_alone_on_stdout(table: Path, command: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*commands(table, task="prints")[command], "--table", "md"]) == 0
    out, err = capfd.readouterr()
    assert all(not line or line.startswith(("|", "**")) for line in out.splitlines())
    assert "{from the task}" in err


def test_json_is_alone_on_the_stdout_of_a_process(table: Path) -> None:
    words = [sys.executable, "-m", "basinscope", *commands(table, task="prints_below")["spectrum"], "--json"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0
    assert "trace" in json.loads(done.stdout)
    assert "{from below}" in done.stderr


ENDS = {
    "exits": (2, r"task '.*:exits' raised SystemExit: 0 \(task.py, line \d+\)"),
    "stops": (2, r"task '.*:stops' raised Mine: enough \(task.py, line \d+\)"),
    "exits_later": (2, r"the model raised SystemExit: 0 \(task.py, line \d+\)"),
    "fails_later": (2, r"the model raised KeyError: '\\x1b\[31mmine' \(task.py, line \d+\)"),
    "interrupts_later": (130, "interrupted"),
}


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("task", ENDS)
@pytest.mark.parametrize("command", ["spectrum", "volume"])
def test_however_a_task_ends_there_is_one_sentence(table: Path, command: str, task: str, as_json: bool) -> None:
    words = [*commands(table, task=task)[command], *(["--json"] if as_json else [])]
    code, out, err = ran(words)
    assert code == ENDS[task][0]
    assert re.search(ENDS[task][1], sentence(err))
    assert out == ""


def test_a_task_that_closes_stdout(table: Path) -> None:
    words = [sys.executable, "-m", "basinscope", *commands(table, task="closes")["spectrum"]]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    words_said = "standard output was closed during the run, by the task or its model, so nothing can be printed"
    assert sentence(done.stderr) == words_said


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "kind, as_json", [("pipe", False), ("pipe", True), ("full", False), ("full", True), ("all closed", False)]
)
def test_a_stdout_that_takes_nothing(table: Path, kind: str, as_json: bool) -> None:
    words = [sys.executable, "-m", "basinscope", "show", str(table / "audit.h5"), *(["--json"] if as_json else [])]
    line = " ".join(f"'{word}'" for word in words)
    ends = {"pipe": "| true", "full": "> /dev/full", "all closed": "<&- >&- 2>&-"}
    done = subprocess.run(
        ["bash", "-c", f"{line} {ends[kind]}; exit ${{PIPESTATUS[0]}}"], capture_output=True, text=True
    )
    assert done.returncode == {"pipe": 141, "full": 2, "all closed": 0}[kind]
    assert done.stderr == ("standard output: No space left on device\n" if kind == "full" else "")


def test_a_closed_stdout_is_not_mixed_into_the_result(table: Path, tmp_path: Path) -> None:
    words = [*commands(table, task="prints_below")["spectrum"], "--output", str(tmp_path / "new.h5")]
    line = " ".join(f"'{word}'" for word in [sys.executable, "-m", "basinscope", *words])
    assert subprocess.run(["bash", "-c", f"{line} >&- 2>&-"]).returncode == 0
    assert main(["show", str(tmp_path / "new.h5")]) == 0


@pytest.fixture
def columns(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> int:
    monkeypatch.setenv("COLUMNS", str(request.param))
    return request.param


@pytest.mark.parametrize("columns", [20, 40, 60, 80, 100, 200], indirect=True)
@pytest.mark.parametrize("command", EVERY)
def test_a_narrow_page_loses_no_digit(table: Path, command: str, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = ran(commands(table)[command])[1]
    monkeypatch.delenv("COLUMNS")
    wide = ran(commands(table)[command])[1]
    assert max(map(len, wide.splitlines())) <= PAGE_WIDTH
    found, wanted = (sorted(re.findall(r"\d+\.\d+(?:e[-+]\d+)?", text)) for text in (narrow, wide))
    missing = [number for number in wanted if wanted.count(number) > found.count(number)]
    assert not missing


class Screen(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("colours", [True, False])
def test_a_sentence_on_a_terminal_is_broken_between_words(colours: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if not colours:
        monkeypatch.setenv("NO_COLOR", "1")
    screen = Screen()
    monkeypatch.setattr("sys.stderr", screen)
    say("many words that one line of the terminal has no room for: " + "words " * 10)
    assert ("\x1b[31m" in screen.getvalue()) == colours
    lines = re.sub(r"\x1b\[[\d;]*m", "", screen.getvalue()).split("\n")
    assert len(lines) > 3
    assert all(len(line) <= 40 for line in lines)
    assert " ".join("\n".join(lines).split()).count("words") == 11
    screen.truncate(0)
    say("a path is one word, which is never broken: /" + "x" * 60)
    assert "/" + "x" * 60 in screen.getvalue()


LONG_WORDS = {
    "x": "x" * 5000,
    "words": "many words " * 500,
    "escapes": "\x1b[31m" * 1000,
    "digits": "9" * 5000,
    "brackets": "[red]" * 1000,
    "not ascii": "ü☃" * 2000,
}
PLACES = {
    "a checkpoint": (0, None),
    "a task": (2, "--task"),
    "an operator": (1, "--operator"),
    "a number": (1, "--probes"),
    "a fraction": (1, "--shift"),
    "bytes": (1, "--memory"),
    "layers": (1, "--layers"),
    "a device": (1, "--device"),
    "an output": (1, "--output"),
    "a plot": (1, "--plot"),
    "an option": (1, ""),
}


@pytest.mark.parametrize("word", LONG_WORDS)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_a_long_argument_is_quoted_in_part(table: Path, place: str, word: str, encoding: str) -> None:
    _, option = PLACES[place]
    text, words = LONG_WORDS[word], commands(table)["spectrum"]
    if option is None:
        words = [*words[:1], text, *words[2:]]
    else:
        words = [*words, option, text] if option else [*words, f"--{text}"]
    code, out, err = ran(words, encoding)
    assert code == 2
    assert out == ""
    said = sentence(err)
    assert len(said) < 1200
    assert not re.search(r"[\x00-\x1f\x7f]", said)
    assert re.search(rf"\S{{{LONG + 1}}}", said) is None
    assert text[: 2 * QUOTED] not in said


VARIABLES = (
    {"RANK": "x"},
    {"WORLD_SIZE": "y"},
    {"WORLD_SIZE": "-3"},
    {"RANK": "7"},
    {"MASTER_PORT": "²"},
    {"RANK": ""},
)


@pytest.mark.parametrize("changed", VARIABLES, ids=str)
@pytest.mark.parametrize("command", [*EVERY, "spectrum --help"])
def test_variables_of_ranks_that_are_none(
    table: Path, command: str, changed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    for name, value in (ranks | changed).items():
        monkeypatch.setenv(name, value)
    code, out, err = ran(commands(table)[command])
    assert (code, out) == (2, "")
    (name, value) = next(iter(changed.items()))
    assert sentence(err).startswith(f"{name} in the environment must be ")
    assert value in sentence(err)


@pytest.mark.parametrize(
    "command, backend",
    [
        ("plot", "module://no.such"),
        pytest.param("spectrum", "module://no.such", marks=pytest.mark.slow),
        pytest.param("volume", "nonsense", marks=pytest.mark.slow),
    ],
)
def test_a_backend_of_matplotlib_is_none_of_ours(table: Path, tmp_path: Path, command: str, backend: str) -> None:
    if command == "plot":  # which does not wait for torch
        words = [command, str(table / "spectrum.h5"), "--output"]
    else:
        words = [*commands(table)[command], "--plot"]
    words = [sys.executable, "-m", "basinscope", *words, str(tmp_path / "plot.png")]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "MPLBACKEND": backend})
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_the_backend_is_the_users_own_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "nonsense")
    assert ran(["--version"])[0] == 0
    assert os.environ["MPLBACKEND"] == "nonsense"


NUMBERS = (str(2**63), str(2**64), "1" + "0" * 26, "1e26", "²", "1.5", "nan", "", "-1", "0x10", "１２x")
COUNTS = {
    "spectrum": ("--probes", "--steps", "--seed", "--block", "--deflate"),
    "volume": ("--directions", "--probes", "--steps", "--seed"),
    "bridge": ("--chains", "--draws", "--warm-up", "--seed"),
    "compare": ("--probes", "--steps", "--directions", "--seed"),
    "audit": ("--repeats", "--directions", "--probes", "--steps", "--products", "--seed"),
}


ROWS = [
    (command, option, number)
    for command, options in COUNTS.items()
    for option in options
    for number in NUMBERS
    if (option, number) != ("--deflate", "-1")  # it chooses
]


@pytest.mark.parametrize("command, option, number", ROWS)
def test_a_count_that_is_none(table: Path, tmp_path: Path, command: str, option: str, number: str) -> None:
    bridge = ["bridge", *commands(table)["spectrum"][1:4], "--output", str(tmp_path / "new.h5"), "--cutoff", "0.001"]
    words = bridge if command == "bridge" else commands(table)[command]
    code, out, err = ran([*words, option, number])
    assert (code, out) == (2, "")
    name = option.removeprefix("--").replace("-", "[-_]")
    assert re.match(rf"(--)?{name} must be (a whole number|at (least|most) -?\d+), got ", sentence(err))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--against", "--given"])
@pytest.mark.parametrize("name", ["nope", "gapp", "", "\x1b[31m", "parameter-nor"])
def test_a_column_that_is_none_is_refused_at_once(
    table: Path, tmp_path: Path, option: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, others = commands(table)["compare"], [str(tmp_path / f"other{number}.pt") for number in range(4)]
    Path(others[0]).write_text("dear diary")  # one that cannot be read hides nothing of the others
    for other in others[1:]:
        shutil.copy(table / "model.pt", other)
    monkeypatch.setattr("basinscope.runs.run_compare", None)
    code, out, err = ran([words[0], *others, *words[2:], option, name])
    assert (code, out) == (2, "")
    assert "is no column of these checkpoints; there are gap, error-gap, held-out-loss, loss" in sentence(err)


def test_annotations_that_only_a_type_checker_knows(table: Path, tmp_path: Path) -> None:
    (tmp_path / "annotated.py").write_text(
        "from __future__ import annotations\n"
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from spectra.checkpoint.checkpoint import Checkpoint\n    from nowhere import Thing\n"
        "import importlib.util\n"
        f"specification = importlib.util.spec_from_file_location('tiny_here', {str(table / 'task.py')!r})\n"
        "module = importlib.util.module_from_spec(specification)\n"
        "specification.loader.exec_module(module)\n"
        "def make(checkpoint: Checkpoint, other: Thing | None = None) -> Thing:\n    return module.tiny(checkpoint)\n"
    )
    words = [*commands(table)["spectrum"][:2], "--task", f"{tmp_path / 'annotated.py'}:make", "--engine", "dense"]
    code, out, err = ran(words)
    assert code == 0, err
    assert "50 parameters" in out
