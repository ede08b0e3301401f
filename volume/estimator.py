"""The volume of a landscape's basin by several methods, which share the curvature's spectrum."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from spectra.checkpoint import AdamMoments
from spectra.density import IndefiniteError, SpectralDensity
from spectra.errors import FAST_PATH_FAILURES, UserError
from spectra.landscape import Landscape
from spectra.operators import SymmetricOperator
from spectra.plan import make_operator
from spectra.spectrum import SpectrumSettings
from volume.curvature_density import curvature_density, curvature_name, fitting_block
from volume.descent import descent
from volume.method_result import DETERMINANTS, SEGMENT, SLICES, MethodResult, from_sample
from volume.methods import (
    check_preconditioner,
    choose_preconditioner,
    description_length,
    determinant_results,
    held_against_cost,
    sample_cutoffs,
    segment_results,
)
from volume.noise import above_noise, cost_noise
from volume.preconditioners import Identity, Preconditioner
from volume.prior_units import prior_units
from volume.priors import GaussianPrior, Lebesgue, Prior
from volume.quadratic import AnchorMeasure, anchor_measure
from volume.rays import StarDomainSettings, star_domain_volume
from volume.result import VolumeEstimate
from volume.study import VolumeSettings

Array = NDArray[np.float64]
OnResult = Callable[[MethodResult], None]
OnSweep = Callable[[tuple[MethodResult, ...]], None]
Progress = Callable[[int, int, str], None]
# Methods with a shift c = k / s^2.
SHIFTED = ("shifted-determinant", "ellipsoid-slice-corrected")


class VolumeEstimator:
    """Runs methods on one landscape; the spectrum is computed when first needed, once.

    Attributes:
        landscape: the cost.
        settings: what was asked for.
        prior: the measure.
        operator_name: of the curvature.
    """

    def __init__(
        self,
        landscape: Landscape,
        settings: VolumeSettings,
        prior: Prior,
        *,
        moments: AdamMoments | None = None,
        fall: float = 0.0,
        noise: float = 0.0,
        data: Landscape | None = None,
        training: Landscape | None = None,
        strategy: str = "",
        memory: int = SpectrumSettings.memory,
        progress: Progress = lambda *_: None,
    ) -> None:
        """Refuses a prior that a method cannot use.

        Args:
            landscape: the cost, of size n.
            settings: what was asked for.
            prior: the measure.
            moments: Adam's, for the preconditioners made of them.
            fall: the most that the cost was seen to fall below the anchor's; determinants at cutoffs that this is no
                small part of carry a caution.
            noise: rounding noise of the cost, which crossings are not sought more finely than.
            data: the task under a cost that is a code length in nats, to code its data with; None codes none.
            training: the same cost on the data that the anchor was trained on, for the segment; None allows no segment.
            strategy: how the curvature's products are computed; empty times the candidates.
            memory: bytes that graphs and Lanczos bases may take.
            progress: called with the work done, all work and what is being done.

        Raises:
            UserError: if quadratic-mass is asked for under a prior that is not Gaussian, shifted-determinant under
                one without a width, the landscape does not allow the operator or the preconditioner, or the anchor lies
                outside of the prior.
        """
        self.landscape, self.settings, self.prior = landscape, settings, prior
        self._moments, self._strategy, self._memory, self._tell = moments, strategy, memory, progress
        self._fall, self._noise, self._data, self._training = fall, noise, data, training
        self.operator_name = settings.operator or curvature_name(landscape)
        if settings.operator:
            self.operator  # noqa: B018  # refuses one that the cost does not have
        if "quadratic-mass" in settings.methods and not isinstance(prior, GaussianPrior):
            raise UserError(f"quadratic-mass needs a gaussian prior, got {prior.name}")
        shifted = [name for name in SHIFTED if name in settings.methods]
        if shifted and not prior.proper:
            raise UserError(f"{shifted[0]} takes its shift k / s^2 from the prior's width, and {prior.name} has none")
        if "star-domain" in settings.methods:
            check_preconditioner(settings.preconditioner, landscape)
        # Refuses an anchor outside of the prior before anything is computed.
        prior.ray(landscape.theta, landscape.theta[None].clone().fill_(1.0))

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
        if method in DETERMINANTS:
            return earlier or self._tested(self._determinants(method, [self.settings.cutoff])[0])
        known = None if earlier is None else earlier.sampled
        if earlier is not None and known is not None and len(known.log_terms) >= self.settings.directions:
            return earlier
        return self._sample(method, earlier, on_result)

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
        if method in DETERMINANTS:
            return earlier or self._determinants(method, cutoffs)
        known = tuple(result.sampled for result in earlier if result.sampled is not None)
        if known and len(known[0].log_terms) >= self.settings.directions:
            return earlier
        prior, chosen, correction = self._chosen(method, earlier[0] if earlier else like)

        def results(sampled: tuple[VolumeEstimate, ...]) -> tuple[MethodResult, ...]:
            return tuple(self._sampled(method, one, prior, chosen) for one in sampled)

        def tell(sampled: tuple[VolumeEstimate, ...]) -> None:
            self._tell(len(sampled[0].log_terms), self.settings.directions, f"{method}: directions of the sweep")
            if on_block is not None:
                on_block(results(sampled))

        self._tell(0, 1, f"{method}: pilot rays of the sweep")
        options = {"preconditioner": chosen[0], "correction": correction, "resume": known, "on_block": tell}
        return results(sample_cutoffs(self.landscape, cutoffs, self._sampler, prior=prior, **options))  # type: ignore[arg-type]

    def failed(self, method: str, error: Exception) -> MethodResult:
        """The result of a method that has none, with what may be done about it.

        Args:
            method: one of ``METHODS``.
            error: what ``run`` raised.

        Returns:
            The result, its failure a sentence.
        """
        measure = self.prior.name if method in ("quadratic-mass", "star-domain") else Lebesgue().name
        words = " ".join(str(error).split()) or "not enough memory"
        if isinstance(error, IndefiniteError):
            words = f"{error.fact}; {self._instead(method, error)}"
        return MethodResult(method, measure, failure=words)

    def _instead(self, method: str, error: IndefiniteError) -> str:
        """What is possible here where negative eigenvalues are in the way."""
        ellipsoid = method == "shifted-determinant" and self.settings.k == 0.0
        ways = ["--negative abs" if ellipsoid else "--negative clip or abs"]
        if method == "shifted-determinant" and not ellipsoid and math.isfinite(error.needed):
            ways.append(f"--k above {error.needed * self._units[2] ** 2:.3g}")
        if others := self._semidefinite_operators:
            ways.append(f"--operator {' or '.join(others)}")
        return f"use {', or '.join(ways)}"

    @cached_property
    def _semidefinite_operators(self) -> tuple[str, ...]:
        """Other curvatures that this landscape has, tried by one product each."""
        found = []
        for name in ("gauss-newton", "fisher", "empirical-fisher"):
            try:
                one = make_operator(self.landscape, SpectrumSettings(operator=name, strategy="double-vjp"))
                one.matvec(self.landscape.theta)
            except (UserError, *FAST_PATH_FAILURES):  # not here: what fails is not advised
                continue
            found.append(name)
        return tuple(name for name in found if name != self.operator_name)

    @property
    def strategy(self) -> str:
        """How the curvature's products were computed; empty if none was."""
        made = self.__dict__.get("operator")
        return str(getattr(made, "strategy", self._strategy))

    @cached_property
    def operator(self) -> SymmetricOperator:
        """The curvature H."""
        return make_operator(self.landscape, self.spectrum_settings)

    @property
    def spectrum_settings(self) -> SpectrumSettings:
        """How the curvature's spectrum is computed."""
        asked = self.settings
        return SpectrumSettings(
            operator=self.operator_name,
            probes=asked.probes,
            steps=asked.steps,
            seed=asked.seed,
            strategy=self._strategy or "auto",
            block=fitting_block(self.landscape.size, self.landscape.dtype, self._memory),
            memory=self._memory,
        )

    @cached_property
    def _units(self) -> tuple[SymmetricOperator, AnchorMeasure | None, float, float]:
        """Curvature in prior units, the anchor's measure (Gaussian priors), s, and the log of the units' volume."""
        scale = self.prior.scale(self.landscape.size).to(self.landscape.device)
        operator, theta, s = prior_units(self.operator, self.landscape.theta, scale)
        measure = None
        if isinstance(self.prior, GaussianPrior):
            steps, count = 2 * self.settings.steps, itertools.count(1)
            tell = lambda _: self._tell(next(count), steps, "the anchor's Lanczos run")  # noqa: E731
            measure = anchor_measure(operator, theta.to(operator.dtype), steps, memory=self._memory, progress=tell)
        log_scale = 0.0 if operator is self.operator else float(scale.log().sum())
        return operator, measure, s, log_scale

    @cached_property
    def _density(self) -> SpectralDensity:
        return curvature_density(
            self._units[0], self.spectrum_settings, progress=lambda done, total: self._tell(done, total, "spectrum")
        )

    def _determinants(self, method: str, cutoffs: Sequence[float] | Array) -> tuple[MethodResult, ...]:
        if method == SEGMENT:
            self._tell(0, 1, "segment: dense eigenvectors")
            # One product chooses the strategy, for the segment as for the rest.
            self.operator.matvec(self.landscape.theta)
            options = {"operator": self.operator_name, "prior": self.prior, "fall": self._fall}
            options["strategy"] = self.strategy
            return segment_results(self._training, self.landscape, cutoffs, self.settings, **options)  # type: ignore[arg-type]
        _, measure, s, log_scale = self._units
        return determinant_results(
            method,
            cutoffs,
            self._density,
            self.settings,
            standard_deviation=s,
            measure=measure,
            log_scale=log_scale,
            prior=self.prior.name,
            fall=self._fall,
        )

    def _tested(self, result: MethodResult) -> MethodResult:
        """A quadratic mass with what the true cost is at points typical of it; other results as they are."""
        if result.method != "quadratic-mass":
            return result
        self._tell(0, 1, "the true cost at typical points of the quadratic mass")
        return held_against_cost(result, self.landscape, self.operator, self.prior, self.settings)

    def _chosen(
        self, method: str, known: MethodResult | None
    ) -> tuple[Prior, tuple[Preconditioner, float], Tensor | None]:
        """Measure, preconditioner with its eps, and correction of a sampled method."""
        if method not in SLICES:
            return self.prior, self._preconditioner(known), None
        return Lebesgue(), (Identity(), math.nan), self._correction if method in SHIFTED else None

    def _sampled(
        self, method: str, sampled: VolumeEstimate, prior: Prior, chosen: tuple[Preconditioner, float]
    ) -> MethodResult:
        k = self.settings.k if method in SHIFTED else None
        return from_sample(method, sampled, prior.name, chosen[0].name, chosen[1], k)

    @property
    def _correction(self) -> Tensor:
        """``c = k / s^2`` of each parameter, (n,) float64: as the shifted determinant has it."""
        return self.settings.k * self.prior.scale(self.landscape.size).pow(-2)

    @cached_property
    def _sampler(self) -> StarDomainSettings:
        asked = self.settings
        options = {"cutoff": asked.cutoff, "directions": asked.directions, "seed": asked.seed}
        return StarDomainSettings(noise=self._noise, **options)  # type: ignore[arg-type]

    def _preconditioner(self, earlier: MethodResult | None) -> tuple[Preconditioner, float]:
        asked = self.settings
        eps = asked.fixed_eps if earlier is None or math.isnan(earlier.eps) else earlier.eps
        self._tell(0, 1, f"preconditioner {asked.preconditioner}")
        return choose_preconditioner(
            asked.preconditioner,
            eps,
            self.landscape,
            self._sampler,
            operator=lambda: self.operator,
            moments=self._moments,
            prior=self.prior,
            exponent=asked.exponent,
            memory=self._memory,
        )

    def _sample(self, method: str, earlier: MethodResult | None, on_result: OnResult | None) -> MethodResult:
        prior, chosen, correction = self._chosen(method, earlier)

        def on_block(sampled: VolumeEstimate) -> None:
            self._tell(len(sampled.log_terms), self.settings.directions, f"{method}: directions")
            if on_result is not None:
                on_result(self._sampled(method, sampled, prior, chosen))

        self._tell(0, 1, f"{method}: pilot rays")
        found = star_domain_volume(
            self.landscape,
            self._sampler,
            prior=prior,
            preconditioner=chosen[0],
            correction=correction,
            resume=None if earlier is None else earlier.sampled,
            on_block=on_block,
        )
        return self._described(self._sampled(method, found, prior, chosen), chosen[0])

    def _described(self, result: MethodResult, preconditioner: Preconditioner) -> MethodResult:
        """A mass with what it costs to send the data by the prior restricted to the basin, the cheapest on it."""
        if result.kind == "volume" or result.sampled is None:
            return result
        self._tell(0, 1, "description length")
        options = {"preconditioner": preconditioner, "seed": self.settings.seed, "data": self._data}
        length = description_length(self.landscape, result.sampled, self.prior, **options)  # type: ignore[arg-type]
        return replace(result, figures={**result.figures, **length.figures})


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
