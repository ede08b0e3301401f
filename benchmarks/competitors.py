"""Every competitor of the speed benchmark behind one interface, from a workload to ``Prepared``.

All run inside ``sdpa_kernel(MATH)``: the default attention has no second derivative, and the peers would
fail on the transformer without this help.
"""

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
    """What one competitor does with one workload; ``build`` and ``iterate`` together are timed.

    Attributes:
        build: from the model and its data to an operator.
        iterate: so many probes of so many Lanczos steps of the operator, down to nodes and weights.
        product: one product of an operator with a flat vector, to check that all compute the same matrix.
        block_product: products with a block of rows, where all probes share them.
        bookkeeping: ``iterate`` with products that cost nothing, where that can be told apart.
    """

    build: Callable[[], Any]
    iterate: Callable[[Any, int, int], None]
    product: Callable[[Any, Tensor], Tensor]
    block_product: Callable[[Any, Tensor], Tensor] | None = None
    bookkeeping: Callable[[Any, int, int], None] | None = None


@dataclass(frozen=True)
class Competitor:
    """A way to do 8 x 50 SLQ.

    Attributes:
        name: for the table.
        prepare: from workload, whether to use several batches, and matrix.
        matrices: which of ``hessian`` and ``gauss-newton`` it has.
        probes_apart: its probes run one after another, so that one of them tells the time of all.
        steps_alike: a step costs the same early and late (no reorthogonalisation), so that some tell the time
            of all.
    """

    name: str
    prepare: Callable[[Workload, bool, str], Prepared]
    matrices: tuple[str, ...]
    probes_apart: bool
    steps_alike: bool


def flat(tensors: Any) -> Tensor:
    """Tensors one after another in one vector."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def split_like(vector: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    """The inverse of :func:`flat`."""
    pieces = vector.split([parameter.numel() for parameter in parameters])
    return [piece.view_as(parameter) for piece, parameter in zip(pieces, parameters, strict=True)]


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

    return Prepared(build, iterate, product)


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

    return Prepared(build, iterate, lambda operator, vector: operator.matvec(vector).detach())


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
        lambda operator, vector: operator @ vector,
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
        lambda operator, vector: operator @ vector,
    )


def basinscope_entry(workload: Workload, several: bool, matrix: str) -> Prepared:
    """This project: everything from the landscape's checks to the choice of strategy is timed."""
    from spectra.compute import compute_spectrum
    from spectra.costs import cross_entropy
    from spectra.lanczos import lanczos
    from spectra.landscape import Landscape
    from spectra.operators import SymmetricOperator
    from spectra.probes import draw_probes
    from spectra.routes import make_operator, plan_route
    from spectra.spectrum import SpectrumSettings

    class Free(SymmetricOperator):
        """A matrix whose products cost next to nothing."""

        def __init__(self, like: SymmetricOperator) -> None:
            self.size, self.dtype, self.device = like.size, like.dtype, like.device
            self.diagonal = torch.rand(like.size, dtype=like.dtype)

        def matmat(self, vectors: Tensor) -> Tensor:
            return vectors * self.diagonal

    def settings(probes: int, steps: int) -> SpectrumSettings:
        return SpectrumSettings(operator=matrix, engine="slq", deflate=0, probes=probes, steps=steps)

    def build() -> Any:
        return make_operator(Landscape(workload.model, cross_entropy, workload.batches(several)), settings(8, 50))

    def iterate(operator: Any, probes: int, steps: int) -> None:
        density = compute_spectrum(operator.landscape, settings(probes, steps)).density
        assert density.nodes.shape == (probes, steps)

    def bookkeeping(operator: Any, probes: int, steps: int) -> None:
        free = Free(operator)
        plan = plan_route(free, settings(probes, steps))
        starts = draw_probes(free.size, probes, seed=0)
        lanczos(free, starts, steps, reorthogonalise=plan.reorthogonalise).tridiagonal.quadrature()

    return Prepared(
        build,
        iterate,
        lambda operator, vector: operator.matvec(vector),
        lambda operator, vectors: operator.matmat(vectors),
        bookkeeping,
    )


BOTH = ("hessian", "gauss-newton")
OURS = Competitor("basinscope", basinscope_entry, BOTH, probes_apart=False, steps_alike=False)
PYHESSIAN = Competitor("PyHessian 0.1", pyhessian_peer, ("hessian",), probes_apart=True, steps_alike=False)
EIGENTHINGS = Competitor("hessian-eigenthings 1.0a5", eigenthings_peer, BOTH, probes_apart=True, steps_alike=False)
CURVLINOPS = Competitor("curvlinops 3.0.1", curvlinops_peer, BOTH, probes_apart=True, steps_alike=True)
CURVLINOPS_BLOCKS = Competitor(
    "curvlinops 3.0.1, all probes at once", curvlinops_block_peer, BOTH, probes_apart=False, steps_alike=True
)
COMPETITORS = (OURS, PYHESSIAN, EIGENTHINGS, CURVLINOPS, CURVLINOPS_BLOCKS)
