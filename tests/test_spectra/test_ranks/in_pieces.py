"""What the tests of several ranks compute of models that stay in pieces; against one process that has all of it."""

import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

import basinscope
from basinscope import ShardedLandscape
from spectra.compute import compute_spectrum
from spectra.costs import cross_entropy, kl_from_anchor
from spectra.lanczos import hutchinson, starts_of
from spectra.landscape import Landscape
from spectra.operators import GaussNewton, Hessian
from spectra.ranks import Pieces, Ranks
from spectra.spectrum import Spectrum, SpectrumSettings

Found = dict[str, NDArray[Any]]


class Tied(nn.Module):
    """A head that is the embedding, and a module that reads another one's weight."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.middle = nn.Embedding(7, 4), nn.Linear(4, 4)
        self.norm, self.head = nn.LayerNorm(4), nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embedding(tokens).mean(1)
        hidden = self.norm(torch.tanh(self.middle(hidden)) + F.linear(hidden, self.middle.weight))
        logits: Tensor = self.head(hidden)
        return logits


class Once(torch.autograd.Function):
    """A square that has no second derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return 2.0 * slope * ctx.saved_tensors[0]


class Silent(torch.autograd.Function):
    """A square whose second derivative is wrong, of which torch says nothing."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.x = x.detach()
        return x * x

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return 2.0 * slope * ctx.x


class Squares(nn.Module):
    """A square of one of these kinds between two layers."""

    def __init__(self, square: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.head, self.square = nn.Embedding(7, 3), nn.Linear(3, 7), square

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.square(self.embedding(tokens).mean(1)))
        return logits


def data(dtype: torch.dtype = torch.float64) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Three batches of uneven lengths, weighted."""
    source = torch.Generator().manual_seed(1)
    tokens, targets = torch.randint(7, (17, 3), generator=source), torch.randint(7, (17,), generator=source)
    weights = (torch.rand(17, generator=source, dtype=torch.float64) + 0.5).to(dtype)
    return [(tokens[cut], targets[cut], weights[cut]) for cut in (slice(0, 8), slice(8, 15), slice(15, 17))]


def spread(model: nn.Module, ranks: Ranks, *parts: nn.Module) -> nn.Module:
    """The model after ``fully_shard``, where there are several ranks."""
    if not ranks.alone:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh("cpu", (ranks.count,))
        for part in (*parts, model):
            fully_shard(part, mesh=mesh)
    return model


def cut(pieces: Pieces, rows: Tensor) -> Tensor:
    """This rank's pieces (k, width) of rows (k, n)."""
    return torch.cat([pieces.ranks.sliced(part) for part in torch.split(rows, pieces.sizes, 1)], 1)


def joined(pieces: Pieces, parts: Tensor) -> Tensor:
    """Rows (k, n) of which each rank has pieces (k, width)."""
    pairs = zip(torch.split(parts, pieces.widths, 1), pieces.sizes, strict=True)
    return torch.cat([pieces.ranks.joined(part.contiguous(), size) for part, size in pairs], 1)


