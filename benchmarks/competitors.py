"""Every competitor of the speed benchmark behind one interface, from a workload to ``Prepared``.

All run inside ``sdpa_kernel(MATH)``: the default attention has no second derivative, and the peers would
fail on the transformer without this help.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from models import Workload
from torch import Tensor


@dataclass(frozen=True)
class Prepared:
    """What one competitor does with one workload.

    Attributes:
        build: from the model and its data to an operator.
        iterate: so many probes of so many Lanczos steps of an operator, down to nodes and weights.
        products: of an operator with rows (k, n), as (k, n).
        free: an operator of the same size for ``iterate`` whose products cost next to nothing.
    """

    build: Callable[[], Any]
    iterate: Callable[[Any, int, int], None]
    products: Callable[[Any, Tensor], Tensor]
    free: Callable[[Any], Any]


@dataclass(frozen=True)
class Competitor:
    """A way to do 8 x 50 SLQ.

    Attributes:
        name: for the table.
        prepare: from workload, whether to use several batches, and matrix.
        matrices: which of ``hessian`` and ``gauss-newton`` it has.
        lockstep: all probes share each product; else they run one after another, and one tells the time of all.
    """

    name: str
    prepare: Callable[[Workload, bool, str], Prepared]
    matrices: tuple[str, ...]
    lockstep: bool


def flat(tensors: Any) -> Tensor:
    """Tensors one after another in one vector."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def split_like(vector: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    """The inverse of :func:`flat`."""
    pieces = vector.split([parameter.numel() for parameter in parameters])
    return [piece.view_as(parameter) for piece, parameter in zip(pieces, parameters, strict=True)]


def one_by_one(product: Callable[[Any, Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    """Products with rows from products with vectors."""
    return lambda operator, rows: torch.stack([product(operator, row) for row in rows])


def plain_gradient(workload: Workload) -> None:
    """The unit of the table: one gradient over all the data in one batch."""
    torch.autograd.grad(workload.loss(*workload.batch), list(workload.model.parameters()))


def reference_product(workload: Workload, matrix: str, vector: Tensor) -> Tensor:
    """One product by double backward; for Gauss-Newton with the loss's Hessian at the outputs written out."""
    parameters = list(workload.model.parameters())
    if matrix == "hessian":
        gradient = torch.autograd.grad(workload.loss(*workload.batch), parameters, create_graph=True)
        return flat(torch.autograd.grad(gradient, parameters, split_like(vector, parameters))).detach()
    logits = workload.model(workload.batch[0])
    dummy = torch.zeros_like(logits, requires_grad=True)
    pulled = torch.autograd.grad(logits, parameters, dummy, create_graph=True)
    (change,) = torch.autograd.grad(pulled, dummy, split_like(vector, parameters), retain_graph=True)
    chances = logits.detach().softmax(-1)
    bent = chances * (change - (chances * change).sum(-1, keepdim=True)) / len(logits)
    return flat(torch.autograd.grad(logits, parameters, bent)).detach()


@contextmanager
def symmetric_eig() -> Iterator[None]:
    """Give PyHessian the ``torch.eig`` that current torch no longer has; its matrix is symmetric."""

    def eig(matrix: Tensor, eigenvectors: bool = True) -> tuple[Tensor, Tensor]:  # noqa: ARG001
        values, vectors = torch.linalg.eigh(matrix)
        return torch.stack([values, torch.zeros_like(values)], 1), vectors

    with patch.object(torch, "eig", eig, create=True):
        yield


def pyhessian_peer(workload: Workload, several: bool, matrix: str) -> Prepared:
    """PyHessian 0.1: its own Lanczos, on one kept graph or over a loader."""
    import pyhessian

    assert matrix == "hessian"

    def build() -> Any:
        workload.model.zero_grad(set_to_none=True)
        data: dict[str, Any] = {"dataloader": workload.pieces} if several else {"data": workload.batch}
        return pyhessian.hessian(workload.model, torch.nn.functional.cross_entropy, cuda=False, **data)

    def iterate(operator: Any, probes: int, steps: int) -> None:
        with symmetric_eig():
            operator.density(iter=steps, n_v=probes)

    def product(operator: Any, vector: Tensor) -> Tensor:
        pieces = split_like(vector, operator.params)
        if several:
            return flat(operator.dataloader_hv_product(pieces)[1]).detach()
        return flat(pyhessian.utils.hessian_vector_product(operator.gradsH, operator.params, pieces)).detach()

    def free(operator: Any) -> Any:
        other = copy.copy(operator)
        other.full_dataset = True
        diagonal = [torch.rand_like(parameter) for parameter in operator.params]
        other.dataloader_hv_product = lambda vector: (0.0, [d * v for d, v in zip(diagonal, vector, strict=True)])
        return other

    return Prepared(build, iterate, one_by_one(product), free)


def eigenthings_peer(workload: Workload, several: bool, matrix: str) -> Prepared:
    """hessian-eigenthings 1.0a5: its operators and its spectral_density."""
    import hessian_eigenthings as eigenthings

    criterion = torch.nn.functional.cross_entropy

    def build() -> Any:
        batches = workload.batches(several)
        if matrix == "hessian":
            return eigenthings.HessianOperator(workload.model, batches, eigenthings.supervised_loss(criterion))
        outputs_loss = eigenthings.supervised_loss_of_output(criterion)
        return eigenthings.GGNOperator(workload.model, batches, eigenthings.supervised_forward, outputs_loss)

    def iterate(operator: Any, probes: int, steps: int) -> None:
        # A grid of two points: the smoothed density is no part of the comparison.
        eigenthings.spectral_density(operator, num_runs=probes, lanczos_steps=steps, num_grid_points=2, seed=0)

    def free(operator: Any) -> Any:
        diagonal = torch.rand(operator.size)
        return eigenthings.LambdaOperator(lambda vector: diagonal * vector, operator.size)

    return Prepared(build, iterate, one_by_one(lambda operator, vector: operator.matvec(vector).detach()), free)


