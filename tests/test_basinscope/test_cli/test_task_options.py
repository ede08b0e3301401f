from pathlib import Path
from types import ModuleType

import pytest

from basinscope.cli import main
from basinscope.tasks import task_name
from basinscope.tasks.options import read_options, split_options
from basinscope.tasks.resolve import resolve_task
from spectra.checkpoint import read_checkpoint


def task(
    checkpoint: object,
    *,
    path: Path,
    width: int = 3,
    share: float | None = None,
    loud: bool = False,
    word: str = "a",
) -> dict[str, object]:
    return {"path": path, "width": width, "share": share, "loud": loud, "word": word}


def test_options_are_read_by_the_annotations() -> None:
    read = read_options("mine", task, r"path=a\,b/c=d.txt,width=7,share=0.5,loud=Yes,word=x:y")
    assert read == {"path": Path("a,b/c=d.txt"), "width": 7, "share": 0.5, "loud": True, "word": "x:y"}


@pytest.mark.parametrize(
    "text, words",
    [
        ("width=7", "task mine needs path: give --task mine:path=..."),
        ("path=a,width=7.5", "option width must be a whole number, got '7.5'"),
        ("path=a,share=much", "option share must be a number, got 'much'"),
        ("path=a,loud=perhaps", "option loud must be yes or no, got 'perhaps'"),
        ("path=", "option path must be a path, got nothing"),
        ("path=a,widht=7", "no option 'widht': it takes path, width, share, loud, word; did you mean width?"),
        ("path=a,path=b", "option path is given twice"),
        ("path=a,7", "takes options as key=value, separated by commas; got '7'"),
    ],
)
def test_wrong_options(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        read_options("mine", task, text)
    assert words in str(caught.value)


def test_a_task_without_options_takes_none() -> None:
    with pytest.raises(ValueError, match="task digits has no option 'width': it takes none"):
        resolve_task("digits:width=3")


@pytest.mark.parametrize(
    "typed, split",
    [
        ("digits", ("digits", "")),
        ("digits:width=3", ("digits", "width=3")),
        ("a/b.py:mine:width=3,x=1", ("a/b.py:mine", "width=3,x=1")),
        ("package.module:mine", ("package.module:mine", "")),
        ("text=C:/book=2.txt", ("", "text=C:/book=2.txt")),
        ("task:text=a:b=c", ("task", "text=a:b=c")),
    ],
)
def test_names_and_options_are_told_apart(typed: str, split: tuple[str, str]) -> None:
    assert split_options(typed) == split


def test_options_of_a_task_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def mine(checkpoint, *, width: int = 3): return checkpoint * width\n")
    assert resolve_task(f"{file}:mine")(2) == 6
    assert resolve_task(f"{file}:mine:width=5")(2) == 10


def test_options_alone_are_for_the_checkpoints_own_task(checkpoint: Path, tiny: ModuleType) -> None:
    import torch

    torch.save({"model": tiny.network().state_dict(), "metadata": {"task": "digits"}}, checkpoint)
    read = read_checkpoint(checkpoint)
    assert task_name(None, read) == "digits"
    assert task_name("width=3", read) == "digits:width=3"
    assert task_name("other:width=3", read) == "other:width=3"


@pytest.mark.parametrize("command", ["spectrum", "volume", "compare"])
def test_help_tells_of_options(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert "causal-lm:text=book.txt" in "".join(capsys.readouterr().out.split()).replace("│", "")
