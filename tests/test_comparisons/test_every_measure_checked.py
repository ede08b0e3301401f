"""Each measure of the registry has a test against something that is not ours; this table says which."""

import ast
import functools
from pathlib import Path

import pytest

from comparisons.flatness import Measure
from comparisons.measures import REGISTRY

FOLDER = Path(__file__).parent
CURVATURE = "test_measures/test_curvature.py::"
NORMS = "test_measures/test_norms.py::"
RECIPES = "test_rows_against_recipes.py::"
SEARCHES = "test_searches_and_chains/test_sharpness.py::"
SHARPNESS_ROWS = "test_searches_and_chains/test_sharpness_measures.py::"
CHAINS = "test_searches_and_chains/test_learning_coefficient.py::"
ROUTES = "test_searches_and_chains/test_coefficient_routes.py::"
VOLUMES = "test_measures/test_volumes.py::"

HESSIAN = (CURVATURE + "test_readings_of_a_quadratic", RECIPES + "test_sampled_hessians_against_the_dense_matrix")
PYHESSIAN = RECIPES + "test_trace_and_largest_eigenvalue_against_pyhessian"
MATRIX = (
    CURVATURE + "test_readings_of_a_network_against_dense_matrices",
    RECIPES + "test_sampled_gauss_newton_matrices_against_the_dense_one",
)
POSTERIOR = ROUTES + "test_rows_against_the_gaussian_posterior"

CHECKED: dict[str, tuple[str, ...]] = {
    # A closed form, a dense matrix, PyHessian.
    "hessian-trace": (*HESSIAN, PYHESSIAN),
    "largest-layer-trace": (CURVATURE + "test_layer_traces_against_the_dense_blocks",),
    "largest-eigenvalue": (*HESSIAN, PYHESSIAN),
    "hessian-frobenius": HESSIAN,
    "largest-over-trace": HESSIAN,
    "first-over-fifth": HESSIAN,
    "smallest-over-largest": HESSIAN,
    "negative-mass": HESSIAN,
    "log-determinant": MATRIX,
    "log-determinant-derived": (CURVATURE + "test_the_derived_shift_solves_its_condition",),
    "effective-dimension": MATRIX,
    "participation-ratio": MATRIX,
    "effective-rank": MATRIX,
    "quadratic-mass": (CURVATURE + "test_quadratic_mass_against_sampling",),
    # Closed forms, all corners of a box, papers' recipes in plain torch.
    "keskar": (
        SHARPNESS_ROWS + "test_rows_of_a_quadratic_read_its_closed_forms",
        SEARCHES + "test_keskar_finds_the_corner_of_the_box",
    ),
    "keskar-subspace": (
        RECIPES + "test_keskar_subspace_is_nearly_the_largest_of_all_corners",
        SEARCHES + "test_keskar_in_a_subspace_is_the_largest_of_all_corners",
    ),
    "sam": (RECIPES + "test_one_step_by_the_published_recipe",),
    "asam": (RECIPES + "test_one_step_by_the_published_recipe",),
    "worst-case": (SHARPNESS_ROWS + "test_rows_of_a_quadratic_read_its_closed_forms",),
    "adaptive-worst-case": (SHARPNESS_ROWS + "test_rows_of_a_quadratic_read_its_closed_forms",),
    "m-sharpness": (RECIPES + "test_m_sharpness_by_the_published_recipe",),
    "average-case": (RECIPES + "test_average_cases_are_traces", SEARCHES + "test_the_average_case_is_half_the_trace"),
    "adaptive-average-case": (RECIPES + "test_average_cases_are_traces",),
    "pac-bayes": (SEARCHES + "test_the_noise_found_loses_the_accuracy_asked_for",),
    "pac-bayes-magnitude": (SEARCHES + "test_the_noise_found_loses_the_accuracy_asked_for",),
    "relative-flatness": (
        RECIPES + "test_relative_flatness_of_the_last_layer_by_the_double_sum",
        SEARCHES + "test_relative_flatness_is_the_double_sum",
    ),
    "local-entropy": (
        SHARPNESS_ROWS + "test_local_entropy_is_that_of_the_dense_gauss_newton_matrix",
        SEARCHES + "test_local_entropy_is_the_integral",
    ),
    # Plain torch and numpy, one sample, path or label at a time.
    "parameter-norm": (NORMS + "test_norms_of_parameters",),
    "distance-from-initialisation": (NORMS + "test_norms_of_parameters",),
    "path-norm": (NORMS + "test_path_norm_by_enumeration_of_paths",),
    "spectral-product": (NORMS + "test_margins_and_products",),
    "frobenius-product": (NORMS + "test_margins_and_products",),
    "margin": (NORMS + "test_margins_and_products",),
    "normalised-margin": (NORMS + "test_margins_and_products",),
    "fisher-rao": (NORMS + "test_fisher_rao_by_enumeration_of_the_labels",),
    "fisher-rao-empirical": (NORMS + "test_gradients_one_by_one",),
    "gradient-norm": (NORMS + "test_gradients_one_by_one",),
    "gradient-variance": (NORMS + "test_gradients_one_by_one",),
    "gradient-noise-scale": (NORMS + "test_gradients_one_by_one",),
    # Volumes and posteriors in closed form.
    "star-domain": (VOLUMES + "test_the_star_domain_of_a_ball_is_a_noncentral_chi_square",),
    "ellipsoid-slice": (RECIPES + "test_a_slice_of_an_ellipsoid_is_its_volume",),
    "learning-coefficient": (POSTERIOR, CHAINS + "test_chains_on_a_quadratic_find_the_prediction_with_its_bias"),
    "half-effective-dimension": (CHAINS + "test_rows_of_the_registry_read_the_chains_and_the_spectrum",),
    "wbic": (POSTERIOR, CHAINS + "test_the_criterion_is_n_times_the_mean_cost"),
    "two-temperatures": (POSTERIOR,),
    "volume-slope": (POSTERIOR, ROUTES + "test_the_mean_slope_is_what_chains_sample"),
}

