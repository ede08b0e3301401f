"""The covariance of the samples' gradients: the noise of stochastic gradient descent."""

from __future__ import annotations

from functools import cached_property

from torch import Tensor

from spectra.landscape import Landscape
from spectra.model import Patterns
from spectra.operators.curvature import DEFAULT_MEMORY
from spectra.operators.fisher import Fisher
from spectra.operators.linear import OfAnother
from spectra.operators.registry import OperatorRow


class GradientCovariance(OfAnother):
    r"""``S = sum_i w_i (g_i - g) (g_i - g)^T / sum_i w_i``, g_i the gradient of a sample's cost and g their mean.

    It is the empirical Fisher less ``g g^T``; the penalty is the same for all samples and leaves it as it is. The
    gradient of a batch of B samples drawn with replacement has the covariance S / B.

    Reference:
        Mandt, Hoffman and Blei, Stochastic gradient descent as approximate Bayesian inference, 2017.
    """

    name = "gradient-covariance"
    definite = True
    inner: Fisher

    def __init__(self, landscape: Landscape, *, strategy: str = "auto", memory: int = DEFAULT_MEMORY) -> None:
        """Takes a landscape whose samples' costs depend on their own outputs alone; see ``Curvature`` for the rest."""
        self.landscape = landscape
        self.inner = Fisher(landscape, kind="empirical", strategy=strategy, memory=memory)
        self.size, self.dtype, self.device = landscape.size, landscape.dtype, landscape.device
        self.ranks = landscape.ranks

    @property
    def strategy(self) -> str:
        """How products with the empirical Fisher are computed."""
        return self.inner.strategy

    @cached_property
    def mean(self) -> Tensor:
        """G (n,), without the gradient of the penalty."""
        return self.landscape.gradient() - self.landscape.l2 * self.landscape.theta

    def addend(self, vectors: Tensor) -> Tensor:
        """This process's part of the products; what all samples share is the first rank's to subtract."""
        vectors, mean = self._checked(vectors), self.mean
        found = self.inner.addend(vectors) - self.landscape.own_l2 * vectors
        return found - (vectors @ mean).unsqueeze(1) * mean if self.ranks.first else found

    def matmat(self, vectors: Tensor) -> Tensor:
        """``V S`` for rows V (k, n)."""
        return self.ranks.total(self.addend(vectors))

    def restricted(self, patterns: Patterns) -> GradientCovariance:
        """The covariance of the gradients in the parameters that match."""
        return GradientCovariance(
            self.landscape.restricted(patterns), strategy=self.inner.asked, memory=self.inner.memory
        )


ROWS = (OperatorRow("gradient-covariance", GradientCovariance, semidefinite=True, squared=True),)
