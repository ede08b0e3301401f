"""The README's code and commands, run as they stand."""

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TESTS_OF_MODELS = ROOT / "tests" / "test_spectra" / "test_landscape"
# Tables of wrong calls, damaged files, odd names, full disks and closed streams.
TRIED = (
    "test_basinscope/test_trust",
    "test_basinscope/test_cli/test_degenerate.py",
    "test_basinscope/test_tasks/test_images/test_bad_image_input.py",
    "test_basinscope/test_tasks/test_images/test_foreign_classifiers.py",
    "test_basinscope/test_tasks/test_language/test_bad_language_input.py",
    "test_basinscope/test_tasks/test_language/test_foreign_folders.py",
    "test_spectra/test_checkpoint/test_gguf_header.py",
    "test_spectra/test_checkpoint/test_inert_pickle.py",
    "test_spectra/test_checkpoint/test_odd_checkpoints.py",
    "test_spectra/test_checkpoint/test_torch_file.py",
    "test_spectra/test_files",
)
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


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_paths_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / target).exists(), target
    for path in re.findall(r"`((?:spectra|volume|comparisons|basinscope|tests|docs|benchmarks|data)/[\w/.-]+)`", text):
        assert (ROOT / path).exists(), path


def test_the_two_commands_come_first() -> None:
    first_screen = "\n".join((ROOT / "README.md").read_text().splitlines()[:20])
    assert "make demo" in first_screen
    assert "make test" in first_screen


def table(name: str, *lists: str) -> int:
    """Rows of a table of tests."""
    specification = importlib.util.spec_from_file_location(name, TESTS_OF_MODELS / f"{name}.py")
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


def test_as_many_bad_inputs_are_tried_as_it_says() -> None:
    words = [sys.executable, "-m", "pytest", "--collect-only", "-q", *(str(ROOT / "tests" / one) for one in TRIED)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    found = re.search(r"(\d+) tests collected", done.stdout)
    assert found is not None, done.stdout[-1000:]
    assert f"{int(found[1]):,} wrong calls, files, names, streams and machines" in (ROOT / "README.md").read_text()
