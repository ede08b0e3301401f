import errno
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from spectra.density import SpectralDensity
from spectra.files import Provenance
from spectra.files import atomic as atomic_file
from spectra.lanczos import Deflation, Tridiagonal
from spectra.plots import drawn, save_figure, spectrum_figure
from spectra.spectrum import Spectrum, SpectrumSettings
from spectra.store import StoredSpectrum

PROVENANCE = Provenance("runs/last.pt", "ab" * 32, task="digits", cost="cross-entropy", cost_unit="nat")


def sampled(shift: float = 0.0, operator: str = "hessian") -> SpectralDensity:
    generator = np.random.default_rng(0)
    runs = Tridiagonal(
        shift + generator.uniform(-0.5, 1.0, (4, 8)), generator.uniform(0.1, 0.3, (4, 8)), np.full(4, 8, np.int64)
    )
    return SpectralDensity(100, runs, Deflation(np.array([9.0, 4.0]), np.ones(2), 2), operator)


def stored(density: SpectralDensity, **changes: object) -> StoredSpectrum:
    spectrum = Spectrum(
        density=density,
        settings=SpectrumSettings(operator=density.operator),
        route="slq",
        strategy="linearize",
        notes=(),
        cost=0.25,
        gradient_norm=1e-3,
        samples=64.0,
        parameters=(("weight", (10, 10)),),
        data_sha256="cd" * 32,
        products=64,
        eigenvalues=np.array([9.0, 4.0, -0.5]),
        residuals=np.array([1e-6, 1e-5, 0.1]),
    )
    return StoredSpectrum(replace(spectrum, **changes), PROVENANCE)


def words(figure: Figure) -> str:
    found = [figure.get_suptitle()]
    for axes in figure.axes:
        found += [axes.get_title(), axes.get_xlabel(), axes.get_ylabel()]
        legend = axes.get_legend()
        found += [text.get_text() for text in legend.get_texts()] if legend else []
    return "\n".join(found)


def test_the_figure_says_what_it_shows() -> None:
    density = sampled()
    said = words(spectrum_figure(stored(density)))
    assert "last.pt" in said
    assert "Hessian, n = 100 parameters, cross-entropy cost 0.25 nat on 64 samples" in said
    assert "Lanczos quadrature, 4 probes × 8 steps, 2 deflated" in said
    assert "95 % interval: Student t over 4 probes" in said
    assert f"below zero: {density.mass_below(0.0).value:,.0f} of 100" in said
    assert f"resolution near zero: ± {density.resolution():.2g}" in said
    assert "3 converged eigenvalues" in said
    assert "eigenvalue λ (nat / parameter²)" in said
    assert "negative, bar: residual norm" in said


@pytest.mark.parametrize("size", [100, 10**8])
def test_the_legend_does_not_hide_the_curve(size: int) -> None:
    """A peak in the middle, as a Hessian far from a minimum has it."""
    generator = np.random.default_rng(0)
    runs = Tridiagonal(
        generator.uniform(-0.1, 0.1, (4, 8)), generator.uniform(0.5, 1.0, (4, 8)), np.full(4, 8, np.int64)
    )
    figure = spectrum_figure(stored(SpectralDensity(size, runs, operator="hessian"), eigenvalues=np.empty(0)))
    figure.draw_without_rendering()
    axes = figure.axes[0]
    legend = axes.get_legend()
    assert legend is not None
    curve = axes.transData.transform(axes.get_lines()[0].get_xydata())
    assert not legend.get_window_extent().count_contains(curve)


def test_the_plotted_curve_counts_every_eigenvalue() -> None:
    density = sampled()
    line = spectrum_figure(stored(density)).axes[0].get_lines()[0]
    view = density.smooth()
    np.testing.assert_array_equal(line.get_xdata(), view.eigenvalues)
    assert np.trapezoid(np.asarray(line.get_ydata(), dtype=float), view.coordinate) == pytest.approx(100.0, rel=0.02)


@pytest.mark.parametrize("density", [sampled(5.0), sampled(0.0, "fisher")])
def test_nothing_negative_is_claimed_where_there_is_nothing(density: SpectralDensity) -> None:
    assert "below zero" not in words(spectrum_figure(stored(density)))


