"""What README and the page on trust say of the code, and of the tests themselves."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from comparisons.measures import REGISTRY

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TRUST = " ".join((ROOT / "docs" / "concepts" / "trust.md").read_text(encoding="utf-8").split())
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


def test_the_two_commands_come_first() -> None:
    first_screen = "\n".join(README.splitlines()[:20])
    assert "make demo" in first_screen
    assert "make test" in first_screen


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 200


def test_it_counts_the_measures() -> None:
    assert f"puts {len(REGISTRY)} flatness measures side by side" in " ".join(README.split())


def table(name: str, *lists: str) -> int:
    """Rows of a table of tests."""
    specification = importlib.util.spec_from_file_location(name, TESTS_OF_MODELS / f"{name}.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module  # dataclasses look their module up
    specification.loader.exec_module(module)
    return sum(len(getattr(module, one)) for one in lists)


def test_there_are_as_many_rows_of_models_and_losses_as_is_said() -> None:
    stated = re.search(r"At least (\d+) models, layouts and losses are compared .* at least (\d+) are refused", TRUST)
    assert stated is not None
    held = table("test_users_models", "MODELS") + table("test_users_losses", "ROWS_OF_LOSSES")
    assert held + table("test_users_transformers", "MODELS") >= int(stated[1])
    refused = table("test_users_models", "REFUSED_MODELS") + table("test_users_losses", "REFUSED_LOSSES")
    assert refused >= int(stated[2])


@pytest.mark.slow
def test_as_many_bad_inputs_are_tried_as_is_said() -> None:
    stated = re.search(r"More than ([\d,]+) wrong calls, files, names, streams and machines", TRUST)
    assert stated is not None
    words = [sys.executable, "-m", "pytest", "--collect-only", "-q", *(str(ROOT / "tests" / one) for one in TRIED)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    found = re.search(r"(\d+) tests collected", done.stdout)
    assert found is not None, done.stdout[-1000:]
    assert int(found[1]) > int(stated[1].replace(",", ""))
