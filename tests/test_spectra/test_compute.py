"""Routes, memory limits, blocks and resumption of the whole computation."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from spectra.compute import compute_spectrum
from spectra.costs import cross_entropy, mean_squared_error
from spectra.landscape import Landscape
from spectra.operators import Hessian
from spectra.spectrum import Spectrum, SpectrumSettings

SMALL = SpectrumSettings(probes=4, steps=12, block=2, engine="slq", strategy="double-backward")


@pytest.fixture
def landscape() -> Landscape:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 12), torch.nn.Tanh(), torch.nn.Linear(12, 4)).double()
    return Landscape(model, cross_entropy, (torch.randn(40, 6).double(), torch.randint(0, 4, (40,))))


def test_exact_routes_where_they_cost_no_more(landscape: Landscape) -> None:
    dense = compute_spectrum(landscape)
    assert dense.route == "dense"
    assert dense.density.exact
    assert "exact by the dense route: its 136 products are no more than the" in dense.notes[0]
    values = np.linalg.eigvalsh(Hessian(landscape).to_dense().numpy())
    assert np.allclose(dense.density.deflation.nodes, values, atol=1e-12)
    assert dense.density.trace().exact
    gram = compute_spectrum(landscape.restricted("0"), SpectrumSettings(operator="empirical-fisher"))
    assert gram.route == "gram"
    assert "40 backward passes" in gram.notes[0]


def test_engines_agree(landscape: Landscape) -> None:
    """Sampling within 6 of its errors of the exact routes, which agree to rounding."""
    settings = SpectrumSettings(operator="gauss-newton", seed=1)
    dense, gram = (compute_spectrum(landscape, replace(settings, engine=engine)) for engine in ("dense", "gram"))
    sampled = compute_spectrum(landscape, replace(settings, engine="slq"))
    exact = dense.density.logdet(0.01).value
    assert gram.density.logdet(0.01).value == pytest.approx(exact, abs=1e-8)
    estimate = sampled.density.logdet(0.01)
    assert abs(estimate.value - exact) < 6 * estimate.standard_error + estimate.truncation_error


def test_what_does_not_fit_the_memory_is_refused_before_it_starts(landscape: Landscape) -> None:
    with pytest.raises(ValueError, match="full reorthogonalisation of 4 probes and 64 steps needs 279 kB, past"):
        compute_spectrum(
            landscape, SpectrumSettings(probes=4, block=4, engine="slq", reorthogonalise="full", memory=1000)
        )
    with pytest.raises(ValueError, match="the dense route needs"):
        compute_spectrum(landscape, SpectrumSettings(engine="dense", memory=1000))
    with pytest.raises(ValueError, match="the Gram route holds 160 rows"):
        compute_spectrum(landscape, SpectrumSettings(operator="fisher", engine="gram", memory=1000))
    with pytest.raises(ValueError, match="Gram route needs a Gauss-Newton or Fisher"):
        compute_spectrum(landscape, SpectrumSettings(engine="gram"))
    with pytest.raises(ValueError, match="deflate must be 0 here"):
        compute_spectrum(landscape.restricted("2.bias"), SpectrumSettings(engine="slq", deflate=4))


def test_reorthogonalisation_announces_its_need(landscape: Landscape) -> None:
    automatic = compute_spectrum(landscape, SpectrumSettings(engine="slq", block=8, memory=40000, deflate=0))
    ample = compute_spectrum(landscape, SpectrumSettings(engine="slq", block=8, deflate=0))
    assert ample.notes[0] == "full reorthogonalisation, the basis takes 557 kB"
    assert "no reorthogonalisation: a basis would take" in automatic.notes[0]


def test_stopped_anywhere_and_resumed_gives_the_same_bits(landscape: Landscape) -> None:
    partial: list[Spectrum] = []
    whole = compute_spectrum(landscape, SMALL, on_block=partial.append)
    assert [one.density.runs.probes for one in partial] == [0, 2, 4]
    for one in partial:
        resumed = compute_spectrum(landscape, SMALL, resume=one)
        assert np.array_equal(resumed.density.runs.diagonal, whole.density.runs.diagonal)
        assert np.array_equal(resumed.density.runs.off_diagonal, whole.density.runs.off_diagonal)
        assert np.array_equal(resumed.density.deflation.nodes, whole.density.deflation.nodes)
        assert resumed.products == whole.products
    grown = compute_spectrum(landscape, replace(SMALL, probes=6, deflate=4), resume=None)
    again = compute_spectrum(landscape, replace(SMALL, probes=6, deflate=4), resume=replace_probes(grown, 2))
    assert np.array_equal(again.density.runs.diagonal, grown.density.runs.diagonal)


def replace_probes(spectrum: Spectrum, count: int) -> Spectrum:
    """The spectrum as it was after its first probes."""
    runs = spectrum.density.runs
    first = type(runs)(runs.diagonal[:count], runs.off_diagonal[:count], runs.lengths[:count])
    return replace(spectrum, density=replace(spectrum.density, runs=first))


def test_a_space_that_ended_early_is_rebuilt_as_it_was() -> None:
    """Rank 13: the Krylov space ends at an odd dimension, and further probes still sample its complement."""
    torch.manual_seed(0)
    inputs = torch.cat([torch.randn(13, 100), torch.zeros(1, 100)]).double()
    model = torch.nn.Linear(100, 1, bias=False).double()
    low_rank = Landscape(model, mean_squared_error, (inputs, torch.zeros(14, 1).double()))
    settings = SpectrumSettings(probes=4, steps=12, block=2, engine="slq", deflate=30)
    partial: list[Spectrum] = []
    whole = compute_spectrum(low_rank, settings, on_block=partial.append)
    assert 0 < whole.density.deflation.captured < 30
    resumed = compute_spectrum(low_rank, settings, resume=partial[0])
    assert np.array_equal(resumed.density.trace().samples, whole.density.trace().samples)
    truth = float(2 * (inputs**2).sum() / 14)
    assert resumed.density.trace().value == pytest.approx(truth, rel=1e-9)


def test_layers(landscape: Landscape) -> None:
    spectrum = compute_spectrum(landscape, replace(SMALL, per_layer=True))
    assert list(spectrum.layers) == ["0", "2"]
    assert spectrum.complete
    exact = compute_spectrum(landscape, SpectrumSettings(per_layer=True))
    total = sum(density.trace().value for density in exact.layers.values())
    assert total == pytest.approx(exact.density.trace().value, rel=1e-10)


def test_layers_are_not_examined_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve layers: no landscape is built anew, and a layer costs what the first product of any curvature costs."""
    torch.manual_seed(0)
    parts = [part for _ in range(11) for part in (torch.nn.Linear(6, 6), torch.nn.Tanh())]
    model = torch.nn.Sequential(*parts, torch.nn.Linear(6, 3)).double()
    landscape = Landscape(model, cross_entropy, (torch.randn(40, 6).double(), torch.randint(0, 3, (40,))))
    built: list[Landscape] = []
    prepare = Landscape._prepare
    monkeypatch.setattr(Landscape, "_prepare", lambda self: (built.append(self), prepare(self))[1])
    calls = [0]
    model.register_forward_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
    compute_spectrum(landscape, replace(SMALL, probes=2, steps=2))
    whole, calls[0] = calls[0], 0
    spectrum = compute_spectrum(landscape, replace(SMALL, probes=2, steps=2, per_layer=True))
    assert len(spectrum.layers) == 12
    assert not built
    # Its graph and what it takes, and on a few rows a gradient's differences beside the product.
    assert calls[0] - whole <= 8 * 12