class FreeMatrix:
    """What the recurrences of curvlinops ask of an operator, with products that cost next to nothing."""

    def __init__(self, like: Any) -> None:
        self.shape, self.device, self.dtype = like.shape, like.device, like.dtype
        self.diagonal = torch.rand(like.shape[1])

    def __matmul__(self, columns: Tensor) -> Tensor:
        """A diagonal times a vector or columns."""
        return self.diagonal.view(-1, *[1] * (columns.dim() - 1)) * columns


def build_curvlinops(workload: Workload, several: bool, matrix: str) -> Any:
    """The operator of curvlinops, without its check of determinism, which costs products."""
    import curvlinops

    kinds = {"hessian": curvlinops.HessianLinearOperator, "gauss-newton": curvlinops.GGNLinearOperator}
    targets_per_row = len(workload.batch[1]) // len(workload.batch[0])
    return kinds[matrix](
        workload.model,
        torch.nn.CrossEntropyLoss(),
        list(workload.model.parameters()),
        workload.batches(several),
        check_deterministic=False,
        num_data=len(workload.batch[1]),
        batch_size_fn=lambda inputs: len(inputs) * targets_per_row,
    )


def curvlinops_peer(workload: Workload, several: bool, matrix: str) -> Prepared:
    """The fast_lanczos of curvlinops 3.0.1, one vector at a time, no reorthogonalisation."""
    from curvlinops.papyan2020traces.spectrum import fast_lanczos

    def iterate(operator: Any, probes: int, steps: int) -> None:
        for _ in range(probes):
            fast_lanczos(operator, steps)

    return Prepared(
        lambda: build_curvlinops(workload, several, matrix),
        iterate,
        one_by_one(lambda operator, vector: operator @ vector),
        FreeMatrix,
    )


def curvlinops_block_peer(workload: Workload, several: bool, matrix: str) -> Prepared:
    """Products of curvlinops on all probes at once, in its fast_lanczos recurrence written for a block."""

    def iterate(operator: Any, probes: int, steps: int) -> None:
        diagonal, beside = torch.zeros(probes, steps), torch.zeros(probes, steps - 1)
        current = torch.randn(operator.shape[1], probes)
        current /= current.norm(dim=0)
        previous = torch.zeros_like(current)
        for step in range(steps):
            image = operator @ current
            if step:
                image -= beside[:, step - 1] * previous
            diagonal[:, step] = (image * current).sum(0)
            image -= diagonal[:, step] * current
            if step < steps - 1:
                beside[:, step] = image.norm(dim=0)
                previous, current = current, image / beside[:, step]
        torch.linalg.eigh(diagonal.diag_embed() + beside.diag_embed(1) + beside.diag_embed(-1))

    return Prepared(
        lambda: build_curvlinops(workload, several, matrix),
        iterate,
        lambda operator, rows: (operator @ rows.T).T,
        FreeMatrix,
    )


def basinscope_entry(workload: Workload, several: bool, matrix: str) -> Prepared:
    """This project: everything from the landscape's checks to the choice of strategy is timed."""
    from spectra.compute import compute_spectrum
    from spectra.costs import cross_entropy
    from spectra.lanczos import draw_probes, lanczos
    from spectra.landscape import Landscape
    from spectra.operators import SymmetricOperator
    from spectra.plan import make_operator, plan_route
    from spectra.spectrum import SpectrumSettings

    class Free(SymmetricOperator):
        """A matrix whose products cost next to nothing."""

        def __init__(self, like: SymmetricOperator) -> None:
            self.size, self.dtype, self.device = like.size, like.dtype, like.device
            self.diagonal = torch.rand(like.size)

        def matmat(self, vectors: Tensor) -> Tensor:
            return vectors * self.diagonal

    def settings(probes: int, steps: int) -> SpectrumSettings:
        return SpectrumSettings(operator=matrix, engine="slq", deflate=0, probes=probes, steps=steps)

    def build() -> Any:
        return make_operator(Landscape(workload.model, cross_entropy, workload.batches(several)), settings(8, 50))

    def iterate(operator: Any, probes: int, steps: int) -> None:
        if not isinstance(operator, Free):
            compute_spectrum(operator.landscape, settings(probes, steps)).density.nodes  # noqa: B018
            return
        plan = plan_route(operator, settings(probes, steps))
        starts = draw_probes(operator.size, probes, seed=0)
        lanczos(operator, starts, steps, reorthogonalise=plan.reorthogonalise).tridiagonal.quadrature()

    return Prepared(build, iterate, lambda operator, rows: operator.matmat(rows), Free)


BOTH = ("hessian", "gauss-newton")
COMPETITORS = (
    Competitor("basinscope", basinscope_entry, BOTH, lockstep=True),
    Competitor("PyHessian 0.1", pyhessian_peer, ("hessian",), lockstep=False),
    Competitor("hessian-eigenthings 1.0a5", eigenthings_peer, BOTH, lockstep=False),
    Competitor("curvlinops 3.0.1", curvlinops_peer, BOTH, lockstep=False),
    Competitor("curvlinops 3.0.1, all probes at once", curvlinops_block_peer, BOTH, lockstep=True),
)