# A test file may say itself which measures its tests check.
for path in sorted(FOLDER.rglob("test_*.py")):
    if path != Path(__file__) and (start := (text := path.read_text()).find("\nCHECKED = ")) >= 0:
        own = ast.literal_eval(ast.parse(text[start:]).body[0].value)  # type: ignore[attr-defined]
        CHECKED |= {name: tuple(f"{path.relative_to(FOLDER)}::{one}" for one in tests) for name, tests in own.items()}

# What carries out a row whose own function is shared or private.
WORKERS = {
    "learning-coefficient": {"local_learning_coefficient", "local_coefficient"},
    "wbic": {"widely_applicable_criterion"},
    "two-temperatures": {"two_temperature_coefficient"},
    "volume-slope": {"tempered_slope"},
    "path-norm": {"path_norm"},
    "relative-flatness": {"relative_flatness"},
    "keskar-subspace": {"keskar_sharpness"},
    "largest-layer-trace": {"layer_traces"},
    "local-entropy": {"local_entropy"},
}


def names_of(measure: Measure) -> set[str]:
    """By what a test may call a measure: its name, its function's, or that of the function it hands on."""
    found, waiting = {measure.name} | WORKERS.get(measure.name, set()), [measure.compute]
    while waiting:
        function = waiting.pop()
        if isinstance(function, functools.partial):
            waiting += [function.func, *(one for one in function.args if callable(one))]
        elif isinstance(function, str):
            found.add(function)
        elif hasattr(function, "__self__"):
            waiting.append(function.__self__.function)
        else:
            found.add(function.__name__)
    return found


def source_of(test: str) -> str:
    """A test's text, its decorators included; empty if there is no such test."""
    file, _, name = test.partition("::")
    path = FOLDER / file
    text = path.read_text() if path.is_file() else ""
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
            return "\n".join(text.splitlines()[first - 1 : node.end_lineno])
    return ""


def test_the_table_has_the_registrys_measures() -> None:
    assert set(CHECKED) == {measure.name for measure in REGISTRY}
    assert all(CHECKED.values())


@pytest.mark.parametrize("measure", REGISTRY, ids=lambda measure: measure.name)
def test_a_measures_tests_exist_and_read_it(measure: Measure) -> None:
    for test in CHECKED.get(measure.name, ()):
        source = source_of(test)
        assert source, f"{test} does not exist"
        assert "slow" not in source.split("def ")[0], f"{test} is not run by default"
        assert any(name in source for name in names_of(measure)), f"{test} does not read {measure.name}"