def test_an_exact_spectrum_has_neither_band_nor_resolution() -> None:
    exact = SpectralDensity.from_eigenvalues(np.array([-0.5, 1.0, 9.0]), size=100)
    said = words(spectrum_figure(stored(exact, route="dense")))
    assert "exact, dense route" in said
    assert "below zero: 1 of 100 (1 %)" in said
    assert "band" not in said
    assert "resolution" not in said
    assert "3 largest eigenvalues" in said


def test_without_eigenpairs_it_is_drawn_how_many_lie_beyond_each_value() -> None:
    nothing = np.empty(0)
    figure = spectrum_figure(stored(sampled(), eigenvalues=nothing, residuals=nothing), scale="linear")
    said = words(figure)
    assert "number of eigenvalues at least as far from zero\n95 % interval: Student t over 4 probes" in said
    assert "converged" not in said


def test_counts_beyond_each_value_are_those_of_known_eigenvalues() -> None:
    known = np.array([-3.0, -2.0, -2.0, 0.0, 1.0, 4.0, 4.0])
    nothing = np.empty(0)
    density = SpectralDensity.from_eigenvalues(known, size=20)
    figure = spectrum_figure(stored(density, eigenvalues=nothing, residuals=nothing, route="dense"))
    positive, negative = figure.axes[1].lines
    for line, side in ((positive, 1.0), (negative, -1.0)):
        for value in np.unique(known[side * known > 0.0]):
            # At the end of a side its count falls to none, so the last of two points there is below what is shown.
            shown = max(y for x, y in zip(*line.get_data(), strict=True) if x == value)
            assert shown == pytest.approx((side * known >= side * value).sum())
    assert positive.get_drawstyle() == "steps-pre"
    assert negative.get_drawstyle() == "steps-post"


def test_layers_have_a_panel_of_their_own() -> None:
    layers = {"hidden": sampled(1.0), "output": sampled(0.5), "": sampled()}
    figure = spectrum_figure(stored(sampled(), layers=layers))
    axes = figure.axes[2]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["hidden", "output", "(root)"]
    assert "trace, 95 % interval: Student t over 4 probes" in words(figure)


def test_many_layers_are_cut_to_the_largest_and_it_is_said() -> None:
    layers = {f"block{i}": sampled(float(i)) for i in range(40)}
    figure = spectrum_figure(stored(sampled(), layers=layers))
    assert "30 largest of 40" in words(figure)
    assert "block39" in [label.get_text() for label in figure.axes[2].get_yticklabels()]


def test_an_unknown_scale_is_refused() -> None:
    with pytest.raises(ValueError, match="one of linear, symlog"):
        spectrum_figure(stored(sampled()), scale="log")


def test_one_probe_draws_without_a_band(tmp_path: Path) -> None:
    density = replace(sampled(), runs=Tridiagonal(np.zeros((1, 2)), np.ones((1, 2)), np.array([2])))
    figure = spectrum_figure(stored(density))
    save_figure(figure, tmp_path / "s.png")
    assert "band" not in words(figure)


def test_a_full_disk_leaves_the_old_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.pdf"
    save_figure(spectrum_figure(stored(sampled())), path)
    before = path.read_bytes()
    assert before.startswith(b"%PDF")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic_file.os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        save_figure(spectrum_figure(stored(sampled())), path)
    assert path.read_bytes() == before


def test_a_name_begins_no_formula_and_a_figure_is_drawn_alike_every_time() -> None:
    named = replace(PROVENANCE, checkpoint="runs/$\\frac$.pt")
    figure = spectrum_figure(replace(stored(sampled()), provenance=named))
    assert drawn(figure) == drawn(figure)
    layers = {"a$b$": sampled(), "$\\frac$": sampled()}
    figure = spectrum_figure(stored(sampled(), layers=layers))
    drawn(figure)
    shown = {label.get_text() for axes in figure.axes for label in axes.get_yticklabels() if "frac" in label.get_text()}
    assert shown == {r"\$\frac\$"}
    assert all(label.get_parse_math() for axes in figure.axes for label in axes.get_yticklabels())
