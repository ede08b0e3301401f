"""The volume of a landscape's basin by several methods, which share the curvature's spectrum."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property

from torch import Tensor

from spectra.checkpoint import AdamMoments
from spectra.costs import KLFromAnchor
from spectra.density import SpectralDensity
from spectra.landscape import Landscape
from spectra.operators import SymmetricOperator
from spectra.routes import make_operator
from spectra.spectrum import SpectrumSettings
from volume.anchor import AnchorMeasure, anchor_measure
from volume.curvature_density import curvature_density
from volume.descent import descent
from volume.description_length import description_length
from volume.determinant import ellipsoid_volume, shifted_determinant
from volume.directions import check_preconditioner, choose_preconditioner
from volume.method_result import DETERMINANTS, SLICES, MethodResult, from_determinant, from_mass, from_sample
from volume.preconditioners import Identity, Preconditioner
from volume.priors import GaussianPrior, Lebesgue, Prior
from volume.quadratic_mass import QuadraticMass, quadratic_mass
from volume.result import VolumeEstimate
from volume.scaling import prior_units
from volume.star_domain import StarDomainSettings, star_domain_volume
from volume.study import VolumeSettings

OnResult = Callable[[MethodResult], None]
Progress = Callable[[int, int, str], None]
# Methods with a shift c = k / s^2 in place of the curvature that is missing.
SHIFTED = ("shifted-determinant", "ellipsoid-slice-corrected")
SLOPE = "the anchor is no minimum of the cost, and the quadratic basin leaves its slope out"


def curvature_name(landscape: Landscape) -> str:
    """The curvature that determinants use: the Fisher of a KL, a likelihood's Gauss-Newton, else the Hessian."""
    if isinstance(landscape.cost_function, KLFromAnchor):
        return "fisher"
    return "hessian" if landscape.likelihood is None else "gauss-newton"


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
        minimum: bool = True,
        data: Landscape | None = None,
        strategy: str = "",
        progress: Progress | None = None,
    ) -> None:
        """Refuses a prior that a method cannot use.

        Args:
            landscape: the cost, of size n.
            settings: what was asked for.
            prior: the measure.
            moments: Adam's, for the preconditioners made of them.
            minimum: whether the anchor is a minimum of the cost; where it is not, determinants carry a caution.
            data: the task under a cost that is a code length in nats, to code its data with; None codes none.
            strategy: how the curvature's products are computed; empty times the candidates.
            progress: called with the work done, all work and what is being done.

        Raises:
            ValueError: if quadratic-mass is asked for under a prior that is not Gaussian, shifted-determinant under
                one without a width, the landscape does not allow the preconditioner, or the anchor lies outside of
                the prior.
        """
        self.landscape, self.settings, self.prior = landscape, settings, prior
        self._moments, self._strategy, self._progress = moments, strategy, progress
        self._data = data
        self._slope = () if minimum else (SLOPE,)
        self.operator_name = curvature_name(landscape)
        if "quadratic-mass" in settings.methods and not isinstance(prior, GaussianPrior):
            raise ValueError(f"quadratic-mass needs a gaussian prior, got {prior.name}")
        shifted = [name for name in SHIFTED if name in settings.methods]
        if shifted and not prior.proper:
            raise ValueError(f"{shifted[0]} takes its shift k / s^2 from the prior's width, and {prior.name} has none")
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
            ValueError: if the landscape does not allow the method, in a sentence.
        """
        if method in DETERMINANTS:
            return earlier or self._cautioned(self._mass() if method == "quadratic-mass" else self._determinant())
        known = None if earlier is None else earlier.sampled
        if earlier is not None and known is not None and len(known.log_terms) >= self.settings.directions:
            return earlier
        chosen: tuple[Preconditioner, float]
        if method in SLICES:
            prior: Prior = Lebesgue()
            chosen = (Identity(), math.nan)
        else:
            prior, chosen = self.prior, self._preconditioner(earlier)
        return self._sample(method, prior, chosen, earlier, on_result)

    @property
    def strategy(self) -> str:
        """How the curvature's products were computed; empty if none was."""
        if "operator" not in self.__dict__:
            return self._strategy
        return str(getattr(self.operator, "strategy", self._strategy))

    @cached_property
    def operator(self) -> SymmetricOperator:
        """The curvature H."""
        return make_operator(self.landscape, self._spectrum_settings)

    @property
    def _spectrum_settings(self) -> SpectrumSettings:
        asked = self.settings
        return SpectrumSettings(
            operator=self.operator_name,
            probes=asked.probes,
            steps=asked.steps,
            seed=asked.seed,
            strategy=self._strategy or "auto",
        )

    @cached_property
    def _units(self) -> tuple[SymmetricOperator, AnchorMeasure | None, float, float]:
        """Curvature in prior units, the anchor's measure (Gaussian priors), s, and the log of the units' volume."""
        scale = self.prior.scale(self.landscape.size).to(self.landscape.device)
        operator, theta, s = prior_units(self.operator, self.landscape.theta, scale)
        self._tell(0, 1, "the anchor's Lanczos run")
        measure = None
        if isinstance(self.prior, GaussianPrior):
            measure = anchor_measure(operator, theta.to(operator.dtype), 2 * self.settings.steps)
        log_scale = 0.0 if operator is self.operator else float(scale.log().sum())
        return operator, measure, s, log_scale

    @cached_property
    def _density(self) -> SpectralDensity:
        return curvature_density(
            self._units[0], self._spectrum_settings, progress=lambda done, total: self._tell(done, total, "spectrum")
        )

    @cached_property
    def _quadratic(self) -> QuadraticMass:
        _, measure, s, _ = self._units
        assert measure is not None
        return quadratic_mass(
            self._density, measure, [self.settings.cutoff], standard_deviation=s, negative=self.settings.negative
        )[0]

    def _mass(self) -> MethodResult:
        return from_mass(self._quadratic, self.prior.name)

    def _determinant(self) -> MethodResult:
        _, measure, s, log_scale = self._units
        rule = {"negative": self.settings.negative, "log_scale": log_scale}
        if self.settings.k == 0.0:
            return from_determinant(ellipsoid_volume(self._density, self.settings.cutoff, **rule))  # type: ignore[arg-type]
        return from_determinant(
            shifted_determinant(
                self._density,
                self.settings.cutoff,
                standard_deviation=s,
                k=self.settings.k,
                mass=None if measure is None else self._quadratic,
                **rule,  # type: ignore[arg-type]
            )
        )

    def _cautioned(self, result: MethodResult) -> MethodResult:
        assert result.estimate is not None
        cautions = (*result.estimate.cautions, *self._slope)
        return replace(result, estimate=replace(result.estimate, cautions=cautions))

    @property
    def _correction(self) -> Tensor:
        """``c = k / s^2`` of each parameter, (n,) float64: as the shifted determinant has it."""
        return self.settings.k * self.prior.scale(self.landscape.size).pow(-2)

    @cached_property
    def _sampler(self) -> StarDomainSettings:
        asked = self.settings
        return StarDomainSettings(cutoff=asked.cutoff, directions=asked.directions, seed=asked.seed)

    def _preconditioner(self, earlier: MethodResult | None) -> tuple[Preconditioner, float]:
        asked = self.settings
        eps = asked.fixed_eps if earlier is None or math.isnan(earlier.eps) else earlier.eps
        self._tell(0, 1, "preconditioner")
        return choose_preconditioner(
            asked.preconditioner,
            eps,
            self.landscape,
            self._sampler,
            operator=lambda: self.operator,
            moments=self._moments,
            prior=self.prior,
            exponent=asked.exponent,
        )

    def _sample(
        self,
        method: str,
        prior: Prior,
        chosen: tuple[Preconditioner, float],
        earlier: MethodResult | None,
        on_result: OnResult | None,
    ) -> MethodResult:
        k = self.settings.k if method in SHIFTED else None

        def result(sampled: VolumeEstimate) -> MethodResult:
            return from_sample(method, sampled, prior.name, chosen[0].name, chosen[1], k)

        def on_block(sampled: VolumeEstimate) -> None:
            self._tell(len(sampled.log_terms), self.settings.directions, f"{method}: directions")
            if on_result is not None:
                on_result(result(sampled))

        known = None if earlier is None else earlier.sampled
        found = star_domain_volume(
            self.landscape,
            self._sampler,
            prior=prior,
            preconditioner=chosen[0],
            correction=self._correction if k is not None else None,
            resume=known,
            on_block=on_block,
        )
        return self._described(result(found), chosen[0])

    def _described(self, result: MethodResult, preconditioner: Preconditioner) -> MethodResult:
        """A mass with what it costs to send the data by the prior restricted to the basin, the cheapest on it."""
        if result.kind == "volume" or result.sampled is None:
            return result
        length = description_length(
            self.landscape,
            result.sampled,
            self.prior,
            posterior="prior",
            preconditioner=preconditioner,
            seed=self.settings.seed,
            data=self._data,
        )
        return replace(result, figures={**result.figures, **length.figures})

    def _tell(self, done: int, total: int, what: str) -> None:
        if self._progress is not None:
            self._progress(done, total, what)


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
        Results by method.

    Raises:
        ValueError: if the landscape or the prior does not allow a method.

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
    minimum = not descent(landscape).caution(settings.cutoff)
    estimator = VolumeEstimator(landscape, settings, prior, moments=moments, minimum=minimum)
    return {method: estimator.run(method) for method in settings.methods}
