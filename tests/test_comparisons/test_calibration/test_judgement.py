"""The rule for a plateau on made-up cells, the axes, the cost that is sampled, and what is stored and written."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from comparisons.calibration import (
    Axes,
    Calibration,
    Cell,
    CellOutlook,
    Outlook,
    Slope,
    SweepSettings,
    axis,
    calibration_figure,
    judge,
    prepare,
    read_calibration,
    run_chains,
    settings_text,
    with_penalty,
    write_calibration,
)
from comparisons.calibration.axes import LARGEST_FALL, least_localisation
from comparisons.langevin import Chains, ChainSettings, predict_chains
from comparisons.measures import chosen_options, options_in_file
from comparisons.words import SAMPLERS
from spectra.costs import cross_entropy
from spectra.density import SpectralDensity
from spectra.errors import UserError
from spectra.files import Provenance
from spectra.landscape import Landscape

FLAT = SpectralDensity.from_eigenvalues(np.array([1.0, 0.5]))


def cell(place: tuple[int, int, int], value: float, noise: float = 1e-3, outlook: CellOutlook | None = None) -> Cell:
    """A cell of four calls around a value, sound unless its outlook is not."""
    random = np.random.default_rng(place)
    rises = value + noise * random.standard_normal((8, 200))
    ahead = outlook or CellOutlook(predict_chains(FLAT, inverse_temperature=1.0, localisation=1.0, step_size=0.1), 0.0)
    step = ahead.prediction.step_size
    chains = Chains(rises, max(50, int(ahead.burn_in)), step, 1.0, 1.0, np.ones((8, 1)), 0.0)
    return Cell(place, chains, 4, ahead)


def grid(values: list[list[list[float]]], **spoiled: CellOutlook) -> tuple[list[Cell], Axes]:
    table = np.array(values)
    axes = Axes(
        np.geomspace(1.0, 4.0, 5)[::2][: len(table)],
        np.geomspace(1.0, 4.0, 5)[::2][: table.shape[1]],
        np.full(table.shape, 1e-3),
        np.empty(0),
    )
    places = list(np.ndindex(*table.shape))
    return [cell(place, table[place], outlook=spoiled.get("_".join(map(str, place)))) for place in places], axes


def past_the_limit() -> CellOutlook:
    return CellOutlook(predict_chains(FLAT, inverse_temperature=1.0, localisation=1.0, step_size=3.0), 0.0)


def biased() -> CellOutlook:
    return CellOutlook(predict_chains(FLAT, inverse_temperature=1.0, localisation=1.0, step_size=0.5), 0.0)


# The rule


def test_three_equal_neighbours_are_a_plateau_and_the_middle_one_is_chosen() -> None:
    cells, axes = grid([[[3.0, 1.0, 1.01, 1.02, 2.0]]])
    found = judge(cells, axes, usual=1.0, tolerance=0.1)
    assert found.cell is cells[2]
    assert found.chosen is not None
    assert [one.place[2] for one in found.chosen.plateau.cells] == [1, 2, 3]
    assert found.reason == ""


def test_estimates_that_differ_are_no_plateau_and_the_reason_says_by_how_much() -> None:
    cells, axes = grid([[[1.0, 1.2, 1.4]]])
    found = judge(cells, axes, usual=1.0, tolerance=0.1)
    assert found.cell is None
    assert "apart by up to 33% of their mean" in found.reason


def test_estimates_that_are_not_known_well_enough_are_no_plateau() -> None:
    axes = Axes(np.ones(1), np.ones(1), np.full((1, 1, 3), 1e-3), np.empty(0))
    cells = [cell((0, 0, step), 1.0, noise=4.0) for step in range(3)]
    found = judge(cells, axes, usual=1.0, tolerance=0.1)
    assert found.cell is None
    assert "errors included" in found.reason


def test_a_cell_that_is_not_sound_breaks_a_plateau() -> None:
    cells, axes = grid([[[1.0, 1.0, 1.0, 1.0]]], **{"0_0_1": biased(), "0_0_3": past_the_limit()})
    found = judge(cells, axes, usual=1.0, tolerance=0.1)
    assert found.cell is None
    assert "of 4 cells: " in found.reason
    assert "1 biased" in found.reason
    assert "1 past the limit" in found.reason
    assert "smaller --step-sizes" in found.reason


def test_of_several_the_usual_temperature_and_the_flattest_localisation_are_chosen() -> None:
    rows = [[[4.0] * 3, [3.9] * 3, [2.0] * 3], [[9.0] * 3, [5.0] * 3, [4.9] * 3]]
    cells, axes = grid(rows)
    found = judge(cells, axes, usual=float(axes.inverse_temperatures[1]), tolerance=0.1)
    assert found.chosen is not None
    # Ends have one neighbour: 5.0 to 4.9 over a factor of two.
    assert found.chosen.place == (1, 2)
    assert found.changes["localisation"] == pytest.approx(4.9 / 5.0 - 1.0, abs=2e-3)
    assert found.changes["inverse temperature"] == pytest.approx(4.9 / 2.0 - 1.0, abs=4e-3)
    assert [caution.partition(":")[0] for caution in found.cautions] == [
        "there is no plateau over the inverse temperature"
    ]


def test_too_few_step_sizes_are_no_plateau() -> None:
    cells, axes = grid([[[1.0, 1.0]]])
    assert "needs 3 step sizes, and there are 2" in judge(cells, axes, usual=1.0, tolerance=0.1).reason


# Axes


@pytest.mark.parametrize("text", ["1:2", "a:b:3", "2:1:3", "0:1:3", "1:2:1", "", "1,1", "1,-2", "nan"])
def test_axes_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="--localisation must"):
        axis("--localisation", text)


def test_the_least_localisation_holds_the_slope_to_a_tenth() -> None:
    density = SpectralDensity.from_eigenvalues(np.array([1.0, 0.5, 0.001]))
    outlook = Outlook(density, Slope(np.array([0.001]), np.array([1e-3])))
    pull = least_localisation(outlook, [20.0], 1e-3)
    assert outlook.at(20.0, pull).lowered <= LARGEST_FALL < outlook.at(20.0, pull / 1.5).lowered
    assert least_localisation(outlook, [20.0], 2.0 * pull) == 2.0 * pull
    # As g grows the share tends to 2 nb |b|^2 / tr H, which no localisation brings down.
    assert math.isinf(least_localisation(Outlook(density, Slope(np.array([0.5]), np.array([10.0]))), [20.0], 1e-3))


def test_predictions_on_a_mesh_are_those_of_single_cells() -> None:
    outlook = Outlook(FLAT, Slope(np.array([0.5]), np.array([1e-3])))
    pull, step = np.array([[1.0, 3.0]]), np.array([[0.02, 0.05]])
    values, biases = outlook.values(20.0, pull, step)
    for place in ((0, 0), (0, 1)):
        alone = outlook.at(20.0, float(pull[place]), float(step[place]))
        assert values[place] == pytest.approx(alone.value)
        assert biases[place] == pytest.approx(alone.bias)
        assert outlook.burn_ins(20.0, pull, step)[place] == pytest.approx(alone.burn_in, abs=1.0)
        assert outlook.limits(20.0, pull)[place] == pytest.approx(alone.prediction.step_limit)


def test_a_penalty_moves_a_sampled_density_as_it_moves_the_matrix() -> None:
    from spectra.lanczos import Tridiagonal

    random = np.random.default_rng(0)
    runs = Tridiagonal(random.random((2, 5)), np.abs(random.random((2, 5))) * 0.1, np.full(2, 5))
    density = SpectralDensity(50, runs)
    moved = with_penalty(density, 0.3)
    assert np.allclose(moved.nodes, density.nodes + 0.3)
    assert np.allclose(moved.weights, density.weights)


# The cost that is sampled


@pytest.fixture(scope="module")
def trained() -> Callable[[float], tuple[torch.nn.Module, tuple[torch.Tensor, torch.Tensor]]]:
    """A classifier at a minimum of cross-entropy with a penalty."""

    def make(l2: float) -> tuple[torch.nn.Module, tuple[torch.Tensor, torch.Tensor]]:
        random = torch.Generator().manual_seed(1)
        x = torch.randn(60, 4, generator=random, dtype=torch.float64)
        y = (x[:, :3] + 0.5 * torch.randn(60, 3, generator=random, dtype=torch.float64)).argmax(1)
        model = torch.nn.Linear(4, 3).double()
        with torch.no_grad():
            for part in model.parameters():
                part.zero_()
        optimizer = torch.optim.LBFGS(
            model.parameters(), max_iter=200, tolerance_grad=1e-10, line_search_fn="strong_wolfe"
        )

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            cost = torch.nn.functional.cross_entropy(model(x), y)
            cost = cost + 0.5 * l2 * sum(part.square().sum() for part in model.parameters())
            cost.backward()
            return cost

        optimizer.step(closure)
        return model, (x, y)

    return make


OPTIONS = {"inverse_temperatures": (200.0,), "localisations": (1.0,), "steps": 40, "calls": 2, "batch_size": None}
ORIGIN = Provenance("here", "ab", dtype="float64")


@pytest.mark.parametrize("metadata, source", [({"l2": 0.05}, "metadata"), ({}, "fitted"), ({"l2": 7.0}, "fitted")])
def test_the_penalty_of_the_training_is_found(trained, metadata: dict, source: str) -> None:
    model, rows = trained(0.05)
    landscape = Landscape(model, cross_entropy, rows)
    found = prepare(landscape, SweepSettings(**OPTIONS), ORIGIN, metadata=metadata)
    assert found.ground.source == source
    assert found.ground.penalty == pytest.approx(0.05, rel=1e-4)
    assert found.ground.gradient < 1e-3 * found.ground.task_gradient
    assert found.ground.task_lowered > 0.5
    assert "no minimum of the task's cost" in found.ground.sentence("nat")
    penalised = Landscape(model, cross_entropy, rows, l2=0.05)
    direct = prepare(penalised, SweepSettings(**OPTIONS), ORIGIN)
    assert direct.ground.source == "task"
    assert found.outlook.at(200.0, 1.0).value == pytest.approx(direct.outlook.at(200.0, 1.0).value, rel=1e-4)
    assert any("penalty l2 = 0.05" in caution for caution in run_chains(landscape, found).cautions)
    # And the chains are those of the cost with the penalty.
    assert np.allclose(run_chains(landscape, found).rises, run_chains(penalised, direct).rises, atol=1e-4)


def test_a_penalty_that_is_named_is_that_of_a_landscape_that_has_it(trained) -> None:
    """A third of the penalty of the training: curvature and slope both change, and both are predicted."""
    model, rows = trained(0.05)
    named = prepare(Landscape(model, cross_entropy, rows), SweepSettings(**OPTIONS, penalty="0.02"), ORIGIN)
    direct = prepare(Landscape(model, cross_entropy, rows, l2=0.02), SweepSettings(**OPTIONS, penalty="none"), ORIGIN)
    one, two = named.outlook.at(200.0, 1.0), direct.outlook.at(200.0, 1.0)
    assert named.ground.source == "given"
    assert one.fall < -0.2
    assert (one.fall, one.value, one.burn_in) == pytest.approx((two.fall, two.value, two.burn_in), rel=1e-6)


def test_without_a_penalty_that_cures_it_the_localisation_is_raised(trained) -> None:
    model, rows = trained(0.0)
    with torch.no_grad():
        model.weight.add_(0.3 * torch.randn(model.weight.shape, generator=torch.Generator().manual_seed(2)))
    landscape = Landscape(model, cross_entropy, rows)
    free = {name: value for name, value in OPTIONS.items() if name != "localisations"}
    with pytest.raises(UserError, match="no localisation makes this checkpoint a minimum"):
        prepare(landscape, SweepSettings(**{**free, "inverse_temperatures": (1e4,)}), ORIGIN)
    # Where the temperature is not given, it gives way too.
    found = prepare(landscape, SweepSettings(**{**free, "inverse_temperatures": ()}), ORIGIN)
    assert found.ground.source == "task"
    assert "no minimum of the cost" in found.ground.sentence("nat")
    assert found.axes.inverse_temperatures[-1] < 2.0 * 60.0 / math.log(60.0)
    for place in found.axes.places:
        if place[1] == 0:
            assert found.outlook.at(*found.axes.at(place)).lowered <= LARGEST_FALL


# Stored and written


# What the plain sampler keeps the others keep too; test_llc_command goes on with that one.
@pytest.mark.parametrize(
    "sampler", [pytest.param(name, marks=pytest.mark.slow) if name == "sgld" else name for name in SAMPLERS]
)
def test_a_stored_calibration_says_the_same_and_goes_on_to_the_same_numbers(
    trained, tmp_path: Path, sampler: str
) -> None:
    model, (x, y) = trained(0.05)
    landscape = Landscape(model, cross_entropy, (x, y))
    how = {"sampler": sampler, "batch_size": None if sampler == "mala" else 16}
    settings = SweepSettings(**{**OPTIONS, **how, "localisations": (1.0, 4.0), "step_sizes": (1e-3, 2e-3), "steps": 28})
    begun = replace(prepare(landscape, settings, ORIGIN, metadata={"l2": 0.05}), at_once=2)
    whole = run_chains(landscape, begun)
    saved, stops = 0, [5, 9, 30, 51]

    def keep(state: Calibration) -> None:
        nonlocal saved
        write_calibration(tmp_path / "parts.h5", state)
        saved += 1
        if saved in stops:
            raise KeyboardInterrupt

    resumed, underway = begun, 0
    with pytest.MonkeyPatch.context() as patch:
        # Saved after each step, left at some: within blocks of random numbers, and in the second block of cells.
        patch.setattr("comparisons.calibration.run.SAVE_EVERY", -1.0)
        patch.setattr("comparisons.calibration.run._REPORT_EVERY", 1e-9)
        while not resumed.complete:
            try:
                resumed = run_chains(landscape, resumed, on_save=keep)
            except KeyboardInterrupt:
                resumed = read_calibration(tmp_path / "parts.h5")
                underway += resumed.underway is not None
    assert underway == len(stops)
    assert whole.rises.tobytes() == resumed.rises.tobytes()
    assert whole.acceptance.tobytes() == resumed.acceptance.tobytes()
    assert repr(whole.records()) == repr(resumed.records())
    assert whole.headline == resumed.headline
    assert (resumed.settings, resumed.ground) == (whole.settings, whole.ground)


def test_chosen_settings_are_what_compare_reads(quadratic, tmp_path: Path) -> None:
    settings = SweepSettings(
        inverse_temperatures=(20.0,),
        localisations=(20.0,),
        step_sizes=(2e-3, 3e-3, 4e-3),
        calls=8,
        chains=2,
        steps=1200,
        penalty="none",
    )
    begun = prepare(quadratic(np.array([5.0, 2.0, 1.0])), settings, ORIGIN)
    rises = 0.05 + 1e-3 * np.random.default_rng(0).standard_normal((3, 16, 1200))
    found = replace(begun, rises=rises.astype(np.float32), done=3)
    assert found.verdict.cell is found.cells[1]
    (tmp_path / "llc.toml").write_text(settings_text(found))
    chosen = chosen_options(options_in_file(tmp_path / "llc.toml"))["learning-coefficient"]
    assert chosen == {
        "inverse-temperature": 20.0,
        "localisation": 20.0,
        "step-size": 0.003,
        "burn-in": found.cells[1].chains.burn_in,
        "chains": 16,
        "draws": 1200 - found.cells[1].chains.burn_in,
        "batch-size": 1,
    }
    assert found.headline in settings_text(found)
    assert all(word in found.headline for word in ("inverse temperature 20", "localisation 20", "step size 0.003"))
    assert "sampler" not in settings_text(found)  # the usual one
    refused = replace(found, settings=replace(found.settings, tolerance=1e-7))
    with pytest.raises(UserError, match="there are no settings to write: no value: no plateau"):
        settings_text(refused)


@pytest.mark.parametrize("sampler", ["rmsprop", "mala"])
def test_chosen_settings_name_their_sampler(quadratic, tmp_path: Path, sampler: str) -> None:
    options = {"inverse_temperatures": (20.0,), "localisations": (20.0,), "step_sizes": (2e-3, 3e-3, 4e-3)}
    settings = SweepSettings(**options, calls=8, chains=2, steps=1200, penalty="none", sampler=sampler)
    begun = prepare(quadratic(np.array([5.0, 2.0, 1.0])), settings, ORIGIN)
    rises = 0.05 + 1e-3 * np.random.default_rng(0).standard_normal((3, 16, 1200))
    (tmp_path / "llc.toml").write_text(settings_text(replace(begun, rises=rises.astype(np.float32), done=3)))
    chosen = chosen_options(options_in_file(tmp_path / "llc.toml"))["learning-coefficient"]
    assert (chosen["sampler"], chosen["step-size"]) == (sampler, 3e-3)
    # A minibatch is refused by mala; a burn-in that is shorter than its averages remember by rmsprop.
    assert ("batch-size" in chosen) == (sampler == "rmsprop")
    assert ChainSettings(sampler=sampler, burn_in=chosen["burn-in"], draws=chosen["draws"]).sampler == sampler
    assert chosen["burn-in"] + chosen["draws"] == 1200


@pytest.mark.parametrize("temperatures", [(20.0,), (20.0, 40.0, 80.0)])
def test_the_title_and_the_legend_of_a_figure_lie_within_it(quadratic, calibrated, temperatures) -> None:
    options = {"localisations": (10.0,), "calls": 2, "chains": 2, "steps": 20}
    found = calibrated(quadratic(np.array([1.0, 2.0])), inverse_temperatures=temperatures, **options)
    figure = calibration_figure(found)
    figure.canvas.draw()
    for words in (figure._suptitle, *figure.legends):
        box = words.get_window_extent()
        assert 0.0 <= box.x0 < box.x1 <= figure.bbox.width
