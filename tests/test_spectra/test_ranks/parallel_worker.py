"""What the tests of several ranks compute: in one process, or as one rank of several (``python THIS_FILE``)."""

import os
import runpy
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from comparisons.langevin import ChainSettings, sample_chains
from spectra.compute import compute_spectrum
from spectra.costs import cross_entropy, kl_from_anchor
from spectra.lanczos import Shards, draw_probes, krylov_space, lanczos
from spectra.landscape import Landscape
from spectra.model import Batches
from spectra.operators import Fisher, GaussNewton, Hessian
from spectra.ranks import TIMEOUT, LostRankError, Ranks
from spectra.spectrum import SpectrumSettings
from volume.bridge import bridge_volume
from volume.chains import BridgeSettings
from volume.priors import GaussianPrior
from volume.rays import StarDomainSettings, star_domain_volume

Found = dict[str, NDArray[Any]]
FORMULAS = Path(__file__).parents[3] / "benchmarks" / "parallel_traffic.py"
SETTINGS = SpectrumSettings(engine="slq", probes=5, steps=12, block=3, deflate=8, strategy="double-backward")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 9), nn.Tanh(), nn.Linear(9, 3)).double()


def data() -> list[tuple[Tensor, Tensor, Tensor]]:
    """Three batches of uneven lengths, weighted."""
    source = torch.Generator().manual_seed(1)
    inputs = torch.randn(23, 5, generator=source, dtype=torch.float64)
    targets = torch.randint(3, (23,), generator=source)
    weights = torch.rand(23, generator=source, dtype=torch.float64) + 0.5
    cuts = (slice(0, 9), slice(9, 20), slice(20, 23))
    return [(inputs[cut], targets[cut], weights[cut]) for cut in cuts]


