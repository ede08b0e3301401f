"""Langevin chain-steps a second beside devinterp 2.0.1: the digits network, batches of 64 rows, 16 chains.

Run it with ``make bench``, or in the environment of requirements.txt as
``python benchmarks/sgld_speed.py --output out/sgld_speed.md``.

Every competitor makes the same steps: cross-entropy on 64 rows of the 1,024, step size, inverse temperature and
localisation as in docs/benchmarks.md. devinterp runs one chain after another, and is timed three times: its ``sample``
as published (loader, store and callbacks included) on rows kept in memory, its loop and loader alone, and its optimiser
in a bare loop. A round runs all in an order that rotates; ratios are medians over rounds. Each number of threads has
a child process.
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
from pathlib import Path
from typing import Any

CHAINS, ROWS, STEP, LOCALISATION = 16, 64, 1e-3, 100.0
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
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--draws", type=int, default=500, help="steps of each chain")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--only", nargs="+", help="beside basinscope, only those whose names contain one of these")
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def landscape() -> Any:
    """The digits checkpoint on its training data."""
    from basinscope.tasks import data_folder, digits
    from spectra.checkpoint import read_checkpoint

    return digits(read_checkpoint(data_folder() / "digits_mlp" / "clean_seed0_step00640.pt"))


def ours(at: Any, draws: int) -> Callable[[], float]:
    """All chains in one block; returns nb E[L - L*]."""
    from comparisons.langevin import ChainSettings, sample_chains

    settings = ChainSettings(
        step_size=STEP, localisation=LOCALISATION, chains=CHAINS, draws=draws, burn_in=0, batch_size=ROWS, checks=0
    )

    def job() -> float:
        chains = sample_chains(at, settings)
        return chains.inverse_temperature * float(chains.rises[:, draws // 2 :].mean())

    return job


def whole(at: Any, draws: int) -> Callable[[], float]:
    """``devinterp.slt.sampling.sample``: rows are found by their number, the only token it is given."""
    import torch
    from devinterp.slt.sampling import sample

    batch = next(iter(at.batches))
    inputs, targets, model = batch.inputs, batch.targets, at.model
    numbers = torch.stack([torch.arange(len(inputs)), torch.zeros(len(inputs), dtype=torch.long)], 1)
    rows = [{"input_ids": number} for number in numbers]
    nb = len(inputs) / math.log(len(inputs))

    def loss(network: Any, tokens: Any) -> Any:
        place = tokens[:, 0]
        outputs = network(inputs[place])
        return torch.nn.functional.cross_entropy(outputs, targets[place], reduction="none").unsqueeze(1)

    options = {"num_chains": CHAINS, "num_draws": draws, "batch_size": ROWS, "localization": LOCALISATION}
    options |= {"num_init_loss_batches": 1, "device": "cpu", "match_sampling_input_ids_across_chains": False}

    def job() -> float:
        with contextlib.redirect_stderr(io.StringIO()):
            found = sample(model, rows, {}, lr=STEP, n_beta=nb, loss_fn=loss, **options)
        kept = found.dataset.sampling_loss_micro.values.reshape(CHAINS, draws, -1)[:, draws // 2 :]
        return nb * (float(kept.mean()) - at.anchor_cost)

    return job


def chain_alone(at: Any, draws: int) -> Callable[[], float]:
    """``devinterp.slt.sampler.sample_single_chain`` for each chain: its loop and loader, nothing stored."""
    import torch
    from devinterp.optim import SGMCMC
    from devinterp.slt.sampler import sample_single_chain

    batch = next(iter(at.batches))
    inputs, targets, model = batch.inputs, batch.targets, at.model
    rows = [{"input_ids": number} for number in torch.arange(len(inputs))]
    nb = len(inputs) / math.log(len(inputs))
    options = {"lr": STEP, "nbeta": nb, "localization": LOCALISATION}

    def loss(network: Any, data: Any) -> Any:
        place = data["input_ids"]
        return torch.nn.functional.cross_entropy(network(inputs[place]), targets[place], reduction="none"), {}

    def job() -> float:
        costs: list[Any] = []

        def keep(loss: Any, draw: int, **_: Any) -> None:
            costs.extend([loss.mean()] if draw >= draws // 2 else [])

        for number in range(CHAINS):
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
                    batch_size=ROWS,
                )
        return nb * (float(torch.stack(costs).mean()) - at.anchor_cost)

    return job


def bare(at: Any, draws: int) -> Callable[[], float]:
    """Devinterp's optimiser with rows drawn as ours are, and nothing else."""
    import copy

    import torch
    from devinterp.optim import SGMCMC

    batch = next(iter(at.batches))
    inputs, targets = batch.inputs, batch.targets
    nb = len(inputs) / math.log(len(inputs))

    def job() -> float:
        costs = []
        for _ in range(CHAINS):
            model = copy.deepcopy(at.model)
            optimiser = SGMCMC.sgld(model.parameters(), lr=STEP, nbeta=nb, localization=LOCALISATION)
            for step in range(draws):
                place = torch.randperm(len(inputs))[:ROWS]
                cost = torch.nn.functional.cross_entropy(model(inputs[place]), targets[place])
                cost.backward()
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
                costs += [cost.detach()] if step >= draws // 2 else []
        return nb * (float(torch.stack(costs).mean()) - at.anchor_cost)

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
    for make in makers.values():
        make(landscape(), 4)()
    rates: dict[str, list[float]] = {name: [] for name in makers}
    processor: dict[str, list[float]] = {name: [] for name in makers}
    values: dict[str, list[float]] = {name: [] for name in makers}
    names, before = list(makers), os.getloadavg()[0]
    for number in range(options.rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            job = makers[name](landscape(), options.draws)
            start, begun = time.perf_counter(), time.process_time()
            values[name].append(job())
            rates[name].append(CHAINS * options.draws / (time.perf_counter() - start))
            processor[name].append(CHAINS * options.draws / (time.process_time() - begun))
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
        command += ["--draws", str(options.draws), "--threads", str(threads)]
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
