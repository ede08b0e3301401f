"""The demo: it makes what it says it makes, in a folder of its own, and replaces nothing unasked."""

import tomllib
from pathlib import Path

import pytest

from basinscope import load
from basinscope.cli import demo as module
from basinscope.cli import main
from basinscope.tasks import data_folder

ROOT = Path(__file__).resolve().parents[3]
SHORT = (("A short one.", f"spectrum data/{module.CLEAN} --probes 2 --steps 4 --deflate 0 --output spectrum.h5"),)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "STEPS", SHORT)
    return tmp_path


def test_results_and_data_lie_in_the_folder(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo"]) == 0
    folder = desk / "basinscope-demo"
    assert Path.cwd() == desk
    assert load(folder / "spectrum.h5").spectrum.density.size == 4810
    for name in module.DATA:
        assert (folder / "data" / name).read_bytes() == (data_folder() / name).read_bytes()
    assert SHORT[0][1] in capsys.readouterr().out


def test_nothing_is_replaced_unasked(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (desk / "mine").mkdir()
    (desk / "mine" / "spectrum.h5").write_text("my thesis")
    assert main(["demo", "--output", "mine"]) == 2
    assert "the folder mine is not empty" in capsys.readouterr().err
    assert main(["demo", "--output", "mine", "--overwrite"]) == 2  # no file of basinscope's, so it stays
    assert (desk / "mine" / "spectrum.h5").read_text() == "my thesis"
    (desk / "mine" / "spectrum.h5").unlink()
    assert [main(["demo", "--output", "mine", "--overwrite"]) for _ in range(2)] == [0, 0]
    assert main(["demo", "--output", "mine/spectrum.h5"]) == 2


def test_the_wheel_has_the_data_of_the_demo() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert sorted(settings["basinscope.shipped"]) == sorted(module.DATA)
    assert sum((ROOT / "data" / name).stat().st_size for name in module.DATA) < 2e6


@pytest.mark.slow
def test_the_whole_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--output", "out"]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "data",
        "spectrum.h5",
        "spectrum.png",
        "volume.h5",
        "volume.png",
    }
