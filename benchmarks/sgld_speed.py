"""Langevin chain-steps a second beside devinterp 2.0.1: the digits network, or a small language model, its home ground.

Run it with ``make bench``, or in the environment of requirements.txt as
``python benchmarks/sgld_speed.py --output out/sgld_speed.md`` (``--task language`` for the other).

Every competitor makes the same steps: cross-entropy on some rows of the data (64 of 1,024 images, or 16 of 128
sequences of 32 bytes of this file), step size, inverse temperature and localisation as in docs/benchmarks.md. devinterp
runs one chain after another, and is timed three times: its ``sample`` as published (loader, store and callbacks
included) on rows kept in memory, its loop and loader alone, and its optimiser in a bare loop. On the language model its
own cross-entropy is used. A round runs all in an order that rotates; ratios are medians over rounds. Each number of
threads has a child process.
"""

import argparse
import contextlib
import io
import json
import math
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

OURS, WHOLE, CHAIN, BARE = (
    "basinscope",
    "devinterp 2.0.1, `sample`",
    "devinterp 2.0.1, its chains without the store",
    "devinterp 2.0.1, its SGLD in a bare loop",
)
GOAL = 4.0


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=list(PLACES), default="digits")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--draws", type=int, default=500, help="steps of each chain")
    parser.add_argument("--chains", type=int, default=16)
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--only", nargs="+", help="beside basinscope, only those whose names contain one of these")
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


@dataclass(frozen=True)
class Place:
    """A model at its checkpoint, for all competitors.

    Attributes:
        landscape: the cost, for basinscope.
        tokens: (rows, k) what devinterp takes as ``input_ids``: tokens, or the number of a row and a zero.
        cost: cost of a network on rows of these, (rows, costs of a row); None for devinterp's own.
        rows: rows of a minibatch.
        step: step size.
        localisation: g.
        chains: number of chains.
    """

    landscape: Any
    tokens: Any
    cost: Any
    rows: int
    step: float
    localisation: float
    chains: int = 16

    @property
    def nb(self) -> float:
        """``n / log n`` of n samples."""
        samples = float(self.landscape.samples)
        return samples / math.log(samples)

    @property
    def anchor(self) -> float:
        """Cost at the checkpoint."""
        return float(self.landscape.anchor_cost)

    def costs(self, network: Any, tokens: Any) -> Any:
        """Costs of rows of tokens."""
        from devinterp.slt.lm_loss import compute_per_token_loss

        return (self.cost or compute_per_token_loss)(network, tokens)


def digits_place() -> Place:
    """The digits checkpoint on its training data; rows are found by their number."""
    import torch

    from basinscope.tasks import data_folder, digits
    from spectra.checkpoint import read_checkpoint

    landscape = digits(read_checkpoint(data_folder() / "digits_mlp" / "clean_seed0_step00640.pt"))
    batch = next(iter(landscape.batches))
    inputs, targets = batch.inputs, batch.targets
    numbers = torch.stack([torch.arange(len(inputs)), torch.zeros(len(inputs), dtype=torch.long)], 1)

    def cost(network: Any, tokens: Any) -> Any:
        place = tokens[:, 0]
        outputs = network(inputs[place])
        return torch.nn.functional.cross_entropy(outputs, targets[place], reduction="none").unsqueeze(1)

    return Place(landscape, numbers, cost, rows=64, step=1e-3, localisation=100.0)


def language_place() -> Place:
    """GPT-NeoX of two layers, 58,000 parameters, trained for a moment on the first bytes of this file."""
    import torch
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    from basinscope.tasks.language.text import packed
    from spectra.costs import cross_entropy
    from spectra.landscape import Landscape

    torch.manual_seed(0)
    sizes = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = GPTNeoXConfig(vocab_size=256, max_position_embeddings=32, use_cache=False, **sizes)
    model = GPTNeoXForCausalLM(config).eval()
    rows = packed(list(Path(__file__).read_bytes()[: 128 * 32]), 32, 0)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for number in torch.arange(128).repeat(6).split(16):
        optimiser.zero_grad()
        model(rows.tokens[number], labels=rows.tokens[number]).loss.backward()
        optimiser.step()
    landscape = Landscape(model, cross_entropy, rows.batches(len(rows.tokens)))
    return Place(landscape, rows.tokens, None, rows=16, step=1e-5, localisation=1e4)


PLACES = {"digits": digits_place, "language": language_place}


