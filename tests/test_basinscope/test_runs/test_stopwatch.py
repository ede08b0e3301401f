"""No number depends on a stopwatch: what was chosen by time is recorded, and taken again by whoever goes on.

A stopwatch that favours one way to compute products at first and another one later stands for a machine that is busy
otherwise. In float32 the ways differ in the last digits, far above the tolerance held here.
"""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from basinscope.cli import main
from spectra.checkpoint import read_checkpoint
from spectra.compute import compute_spectrum
from spectra.costs import cross_entropy, kl_from_anchor
from spectra.landscape import Landscape, ManyCosts, ManyGradients
from spectra.operators import Curvature
from spectra.spectrum import Spectrum, SpectrumSettings
from spectra.store import read_spectrum, write_spectrum
from volume.audit import read_report
from volume.bridge import BridgeResult, bridge_volume, read_bridge, write_bridge
from volume.chains import BridgeSettings
from volume.priors import GaussianPrior

TASK = ["--task", f"{Path(__file__).parents[1] / 'tiny_task.py'}:tiny"]
# The same way gives the same numbers, but for what is read back from text.
SAME = {"rtol": 1e-12, "atol": 0.0}
CORES = {"hessian": "double-backward", "fisher": "double-vjp"}
FIRST, LATER = "double", "recorded-batched"
Favour = Callable[[str], None]


@pytest.fixture
def favour(monkeypatch: pytest.MonkeyPatch) -> Favour:
    """Make a stopwatch say that one strategy is the fastest."""

    def choose(name: str) -> None:
        def seconds(self: Curvature, strategy: object, *rest: object) -> float:
            return 0.0 if getattr(strategy, "name").startswith(name) else 1.0  # noqa: B009

        monkeypatch.setattr(Curvature, "_seconds_per_vector", seconds)

    return choose


def printed(capsys: pytest.CaptureFixture[str]) -> dict:
    return json.loads(capsys.readouterr().out)


def test_the_strategies_differ_in_the_last_digits(checkpoint: Path, tiny: ModuleType, favour: Favour) -> None:
    """Else the tests below could not tell them apart."""
    found = []
    for name in (FIRST, LATER):
        favour(name)
        settings = SpectrumSettings(probes=2, steps=8, engine="slq")
        found.append(compute_spectrum(tiny.tiny(read_checkpoint(checkpoint)), settings))
    assert [one.strategy for one in found] == [CORES["hessian"], LATER]
    one, other = (spectrum.density.runs.diagonal for spectrum in found)
    if np.allclose(one, other, **SAME):
        pytest.skip("on this processor the two ways round alike, and the tests below hold in any case")


@pytest.mark.sampled(2)
@pytest.mark.parametrize("operator", ["hessian", "fisher"])
def test_a_spectrum_of_layers_goes_on_as_it_began(
    operator: str, checkpoint: Path, tiny: ModuleType, favour: Favour, tmp_path: Path
) -> None:
    landscape = tiny.tiny(read_checkpoint(checkpoint))
    settings = SpectrumSettings(operator=operator, probes=4, steps=8, block=2, engine="slq", per_layer=True)
    partial: list[Spectrum] = []
    favour(FIRST)
    whole = compute_spectrum(landscape, settings, on_block=partial.append)
    assert set(whole.layer_strategies.values()) == {whole.strategy} == {CORES[operator]}
    favour(LATER)
    command = ["spectrum", str(checkpoint), *TASK, "--output", str(tmp_path / "made.h5")]
    assert main([*command, "--engine", "slq", "--steps", "4"]) == 0
    provenance = read_spectrum(tmp_path / "made.h5").provenance
    for one in partial:
        write_spectrum(tmp_path / "s.h5", one, provenance)
        resumed = compute_spectrum(landscape, settings, resume=read_spectrum(tmp_path / "s.h5").spectrum)
        for mine, theirs in (
            (resumed.density, whole.density),
            *zip(resumed.layers.values(), whole.layers.values(), strict=True),
        ):
            np.testing.assert_allclose(mine.runs.diagonal, theirs.runs.diagonal, **SAME)
            np.testing.assert_allclose(mine.deflation.nodes, theirs.deflation.nodes, **SAME)
        assert resumed.layer_strategies == whole.layer_strategies


