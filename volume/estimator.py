"""The volume of a landscape's basin by several methods, which share the curvature's spectrum."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from spectra.checkpoint import AdamMoments
from spectra.density import IndefiniteError
from spectra.errors import FAST_PATH_FAILURES, UserError
from spectra.landscape import Landscape
from spectra.members import stating
from spectra.plan import make_operator
from spectra.spectrum import SpectrumSettings
from volume.descent import descent
from volume.method_result import MethodResult, from_sample
from volume.methods import MethodRow, Sampling, VolumeWork, method_row, sample_cutoffs
from volume.noise import above_noise, cost_noise
from volume.priors import GaussianPrior, Lebesgue, Prior
from volume.rays import star_domain_volume
from volume.result import VolumeEstimate
from volume.study import OPERATORS, VolumeSettings

Array = NDArray[np.float64]
OnResult = Callable[[MethodResult], None]
OnSweep = Callable[[tuple[MethodResult, ...]], None]


class VolumeEstimator(VolumeWork):
    """Runs methods on one landscape; the spectrum is computed when first needed, once."""

    def run(self, method: str, earlier: MethodResult | None = None, on_result: OnResult | None = None) -> MethodResult:
        """One method's result.

        Args:
            method: one of ``METHODS``.
            earlier: a result of the same settings with fewer directions, to continue.
            on_result: called with the partial result after each block of directions.

        Returns:
            The result with all directions.

        Raises:
            UserError: if the landscape does not allow the method, in a sentence.
        """
        row, cutoff = method_row(method), self.settings.cutoff
        if row.at is not None:
            return earlier or row.finish(self, row.at(self, [cutoff])[0], None)
        known = None if earlier is None else earlier.sampled
        if earlier is not None and known is not None and len(known.log_terms) >= self.settings.directions:
            return earlier
        return self._sample(row, earlier, on_result)

    def sweep(
        self,
        method: str,
        cutoffs: Array,
        *,
        earlier: tuple[MethodResult, ...] = (),
        like: MethodResult | None = None,
        on_block: OnSweep | None = None,
    ) -> tuple[MethodResult, ...]:
        """One method's results at several cutoffs, from one spectrum and one set of directions.

        Args:
            method: one of ``METHODS``.
            cutoffs: (q,) T, ascending.
            earlier: results at the same cutoffs with fewer directions, to continue.
            like: the result at the study's own cutoff, whose preconditioner is used at all of them.
            on_block: called with the partial results after each block of directions.

        Returns:
            One result a cutoff.

        Raises:
            UserError: if the landscape does not allow the method, in a sentence.
        """
        row = method_row(method)
        if row.at is not None:
            return earlier or row.at(self, cutoffs)
        known = tuple(result.sampled for result in earlier if result.sampled is not None)
        if known and len(known[0].log_terms) >= self.settings.directions:
            return earlier
        assert row.rays is not None
        along = row.rays(self, earlier[0] if earlier else like)

        def results(sampled: tuple[VolumeEstimate, ...]) -> tuple[MethodResult, ...]:
            return tuple(self._sampled(row, one, along) for one in sampled)

        def tell(sampled: tuple[VolumeEstimate, ...]) -> None:
            self.tell(len(sampled[0].log_terms), self.settings.directions, f"{method}: directions of the sweep")
            if on_block is not None:
                on_block(results(sampled))

        self.tell(0, 1, f"{method}: pilot rays of the sweep")
        found = sample_cutoffs(
            self.landscape,
            cutoffs,
            self.sampler,
            prior=along.measure,
            preconditioner=along.preconditioner,
            correction=along.correction,
            resume=known,
            on_block=tell,
        )
        return results(found)

    def failed(self, method: str, error: Exception) -> MethodResult:
        """The result of a method that has none, with what may be done about it.

        Args:
            method: one of ``METHODS``.
            error: what ``run`` raised.

        Returns:
            The result, its failure a sentence.
        """
        row = method_row(method)
        measure = self.prior.name if row.mass else Lebesgue().name
        words = " ".join(str(error).split()) or "not enough memory"
        if isinstance(error, IndefiniteError):
            words = f"{error.fact}; {self._instead(row, error)}"
        return MethodResult(method, measure, failure=words)

    def _instead(self, row: MethodRow, error: IndefiniteError) -> str:
        """What is possible here where negative eigenvalues are in the way."""
        ellipsoid = row.shifted and self.settings.k == 0.0
        ways = ["--negative abs" if ellipsoid else "--negative clip or abs"]
        if row.shifted and not ellipsoid and math.isfinite(error.needed):
            ways.append(f"--k above {error.needed * self.units[2] ** 2:.3g}")
        if others := self._semidefinite_operators:
            ways.append(f"--operator {' or '.join(others)}")
        return f"use {', or '.join(ways)}"

    @cached_property
    def _semidefinite_operators(self) -> tuple[str, ...]:
        """Other curvatures that this landscape has, tried by one product each."""
        found = []
        for name in stating("spectra.operators", "semidefinite"):
            if name not in OPERATORS:
                continue
            try:
                one = make_operator(self.landscape, SpectrumSettings(operator=name, strategy="double-vjp"))
                one.matvec(self.landscape.theta)
            except (UserError, *FAST_PATH_FAILURES):  # not here: what fails is not advised
                continue
            found.append(name)
        return tuple(name for name in found if name != self.operator_name)

    def _sampled(self, row: MethodRow, sampled: VolumeEstimate, along: Sampling) -> MethodResult:
        k = self.settings.k if row.shifted else None
        return from_sample(row.name, sampled, along.measure.name, along.preconditioner.name, along.eps, k)

    def _sample(self, row: MethodRow, earlier: MethodResult | None, on_result: OnResult | None) -> MethodResult:
        assert row.rays is not None
        along = row.rays(self, earlier)

        def on_block(sampled: VolumeEstimate) -> None:
            self.tell(len(sampled.log_terms), self.settings.directions, f"{row.name}: directions")
            if on_result is not None:
                on_result(self._sampled(row, sampled, along))

        self.tell(0, 1, f"{row.name}: pilot rays")
        found = star_domain_volume(
            self.landscape,
            self.sampler,
            prior=along.measure,
            preconditioner=along.preconditioner,
            correction=along.correction,
            resume=None if earlier is None else earlier.sampled,
            on_block=on_block,
        )
        return row.finish(self, self._sampled(row, found, along), along)


def estimate_volumes(
    landscape: Landscape,
    settings: VolumeSettings | None = None,
    *,
    prior: Prior | None = None,
    moments: AdamMoments | None = None,
) -> Mapping[str, MethodResult]:
    """The volume around a landscape's anchor by each of the methods asked for.

    Args:
        landscape: the cost, of size n.
        settings: methods, cutoff and precision.
        prior: the measure; default Gaussian, its standard deviation the root mean square of theta.
        moments: Adam's, for the preconditioners made of them.

    Returns:
        Results by method; that of a method that the landscape does not allow has a ``failure`` in place of a volume.

    Raises:
        UserError: if no method gives a volume, or the prior does not allow one.

    >>> import torch
    >>> from spectra.costs import mean_squared_error
    >>> model, x = torch.nn.Linear(2, 1, bias=False), torch.eye(2)
    >>> landscape = Landscape(model, mean_squared_error, (x, torch.ones(2, 1)), theta=torch.ones(2))
    >>> settings = VolumeSettings(methods=("ellipsoid-slice",), cutoff=1.0, directions=3)
    >>> round(math.exp(estimate_volumes(landscape, settings)["ellipsoid-slice"].log_volume) / math.pi, 3)  # a disc
    2.0
    """
    settings = settings or VolumeSettings()
    prior = prior or GaussianPrior.from_parameters_rms(landscape.theta)
    if not isinstance(prior, GaussianPrior):
        settings = replace(settings, prior=prior.name)
    noise = cost_noise(landscape)
    fall = above_noise(descent(landscape), noise).fall
    estimator = VolumeEstimator(landscape, settings, prior, moments=moments, fall=fall, noise=noise)
    found = {}
    for method in settings.methods:
        try:
            found[method] = estimator.run(method)
        except UserError as error:
            found[method] = estimator.failed(method, error)
    refuse_without_volume(found)
    return found


def refuse_without_volume(results: Mapping[str, MethodResult]) -> None:
    """Refuses results none of which is one.

    Args:
        results: by method.

    Raises:
        UserError: if all failed, saying why.
    """
    reasons: dict[str, list[str]] = {}
    for method, result in results.items():
        reasons.setdefault(result.failure, []).append(method)
    if "" not in reasons:
        several = len(reasons) > 1
        raise UserError("; ".join(f"{', '.join(who)}: {why}" if several else why for why, who in reasons.items()))
