"""What people import: names that are there, documented and lazy, and any result file by one call."""

import subprocess
import sys
from pathlib import Path

import pytest

import basinscope
import comparisons
import spectra
import volume
from basinscope import load

PACKAGES = (spectra, volume, comparisons, basinscope)
KINDS = {
    "spectrum": "StoredSpectrum",
    "volume": "VolumeStudy",
    "bridge": "BridgeResult",
    "audit": "AuditReport",
    "comparison": "Comparison",
    "training": "TrainingCurves",
    "connection": "Connection",
    "slice": "CostSlice",
    "calibration": "Calibration",
}


@pytest.mark.parametrize("package", PACKAGES, ids=lambda one: one.__name__)
def test_every_name_is_there_and_documented(package: object) -> None:
    names = package.__all__  # type: ignore[attr-defined]
    assert set(names) <= set(dir(package))
    assert len(names) >= 12
    for name in names:
        assert getattr(package, name).__doc__, name


@pytest.mark.parametrize("kind", KINDS)
def test_any_result_file_is_loaded(shelf: Path, kind: str) -> None:
    assert type(load(shelf / f"{kind}.h5")).__name__ == KINDS[kind]


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.h5").write_text("dear diary")
    with pytest.raises(basinscope.UserError, match=r"notes\.h5 is not a basinscope spectrum file"):
        load(tmp_path / "notes.h5")


@pytest.mark.parametrize(
    "words", ["import basinscope", "from basinscope.cli import main; main(['spectrum', '--help'])"]
)
def test_torch_is_not_loaded_for_it(words: str) -> None:
    code = f"{words}; import sys; assert not {{'torch', 'h5py', 'scipy', 'matplotlib'}} & sys.modules.keys()"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_result_files_are_shown_and_drawn_without_torch(shelf: Path, tmp_path: Path) -> None:
    shown = [["show", str(shelf / f"{kind}.h5"), *rest] for kind in KINDS for rest in ([], ["--json"])]
    shown += [["show", str(shelf / f"{kind}.h5"), "--against", str(shelf / f"{kind}.h5")] for kind in KINDS]
    shown += [["plot", str(shelf / "volume.h5"), "--output", str(tmp_path / "volume.png")]]
    code = f"""
import sys
from basinscope.cli import main
unpaired = ("comparison", "audit", "training", "connection", "slice", "calibration")
for words in {shown}:
    refused = 2 * ("--against" in words and any(kind in words[1] for kind in unpaired))
    assert main(words) == refused, words
    assert "torch" not in sys.modules, words
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