def ours(at: Place, draws: int) -> Callable[[], float]:
    """All chains in one block; returns nb E[L - L*]."""
    from comparisons.langevin import ChainSettings, sample_chains

    settings = ChainSettings(
        inverse_temperature=at.nb,
        step_size=at.step,
        localisation=at.localisation,
        chains=at.chains,
        draws=draws,
        burn_in=0,
        batch_size=at.rows,
        checks=0,
    )

    def job() -> float:
        chains = sample_chains(at.landscape, settings)
        return at.nb * float(chains.rises[:, draws // 2 :].mean())

    return job


def whole(at: Place, draws: int) -> Callable[[], float]:
    """``devinterp.slt.sampling.sample``."""
    from devinterp.slt.sampling import sample

    rows, model = [{"input_ids": row} for row in at.tokens], at.landscape.model
    options = {"num_chains": at.chains, "num_draws": draws, "batch_size": at.rows, "localization": at.localisation}
    options |= {"num_init_loss_batches": 1, "device": "cpu", "match_sampling_input_ids_across_chains": False}

    def job() -> float:
        with contextlib.redirect_stderr(io.StringIO()):
            found = sample(model, rows, {}, lr=at.step, n_beta=at.nb, loss_fn=at.cost, **options)
        kept = found.dataset.sampling_loss_micro.values.reshape(at.chains, draws, -1)[:, draws // 2 :]
        return at.nb * (float(kept.mean()) - at.anchor)

    return job


def chain_alone(at: Place, draws: int) -> Callable[[], float]:
    """``devinterp.slt.sampler.sample_single_chain`` for each chain: its loop and loader, nothing stored."""
    import torch
    from devinterp.optim import SGMCMC
    from devinterp.slt.sampler import sample_single_chain

    rows, model = [{"input_ids": row} for row in at.tokens], at.landscape.model
    options = {"lr": at.step, "nbeta": at.nb, "localization": at.localisation}

    def loss(network: Any, data: Any) -> Any:
        return at.costs(network, data["input_ids"]), {}

    def job() -> float:
        costs: list[Any] = []

        def keep(loss: Any, draw: int, **_: Any) -> None:
            costs.extend([loss.mean()] if draw >= draws // 2 else [])

        for number in range(at.chains):
            with contextlib.redirect_stderr(io.StringIO()):
                sample_single_chain(
                    model,
                    rows,
                    loss,
                    dict.fromkeys(dict(model.named_parameters())),
                    num_draws=draws,
                    sampling_method=SGMCMC.sgld,
                    sampling_method_kwargs=options,
                    chain=number,
                    seed=number,
                    dataloader_seed=number,
                    callbacks=[keep],
                    batch_size=at.rows,
                )
        return at.nb * (float(torch.stack(costs).mean()) - at.anchor)

    return job


def bare(at: Place, draws: int) -> Callable[[], float]:
    """Devinterp's optimiser with rows drawn as ours are, and nothing else."""
    import copy

    import torch
    from devinterp.optim import SGMCMC

    def job() -> float:
        costs = []
        for _ in range(at.chains):
            model = copy.deepcopy(at.landscape.model)
            optimiser = SGMCMC.sgld(model.parameters(), lr=at.step, nbeta=at.nb, localization=at.localisation)
            for step in range(draws):
                place = torch.randperm(len(at.tokens))[: at.rows]
                cost = at.costs(model, at.tokens[place]).mean()
                cost.backward()
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
                costs += [cost.detach()] if step >= draws // 2 else []
        return at.nb * (float(torch.stack(costs).mean()) - at.anchor)

    return job


def child(options: argparse.Namespace) -> None:
    """Times all competitors at one number of threads; prints JSON."""
    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads[0])
    torch.manual_seed(0)
    makers = {OURS: ours, WHOLE: whole, CHAIN: chain_alone, BARE: bare}
    makers = {
        name: make
        for name, make in makers.items()
        if name == OURS or not options.only or any(word in name for word in options.only)
    }
    at = replace(PLACES[options.task](), chains=options.chains)
    for make in makers.values():
        make(at, 4)()
    rates: dict[str, list[float]] = {name: [] for name in makers}
    processor: dict[str, list[float]] = {name: [] for name in makers}
    values: dict[str, list[float]] = {name: [] for name in makers}
    names, before = list(makers), os.getloadavg()[0]
    for number in range(options.rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            job = makers[name](at, options.draws)
            start, begun = time.perf_counter(), time.process_time()
            values[name].append(job())
            rates[name].append(at.chains * options.draws / (time.perf_counter() - start))
            processor[name].append(at.chains * options.draws / (time.process_time() - begun))
    found = {"threads": options.threads[0], "rates": rates, "processor": processor, "values": values}
    print(json.dumps(found | {"load": [before, os.getloadavg()[0]]}))


def table(runs: list[dict[str, Any]]) -> str:
    """Markdown: chain-steps a second of the clock and of the processor, median ratios over rounds, what chains found.

    What other work on the machine takes is in the clock's seconds and not in the processor's.
    """
    head = ["threads", "sampler", "chain-steps a second (range)", "ours / it"]
    head += ["chain-steps a processor second (range)", "ours / it", "nb E[L - L*]"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for run in runs:
        for name in run["rates"]:
            cells = [str(run["threads"]), name]
            for rates in (run["rates"], run["processor"]):
                found = rates[name]
                cells.append(f"{statistics.median(found):,.0f} ({min(found):,.0f} to {max(found):,.0f})")
                cells.append("" if name == OURS else _verdict(rates[OURS], found, name))
            lines.append(f"| {' | '.join(cells)} | {statistics.mean(run['values'][name]):.2f} |")
    loads = ", ".join(f"{run['threads']}: {run['load'][0]:.1f} to {run['load'][1]:.1f}" for run in runs)
    return "\n".join(lines) + f"\n\nLoad of the machine before and after, by threads: {loads}.\n"


def _verdict(ours: list[float], theirs: list[float], name: str) -> str:
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    goal = f" (goal {GOAL:.0f}: {'met' if ratio >= GOAL else '**not met**'})" if name in (WHOLE, CHAIN) else ""
    return f"{ratio:.1f}{goal}"


def main() -> None:
    """Runs what the command line asks for and prints the table."""
    options = arguments()
    if options.child:
        child(options)
        return
    runs = []
    for threads in options.threads:
        limits = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        command = [sys.executable, __file__, "--child", "--rounds", str(options.rounds)]
        command += ["--task", options.task, "--draws", str(options.draws), "--threads", str(threads)]
        command += ["--chains", str(options.chains)]
        command += ["--only", *options.only] if options.only else []
        done = subprocess.run(command, env=os.environ | limits, stdout=subprocess.PIPE, text=True, check=True)
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    text = table(runs)
    print(text)
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(text)


if __name__ == "__main__":
    main()
