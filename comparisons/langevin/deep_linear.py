"""The learning coefficient of deep linear networks, known exactly: what samplers are held against."""

from __future__ import annotations

from collections.abc import Sequence

from spectra.errors import UserError


def deep_linear_coefficient(widths: Sequence[int], rank: int) -> tuple[float, int]:
    r"""The learning coefficient and its multiplicity of ``W_L ... W_1`` where the truth has some rank.

    It is that at the most singular points of the truth's fibre, where each ``W_i`` has that rank too. Elsewhere on the
    fibre the local coefficient may be larger.

    Args:
        widths: ``H_0 .. H_L``, inputs and outputs included.
        rank: rank r of the true product, at most the smallest width.

    Returns:
        lambda and m, of ``Z(n) ~ n^-lambda (log n)^(m - 1)``.

    Raises:
        UserError: if there are fewer than two widths, or the rank is above one of them.

    Reference:
        Aoyagi and Watanabe, Stochastic complexities of reduced rank regression in Bayesian estimation, 2005; Aoyagi,
        Consideration on the learning efficiency of multiple-layered neural networks with linear units, 2024.

    >>> deep_linear_coefficient([5, 3, 5], 0), deep_linear_coefficient([3, 3, 3, 3], 1)
    ((6.5, 2), (4.0, 3))
    """
    if len(widths) < 2 or not 0 <= rank <= min(widths):
        raise UserError(f"rank must lie between 0 and the smallest of two widths or more, got {rank} and {widths}")
    excess = sorted(width - rank for width in widths)
    for last in range(1, len(excess)):
        chosen, rest = excess[: last + 1], excess[last + 1 :]
        total = sum(chosen)
        if total >= last * chosen[-1] and (not rest or total < last * rest[0]):
            break
    over = total - (-(-total // last) - 1) * last
    pairs = (total**2 - sum(one**2 for one in chosen)) / 2
    found = (rank * (widths[0] + widths[-1]) - rank**2) / 2 + over * (last - over) / (4 * last)
    return found - (last - 1) / (4 * last) * total**2 + pairs / 2, over * (last - over) + 1