class Streamed:
    """Batches read anew on each pass."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        return iter(data())


def landscapes(ranks: Ranks) -> dict[str, Landscape]:
    found = {
        "penalised": Landscape(network(), cross_entropy, data(), l2=0.3),
        "divergence": Landscape(network(), kl_from_anchor, data()),
        "streamed": Landscape(network(), cross_entropy, Batches(Streamed(), cache_bytes=0)),
    }
    return {name: one.over(ranks) for name, one in found.items()}


def costs(ranks: Ranks) -> Found:
    found = {}
    for name, one in landscapes(ranks).items():
        thetas = one.theta + 0.1 * draw_probes(one.size, 3, seed=0, dtype=one.dtype)
        vectors = draw_probes(one.size, 2, seed=1, dtype=one.dtype)
        operators = {
            "hessian": Hessian(one),
            "hessian shifted": Hessian(one).shifted(0.7),
            "gauss-newton": GaussNewton(one, strategy="double-vjp"),
            "sampled": Fisher(one, kind="sampled", draws=2, strategy="double-vjp"),
            "elsewhere": Hessian(one, theta=thetas[0]),
            "layer": Hessian(one).restricted("0"),
        }
        found[f"{name} anchor"] = np.array([one.cost(), one.total_weight])
        found[f"{name} costs"] = one.costs(thetas).numpy()
        found[f"{name} gradient"] = one.gradient(thetas[1]).numpy()
        found[f"{name} outputs"] = torch.cat(one.outputs()).numpy()
        for kind, operator in operators.items():
            found[f"{name} {kind}"] = operator.matmat(vectors[:, : operator.size]).numpy()
    return found


def spectra(ranks: Ranks) -> Found:
    found = {}
    one = landscapes(ranks)["penalised"]
    kinds = {
        "hessian": {},
        "gauss-newton": {"strategy": "auto"},
        "fisher": {"strategy": "auto", "engine": "gram", "deflate": -1},
    }
    for kind, changes in kinds.items():
        asked = SpectrumSettings(**{**SETTINGS.as_dict(), "operator": kind, "per_layer": kind == "hessian", **changes})
        spectrum = compute_spectrum(one, asked)
        density = spectrum.density
        found[f"{kind} moments"] = np.array([density.moment(power).value for power in range(1, 4)])
        found[f"{kind} deflated"] = density.deflation.nodes
        found[f"{kind} nodes"] = density.nodes
        found[f"{kind} facts"] = np.array([spectrum.cost, spectrum.gradient_norm, spectrum.samples])
        if kind == "hessian":
            found["layers"] = np.array([layer.trace().value for layer in spectrum.layers.values()])
    return found


def rows(ranks: Ranks) -> Found:
    """What a Krylov method does to its vectors, whole again; up to signs for orthonormal rows."""
    operator = Hessian(landscapes(ranks)["divergence"], strategy="double-backward")
    layout = Shards(operator.size, operator.ranks)
    vectors = draw_probes(operator.size, 3, seed=2, dtype=torch.float64)
    parts = layout.part(vectors)
    values, right = layout.singular(parts)
    orthonormal = layout.joined(layout.orthonormal(parts))
    return {
        "joined": layout.joined(parts).numpy(),
        "product": layout.joined(layout.product(operator, parts)).numpy(),
        "gram": layout.total(parts @ parts.T).numpy(),
        "span": (orthonormal.T @ orthonormal).numpy(),
        "identity": (orthonormal @ orthonormal.T).numpy(),
        "singular values": values.numpy(),
        "singular vectors": (layout.joined(right) @ vectors.T).abs().numpy(),
    }


def directions(ranks: Ranks) -> Found:
    surface = landscapes(ranks)["divergence"]
    found = star_domain_volume(surface, StarDomainSettings(directions=11, block=4, seed=3))
    return {"terms": found.log_terms, "evaluations": found.evaluations, "monotone": found.monotone}


def chains(ranks: Ranks) -> Found:
    """More chains than ranks, and one chain for all of them; some fail at a step size past the limit."""
    surface = landscapes(ranks)["penalised"]
    found = {}
    for count, step in ((5, 1e-4), (1, 1e-4), (3, 0.4)):
        settings = ChainSettings(
            20.0, step_size=step, chains=count, draws=12, burn_in=3, batch_size=8, checks=2, localisation=10.0
        )
        one = sample_chains(surface, settings)
        found[f"{count} rises"] = np.nan_to_num(one.rises, nan=-1.0)
        found[f"{count} acceptance"] = np.nan_to_num(one.acceptance, nan=-1.0)
        found[f"{count} others"] = np.array([one.gradient_evaluations, one.failed.sum()])
    assert found["1 others"][-1] == 0
    assert found["3 others"][-1] > 0
    return found


def bridges(ranks: Ranks) -> Found:
    """Short ladders from both ends that are known, before rounding has grown; chains that do not share out evenly."""
    surface, prior = landscapes(ranks)["divergence"], GaussianPrior(1.0)
    found = {}
    for origin, cutoff in (("prior", 0.5), ("quadratic", 1.0)):
        settings = BridgeSettings(cutoffs=(cutoff,), origin=origin, chains=5, draws=8, warm_up=3, kept=8, seed=4)
        result = bridge_volume(surface, prior, settings)
        assert len(result.passes[0]) > 2
        found[f"{origin} volumes"] = np.array([[one.log_volume, one.standard_error] for one in result.volumes])
        for number, rung in enumerate(result.passes[0]):
            spent = [rung.gradient_evaluations, rung.cost_evaluations, rung.leaps, rung.step_size]
            found[f"{origin} {number} costs"] = rung.costs
            found[f"{origin} {number} others"] = np.nan_to_num([*spent, *rung.diverged])
    return found


def sharded(ranks: Ranks) -> Found:
    """A model whose parameters are DTensors, after ``fully_shard`` on its layers and on the whole."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = network()
    if not ranks.alone:
        mesh = init_device_mesh("cpu", (ranks.count,))
        for layer in (model[0], model[2], model):
            fully_shard(layer, mesh=mesh)
    one = Landscape(model, cross_entropy, data()).over(ranks)
    spectrum = compute_spectrum(one, SETTINGS)
    still = [type(parameter).__name__ == "DTensor" for parameter in model.parameters()]
    assert all(still) == any(still) == (not ranks.alone)
    inputs = data()[0][0]
    return {
        "theta": one.theta.numpy(),
        "gradient": one.gradient().numpy(),
        "trace": np.array(spectrum.density.trace().value),
        # The user's model works as before.
        "outputs": model(inputs).detach().numpy(),
    }


