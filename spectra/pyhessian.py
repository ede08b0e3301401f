"""The same jobs through PyHessian 0.1: an oracle for tests and a specimen for audits, never the engine.

Licence: the package's metadata says MIT, its file headers say GPL-3. So it is imported in this module
alone, inside functions, when somebody asks for it; nothing of its code is copied here.

What its 0.1 release does, and how it is kept right:

- it asks for a model and a criterion, and calls ``backward``, ``zero_grad`` and ``eval`` on the model,
  which changes the user's gradients and mode, and doubles the answer of a second object on one model. It is
  given a stand-in with parameters of its own at the landscape's anchor; the user's model is only evaluated,
  and left as found;
- it weights batches by their number of rows. The stand-in hands out one token a batch and a cost scaled to
  match, so that weights, masked tokens, KL from the anchor, the penalty and uneven batches are all exact;
- it raises on a parameter that the cost does not depend on, or depends on linearly. The penalty ``l2 / 2
  |theta|^2``, kept in the graph even if l2 is zero, gives each parameter a gradient that can be
  differentiated;
- it expects a CUDA device unless told otherwise, and float32: it is given the landscape's device and dtype;
- ``density`` calls ``torch.eig``, which today only raises. Its own code is run with a namespace in which
  that name is the symmetric eigendecomposition; torch itself is not patched;
- ``trace`` stops once its running mean changes little, or at once if that is negative: both bias it. It is
  kept from stopping unless a tolerance is given;
- ``eigenvalues`` is power iteration with deflation: largest magnitude first, but with close eigenvalues and
  a loose tolerance one may be skipped; look at the residuals of the vectors;
- vectors are divided by their norm plus 1e-6, which makes a relative error of 2e-6 in eigenvalues and damps
  Lanczos vectors whose norm before scaling is near 1e-6: curvatures of that size or smaller come out wrong,
  and after the Krylov space is exhausted nodes appear outside of the spectrum, with weights near zero.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spectra.errors import UserError
from spectra.estimate import Estimate, from_samples
from spectra.landscape import Landscape
from spectra.model import Batch, generator, preserved_random_state

Array = NDArray[np.float64]
Result = TypeVar("Result")


def pyhessian_trace(
    landscape: Landscape, probes: int = 100, *, tolerance: float | None = None, seed: int = 0
) -> Estimate:
    """Trace of the Hessian at the anchor by PyHessian's Hutchinson estimator, one sample a Rademacher probe.

    PyHessian's own stopping rule, by ``tolerance`` (1e-3 there), biases the estimate and is here to be audited; with it
    ``probes`` is the most, without it all are used. More probes extend the sequence of a seed.

    Reference:
        Hutchinson (1989), A stochastic estimator of the trace of the influence matrix.

    >>> from spectra.costs import mean_squared_error
    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> data = (torch.diag(torch.tensor([3.0, 1.0])), torch.zeros(2, 1))
    >>> pyhessian_trace(Landscape(model, mean_squared_error, data), 4).value
    10.0
    """
    _require("probes", probes)
    # The rule is |change| / (mean + 1e-6) < tol with a signed mean: only minus infinity never stops.
    limit = -math.inf if tolerance is None else tolerance
    samples = inside_pyhessian(landscape, seed, lambda subject: subject.trace(maxIter=probes, tol=limit))
    return from_samples(np.array(samples, dtype=np.float64))


def pyhessian_density(landscape: Landscape, probes: int = 1, steps: int = 100, *, seed: int = 0) -> tuple[Array, Array]:
    """Nodes (p, m) and weights (p, m) of the Hessian's spectral density at the anchor, by PyHessian's Lanczos.

    ``tr f(H) ~ n * mean over probes of sum_j w_j f(t_j)`` for p Rademacher probes of m steps with one pass of full
    reorthogonalisation; nodes ascend in each row, and weights of a row sum to one.

    Reference:
        Ghorbani, Krishnan, Xiao (2019), An investigation into neural net optimization via Hessian eigenvalue
        density.

    >>> from spectra.costs import mean_squared_error
    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> data = (torch.diag(torch.tensor([3.0, 1.0])), torch.zeros(2, 1))
    >>> nodes, weights = pyhessian_density(Landscape(model, mean_squared_error, data), 1, 2)
    >>> nodes.round(3).tolist(), weights.round(3).tolist()
    ([[1.0, 9.0]], [[0.5, 0.5]])
    """
    _require("probes", probes)
    _require("steps", steps, landscape.size)

    def lanczos(subject: Any) -> tuple[Array, Array]:
        nodes, weights = _with_eig(type(subject).density)(subject, iter=steps, n_v=probes)
        return np.array(nodes, dtype=np.float64), np.array(weights, dtype=np.float64)

    return inside_pyhessian(landscape, seed, lanczos)


class _StandIn:
    """What PyHessian takes for the model: parameters of its own at the anchor, and the landscape's cost."""

    def __init__(self, landscape: Landscape) -> None:
        self.landscape = landscape
        self.leaves = landscape.leaves(landscape.theta)
        self.count = sum(1 for _ in landscape.iterate())
        self.batch: Batch | None = None
        # PyHessian counts the rows of its inputs and moves them about: one token stands for a batch.
        self.token = torch.zeros(1, device=landscape.device)

    def tensors(self) -> dict[str, Tensor]:
        """All parameters of the user's model; gradients stop at those that are not variables."""
        evaluation = self.landscape.evaluation
        own = {name: parameter.detach() for name, parameter in evaluation.model.named_parameters()}
        fixed = {name: tensor.detach() for name, tensor in evaluation.background.items()}
        return own | fixed | self.leaves

    def parameters(self) -> Iterator[Tensor]:
        """The variables, in the order of theta."""
        return iter(self.leaves.values())

    def eval(self) -> _StandIn:
        """Nothing: the landscape knows its mode."""
        return self

    def zero_grad(self) -> None:
        """Forgets the gradients of the variables."""
        for leaf in self.leaves.values():
            leaf.grad = None

    def __call__(self, token: Tensor) -> Any:
        """Outputs on the present batch."""
        assert self.batch is not None
        # A model that seeds the generators must not make PyHessian's probes repeat.
        with preserved_random_state(token.device):
            return self.landscape.evaluation.outputs(self.batch.inputs)

    def criterion(self, outputs: Any, token: Tensor) -> Tensor:
        """The present batch's share, such that the mean over tokens is the landscape's cost."""
        assert self.batch is not None
        squares = torch.stack([leaf.square().sum() for leaf in self.leaves.values()]).sum()
        share = self.landscape.batch_cost(outputs, self.batch)
        return self.count * len(token) * share + 0.5 * self.landscape.l2 * squares

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """As a loader: moves to each batch in turn and yields a token for it."""
        for batch in self.landscape.iterate():
            self.batch = batch
            yield self.token, self.token

    def data(self) -> dict[str, Any]:
        """PyHessian's keyword for the data: a single batch keeps its graph, several are a loader."""
        if self.count > 1:
            return {"dataloader": self}
        return {"data": next(iter(self))}


