import errno
import fcntl
import multiprocessing
import os
import resource
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray

from spectra.density import SpectralDensity
from spectra.files import TRAILER, Provenance
from spectra.files import atomic as atomic_file
from spectra.lanczos import Deflation, Tridiagonal
from spectra.spectrum import Spectrum, SpectrumSettings
from spectra.store import FORMAT, read_spectrum, write_spectrum

PROVENANCE = Provenance(
    checkpoint="runs/last.pt",
    checkpoint_sha256="ab" * 32,
    task="digits",
    cost="cross-entropy",
    cost_unit="nat",
    dtype="float32",
    device="cpu",
    command="basinscope spectrum runs/last.pt",
    created="2025-01-31T12:00:00+00:00",
    versions={"torch": "2.13.0", "numpy": "2.4.6"},
)


def density(probes: int = 4, steps: int = 5, seed: int = 0, size: int = 30) -> SpectralDensity:
    generator = np.random.default_rng(seed)
    diagonal, off_diagonal = generator.normal(size=(2, 16, steps))
    runs = Tridiagonal(diagonal[:probes], np.abs(off_diagonal[:probes]), np.full(probes, steps, dtype=np.int64))
    deflation = Deflation(np.array([-1.0, 0.5, 9.0]), np.array([1.0, 0.25, 0.75]), 2, np.array([4.0]), np.array([2.0]))
    return SpectralDensity(size, runs, deflation, "hessian")


def spectrum(probes: int = 4, **changes: Any) -> Spectrum:
    whole = Spectrum(
        density=density(probes),
        settings=SpectrumSettings(probes=8, steps=5, seed=3, per_layer=True, layers="*,!bias"),
        route="slq",
        strategy="linearize",
        notes=("the block was halved: 3 GB would not fit", "größer als gedacht"),
        cost=0.125,
        gradient_norm=1e-3,
        samples=1024.0,
        parameters=(("hidden.weight", (6, 4)), ("hidden.bias", (6,)), ("scale", ())),
        data_sha256="cd" * 32,
        products=320,
        eigenvalues=np.array([9.0, -1.0]),
        residuals=np.array([1e-6, 2e-5]),
        layers={"hidden": density(2, seed=1, size=24), "": density(2, seed=2), "odd/name": density(1)},
    )
    return replace(whole, **changes)


def assert_same_density(found: SpectralDensity, expected: SpectralDensity) -> None:
    assert (found.size, found.operator) == (expected.size, expected.operator)
    assert found.deflation.captured == expected.deflation.captured
    for side in ("runs", "deflation"):
        for entry in fields(getattr(expected, side)):
            one, other = (getattr(getattr(d, side), entry.name) for d in (found, expected))
            np.testing.assert_array_equal(one, other)


def test_the_store_knows_every_field_of_a_density() -> None:
    # A field added to one of these needs a place in the store before it can be trusted to come back.
    names = {
        kind.__name__: {entry.name for entry in fields(kind)} for kind in (SpectralDensity, Deflation, Tridiagonal)
    }
    assert names == {
        "SpectralDensity": {"size", "runs", "deflation", "operator", "epsilon", "coarseness"},
        "Deflation": {"nodes", "weights", "captured", "coarse_nodes", "coarse_weights"},
        "Tridiagonal": {"diagonal", "off_diagonal", "lengths"},
    }


def test_a_spectrum_comes_back_as_it_was(tmp_path: Path) -> None:
    expected = spectrum()
    write_spectrum(tmp_path / "s.h5", expected, PROVENANCE)
    stored = read_spectrum(tmp_path / "s.h5")
    assert stored.provenance == PROVENANCE
    found = stored.spectrum
    assert_same_density(found.density, expected.density)
    assert list(found.layers) == ["hidden", "", "odd/name"]
    for name, layer in expected.layers.items():
        assert_same_density(found.layers[name], layer)
    np.testing.assert_array_equal(found.eigenvalues, expected.eigenvalues)
    np.testing.assert_array_equal(found.residuals, expected.residuals)
    for entry in fields(Spectrum):
        if entry.name not in ("density", "layers", "eigenvalues", "residuals"):
            value = getattr(found, entry.name)
            assert value == getattr(expected, entry.name)
            assert type(value) is type(getattr(expected, entry.name))


