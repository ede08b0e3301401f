"""Options of measures: what is refused, that each reaches what computes, and what work is expected beforehand."""

import inspect

import numpy as np
import pytest
import torch

import comparisons.searches as searches
from comparisons.evidence import Evidence, EvidenceSettings, Extent
from comparisons.examination import examine, expected_work
from comparisons.measures import DEFAULT, REGISTRY, chosen_options, measures_named, options_in_file, options_in_words
from comparisons.measures.sharpness.around import _ROWS
from spectra.costs import mean_squared_error
from spectra.errors import UserError
from spectra.files import Provenance
from spectra.landscape import Landscape

BY_NAME = {measure.name: measure for measure in REGISTRY}


def read(name: str, landscape: Landscape, **options: object) -> float:
    settings = EvidenceSettings(
        options=chosen_options({name: {key.replace("_", "-"): options[key] for key in options}})
    )
    return BY_NAME[name].read(Evidence(landscape, settings=settings)).value


@pytest.mark.parametrize(
    "given, sentence",
    [
        ({"keskr": {"epsilon": 1}}, "no measure or family 'keskr'; did you mean keskar"),
        (
            {"keskar": {"epsilonn": 1}},
            "keskar has no option 'epsilonn': it has epsilon, iterations, starts; did you mean",
        ),
        ({"path-norm": {"epsilon": 1}}, "path-norm has no option 'epsilon': it has none"),
        ({"keskar": {"epsilon": -1}}, "keskar.epsilon must be a number above 0, got -1"),
        ({"keskar": {"epsilon": float("nan")}}, "keskar.epsilon must be a number above 0"),
        ({"keskar": {"starts": 2.5}}, "keskar.starts must be a whole number of at least 1, got 2.5"),
        ({"keskar": {"starts": "two"}}, "keskar.starts must be a whole number of at least 1, got 'two'"),
        ({"keskar": {"starts": True}}, "must be a whole number of at least 1, got True"),
        ({"star-domain": {"preconditioner": "adm"}}, "star-domain.preconditioner must be one of "),
        ({"keskar": 5}, "options of keskar must be given by name"),
        ({"llc": {"localisation": 0}}, "learning-coefficient.localisation must be a number above 0, got 0"),
    ],
)
def test_what_is_not_possible_is_said_in_a_sentence(given: dict, sentence: str) -> None:
    with pytest.raises(UserError) as error:
        chosen_options(given)
    assert sentence in str(error.value)


def test_a_family_is_set_and_a_measure_of_it_goes_before() -> None:
    found = chosen_options({"wbic": {"localisation": "7"}, "learning-coefficient": {"localisation": 5}})
    family = {measure.name for measure in REGISTRY if measure.family == "learning-coefficient"}
    assert found == {name: {"localisation": 7.0 if name == "wbic" else 5.0} for name in family}
    assert chosen_options({"llc": {"draws": 9}}) == {"learning-coefficient": {"draws": 9}}


def test_options_of_what_is_not_read_are_refused() -> None:
    with pytest.raises(UserError, match=r"keskar\.epsilon has no effect: keskar is not among the measures asked for"):
        chosen_options({"keskar": {"epsilon": 1.0}}, measures_named(["norms"]))


def test_an_examination_does_not_pass_over_an_option(network_landscape) -> None:
    evidence = Evidence(network_landscape, settings=EvidenceSettings(options={"sam": {"radios": 1.0}}))
    with pytest.raises(UserError, match="sam has no option 'radios'"):
        examine(evidence, measures_named(["sam"]), Provenance("a", ""))


