"""Peak memory of a spectrum of an FSDP2 model that stays sharded, on 1, 2 and 4 ranks of one machine, and on paper.

Usage: python benchmarks/sharded_memory.py [--ranks 1 2 4] [--width 1024] [--layers 6] [--steps 2] [--output FILE]

Each rank is a process of its own (gloo, one thread). The model, a perceptron, is made on the meta device and sharded
before it has memory. The peak is the largest resident set of a rank less what the process held after the same with a
tiny model; vectors are peaks over the bytes of all parameters. Below it stands what ``held_in_pieces`` computes for
models that no one machine can hold.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from parallel_traffic import Job, gigabytes, held_in_pieces

# Parameters, and the largest of them: LLaMA-2's embedding, 32,000 by 4,096 and by 8,192.
ON_PAPER = {"7 billion on 64 ranks": (6.74e9, 64, 32_000 * 4_096), "70 billion on 64": (6.9e10, 64, 32_000 * 8_192)}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--strategy", default="double-backward")
    parser.add_argument("--output", type=Path, help="also write the tables to this file")
    parser.add_argument("--child", nargs=4, metavar=("RANK", "RANKS", "MEETING", "RESULT"), help=argparse.SUPPRESS)
    return parser.parse_args()


def run_child(asked: argparse.Namespace) -> None:
    """One rank: the spectrum, and what it held and sent."""
    import torch
    import torch.distributed as dist
    from torch import nn
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import distribute_tensor

    rank, count, meeting, result = int(asked.child[0]), int(asked.child[1]), asked.child[2], Path(asked.child[3])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=count)
    mesh = init_device_mesh("cpu", (count,))

    def made(width: int) -> nn.Module:
        with torch.device("meta"):
            layers = [nn.Linear(width, width) for _ in range(asked.layers)]
            model = nn.Sequential(*(part for layer in layers for part in (layer, nn.Tanh())))
        for part in (*layers, model):
            fully_shard(part, mesh=mesh)
        model.to_empty(device="cpu")
        source = torch.Generator().manual_seed(0)
        for parameter in model.parameters():
            # The same numbers for any number of ranks; one parameter at a time is whole.
            whole = torch.randn(parameter.shape, generator=source) * width**-0.5
            mine = distribute_tensor(whole, mesh, parameter.placements, src_data_rank=None)  # type: ignore[attr-defined]
            parameter.data.copy_(mine)
        return model

    spectrum_of(made(8), 8, asked)  # what is loaded and made once is not of the model
    before = resident()
    found = spectrum_of(made(asked.width), asked.width, asked)
    found["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    result.write_text(json.dumps(found), encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()


def spectrum_of(model: Any, width: int, asked: argparse.Namespace) -> dict[str, Any]:
    """A spectrum of a sharded perceptron: its trace, and bytes handed over for one of the products."""
    import torch

    from spectra.compute import compute_spectrum
    from spectra.costs import mean_squared_error
    from spectra.sharded import ShardedLandscape
    from spectra.spectrum import SpectrumSettings

    source = torch.Generator().manual_seed(0)
    batches = [(torch.randn(4, width, generator=source), torch.zeros(4, width)) for _ in range(4)]
    surface = ShardedLandscape(model, mean_squared_error, batches)
    settings = SpectrumSettings(probes=1, steps=asked.steps, block=1, deflate=0, reorthogonalise="full")
    operator = surface.curvature("hessian", strategy=asked.strategy)
    spectrum = compute_spectrum(surface, settings, operator=operator)
    sent = dict(surface.ranks.sent)
    operator.of_pieces(torch.ones(1, operator.width))
    sent = {kind: surface.ranks.sent[kind] - sent.get(kind, 0) for kind in ("all_gather", "reduce_scatter")}
    return {"size": surface.size, "trace": spectrum.density.trace().value, "sent": sent}


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def start(count: int) -> list[dict[str, Any]]:
    """What each of the ranks found."""
    with tempfile.TemporaryDirectory() as folder:
        results = [Path(folder) / f"{rank}.json" for rank in range(count)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        processes = [
            subprocess.Popen(
                [sys.executable, *sys.argv, "--child", str(rank), str(count), f"{folder}/meeting", str(result)],
                env=environment,
            )
            for rank, result in enumerate(results)
        ]
        codes = [process.wait() for process in processes]
        if any(codes):
            raise SystemExit(f"{count} ranks failed")
        return [json.loads(result.read_text(encoding="utf-8")) for result in results]


def measured(asked: argparse.Namespace) -> list[str]:
    """Peaks of the largest rank for each number of ranks, in markdown."""
    lines = ["| ranks | peak of a rank | vectors | over its computed bytes | trace | joined for a product | summed |"]
    lines.append("|--:|--:|--:|--:|--:|--:|--:|")
    for count in asked.ranks:
        ranks = start(count)
        peak, size = max(one["peak"] for one in ranks), ranks[0]["size"]
        computed = sum(held_in_pieces(Job(size, count, 1, asked.steps), asked.width**2).values())
        # An all-gather's bytes are a rank's piece of what is joined, a reduce-scatter's the whole of what is summed.
        joined = ranks[0]["sent"]["all_gather"] * count / (4 * size)
        summed = ranks[0]["sent"]["reduce_scatter"] / (4 * size)
        lines.append(
            f"| {count} | {peak / 1e6:,.0f} MB | {peak / (4 * size):.2f} | {peak / computed:.2f} | "
            f"{ranks[0]['trace']:.6g} | {joined:.1f} n | {summed:.1f} n |"
        )
    return lines


def on_paper() -> list[str]:
    """What a rank holds of large models, one probe of 64 steps, with and without the basis, in markdown."""
    lines = ["| each rank holds, graphs left out | " + " | ".join(ON_PAPER) + " |", "|---|--:|--:|"]
    columns = [held_in_pieces(Job(int(size), ranks), largest) for size, ranks, largest in ON_PAPER.values()]
    lines += [f"| {what} | {' | '.join(gigabytes(one[what]) for one in columns)} |" for what in columns[0]]
    totals = [sum(one.values()) for one in columns]
    lean = [total - one["slices of the basis"] for total, one in zip(totals, columns, strict=True)]
    lines.append(f"| in all | {' | '.join(map(gigabytes, totals))} |")
    lines.append(f"| in all without the basis (`reorthogonalise='none'`) | {' | '.join(map(gigabytes, lean))} |")
    return lines


def main() -> None:
    """Runs the ranks and prints the tables, or is one of the ranks."""
    asked = arguments()
    if asked.child is not None:
        run_child(asked)
        return
    text = "\n".join([*measured(asked), "", *on_paper()]) + "\n"
    if asked.output is not None:
        asked.output.write_text(text, encoding="utf-8")
    print(text, end="")


if __name__ == "__main__":
    main()