def wrapped(ranks: Ranks) -> Found:
    """A tensor-parallel model, one under DistributedDataParallel, and one that FSDP2 runs in half precision."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecisionPolicy, fully_shard
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    models = {name: network() for name in ("tensor-parallel", "data-parallel", "half precision")}
    if not ranks.alone:
        mesh = init_device_mesh("cpu", (ranks.count,))
        parallelize_module(models["tensor-parallel"], mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
        models["data-parallel"] = nn.parallel.DistributedDataParallel(models["data-parallel"])
        fully_shard(models["half precision"], mesh=mesh, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))
        with pytest.raises(ValueError, match="FullyShardedDataParallel has flattened cannot be read"):
            Landscape(FullyShardedDataParallel(network(), device_id=torch.device("cpu")), cross_entropy, data())
    found = {}
    for name, model in models.items():
        one = Landscape(model, cross_entropy, data()).over(ranks)
        vector = draw_probes(one.size, 1, seed=1, dtype=one.dtype)
        found[name] = Hessian(one, strategy="double-backward").matmat(vector).numpy()
    return found


def traffic(ranks: Ranks) -> Found:
    """Bytes handed over, less what the formulas say: nothing."""
    if ranks.alone:
        return {"lanczos": np.zeros(3), "krylov": np.zeros(3)}
    operator = Hessian(Landscape(network(), cross_entropy, data()).over(ranks), strategy="double-backward")
    operator.matmat(draw_probes(operator.size, 1, seed=0, dtype=torch.float64))
    formulas = runpy.run_path(str(FORMULAS))
    jobs = {"lanczos": (3, 9), "krylov": (2, 6)}
    found = {}
    for name, (block, steps) in jobs.items():
        before = Counter(operator.ranks.sent)
        starts = draw_probes(operator.size, block, seed=1, dtype=torch.float64)
        _ = lanczos(operator, starts, steps) if name == "lanczos" else krylov_space(operator, starts, steps)
        sent = operator.ranks.sent - before
        expected = formulas[f"{name}_handed"](formulas["Job"](operator.size, ranks.count, block, steps, 8))
        found[name] = np.array([sent[kind] - expected[kind] for kind in ("all_reduce", "all_gather", "reduce_scatter")])
    return found


def refused(ranks: Ranks) -> Found:
    """Anchors that differ: in the order of their numbers alone, in one weight, or by rounding, which is let pass."""
    found = []
    for change in ("order", "weight", "rounding"):
        model = network()
        weight = model[0].weight.data
        if ranks.rank and change == "order":
            model[0].weight.data = weight.flip(0)
        if ranks.rank and change == "weight":
            weight[0, 0] += 1e-3
        if ranks.rank and change == "rounding":
            weight *= 1.0 + 1e-7
        try:
            Landscape(model, cross_entropy, data()).over(ranks)
        except ValueError as error:
            found.append(str(error).startswith(f"all ranks need the same anchor: rank {ranks.count - 1} is"))
        else:
            found.append(change == "rounding" or ranks.alone)
    return {"as expected": np.array(found)}


PARTS = {
    "refused": refused,
    "traffic": traffic,
    "costs": costs,
    "spectra": spectra,
    "rows": rows,
    "directions": directions,
    "chains": chains,
    "bridges": bridges,
    "sharded": sharded,
    "wrapped": wrapped,
    **runpy.run_path(str(Path(__file__).with_name("in_pieces.py")))["PARTS"],
}


def results(ranks: Ranks, parts: list[str]) -> Found:
    return {f"{part}: {key}": value for part in parts for key, value in PARTS[part](ranks).items()}


def hanging(ranks: Ranks) -> Found:
    """Rank 0 waits for rank 1, which sleeps past the group's patience; seconds until it knows."""
    if not ranks.first:
        time.sleep(20.0)
        os._exit(0)
    begin = time.monotonic()
    with pytest.raises(LostRankError, match="another rank died or cannot be reached"):
        ranks.wait()
    np.savez(sys.argv[4], seconds=np.array(time.monotonic() - begin))
    os._exit(0)


if __name__ == "__main__":
    place, rank, count, output = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    patience = timedelta(seconds=3.0) if sys.argv[5] == "hanging" else TIMEOUT
    dist.init_process_group("gloo", timeout=patience, init_method=f"file://{place}", rank=rank, world_size=count)
    ranks = Ranks.current()
    if sys.argv[5] == "hanging":
        hanging(ranks)
    np.savez(output, **results(ranks, sys.argv[5:]))
    ranks.wait()
    dist.destroy_process_group()
    os._exit(0)