def test_a_layer_on_which_the_strategy_fails_takes_the_core_and_says_so(
    checkpoint: Path, tiny: ModuleType, favour: Favour, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No model is known that records as a whole and not by layers: here recording refuses a layer of 18 parameters."""
    recorded = Curvature.recorded

    def refuse(self: Curvature, batch: object) -> object:
        if self.size == 18:
            raise RuntimeError("cannot be recorded")
        return recorded(self, batch)  # type: ignore[arg-type]

    favour("recorded")
    settings = SpectrumSettings(probes=2, steps=4, engine="slq", per_layer=True)
    plain = compute_spectrum(tiny.tiny(read_checkpoint(checkpoint)), settings)
    monkeypatch.setattr(Curvature, "recorded", refuse)
    found = compute_spectrum(tiny.tiny(read_checkpoint(checkpoint)), settings)
    assert found.layer_strategies == {"0": "recorded", "2": "double-backward"}
    assert any(note.startswith("2 by double-backward: strategy recorded fails") for note in found.notes)
    assert found.layers["2"].trace().value == pytest.approx(plain.layers["2"].trace().value, rel=1e-4)


def test_a_volume_goes_on_as_it_began(
    checkpoint: Path, favour: Favour, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["volume", str(checkpoint), *TASK, "--prior", "gaussian:0.5", "--directions", "4", "--json"]
    words += ["--validation-task", f"{Path(__file__).parents[1] / 'tiny_task.py'}:other_data", "--cost", "kl"]
    mass, others = ["--method", "quadratic-mass"], ["--method", "segment", "--method", "star-domain"]
    found = []
    favour(FIRST)
    for output in ("whole.h5", "parts.h5"):
        assert main([*words, *mass, *(others if output == "whole.h5" else ()), "--output", str(tmp_path / output)]) == 0
        found.append(printed(capsys))
    favour(LATER)
    assert main([*words, *mass, *others, "--output", str(tmp_path / "parts.h5"), "--resume"]) == 0
    again = printed(capsys)
    assert again["complete"]
    assert not again["failures"]
    volumes = [{one["method"]: one["log_volume"] for one in run["methods"]} for run in (found[0], again)]
    assert list(volumes[0]) == list(volumes[1])
    np.testing.assert_allclose(list(volumes[1].values()), list(volumes[0].values()), **SAME)


def test_an_audit_goes_on_as_it_began(checkpoint: Path, favour: Favour, tmp_path: Path) -> None:
    words = ["audit", str(checkpoint), *TASK, "--prior", "gaussian:0.5", "--repeats", "2", "--steps", "8"]
    one, two = ["--estimators", "quadratic-mass"], ["--estimators", "trace/xtrace"]
    favour(FIRST)
    assert main([*words, *one, *two, "--output", str(tmp_path / "whole.h5")]) == 0
    assert main([*words, *one, "--output", str(tmp_path / "parts.h5")]) == 0
    favour(LATER)
    assert main([*words, *one, *two, "--output", str(tmp_path / "parts.h5"), "--resume"]) == 0
    whole, parts = (read_report(tmp_path / name) for name in ("whole.h5", "parts.h5"))
    assert whole.strategy == parts.strategy == CORES["fisher"]
    for mine, theirs in zip(parts.table.rows, whole.table.rows, strict=True):
        assert mine.estimator == theirs.estimator
        np.testing.assert_allclose(mine.values, theirs.values, **SAME)


def test_a_comparison_goes_on_as_it_began(
    checkpoint: Path, favour: Favour, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare", str(checkpoint), *TASK, "--probes", "2", "--steps", "8", "--directions", "4", "--json"]
    few = "hessian-trace"
    every = "hessian-trace,largest-layer-trace,log-determinant,quadratic-mass,fisher-rao,relative-flatness,star-domain"
    favour(FIRST)
    assert main([*words, "--measures", every]) == 0
    whole = printed(capsys)["checkpoints"][0]["measures"]
    assert main([*words, "--measures", few, "--output", str(tmp_path / "c.h5")]) == 0
    capsys.readouterr()
    favour(LATER)
    assert (
        main([*words, "--measures", f"{few},largest-layer-trace", "--output", str(tmp_path / "c.h5"), "--resume"]) == 0
    )
    again = printed(capsys)["checkpoints"][0]["measures"]
    for name, found in again.items():
        np.testing.assert_allclose(found["value"], whole[name]["value"], **SAME)


@pytest.mark.slow
@pytest.mark.parametrize("origin", ["quadratic", "prior"])
def test_a_bridge_goes_on_as_it_began(
    origin: str, checkpoint: Path, tiny: ModuleType, favour: Favour, tmp_path: Path
) -> None:
    # Rungs so far apart that some are given up for nearer ones.
    settings = BridgeSettings(
        cutoffs=(0.1,), origin=origin, chains=4, draws=8, warm_up=2, kept=8, work_spread=30.0, seed=3
    )
    files: list[Path] = []

    def keep(result: BridgeResult) -> None:
        files.append(tmp_path / f"after_{len(files)}.h5")
        write_bridge(files[-1], result, {})

    def place() -> Landscape:
        return tiny.tiny(read_checkpoint(checkpoint)).with_cost(kl_from_anchor)

    favour(FIRST)
    whole = bridge_volume(place(), GaussianPrior(5.0), settings, on_rung=keep)
    assert len(files) > len(whole.rungs)
    favour(LATER)
    for file in (files[0], files[len(files) // 2], *files[-3:]):
        again = bridge_volume(place(), GaussianPrior(5.0), settings, resume=read_bridge(file)[0])
        assert again.strategy == whole.strategy == (CORES["fisher"] if origin == "quadratic" else "")
        assert again.gradient_evaluations == whole.gradient_evaluations
        for mine, theirs in zip(again.rungs, whole.rungs, strict=True):
            np.testing.assert_allclose(mine.costs, theirs.costs, **SAME)
            np.testing.assert_allclose(mine.onward, theirs.onward, rtol=1e-9, atol=1e-9)
        assert again.volumes[0].log_volume == pytest.approx(whole.volumes[0].log_volume, rel=1e-9)


def many_costs(place: Landscape) -> ManyCosts:
    return ManyCosts(place.evaluation, place.parameters, place.theta, place.samples_at, place.share)


@pytest.mark.parametrize("evaluate", [many_costs, ManyGradients])
def test_many_vectors_go_the_same_way_whatever_was_asked_first(evaluate: Callable[..., Callable]) -> None:
    """Fresh evaluators are asked in other orders, for one vector, and for ones where nothing is finite."""
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 4))
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(60, 8, generator=generator)
    place = Landscape(model, cross_entropy, (inputs, torch.randint(0, 4, (60,), generator=generator)))
    thetas = place.theta + 0.1 * torch.randn(6, place.size, generator=generator)

    def asked(*before: torch.Tensor) -> list[np.ndarray]:
        fresh = evaluate(place)
        for rows in before:
            fresh(rows)
        assert fresh.vmapped or not before
        several, one = fresh(thetas), fresh(thetas[:1])
        parts = [*several, *one] if isinstance(several, tuple) else [several, one]
        return [part.double().numpy() for part in parts]

    plain = asked(thetas)
    far = torch.full_like(thetas, math.inf)
    for before in ((thetas[:1], thetas), (thetas[3:], thetas[:2]), (far, thetas), (thetas[:1], far)):
        for mine, theirs in zip(asked(*before), plain, strict=True):
            np.testing.assert_allclose(mine, theirs, **SAME)


def test_the_way_of_many_gradients_follows_from_sizes() -> None:
    """Small networks share their passes; one whose gradient outweighs its data's activations by far does not."""
    generator = torch.Generator().manual_seed(0)
    for widths, rows, vmapped in (((8, 16, 4), 60, True), ((400, 800, 4), 4, False)):
        layers = [torch.nn.Linear(a, b) for a, b in zip(widths, widths[1:], strict=False)]
        model = torch.nn.Sequential(layers[0], torch.nn.Tanh(), layers[1])
        data = torch.randn(rows, widths[0], generator=generator), torch.zeros(rows, dtype=torch.int64)
        many = ManyGradients(Landscape(model, cross_entropy, data))
        many(many.landscape.theta.repeat(2, 1))
        assert many.vmapped is vmapped


def test_settings_of_a_resumed_spectrum_name_the_strategy(checkpoint: Path, tiny: ModuleType, favour: Favour) -> None:
    landscape = tiny.tiny(read_checkpoint(checkpoint))
    favour(FIRST)
    settings = SpectrumSettings(probes=2, steps=4, engine="slq", block=1)
    first = compute_spectrum(landscape, settings)
    favour(LATER)
    grown = compute_spectrum(landscape, replace(settings, probes=3), resume=first)
    assert grown.strategy == CORES["hessian"]
