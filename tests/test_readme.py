"""The README's code and commands, run as they stand."""

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```(\w+)(?: title=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like the repository to the README's commands."""
    place = tmp_path_factory.mktemp("readme")
    (place / "data").symlink_to(ROOT / "data")
    return place


def test_the_readme_runs_from_top_to_bottom(folder: Path) -> None:
    ran = 0
    code = []
    for language, title, text in BLOCK.findall((ROOT / "README.md").read_text()):
        if title:
            (folder / title).write_text(text)
        elif language == "python":
            code.append(text)
        elif language == "console":
            for line in text.splitlines():
                if line.startswith("$ "):
                    run(shlex.split(line[2:]), folder)
                    ran += 1
    (folder / "blocks.py").write_text("\n".join(code))
    run(["python", "blocks.py"], folder)
    assert ran >= 6
    assert len(code) >= 2


def run(words: list[str], folder: Path) -> None:
    programs = {"python": [sys.executable], "basinscope": [sys.executable, "-m", "basinscope"]}
    command = programs[words[0]] + words[1:]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}\n{done.stderr}"


def test_links_lead_somewhere() -> None:
    text = (ROOT / "README.md").read_text()
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / target).exists(), target


def test_the_two_commands_come_first() -> None:
    first_screen = "\n".join((ROOT / "README.md").read_text().splitlines()[:20])
    assert "make demo" in first_screen
    assert "make test" in first_screen


def table(name: str, *lists: str) -> int:
    """Rows of a table of tests."""
    specification = importlib.util.spec_from_file_location(name, ROOT / "tests" / "test_spectra" / f"{name}.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module  # dataclasses look their module up
    specification.loader.exec_module(module)
    return sum(len(getattr(module, one)) for one in lists)


def test_the_rows_of_models_and_losses_are_as_many_as_it_says() -> None:
    held = table("test_users_models", "MODELS") + table("test_users_losses", "ROWS_OF_LOSSES")
    held += table("test_users_transformers", "MODELS")
    refused = table("test_users_models", "REFUSED_MODELS") + table("test_users_losses", "REFUSED_LOSSES")
    text = " ".join((ROOT / "README.md").read_text().split())
    assert f"{held} models, layouts and losses are held against the training loss" in text
    assert f"and {refused} are refused" in text
