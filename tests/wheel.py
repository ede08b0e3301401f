"""The wheel works alone: built, installed into an empty folder, and run from another, without the checkout.

Run as ``python tests/wheel.py``, with the requirements of basinscope and setuptools installed. It is no test of pytest,
whose process imports the checkout.
"""

import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"basinscope", "comparisons", "spectra", "volume"}
MADE = {"data", "spectrum.h5", "spectrum.png", "volume.h5", "volume.png"}
SHIPPED = "basinscope/shipped/"
LARGEST = 2_000_000
# Without the site's .pth files no editable install is found; the wheel stands before what it requires.
RUN = """
import sys
sys.path[:0] = [{wheel!r}]
sys.path.append({site!r})
import basinscope, comparisons, spectra, volume
for package in (basinscope, comparisons, spectra, volume):
    assert package.__file__.startswith({wheel!r}), package.__file__
from basinscope.cli import main
from basinscope.tasks import data_folder
assert str(data_folder()).startswith({wheel!r}), data_folder()
sys.exit(main({words!r}))
"""


def check(folder: Path) -> None:
    """Builds, installs and runs, all in a folder."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    shutil.rmtree(ROOT / "build", ignore_errors=True)  # files that are gone would be in the wheel still
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder / "dist", ROOT], check=True)
    (wheel,) = (folder / "dist").glob("*.whl")
    check_names(ZipFile(wheel).namelist())
    subprocess.run([*pip, "install", "--no-deps", "--target", folder / "site", wheel], check=True)
    (folder / "empty").mkdir()
    for words in (["--version"], ["demo"]):
        code = RUN.format(wheel=str(folder / "site"), site=sysconfig.get_path("purelib"), words=words)
        subprocess.run([sys.executable, "-I", "-S", "-c", code], cwd=folder / "empty", check=True)
    made = {path.name for path in (folder / "empty" / "basinscope-demo").iterdir()}
    assert made == MADE, made
    print(f"{wheel.name}, {wheel.stat().st_size:,} bytes, works alone")


def check_names(names: list[str]) -> None:
    """The wheel has the files of the four packages, data, and nothing else."""
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == PACKAGES, tops
    files = [path for top in PACKAGES for path in (ROOT / top).rglob("*") if path.is_file()]
    wanted = {str(path.relative_to(ROOT)) for path in files if path.suffix != ".pyc"}
    data = {name for name in names if name.startswith(SHIPPED)}
    found = {name for name in names if ".dist-info/" not in name} - data
    assert found == wanted, found ^ wanted
    assert data
    assert sum((ROOT / "data" / name.removeprefix(SHIPPED)).stat().st_size for name in data) < LARGEST


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="basinscope-wheel-") as place:
        check(Path(place).resolve())
