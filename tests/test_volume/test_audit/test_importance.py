"""Importance sampling as an estimator of the audit."""

import pytest

from volume.audit import VOLUME, NotApplicable, degenerate_case, estimators, wells_case
from volume.audit.cases import ball_case


def test_it_finds_the_truth_of_a_degenerate_case_and_of_wells() -> None:
    """5 of its standard errors, and 0.01 for what rounding and the draws inside leave."""
    run = estimators(directions=1000)["importance-sampling"]
    for case in (degenerate_case(), wells_case(size=6)):
        found = run(case, 1)
        assert found.standard_error < 0.3
        assert abs(found.value - case.truths[VOLUME].value) < 5.0 * found.standard_error + 0.01
        assert run(case, 1).value == found.value
        assert run(case, 2).value != found.value


def test_it_does_not_apply_without_a_gaussian_prior() -> None:
    with pytest.raises(NotApplicable, match="gaussian prior"):
        estimators()["importance-sampling"](ball_case(2), 0)