def off(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def fully_sharded(ranks: Ranks) -> Found:
    """The same of an FSDP2 model, which is left as it was, through the public call."""
    model = Tied().double()
    before = model(data()[0][0]).detach()
    spread(model, ranks, model.norm)
    found = pieces(ranks, model)
    assert all((type(one).__name__ == "DTensor") == (not ranks.alone) for one in model.parameters())
    torch.testing.assert_close(model(data()[0][0]).detach(), before)
    with pytest.raises(ValueError, match="only spectra are computed of a ShardedLandscape"):
        basinscope.volume(ShardedLandscape(model, cross_entropy, data(), ranks=ranks))
    return found


def pieces(ranks: Ranks, model: nn.Module | None = None) -> Found:
    """Cost, gradient, products and a spectrum in pieces, against the matrix of the whole model."""
    sharded, model = model is not None, model or Tied().double()
    surface = ShardedLandscape(model, cross_entropy, data(), l2=0.3, ranks=ranks)
    whole = Landscape(Tied().double(), cross_entropy, data(), l2=0.3)
    np.testing.assert_allclose(surface.cost(), whole.cost(), rtol=1e-12)
    np.testing.assert_allclose(surface.gradient_norm(), whole.gradient_norm(), rtol=1e-12)
    truths = {"hessian": Hessian(whole).to_dense(), "gauss-newton": GaussNewton(whole).to_dense()}
    vectors = torch.randn(2, whole.size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = {}
    ways = (("hessian", "double-backward"), ("hessian", "finite-differences"), ("gauss-newton", "double-vjp"))
    for name, strategy in ways:
        operator = surface.curvature(name, strategy=strategy)
        product = joined(operator.pieces, operator.of_pieces(cut(operator.pieces, vectors)))
        # Differences say themselves how far they are off, along the lines that were measured: within a factor of 3.
        assert operator.coarseness < 1e-8
        assert off(product, vectors @ truths[name]) < (3.0 * operator.coarseness or 1e-12)
        found[strategy] = product.numpy()
    held_in_graphs(surface)
    roomless(surface)
    return found | (kept if sharded else sampled)(surface, truths["hessian"])


def sampled(surface: ShardedLandscape, truth: Tensor) -> Found:
    """A spectrum, its probes against the matrix."""
    spectrum = compute_spectrum(surface, SpectrumSettings(probes=1, steps=4, deflate=0, block=1))
    check_probes(surface, spectrum, truth)
    return {"nodes": spectrum.density.nodes}


def check_probes(surface: ShardedLandscape, spectrum: Spectrum, truth: Tensor) -> None:
    """Moments by quadrature, exact up to twice the steps, are those of the probes, drawn here again."""
    operator, count = surface.curvature("hessian"), spectrum.density.runs.probes
    starts = joined(operator.pieces, starts_of(operator, count, seed=0, stream="probes/spectrum"))
    np.testing.assert_allclose(starts.square().sum(1), np.full(count, len(truth)))
    images = starts
    for power in range(1, 5):
        images = images @ truth
        expected = (starts * images).sum(1) / len(truth)
        found = (spectrum.density.weights * spectrum.density.nodes**power).sum(1)
        np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert spectrum.strategy == "double-backward"
    words = f"the model stays in pieces on {surface.ranks.count} ranks, products by double-backward"
    assert words in spectrum.notes
    assert [shape for _, shape in spectrum.parameters][:2] == [(7, 4), (4, 4)]


def kept(surface: ShardedLandscape, truth: Tensor) -> Found:
    """A spectrum by the public call, in a file that rank 0 writes and all resume from, against the matrix."""
    ranks = surface.ranks
    output = Path(ranks.texts(tempfile.mkdtemp() if ranks.first else "")[0]) / "hessian.h5"
    settings = SpectrumSettings(probes=1, steps=4, deflate=0, block=1)
    first = basinscope.spectrum(surface, settings, output=output).spectrum
    ranks.wait()
    both = basinscope.spectrum(surface, settings, output=output, resume=True, probes=2).spectrum
    np.testing.assert_array_equal(both.density.nodes[:1], first.density.nodes)
    check_probes(surface, both, truth)
    return {"nodes": both.density.nodes}


def roomless(surface: ShardedLandscape) -> None:
    """Double backward is not chosen where the slopes that it holds whole have no room."""
    operator = surface.curvature("hessian", memory=55 * 8)
    operator.of_pieces(torch.ones(1, operator.width, dtype=torch.float64))
    assert operator.strategy == "finite-differences"
    assert any("would hold slopes of all parameters" in note for note in operator.notes)


def held_in_graphs(surface: ShardedLandscape) -> None:
    """A graph that is kept holds no joined parameter, and joins them again where a product needs them."""
    shard = surface._shard
    joiner = shard.evaluation._joiner
    hessian = Hessian(shard)
    product = hessian.strategies()[0].build(next(shard.share()))
    assert [one for one in joiner._known.values() if one.lives] == []
    sent = shard.ranks.sent["all_gather"]
    once, twice = (product(torch.ones(1, shard.pieces.width, dtype=torch.float64)) for _ in range(2))
    assert (shard.ranks.sent["all_gather"] > sent) == (not shard.ranks.alone)
    torch.testing.assert_close(once, twice, rtol=1e-12, atol=0.0)


def differences(ranks: Ranks) -> Found:
    """Where double backward fails or is wrong differences are taken; in float32 they are off by what they say."""
    found = {}
    for name, square, dtype in (
        ("none", Once.apply, torch.float64),
        ("wrong", Silent.apply, torch.float64),
        ("float32", Once.apply, torch.float32),
    ):
        model = spread(Squares(square).to(dtype), ranks)
        operator = ShardedLandscape(model, cross_entropy, data(dtype), ranks=ranks).curvature("hessian")
        whole = Hessian(Landscape(Squares(torch.square).double(), cross_entropy, data()))
        vectors = torch.randn(2, whole.size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        product = joined(operator.pieces, operator.of_pieces(cut(operator.pieces, vectors.to(dtype))))
        assert operator.strategy == "finite-differences"
        assert operator.coarseness < (1e-8 if dtype == torch.float64 else 1e-3)
        assert off(product.double(), whole.matmat(vectors)) < 3.0 * operator.coarseness
        said = "has no second derivative" if square is Once.apply else "double backward differs from finite"
        assert any(said in note for note in operator.notes)
        found[name] = product.double().numpy() if dtype == torch.float64 else np.zeros(1)
    return found


def refused_in_pieces(ranks: Ranks) -> Found:
    """What cannot be done in pieces is refused in a sentence, on all ranks alike."""
    surface = ShardedLandscape(Tied().double(), cross_entropy, data(), ranks=ranks)
    cases = {
        "empirical-fisher is not computed on a sharded model": lambda: surface.curvature("empirical-fisher"),
        "takes no vectors of shape": lambda: hutchinson(surface.curvature("hessian"), 4),
        "has no theta: only spectra": lambda: surface.theta,
        "engine must be auto or slq": lambda: compute_spectrum(surface, SpectrumSettings(engine="dense")),
        "per layer are not computed": lambda: compute_spectrum(surface, SpectrumSettings(per_layer=True)),
        "top eigenpairs are not computed": lambda: compute_spectrum(surface, SpectrumSettings(top=2)),
        "strategy of the hessian": lambda: surface.curvature("hessian", strategy="linearize"),
        "kl_from_anchor is not computed": lambda: ShardedLandscape(Tied(), kl_from_anchor, data(), ranks=ranks),
        "GRU keeps its weights flattened": lambda: ShardedLandscape(nn.GRU(2, 2), cross_entropy, data(), ranks=ranks),
    }
    for words, call in cases.items():
        with pytest.raises(ValueError, match=words):
            call()
    if not ranks.alone:
        other = Tied().double()
        other.middle.weight.data += 1e-3 * ranks.rank
        with pytest.raises(ValueError, match="all ranks need the same parameters"):
            ShardedLandscape(other, cross_entropy, data(), ranks=ranks)
    return {"refused": np.array(len(cases))}


def laid_out(ranks: Ranks) -> Found:
    """Other layouts than FSDP2's, and a folder of torch.distributed.checkpoint read into them."""
    import torch.distributed.checkpoint as dcp

    from spectra.sharded import load_sharded

    folder = Path(ranks.texts(tempfile.mkdtemp() if ranks.first else "")[0])
    with warnings.catch_warnings():
        # That one process saves alone.
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        dcp.save({"model": spread(Tied().double(), ranks).state_dict()}, checkpoint_id=folder, no_dist=ranks.alone)
    models = {"fully sharded": spread(Tied().double(), ranks), "whole": Tied().double()}
    for model in models.values():
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        load_sharded(model, folder)
    models["tensor-parallel"] = columns_and_rows(ranks)
    found = {}
    for name, model in models.items():
        operator = ShardedLandscape(model, cross_entropy, data(), ranks=ranks).curvature("hessian")
        ones = torch.ones(1, operator.size, dtype=torch.float64)
        found[name] = joined(operator.pieces, operator.of_pieces(cut(operator.pieces, ones))).numpy()
    whole = Hessian(Landscape(Tied().double(), cross_entropy, data())).matmat(torch.ones(1, 56).double())
    np.testing.assert_allclose(found["fully sharded"], whole.numpy(), rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="holds no state dict of the model: bias is missing"):
        load_sharded(nn.BatchNorm1d(4), folder)
    with pytest.raises(ValueError, match="holds several state dicts of the model"):
        load_sharded(nn.Linear(4, 4), folder)
    surface = ShardedLandscape(models["fully sharded"], cross_entropy, data(), ranks=ranks)
    asked = SpectrumSettings(probes=3, steps=6, deflate=6, operator="gauss-newton")
    density = compute_spectrum(surface, asked).density
    return found | {"deflated": density.deflation.nodes, "sampled": density.nodes}


def columns_and_rows(ranks: Ranks) -> nn.Module:
    """A model of which torch shards one layer by columns and one by rows."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(12, 6), nn.Tanh(), nn.Linear(6, 7)).double()
    if not ranks.alone:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

        mesh = init_device_mesh("cpu", (ranks.count,))
        parallelize_module(model, mesh, {"2": ColwiseParallel(), "4": RowwiseParallel()})
    return model


PARTS = {
    "pieces": pieces,
    "fully sharded": fully_sharded,
    "differences": differences,
    "refused in pieces": refused_in_pieces,
    "laid out": laid_out,
}