def test_words_and_files(tmp_path) -> None:
    words = ["keskar.epsilon=1", "keskar.epsilon = 2", "sam.radius=3"]
    assert options_in_words(words) == {"keskar": {"epsilon": "2"}, "sam": {"radius": "3"}}
    for word in ("keskar.epsilon", "keskar=1", ".epsilon=1", "keskar.=1", "keskar.epsilon="):
        with pytest.raises(UserError, match=r"--set must be measure\.option=value"):
            options_in_words([word])
    file = tmp_path / "measures.toml"
    file.write_text("[keskar]\nepsilon = 5e-4\n[llc]\nbatch-size = 32\n")
    assert options_in_file(file) == {"keskar": {"epsilon": 5e-4}, "llc": {"batch-size": 32}}
    file.write_text("keskar.epsilon 3")
    with pytest.raises(UserError, match=r"measures\.toml is no TOML file"):
        options_in_file(file)


def test_every_option_of_a_search_is_an_argument_of_it() -> None:
    for row in _ROWS:
        function = getattr(searches, row.function) if isinstance(row.function, str) else row.function
        known = inspect.signature(function).parameters
        anything = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in known.values())
        assert anything or {option.keyword for option in row.options} <= set(known), row.name


def test_options_reach_what_computes(network_landscape) -> None:
    at = network_landscape
    expected = {
        read("keskar", at, epsilon=0.01, starts=2): searches.keskar_sharpness(at, epsilon=0.01, starts=2).value,
        read("sam", at, radius=0.2): searches.worst_case(at, radius=0.2, steps=1, starts=1).value,
        read("average-case", at, deviation=0.1, pairs=4): searches.average_case(at, deviation=0.1, pairs=4).value,
    }
    for found, value in expected.items():
        assert found == pytest.approx(value, rel=1e-9)
    assert read("sam", at) == pytest.approx(searches.worst_case(at, radius=0.05, steps=1, starts=1).value, rel=1e-9)
    assert read("keskar", at) != pytest.approx(read("keskar", at, epsilon=0.01), rel=0.1)


def test_localisation_and_temperature_of_half_the_effective_dimension() -> None:
    torch.manual_seed(0)
    x = torch.randn(30, 4, dtype=torch.float64)
    model = torch.nn.Linear(4, 1, bias=False).double()
    landscape = Landscape(model, mean_squared_error, (x, torch.zeros(30, 1).double()))
    h = np.linalg.eigvalsh(2.0 * (x.T @ x / 30.0).numpy())
    found = read("half-effective-dimension", landscape, localisation=5.0, inverse_temperature=20.0)
    assert found == pytest.approx(0.5 * float(np.sum(20.0 * h / (20.0 * h + 5.0))), rel=1e-8)


def test_the_work_expected_is_what_is_spent(network_landscape) -> None:
    measures = measures_named(["default"])
    work = expected_work(Evidence(network_landscape), measures)
    told: list[tuple[int, int]] = []
    found = examine(
        Evidence(network_landscape),
        measures,
        Provenance("a", ""),
        progress=lambda done, total, _: told.append((done, total)),
    )
    assert found.work.in_gradients == pytest.approx(work.gradients, rel=0.3)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1][0] <= told[-1][1] == np.ceil(work.gradients)


def test_the_default_set_is_done_in_about_a_thousand_gradients() -> None:
    extent, items = Extent(), {}
    for measure in measures_named(["default"]):
        items |= measure.expected(extent)
    assert BY_NAME.keys() >= DEFAULT
    assert 900 < sum(items.values()) < 1100


def test_what_has_no_value_for_a_reason_known_beforehand_costs_nothing(network_landscape) -> None:
    x = torch.randn(12, 3, generator=torch.Generator().manual_seed(1))
    landscape = Landscape(torch.nn.Linear(3, 1), mean_squared_error, (x, torch.zeros(12, 1)))
    names = ("pac-bayes", "margin", "distance-from-initialisation")
    work = expected_work(Evidence(landscape), measures_named(names))
    assert set(work.missing) == set(names)
    assert work.gradients == 0.0
    assert work.missing["pac-bayes"] == "the cost is no cross-entropy with classes as targets"
    assert expected_work(Evidence(network_landscape), measures_named(["margin"])).missing == {}
