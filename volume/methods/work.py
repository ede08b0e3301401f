"""What the methods of a study share: the cost, the prior, the curvature and its spectrum, each computed once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import cached_property

from torch import Tensor

from spectra.checkpoint import AdamMoments
from spectra.density import SpectralDensity
from spectra.errors import UserError
from spectra.landscape import Landscape
from spectra.operators import SymmetricOperator
from spectra.plan import make_operator
from spectra.spectrum import SpectrumSettings
from volume.curvature_density import curvature_density, curvature_name, fitting_block
from volume.method_result import MethodResult, stating_methods
from volume.methods.choice import check_preconditioner, choose_preconditioner
from volume.preconditioners import Preconditioner
from volume.prior_units import prior_units
from volume.priors import GaussianPrior, Prior
from volume.quadratic import AnchorMeasure, anchor_measure
from volume.rays import StarDomainSettings
from volume.study import VolumeSettings

Progress = Callable[[int, int, str], None]


class VolumeWork:
    """One landscape under the settings of a study; what takes time is computed when first needed, once.

    Attributes:
        landscape: the cost.
        settings: what was asked for.
        prior: the measure.
        operator_name: of the curvature.
        fall: the most that the cost was seen to fall below the anchor's.
        data: the task under a cost that is a code length in nats; None codes none.
        training: the same cost on the data that the anchor was trained on; None if there is none.
        tell: called with the work done, all work and what is being done.
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
        self._moments, self._strategy, self._memory, self._noise = moments, strategy, memory, noise
        self.fall, self.data, self.training, self.tell = fall, data, training, progress
        self.operator_name = settings.operator or curvature_name(landscape)
        if settings.operator:
            self.operator  # noqa: B018  # refuses one that the cost does not have
        for method in stating_methods("gaussian", settings.methods):
            if not isinstance(prior, GaussianPrior):
                raise UserError(
                    f"{method} needs a gaussian prior, got {prior.name}; use one, or the method star-domain"
                )
        shifted = stating_methods("shifted", settings.methods)
        if shifted and not prior.proper:
            raise UserError(f"{shifted[0]} takes its shift k / s^2 from the prior's width, and {prior.name} has none")
        if stating_methods("preconditioned", settings.methods):
            check_preconditioner(settings.preconditioner, landscape)
        # Refuses an anchor outside of the prior before anything is computed.
        prior.ray(landscape.theta, landscape.theta[None].clone().fill_(1.0))

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
    def units(self) -> tuple[SymmetricOperator, AnchorMeasure | None, float, float]:
        """Curvature in prior units, the anchor's measure (Gaussian priors), s, and the log of the units' volume."""
        scale = self.prior.scale(self.landscape.size).to(self.landscape.device)
        operator, theta, s = prior_units(self.operator, self.landscape.theta, scale)
        measure = None
        if isinstance(self.prior, GaussianPrior):
            steps, count = 2 * self.settings.steps, itertools.count(1)
            tell = lambda _: self.tell(next(count), steps, "the anchor's Lanczos run")  # noqa: E731
            measure = anchor_measure(operator, theta.to(operator.dtype), steps, memory=self._memory, progress=tell)
        log_scale = 0.0 if operator is self.operator else float(scale.log().sum())
        return operator, measure, s, log_scale

    @cached_property
    def density(self) -> SpectralDensity:
        """Of the curvature, in the units of the prior."""
        return curvature_density(
            self.units[0], self.spectrum_settings, progress=lambda done, total: self.tell(done, total, "spectrum")
        )

    @property
    def correction(self) -> Tensor:
        """``c = k / s^2`` of each parameter, (n,) float64: as the shifted determinant has it."""
        return self.settings.k * self.prior.scale(self.landscape.size).pow(-2)

    @cached_property
    def sampler(self) -> StarDomainSettings:
        """Settings of methods that go along rays."""
        asked = self.settings
        return StarDomainSettings(noise=self._noise, cutoff=asked.cutoff, directions=asked.directions, seed=asked.seed)

    def preconditioner(self, earlier: MethodResult | None) -> tuple[Preconditioner, float]:
        """The preconditioner with its eps, that of an earlier result if there is one."""
        asked = self.settings
        eps = asked.fixed_eps if earlier is None or math.isnan(earlier.eps) else earlier.eps
        self.tell(0, 1, f"preconditioner {asked.preconditioner}")
        return choose_preconditioner(
            asked.preconditioner,
            eps,
            self.landscape,
            self.sampler,
            operator=lambda: self.operator,
            moments=self._moments,
            prior=self.prior,
            exponent=asked.exponent,
            memory=self._memory,
        )