def test_an_exact_spectrum_without_notes_comes_back(tmp_path: Path) -> None:
    exact = SpectralDensity.from_eigenvalues(np.array([1.0, 3.0]), size=5)
    bare = spectrum(density=exact, notes=(), layers={}, eigenvalues=np.empty(0), residuals=np.empty(0))
    write_spectrum(tmp_path / "s.h5", bare, PROVENANCE)
    found = read_spectrum(tmp_path / "s.h5").spectrum
    assert_same_density(found.density, exact)
    assert found.density.exact
    assert found.notes == ()
    assert found.density.trace().value == 4.0


def test_xarray_sees_named_dimensions(tmp_path: Path) -> None:
    write_spectrum(tmp_path / "s.h5", spectrum(), PROVENANCE)
    with xarray.open_dataset(tmp_path / "s.h5", engine="h5netcdf") as data:
        assert data.diagonal.dims == data.weights.dims == ("probe", "step")
        assert data.lengths.dims == ("probe",)
        assert data.eigenvalues.dims == data.residuals.dims == ("eigenpair",)
        assert data.deflation_nodes.dims == ("deflated_node",)
        assert data.nodes.attrs["units"] == "nat / parameter²"
        assert data.nodes.attrs["long_name"]
        np.testing.assert_allclose(data.weights.sum("step"), 1.0)
        assert data.attrs["seed"] == 3
        assert list(data.attrs["parameter_names"]) == ["hidden.weight", "hidden.bias", "scale"]
        assert data.attrs["version_torch"] == "2.13.0"
    with xarray.open_dataset(tmp_path / "s.h5", engine="h5netcdf", group="layers/hidden") as layer:
        assert dict(layer.sizes) == {"probe": 2, "step": 5, "deflated_node": 3, "coarse_node": 1}
        assert layer.attrs["size"] == 24


@pytest.mark.parametrize("operator, unit", [("hessian", "nat / parameter²"), ("empirical-fisher", "nat² / parameter²")])
def test_a_file_has_the_unit_that_tables_show(tmp_path: Path, operator: str, unit: str) -> None:
    """Operators made of squared gradients have the cost's unit squared, in every array of eigenvalues."""
    held = spectrum(settings=SpectrumSettings(operator=operator))
    write_spectrum(tmp_path / "s.h5", held, PROVENANCE)
    with h5py.File(tmp_path / "s.h5") as file:
        names = ("nodes", "diagonal", "off_diagonal", "deflation_nodes", "eigenvalues", "residuals")
        assert {name: file[name].attrs["units"] for name in names} == dict.fromkeys(names, unit)
        assert file["layers/hidden/nodes"].attrs["units"] == unit


def test_parameter_names_of_a_large_model_fit(tmp_path: Path) -> None:
    parameters = tuple((f"transformer.blocks.{i}.attention.weight", (1024, 1024)) for i in range(9000))
    write_spectrum(tmp_path / "s.h5", spectrum(parameters=parameters), PROVENANCE)
    assert read_spectrum(tmp_path / "s.h5").spectrum.parameters == parameters


def test_appending_probes_leaves_the_earlier_ones_bit_identical(tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    write_spectrum(path, spectrum(4), PROVENANCE)
    with h5py.File(path) as file:
        before = {name: data[()] for name, data in file.items() if isinstance(data, h5py.Dataset)}
    stored = read_spectrum(path)
    runs = density(16).runs
    further = Tridiagonal(runs.diagonal[4:7], runs.off_diagonal[4:7], runs.lengths[4:7])
    grown = replace(stored.spectrum, density=stored.spectrum.density.with_runs(further))
    write_spectrum(path, grown, stored.provenance)
    with h5py.File(path) as file:
        assert file["diagonal"].shape == (7, 5)
        for name, data in before.items():
            assert file[name][: len(data)].tobytes() == data.tobytes(), name
    assert_same_density(read_spectrum(path).spectrum.density, density(7))


def test_the_same_spectrum_makes_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.h5", "b.h5"):
        write_spectrum(tmp_path / name, spectrum(), PROVENANCE)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    write_spectrum(tmp_path / "s.h5", spectrum(), PROVENANCE)
    whole = (tmp_path / "s.h5").read_bytes()
    whole = whole[: whole.rindex(TRAILER)]
    cut = tmp_path / "cut.h5"
    for size in [0, 3, 8, 40, 100, *np.linspace(200, len(whole) - 1, 20).astype(int)]:
        cut.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"cut\.h5 is (not a|a truncated)"):
            read_spectrum(cut)


