"""A task whose posterior has one draw that is known: labels drawn from a network that was drawn from the prior.

A teacher theta ~ rho with labels y ~ p(y | theta) is as much a draw of the joint distribution as theta ~ p(theta | y)
with y ~ p(y) is: given the labels, the teacher is an exact draw of their posterior.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spectra.costs import CrossEntropy, MeanSquaredError
from spectra.errors import UserError
from spectra.landscape import Landscape
from spectra.model import generator
from volume.priors import Prior


def teacher_landscape(landscape: Landscape, prior: Prior, seed: int) -> tuple[Landscape, float]:
    r"""The landscape with labels of a teacher, anchored there, and the inverse temperature of their posterior.

    There ``b C(theta)`` is minus the log likelihood of all labels, up to a constant: b is the number of labels for
    cross-entropy, and half the number of outputs for mean squared error, whose labels are outputs plus normal noise of
    variance one.

    Args:
        landscape: model, inputs and cost; its own targets are not used.
        prior: what the teacher is drawn from.
        seed: seed of the teacher and of its labels.

    Returns:
        The landscape around the teacher, and b.

    Raises:
        UserError: if the cost is not one of these two, its samples have weights, it has a penalty, or the landscape is
            spread over ranks.

    Reference:
        Grosse, Ghahramani and Adams, Sandwiching the marginal likelihood using bidirectional Monte Carlo, 2015.
    """
    _refuse(landscape)
    teacher = prior.sample(generator(seed, "teacher"), 1, landscape.size)[0].to(landscape.theta)
    source, labels, count = generator(seed, "teacher's labels"), [], 0
    classes = isinstance(landscape.cost_function, CrossEntropy)
    for outputs in landscape.outputs(teacher):
        if not isinstance(outputs, Tensor) or (classes and outputs.dim() != 2):
            found = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise UserError(
                f"a sandwich needs a model whose output is one tensor (samples, classes for cross-entropy), got {found}"
            )
        means = outputs.double().cpu()
        if classes:
            labels.append(torch.multinomial(means.softmax(1), 1, generator=source)[:, 0])
        else:
            noise = torch.randn(means.shape, generator=source, dtype=means.dtype)
            labels.append((means + noise).to(outputs.dtype))
        count += labels[-1].numel()
    made = landscape.with_targets(labels, teacher)
    if classes and made.total_weight != count:
        raise UserError("a sandwich needs labels that all count: the cost ignores a class that the model can give")
    return made, float(count) if classes else 0.5 * count


def _refuse(landscape: Landscape) -> None:
    cost = landscape.cost_function
    if not (isinstance(cost, MeanSquaredError) or (isinstance(cost, CrossEntropy) and cost.plain)):
        raise UserError(
            "a sandwich draws labels from a likelihood, so the task's cost must be cross-entropy without class weights "
            f"and label smoothing, or mean squared error; got {getattr(cost, 'name', type(cost).__name__)}"
        )
    if landscape.l2:
        raise UserError("a sandwich has the prior in place of a penalty: use a task without l2")
    if any(batch.weights is not None for batch in landscape.batches):
        raise UserError("a sandwich draws one label for each sample: use a task whose samples have no weights")
    if not landscape.ranks.alone:
        raise UserError("a sandwich is computed by one process: start it without torchrun")