def test_resuming_other_data_is_refused(landscape: Landscape) -> None:
    other = Landscape(landscape.model, cross_entropy, (torch.randn(40, 6).double(), torch.randint(0, 4, (40,))))
    spectrum = compute_spectrum(landscape, SMALL)
    with pytest.raises(ValueError, match="of other data"):
        compute_spectrum(other, SMALL, resume=spectrum)
    with pytest.raises(ValueError, match="of other parameters"):
        compute_spectrum(landscape.restricted("0"), SMALL, resume=spectrum)


def test_progress_reaches_its_total(landscape: Landscape) -> None:
    seen: list[tuple[int, int]] = []
    compute_spectrum(
        landscape, replace(SMALL, per_layer=True), progress=lambda done, total, _: seen.append((done, total))
    )
    assert seen[-1][0] == seen[-1][1]
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_pyhessian_engine_agrees(landscape: Landscape) -> None:
    """Two unbiased estimates of the trace, each within 6 of its errors."""
    single = landscape.to(dtype=torch.float32)
    theirs = compute_spectrum(single, SpectrumSettings(engine="pyhessian", probes=8, steps=20))
    assert theirs.route == "pyhessian"
    estimate, truth = theirs.density.trace(), float(torch.trace(Hessian(landscape).to_dense()))
    assert abs(estimate.value - truth) < 6 * estimate.standard_error
    with pytest.raises(ValueError, match="PyHessian computes the Hessian only"):
        compute_spectrum(single, SpectrumSettings(engine="pyhessian", operator="fisher"))


def test_settings_refuse_nonsense() -> None:
    with pytest.raises(ValueError, match="operator must be one of"):
        SpectrumSettings(operator="hesian")
    with pytest.raises(ValueError, match="probes must be at least 1, got 0"):
        SpectrumSettings(probes=0)


def test_a_deflation_stopped_on_its_way_shows_eigenvalues_and_begins_anew() -> None:
    """What is kept of half a Krylov space has no probe that samples its complement, so it fixes nothing."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 24), torch.nn.Tanh(), torch.nn.Linear(24, 4)).double()
    landscape = Landscape(model, cross_entropy, (torch.randn(40, 6).double(), torch.randint(0, 4, (40,))))
    settings, partial = replace(SMALL, deflate=80), []
    whole = compute_spectrum(landscape, settings, on_block=partial.append)
    first = partial[0].density
    # 16 block steps of two, the last four of which are coefficients alone; half of the space is not reached again.
    assert [one.density.deflation.captured for one in partial] == [24, 56, 80, 80, 80]
    assert first.unsampled
    exact = np.linalg.eigvalsh(Hessian(landscape).to_dense().numpy())
    assert partial[0].eigenvalues[0] == pytest.approx(exact[np.abs(exact).argmax()], rel=1e-5)
    assert np.isinf(first.trace().standard_error)
    assert first.trace().cautions[-1].startswith("no probe is done yet: the part of the 24 deflated of 268 dimensions")
    resumed = compute_spectrum(landscape, settings, resume=partial[0])
    assert np.array_equal(resumed.density.runs.diagonal, whole.density.runs.diagonal)
    assert np.array_equal(resumed.density.deflation.nodes, whole.density.deflation.nodes)
