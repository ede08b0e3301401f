import numpy as np
import pytest

from basinscope.views import summarise
from basinscope.views.spectrum import at_shift
from spectra.density import SpectralDensity
from spectra.files import Provenance
from spectra.lanczos import Tridiagonal
from spectra.spectrum import Spectrum, SpectrumSettings
from spectra.store import StoredSpectrum

SIZE = 100


def stored(
    density: SpectralDensity, *, operator: str = "hessian", eigenvalues: tuple[float, ...] = (), residual: float = 0.0
) -> StoredSpectrum:
    spectrum = Spectrum(
        density=density,
        settings=SpectrumSettings(operator=operator, engine="slq"),
        route="slq",
        strategy="double-backward",
        notes=(),
        cost=1.0,
        gradient_norm=0.0,
        samples=1.0,
        parameters=(("theta", (density.size,)),),
        data_sha256="0",
        products=1,
        eigenvalues=np.array(eigenvalues),
        residuals=np.full(len(eigenvalues), residual),
    )
    return StoredSpectrum(
        spectrum, Provenance("m.pt", "0", "t", "cross-entropy", "nat", "float64", "cpu", "basinscope")
    )


def sampled(shares: tuple[float, ...]) -> SpectralDensity:
    """One probe for each share, of two steps: nodes -1 and 1, with the share of the weight on -1."""
    # [[a, b], [b, -a]] with a^2 + b^2 = 1 has the eigenvalues -1 and 1, and weight (1 - a) / 2 at -1.
    first = np.array([1.0 - 2.0 * share for share in shares])
    second = np.sqrt(1.0 - first**2)
    runs = Tridiagonal(np.stack([first, -first], 1), np.stack([second, 0.0 * second], 1), np.full(len(shares), 2))
    return SpectralDensity(SIZE, runs)


def meaning(held: StoredSpectrum) -> str:
    return summarise(held, shifts=[3.0]).negative.meaning


def test_a_count_whose_interval_includes_zero_establishes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SpectralDensity, "resolution", lambda *_: 0.5)
    said = meaning(stored(sampled((0.02, 0.0, 0.0))))
    assert "about 0.667 (95 % interval 0 to 15.7) of 100 eigenvalues" in said
    assert "not a minimum" not in said
    assert "whether this is a minimum stays open" in said


def test_a_count_whose_interval_excludes_zero_is_no_minimum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SpectralDensity, "resolution", lambda *_: 0.5)
    monkeypatch.setattr(SpectralDensity, "integrate", _without_truncation)
    said = meaning(stored(sampled((0.30, 0.31, 0.32))))
    assert "about 31 (95 % interval 13 to 49) of 100 eigenvalues (31 %) lie below -0.5" in said
    assert said.endswith("so this is not a minimum")


def _without_truncation(density: SpectralDensity, function: object, **rest: object) -> object:
    from spectra.estimate import from_samples

    return from_samples(
        density.complement
        * np.array([(w * function(n)).sum() for n, w in zip(density.nodes, density.weights, strict=True)])
    )  # type: ignore[operator]


@pytest.mark.parametrize("residual, opened", [(0.1, False), (0.9, False), (2.0, True)])
def test_a_converged_ritz_value_below_minus_its_residual_is_no_minimum(
    residual: float, opened: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SpectralDensity, "resolution", lambda *_: 0.5)
    held = stored(sampled((0.02, 0.0, 0.0)), eigenvalues=(1.0, -1.0), residual=residual)
    assert ("stays open" in meaning(held)) == opened


def test_an_exact_count_is_stated_without_an_interval() -> None:
    said = meaning(stored(SpectralDensity.from_eigenvalues(np.array([-1.0, 0.0, 4.0]))))
    assert said.startswith("1 of 3 eigenvalues (33 %) lie below -")
    assert said.endswith("so this is not a minimum")
    assert meaning(stored(SpectralDensity.from_eigenvalues(np.array([-1e-16, 4.0])))).startswith("no eigenvalue is res")


@pytest.mark.parametrize("shift, rule", [(0.0, "raise"), (np.inf, "raise"), (np.nan, "raise"), (1.0, "ignore")])
def test_wrong_shifts_and_rules_are_no_undefined_sums(shift: float, rule: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        at_shift(SpectralDensity.from_eigenvalues(np.array([1.0, 4.0])), shift, rule)
