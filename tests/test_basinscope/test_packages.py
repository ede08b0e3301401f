"""A user's own ``volume.py`` and basinscope's package volume: each is found where it is asked for, with a word."""

import subprocess
import sys
from pathlib import Path

import pytest

import basinscope

HOME = Path(basinscope.__file__).parents[1]
OWN = "print('their file ran')\ndef cube(x):\n    return x ** 3\n"
# Imports of all three that need no torch.
OURS = "import spectra.words, volume.priors, comparisons.words, basinscope.cli; assert volume.priors.prior_forms()"


def run(folder: Path, code: str, *words: str) -> tuple[str, str]:
    """What Python prints and warns of in a folder, its own files before all others, as with ``python -c``."""
    start = f"import sys; sys.path.insert(1, {str(HOME)!r});"
    command = [sys.executable, *(words or ("-c", start + code))]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env={"PYTHONPATH": ""})
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.mark.parametrize("name", ["volume", "spectra", "comparisons"])
def test_a_file_of_the_users_breaks_nothing_and_is_not_run(tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name}.py").write_text(OWN)
    printed, warned = run(tmp_path, f"import basinscope; {OURS}; print(1)")
    assert printed == "1\n"
    assert warned.count("UserWarning") == 1
    assert f"basinscope has a package named {name} too" in warned
    assert str(tmp_path / f"{name}.py") in warned


def test_both_are_within_reach_after_basinscope(tmp_path: Path) -> None:
    (tmp_path / "volume.py").write_text(OWN)
    code = f"import basinscope, volume; print(volume.cube(2)); from volume import cube; {OURS}; print(cube(3))"
    assert run(tmp_path, code)[0] == "their file ran\n8\n27\n"


def test_theirs_that_was_imported_first_stays_theirs(tmp_path: Path) -> None:
    (tmp_path / "volume.py").write_text(OWN)
    code = (
        f"import volume as own; import basinscope; {OURS}; import volume; print(own.cube(2), volume.cube is own.cube)"
    )
    printed, warned = run(tmp_path, code)
    assert printed == "their file ran\n8 True\n"
    assert warned.count("UserWarning") == 1


@pytest.mark.parametrize("first", ["", "import volume.reading, volume.priors;"])
def test_a_package_of_the_users_keeps_its_modules(tmp_path: Path, first: str) -> None:
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume" / "__init__.py").write_text("from .reading import seven\n")
    (tmp_path / "volume" / "reading.py").write_text("seven = 7\n")
    (tmp_path / "volume" / "priors.py").write_text("")
    code = f"{first} import basinscope; {OURS}; from volume.reading import seven; import volume; print(volume.seven)"
    assert run(tmp_path, code)[0] == "7\n"


def test_a_name_that_neither_has_is_none(tmp_path: Path) -> None:
    (tmp_path / "volume.py").write_text(OWN)
    assert run(tmp_path, "import basinscope, volume; print(hasattr(volume, 'cubes'))")[0] == "their file ran\nFalse\n"


def test_a_script_of_such_a_name_and_a_folder_of_data_are_no_matter(tmp_path: Path) -> None:
    (tmp_path / "spectra").mkdir()
    script = f"import sys; sys.path.insert(1, {str(HOME)!r})\nimport basinscope\n{OURS}\nprint(1)\n"
    (tmp_path / "volume.py").write_text(script)
    assert run(tmp_path, "", "volume.py") == ("1\n", "")


def test_beside_a_task_file(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "volume.py").write_text(OWN)
    (tmp_path / "own" / "comparisons.py").write_text("from volume import cube\ndef task(checkpoint): return cube(2)\n")
    code = "from basinscope.tasks.resolve import resolve_task; print(resolve_task('own/comparisons.py:task')(None));"
    printed, warned = run(tmp_path, code + OURS)
    assert printed == "their file ran\n8\n"
    assert warned.count("UserWarning") == 1


@pytest.mark.slow
def test_what_few_need_is_imported_where_it_is_used(tmp_path: Path) -> None:
    code = """
import importlib, pkgutil
import basinscope, comparisons, spectra, volume
for root in (basinscope, comparisons, spectra, volume):
    for found in pkgutil.walk_packages(root.__path__, root.__name__ + "."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
from basinscope.tasks import data_folder
basinscope.spectrum(data_folder() / "digits_mlp" / "clean_seed0_step00640.pt", probes=1, steps=2, deflate=0)
print([name for name in ("arviz_stats", "jax", "pandas", "pyhessian", "pymbar", "xarray") if name in sys.modules])
"""
    assert run(tmp_path, code)[0] == "[]\n"
