"""Spectral sums of one block Krylov space: that of all other probes is deflated, and each probe tests what is left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch

from spectra.errors import UserError
from spectra.estimate import Estimate, from_samples, jackknife
from spectra.lanczos.integration import Function, moved_by, probe_means
from spectra.lanczos.krylov import KrylovSpace, krylov_space
from spectra.lanczos.probes import probes_of
from spectra.lanczos.quadrature import BREAKDOWN_ROUNDINGS, Array
from spectra.operators import SymmetricOperator

# On the digits Hessian and Fisher at 1,024 products: 8 probes leave twice the variance of 16, 32 probes are too few
# steps for a function with a kink (docs/benchmarks.md).
BLOCK = 16
# Block steps that are not deflated, so that functions are accurate on the deflated ones.
EXTRA = 4
# Below this share two probes' complements have a direction in common.
_OVERLAP = 1e-10

Rule = tuple[Array, Array]


class _Rules(NamedTuple):
    """Rules of the samples, of the mean without each probe, and of plain probes by all steps and by half of them."""

    samples: list[Rule]
    without: Rule
    fine: list[Rule]
    coarse: list[Rule]


@dataclass(frozen=True, eq=False)
class LeaveOneOut:
    r"""What a block Krylov space of b probes says of ``tr f(H)``, for any f and without further products.

    With ``Q_i`` an orthonormal basis of the Krylov space of all probes but the i-th, ``z_i``, and ``u_i`` its part in
    the complement, sample i is ``tr Q_i^T f(H) Q_i + (n - dim Q_i) u_i^T f(H) u_i / |u_i|^2``, which is unbiased
    because the probe knows nothing of the basis. All of it lies in the whole space, where f(H) is f of the projected
    matrix, by a Gauss rule and an anti-Gauss rule whose errors have opposite signs.

    Attributes:
        size: number of parameters n.
        projected: (d, d) float64, H on the whole space, block tridiagonal.
        components: (b, b) float64, the probes as columns in the first block.
        ends: dimension of the space after each block step.
        epsilon: machine epsilon of the products.
        stopped: why it is no deeper: ``products``, ``enough`` or ``invariant``.

    Reference:
        Epperly, Tropp and Webber, XTrace: making the most of every sample in stochastic trace estimation, 2024, for
        leaving one out; Chen and Hallman, Krylov-aware stochastic trace estimation, 2023, for the deflated space;
        Laurie, Anti-Gaussian quadrature formulas, 1996.
    """

    size: int
    projected: Array
    components: Array
    ends: tuple[int, ...]
    epsilon: float
    stopped: str = "products"

    @property
    def products(self) -> int:
        """Products that the space took."""
        return self.ends[-1]

    @property
    def captured(self) -> int:
        """Dimensions that are deflated for each probe."""
        end, left = self._left
        return end - int(left.shape[2])

    def integrate(self, function: Function) -> Estimate:
        """``tr f(H)``; its samples are the probes', exchangeable but not independent.

        The probes share a space, so that the spread of their samples has but half of the variance that comes from pairs
        of them, and the jackknife, over what is found without each, has twice that variance (Efron and Stein, The
        jackknife estimate of variance, 1981). Two thirds of the first and a third of the second make the variance, or
        more.

        The truncation error is the larger of half of what Gauss and anti-Gauss rule differ by and half of what their
        mean changes from half the depth to all of it: the error, where it falls as the depth to the power -1.6 or
        faster. A kink makes it fall so, a jump only as the depth.

        Args:
            function: f, elementwise on arrays.

        Returns:
            The estimate with its errors.

        Raises:
            UserError: if f is not finite at a node.

        >>> from spectra.operators import MatrixOperator
        >>> found = leave_one_out(MatrixOperator(torch.eye(64)), 64, block=4).integrate(np.log1p)
        >>> bool(abs(found.value - 64 * np.log(2.0)) < 1e-3)
        True
        """
        gauss, anti = (probe_means(rule, function) for rule in self._rules.samples)
        change = abs(float(np.mean(gauss - anti))) / 2.0
        if self.stopped == "invariant":
            rounding = BREAKDOWN_ROUNDINGS * self.epsilon * float(np.abs(self._rules.samples[0][0]).max())
            change += moved_by(lambda f: float(probe_means(self._rules.samples[0], f).mean()), function, rounding)
        else:
            fine, coarse = (
                float(np.mean([probe_means(rule, function)[0] for rule in rules]))
                for rules in (self._rules.fine, self._rules.coarse)
            )
            change = max(change, abs(fine - coarse) / 2.0)
        found = from_samples(self.size * (gauss + anti) / 2.0, truncation_error=self.size * change)
        pairs = self.size * jackknife(probe_means(self._rules.without, function))
        return replace(found, standard_error=float(np.sqrt((2.0 * found.standard_error**2 + pairs**2) / 3.0)))

    @cached_property
    def _left(self) -> tuple[int, Array]:
        """The end of the deflated part, and what each probe adds to the others' there: (b, end, k) orthonormal."""
        deepest = max(1, len(self.ends) - (0 if self.stopped == "invariant" else EXTRA))
        for place, (end, left) in enumerate(self._complements(), 1):
            found = end, left
            if place == deepest:
                break
        return found

    def _complements(self) -> Iterator[tuple[int, Array]]:
        """Step by step the orthogonal complement of the Krylov space of the others in that of all, for each probe.

        A new block of the others, orthogonal to their space so far, lies in the complement so far and the new block of
        all; what of these two it leaves is the next complement.
        """
        count, end = len(self.components), self.ends[0]
        vanishing = 10.0 * self.epsilon * float(np.abs(self.projected).max()) * count**0.5
        others = np.stack([np.delete(self.components, place, axis=1) for place in range(count)])
        last, left = _range(others, self.epsilon * self.size**0.5)
        yield end, left
        for following in self.ends[1:]:
            images = self.projected[:following, :end] @ last
            found = np.concatenate([left.transpose(0, 2, 1) @ images[:, :end], images[:, end:]], axis=1)
            inside, beyond = _range(found, vanishing)
            if inside.shape[2] == 0 or beyond.shape[2] == 0:
                return  # the others' space is invariant, or the ranks differ, or nothing is left to test
            known = left.shape[2]
            last, left = (
                np.concatenate([left @ turn[:, :known], turn[:, known:]], axis=1) for turn in (inside, beyond)
            )
            end = following
            yield end, left

    @cached_property
    def _rules(self) -> _Rules:
        """All that is integrated against, of Gauss and of anti-Gauss quadrature each."""
        count, steps = len(self.components), len(self.ends)
        samples, fine, coarse = [], [], []
        for matrix in self._matrices(steps):
            nodes, vectors = np.linalg.eigh(matrix)
            forms = self._left[1].transpose(0, 2, 1) @ vectors[: self._left[0]]
            samples.append(self._rule(nodes, vectors[: self._left[0]], forms))
            fine.append(self._undeflated(nodes, vectors[:count]))
        without = self._without(nodes, vectors[: self._left[0]], forms)
        for matrix in self._matrices((steps + 1) // 2):
            nodes, vectors = np.linalg.eigh(matrix)
            coarse.append(self._undeflated(nodes, vectors[:count]))
        return _Rules(samples, without, fine, coarse)

    def _matrices(self, steps: int) -> tuple[Array, Array]:
        """The projected matrix one step short of so many, and that of all with the last coupling times the root of two.

        Where the space is invariant both are the whole matrix.
        """
        end, before = self.ends[steps - 1], self.ends[max(0, steps - 2)]
        anti = self.projected[:end, :end].copy()
        if self.stopped == "invariant":
            return anti, anti
        anti[:before, before:] *= np.sqrt(2.0)
        anti[before:, :before] *= np.sqrt(2.0)
        return self.projected[:before, :before], anti

    @cached_property
    def _parts(self) -> Array:
        """(b, k) each probe in the complement of the others."""
        found: Array = np.einsum("bck,cb->bk", self._left[1][:, : len(self.components)], self.components)
        return found

    def _rule(self, nodes: Array, vectors: Array, forms: Array) -> Rule:
        """Each sample over n, from eigenvectors in the deflated part and complements: a rule of positive weights."""
        tested = np.einsum("bk,bkd->bd", self._parts, forms) ** 2 / np.square(self._parts).sum(1)[:, None]
        weights = np.square(vectors).sum(0) - np.square(forms).sum(1) + (self.size - self.captured) * tested
        return np.broadcast_to(nodes, weights.shape), np.maximum(weights, 0.0) / self.size

    def _without(self, nodes: Array, vectors: Array, forms: Array) -> Rule:
        """The mean over n of the samples that would be left without each probe, which then deflates no other.

        What two probes add to the space of the others is spanned by what each adds to that of all but itself.
        """
        (end, left), count = self._left, len(self.components)
        whole, weights = np.square(vectors).sum(0), np.zeros((count, len(nodes)))
        for first, second in ((i, j) for i in range(count) for j in range(count) if i != j):
            # The complement without the second probe too: the first's, and what the second's adds to it.
            overlap = left[first].T @ left[second]
            values, turn = np.linalg.eigh(np.eye(len(overlap)) - overlap.T @ overlap)
            added = (turn[:, values > _OVERLAP] / np.sqrt(values[values > _OVERLAP])).T
            beyond = added @ (forms[second] - overlap.T @ forms[first])
            part = -added @ (overlap.T @ self._parts[first])
            tested = np.square(self._parts[first] @ forms[first] + part @ beyond)
            tested /= np.square(self._parts[first]).sum() + np.square(part).sum()
            known = whole - np.square(forms[first]).sum(0) - np.square(beyond).sum(0)
            weights[second] += known + (self.size - (end - len(overlap) - len(added))) * tested
        return np.broadcast_to(nodes, weights.shape), np.maximum(weights, 0.0) / ((count - 1) * self.size)

    def _undeflated(self, nodes: Array, vectors: Array) -> Rule:
        """The mean over the probes as they are, nothing deflated, as a rule of one row."""
        return nodes[None], np.square(self.components.T @ vectors).mean(0)[None] / self.size


def _range(columns: Array, vanishing: float) -> tuple[Array, Array]:
    """Orthonormal columns (b, m, r) spanning columns (b, m, k), and those of the complement; none if ranks differ."""
    rows, count = columns.shape[1:]
    if rows >= count:
        turn, factor = np.linalg.qr(columns, mode="complete")
        if np.abs(np.diagonal(factor, axis1=1, axis2=2)).min() > vanishing:
            return turn[:, :, :count], turn[:, :, count:]
    turn, values, _ = np.linalg.svd(columns)
    ranks = (values > vanishing).sum(1)
    rank = int(ranks[0]) if ranks.min() == ranks.max() else 0
    return turn[:, :, :rank], turn[:, :, rank:]


def leave_one_out(
    operator: SymmetricOperator,
    products: int,
    *,
    block: int = BLOCK,
    enough: Callable[[LeaveOneOut], bool] | None = None,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> LeaveOneOut:
    """One block Krylov space that deflates and is tested by its own probes, for spectral sums of any function.

    Every product serves twice, so that at small shifts, and for functions with a kink, the errors are far smaller than
    those of separate probes. All of the space is held: ``products`` vectors.

    Args:
        operator: H, of size n.
        products: most products; rounded down to whole blocks.
        block: number of probes, at least 4.
        enough: asked after 16 block steps and whenever they have doubled; true ends the space there.
        seed: seed of the probes.
        progress: called after each block step with its products.

    Returns:
        What the space says, to be integrated against.

    Raises:
        UserError: for too few products or probes, or more products than n.

    >>> from spectra.operators import MatrixOperator
    >>> leave_one_out(MatrixOperator(torch.diag(torch.arange(100.0))), 40, block=4).captured
    18
    """
    depth, least = products // max(block, 1), block * (EXTRA + 2)
    if block < 4:
        raise UserError(f"block must be at least 4 probes, so that their spread tells of the error, got {block}")
    if depth < EXTRA + 2 or depth * block > operator.size:
        raise UserError(
            f"products must lie between {least} and the size {operator.size} for {block} probes, got {products}"
        )
    starts = probes_of(operator, block, seed=seed, stream="leave-one-out")

    def read(space: KrylovSpace, stopped: str) -> LeaveOneOut:
        width = space.ends[0]
        inside = space.shards.total(space.basis[:width] @ space.shards.part(starts).T).double().cpu().numpy()
        return LeaveOneOut(operator.size, space.projected, inside, space.ends, torch.finfo(operator.dtype).eps, stopped)

    stopped = "products"

    def look(space: KrylovSpace) -> bool:
        nonlocal stopped
        ended = enough is not None and enough(read(space, "products"))
        stopped = "enough" if ended else stopped
        return ended

    space = krylov_space(operator, starts, depth - EXTRA, extra=EXTRA, progress=progress, on_part=look)
    if space.remainder.shape[0] == 0 or not np.any(space.remainder):
        stopped = "invariant"
    return read(space, stopped)