def inside_pyhessian(landscape: Landscape, seed: int, job: Callable[[Any], Result]) -> Result:
    """Runs a job on a PyHessian object for the landscape, in surroundings that are put back afterwards."""
    import pyhessian

    model = _StandIn(landscape)

    def run() -> Result:
        subject = pyhessian.hessian(model, model.criterion, cuda=False, **model.data())
        subject.device = landscape.device
        return job(subject)

    with preserved_random_state(landscape.device), _default_dtype(landscape.dtype), warnings.catch_warnings():
        # backward(create_graph=True) ties a knot between parameter and gradient; zero_grad below undoes it.
        warnings.filterwarnings("ignore", message=r"Using backward\(\) with create_graph=True")
        torch.manual_seed(generator(seed, "pyhessian").initial_seed())
        try:
            return landscape.evaluation.inside(model.tensors(), run)
        finally:
            model.zero_grad()


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """PyHessian makes vectors and the tridiagonal matrix in torch's default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class _TorchWithEig:
    """The torch namespace with the ``eig`` of old, for a matrix that is symmetric."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    @staticmethod
    def eig(matrix: Tensor, eigenvectors: bool) -> tuple[Tensor, Tensor]:
        """Eigenvalues (m, 2) as real and imaginary parts, and eigenvectors in columns."""
        assert eigenvectors
        values, vectors = torch.linalg.eigh(matrix)
        return torch.stack([values, torch.zeros_like(values)], dim=1), vectors


def _with_eig(function: FunctionType) -> Callable[..., Any]:
    """The function with the same code, which finds ``eig`` in torch."""
    names = function.__globals__ | {"torch": _TorchWithEig()}
    return FunctionType(function.__code__, names, function.__name__, function.__defaults__)


def _require(name: str, number: int, most: int | None = None) -> None:
    if number < 1 or (most is not None and number > most):
        allowed = "at least 1" if most is None else f"between 1 and the number of parameters {most}"
        raise UserError(f"{name} must be {allowed}, got {number}")
