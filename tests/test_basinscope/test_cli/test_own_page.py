"""The page on models of one's own, run as it stands."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from basinscope.cli import main

ROOT = Path(__file__).resolve().parents[3]
BLOCK = re.compile(r"^```(\w+)(?: title=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_it_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").symlink_to(ROOT / "data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    names: dict[str, object] = {}
    shown = 0
    for language, title, text in BLOCK.findall((ROOT / "docs" / "own-model.md").read_text()):
        if title:
            Path(title).write_text(text)
        elif language == "python":
            exec(compile(text, "own-model.md", "exec"), names)
        for command in [line[2:] for line in text.splitlines() if line.startswith("$ ")]:
            program, *words = shlex.split(command)
            if program == "python":
                exec(compile(Path(words[0]).read_text(), words[0], "exec"), {})
                continue
            capsys.readouterr()
            assert main(words) == 0, command
            said = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
            # Seconds are those of another machine.
            for line in [
                one for one in text.splitlines() if words[0] == "task" and not one.startswith(("$", "gradient"))
            ]:
                assert " ".join(line.split()) in said, line
                shown += 1
    assert shown >= 7
    assert names["found"].spectrum.density.size == 4810  # type: ignore[attr-defined]
    for name in ("net", "my_task"):
        sys.modules.pop(name, None)