def test_flipped_bytes_are_noticed(tmp_path: Path) -> None:
    write_spectrum(tmp_path / "s.h5", spectrum(), PROVENANCE)
    whole = bytearray((tmp_path / "s.h5").read_bytes())
    damaged = tmp_path / "damaged.h5"
    for position in range(8, whole.rindex(TRAILER), len(whole) // 150):
        content = whole.copy()
        content[position] ^= 0xFF
        damaged.write_bytes(content)
        with pytest.raises(ValueError, match=r"damaged\.h5 is damaged"):
            read_spectrum(damaged)


def test_a_file_without_a_digest_is_read(tmp_path: Path) -> None:
    write_spectrum(tmp_path / "s.h5", spectrum(), PROVENANCE)
    whole = (tmp_path / "s.h5").read_bytes()
    (tmp_path / "s.h5").write_bytes(whole[: whole.rindex(TRAILER)])
    assert_same_density(read_spectrum(tmp_path / "s.h5").spectrum.density, spectrum().density)


def test_foreign_files_are_named(tmp_path: Path) -> None:
    text = tmp_path / "notes.h5"
    text.write_text("not HDF5 at all")
    with pytest.raises(ValueError, match=r"notes\.h5 is not a .* starts with b'not HDF5'"):
        read_spectrum(text)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["temperature"] = [1.0]
    with pytest.raises(ValueError, match=r"other\.h5 .* holding temperature"):
        read_spectrum(tmp_path / "other.h5")
    with h5py.File(tmp_path / "volume.h5", "w") as file:
        file.attrs["format"] = "basinscope volume"
    with pytest.raises(ValueError, match="found a basinscope volume"):
        read_spectrum(tmp_path / "volume.h5")
    with pytest.raises(ValueError, match="is a folder"):
        read_spectrum(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_spectrum(tmp_path / "none.h5")


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    write_spectrum(tmp_path / "s.h5", spectrum(), PROVENANCE)
    with h5py.File(tmp_path / "s.h5", "r+") as file:
        file.attrs["format_version"] = 7
    with pytest.raises(ValueError, match="format version 7, newer than version 1"):
        read_spectrum(tmp_path / "s.h5")


@pytest.mark.parametrize("missing", ["diagonal", "layers", "eigenvalues"])
def test_a_file_without_one_of_its_parts_is_damaged(tmp_path: Path, missing: str) -> None:
    write_spectrum(tmp_path / "s.h5", spectrum(), PROVENANCE)
    with h5py.File(tmp_path / "s.h5", "r+") as file:
        del file[missing]
    with pytest.raises(ValueError, match=rf"s\.h5 is damaged and cannot be read as a {FORMAT}: .*{missing}"):
        read_spectrum(tmp_path / "s.h5")


def test_a_full_disk_leaves_the_old_file_intact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.h5"
    write_spectrum(path, spectrum(2), PROVENANCE)
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic_file.os, "fsync", full)
    with pytest.raises(OSError, match=r"s\.h5: No space left on device; .* is intact") as caught:
        write_spectrum(path, spectrum(4), PROVENANCE)
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def write_under_a_limit(path: Path, limit: int, sentences: Any) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        write_spectrum(path, spectrum(4), PROVENANCE)
    except OSError as error:
        sentences.put(str(error))


def test_a_file_that_may_not_grow_leaves_the_old_one_intact(tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    write_spectrum(path, spectrum(2), PROVENANCE)
    before = path.read_bytes()
    context = multiprocessing.get_context("spawn")
    sentences = context.Queue()
    child = context.Process(target=write_under_a_limit, args=(path, 4096, sentences))
    child.start()
    assert "File too large; the file that was there is intact" in sentences.get(timeout=60)
    child.join()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_and_a_device_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file or directory; no file was left behind"):
        write_spectrum(tmp_path / "none" / "s.h5", spectrum(), PROVENANCE)
    with pytest.raises(ValueError, match="/dev/null is not a regular file"):
        write_spectrum("/dev/null", spectrum(), PROVENANCE)


def test_leftovers_of_killed_runs_are_removed_and_living_ones_kept(tmp_path: Path) -> None:
    dead, other = tmp_path / ".s.h5.0123.tmp", tmp_path / ".else.h5.0123.tmp"
    living = tmp_path / ".s.h5.4567.tmp"
    for leftover in (dead, living, other):
        leftover.write_bytes(b"half")
    with open(living, "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        write_spectrum(tmp_path / "s.h5", spectrum(), PROVENANCE)
    assert not dead.exists()
    assert living.exists()
    assert other.exists()


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    link = tmp_path / "s.h5"
    link.symlink_to(tmp_path / "scratch" / "real.h5")
    write_spectrum(link, spectrum(), PROVENANCE)
    assert link.is_symlink()
    assert read_spectrum(tmp_path / "scratch" / "real.h5").spectrum.products == 320
