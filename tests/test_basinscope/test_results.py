"""Results in Python: what they say of themselves, and that frames, arrays, figures and files hold what they hold."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray
from matplotlib.figure import Figure

from basinscope import UserError, load
from spectra.costs import mean_squared_error
from spectra.density import SpectralDensity
from spectra.estimate import Estimate
from spectra.lanczos import top_eigenpairs
from spectra.landscape import Landscape
from spectra.operators import Hessian, MatrixOperator
from spectra.plots import spectrum_figure
from volume.audit import audit_figure
from volume.figures import study_figure

KINDS = ("spectrum", "volume", "bridge", "audit", "comparison", "training", "connection", "slice")


@pytest.fixture(scope="module")
def results(shelf: Path) -> dict[str, Any]:
    return {kind: load(shelf / f"{kind}.h5") for kind in KINDS}


@pytest.mark.parametrize(
    "kind, words",
    [
        ("spectrum", ["Hessian spectrum of model.pt, 50 parameters", "trace ", "nat / parameter²"]),
        (
            "volume",
            ["basin volume of model.pt, 50 parameters, cutoff 0.01 nat", "ellipsoid-slice log volume ", " nat; 1 c"],
        ),
        ("bridge", ["bridge of model.pt, sublevel from the prior, 50 parameters", "not complete 2 rungs so far"]),
        ("audit", ["estimators on known cases, 2 repeats", "biased 0"]),
        ("comparison", ["1 measure of 1 checkpoint", "values 1, 0 of them with a caution"]),
        ("connection", ["connection of model.pt to start.pt, 50 parameters", "straight barrier ", "aligned barrier "]),
        ("slice", ["slice around model.pt, 50 parameters", "cost 0.", "quadratic to within 10 % up to "]),
    ],
)
def test_a_result_says_in_a_few_words_what_it_is(results: dict[str, Any], kind: str, words: list[str]) -> None:
    text, page = repr(results[kind]), results[kind]._repr_html_()
    assert text.startswith(type(results[kind]).__name__)
    assert len(text.splitlines()) == 2
    assert len(text) < 400
    for word in words:
        assert word in text
    assert page.startswith("<table>")


def test_parts_of_results_say_what_they_are(results: dict[str, Any]) -> None:
    exact = SpectralDensity.from_eigenvalues(np.array([1.0, 3.0]), size=4)
    assert repr(exact) == "SpectralDensity: Hessian of 4 parameters\n  trace 4; support 0 to 3; from all eigenvalues"
    sampled = Estimate(2.0, 0.5, samples=np.array([1.5, 2.5]), cautions=("few",))
    assert repr(sampled).splitlines()[0] == "Estimate: 2.0 ± 6.4"
    assert repr(sampled).endswith("samples 2; 1 caution")
    volume = results["volume"].results["ellipsoid-slice"].sampled
    assert "2 directions, 50 parameters" in repr(volume)
    assert repr(results["spectrum"].spectrum).startswith("Spectrum: Hessian of 50 parameters")


def test_notebooks_show_the_rows_of_a_comparison_and_of_a_training_run(results: dict[str, Any]) -> None:
    compared = results["comparison"]
    row = "<td>norm of the parameters</td><td>parameter</td><td>↓</td><td>"
    cell = compared._repr_html_().partition(row)[2].partition("</td>")[0]
    assert float(cell) == pytest.approx(compared.done[0].value("parameter-norm"), rel=1e-4)
    assert "<th>unit</th><th>flatter</th><th>model</th>" in compared._repr_html_()
    curves = results["training"]
    page = curves._repr_html_()
    assert f"<tr><td>0</td><td>{curves.readings[0].cost:.4g}</td><td>{curves.eigenvalues[0, 0]:.4g}</td>" in page
    assert "<th>log mass (nat)</th>" not in page


def test_nothing_of_a_name_is_html(results: dict[str, Any]) -> None:
    stored = results["spectrum"]
    named = replace(stored, provenance=replace(stored.provenance, checkpoint="a/<b>&.pt"))
    assert "&lt;b&gt;&amp;.pt" in named._repr_html_()
    assert "<b>" not in named._repr_html_()


def test_frames_hold_the_numbers(results: dict[str, Any]) -> None:
    stored = results["spectrum"]
    nodes = stored.to_dataframe()
    assert nodes.dimensions.sum() == pytest.approx(50.0, rel=1e-12)
    assert (nodes.node * nodes.dimensions).sum() == pytest.approx(stored.spectrum.density.trace().value, rel=1e-9)
    volumes = results["volume"].to_dataframe().set_index("method")
    assert volumes.log_volume["ellipsoid-slice"] == results["volume"].results["ellipsoid-slice"].log_volume
    directions = results["volume"].results["ellipsoid-slice"].sampled.to_dataframe()
    assert list(directions.log_terms) == list(results["volume"].results["ellipsoid-slice"].sampled.log_terms)
    assert list(results["bridge"].to_dataframe().rung) == list(range(results["bridge"].rung_count))
    audited = results["audit"].to_dataframe()
    assert list(audited.bias.dropna()) == [row.bias.value for row in results["audit"].table.applied]
    wide = results["comparison"].to_dataframe().pivot(index="checkpoint", columns="measure", values="value")
    assert wide.to_numpy().tolist() == [[results["comparison"].done[0].value("parameter-norm")]]
    assert Estimate(2.0).to_dataframe().value.tolist() == [2.0]


def test_probes_and_deflated_nodes_make_all_dimensions(tmp_path: Path, spectrum: Callable[..., int]) -> None:
    assert spectrum("--probes", "3", "--per-layer", "--output", tmp_path / "sampled.h5") == 0
    frame = load(tmp_path / "sampled.h5").to_dataframe()
    whole = frame[frame.layer.isna()]
    assert set(whole[whole.part == "probe"].probe) == {0, 1, 2}
    assert whole.dimensions.sum() == pytest.approx(50.0, rel=1e-9)
    assert frame[frame.layer.notna()].dimensions.sum() == pytest.approx(50.0, rel=1e-9)


@pytest.mark.parametrize("name", ["pandas", "xarray", "h5netcdf"])
def test_a_library_that_is_missing_is_named(
    results: dict[str, Any], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(__import__("sys").modules, name, None)
    make = results["spectrum"].to_dataframe if name == "pandas" else results["spectrum"].to_xarray
    with pytest.raises(UserError, match=f"pip install {name}"):
        make()


def assert_same(first: Any, second: Any) -> None:
    trees = [one.to_xarray() for one in (first, second)]
    for tree in trees:
        tree.attrs.pop("created", None)  # where nothing else is known, when the file was written
    xarray.testing.assert_identical(*trees)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_is_read_back(results: dict[str, Any], tmp_path: Path, kind: str) -> None:
    results[kind].save(tmp_path / "copy.h5")
    assert_same(load(tmp_path / "copy.h5"), results[kind])


def test_arrays_have_names_and_units(results: dict[str, Any]) -> None:
    tree = results["spectrum"].to_xarray()
    assert tree["nodes"].dims == ("probe", "step")
    assert tree["nodes"].attrs["units"] == "nat / parameter²"
    assert np.array_equal(tree["eigenvalues"], results["spectrum"].spectrum.eigenvalues)
    terms = results["volume"].to_xarray()["ellipsoid-slice/log_terms"]
    assert (terms.dims, terms.attrs["units"]) == (("direction",), "nat")
    assert results["spectrum"].spectrum.density.to_xarray()["nodes"].attrs["units"] == "cost / parameter²"
    with pytest.raises(UserError, match="no file of its own"):
        results["spectrum"].spectrum.density.save("x.h5")


def test_a_spectrum_without_a_file_is_saved_too(results: dict[str, Any], tmp_path: Path) -> None:
    found = results["spectrum"].spectrum
    found.save(tmp_path / "alone.h5")
    assert_same(load(tmp_path / "alone.h5").spectrum, found)


@pytest.mark.parametrize(
    "kind, draw",
    [
        ("spectrum", spectrum_figure),
        ("volume", study_figure),
        ("audit", lambda report: audit_figure(report.table)),
    ],
)
def test_own_axes_show_what_the_command_draws(
    results: dict[str, Any], kind: str, draw: Callable[[Any], Figure]
) -> None:
    theirs, ours = Figure().add_subplot(), draw(results[kind]).axes[0]
    assert results[kind].plot(theirs) is theirs
    assert [line.get_xydata().tolist() for line in theirs.lines] == [line.get_xydata().tolist() for line in ours.lines]
    assert theirs.get_xlabel() == ours.get_xlabel()
    assert len(theirs.patches) == len(ours.patches)


def test_parts_are_drawn_and_what_cannot_be_is_refused(results: dict[str, Any]) -> None:
    axes = Figure().add_subplot()
    Estimate(2.0, 0.5, samples=np.array([1.5, 2.5])).plot(axes)
    assert axes.lines[0].get_xdata().tolist() == [1.5, 2.5]
    assert results["spectrum"].spectrum.density.plot(Figure().add_subplot()).get_ylabel().startswith("eigenvalues per")
    assert results["volume"].results["ellipsoid-slice"].sampled.plot(Figure().add_subplot()).get_xlabel()
    with pytest.raises(UserError, match="not complete"):
        results["bridge"].plot(Figure().add_subplot())
    with pytest.raises(UserError, match="no mass to draw"):
        results["volume"].plot(Figure().add_subplot(), kind="mass")
    with pytest.raises(UserError, match="no estimate of a log-volume of nowhere"):
        results["audit"].plot(Figure().add_subplot(), case="nowhere")
    with pytest.raises(UserError, match="margin has no value"):
        results["comparison"].plot(Figure().add_subplot(), measure="margin")


def test_eigenvectors_are_tensors_by_name() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Tanh(), torch.nn.Linear(2, 1)).double()
    data = [(torch.randn(8, 3, dtype=torch.float64), torch.randn(8, 1, dtype=torch.float64))]
    landscape = Landscape(model, mean_squared_error, data)
    operator = Hessian(landscape, strategy="double-backward")
    pairs = top_eigenpairs(operator, 3)
    values, columns = torch.linalg.eigh(operator.to_dense())
    for number in range(3):
        named = pairs.named(number)
        shapes = {name: one.shape for name, one in model.named_parameters()}
        assert {name: one.shape for name, one in named.items()} == shapes
        flat = torch.cat([one.reshape(-1) for one in named.values()])
        place = int((values - float(pairs.values[number])).abs().argmin())
        assert abs(float(flat @ columns[:, place])) == pytest.approx(1.0, abs=1e-8)
    with pytest.raises(UserError, match="3 eigenpairs"):
        pairs.named(3)
    alone = top_eigenpairs(MatrixOperator(torch.eye(2, dtype=torch.float64)), 1)
    with pytest.raises(UserError, match="no parameters by name"):
        alone.named(0)
