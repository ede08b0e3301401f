"""Log-volume of a digits checkpoint's basin by the bridge: one command, a file that is kept after every rung.

    python benchmarks/bridge_digits.py out/bridge_prior.h5
    python benchmarks/bridge_digits.py out/bridge_anchor.h5 --origin quadratic --seed 1 --work-spread 3
    python benchmarks/bridge_digits.py out/bridge_star.h5 --target star --chains 8

The same command goes on where a killed one stopped.
"""

import argparse
import time
from pathlib import Path

import torch

from basinscope.tasks.digits import data_folder
from basinscope.tasks.resolve import make_landscape
from spectra.checkpoint import read_checkpoint
from spectra.costs import kl_from_anchor
from volume.bridge import bridge_volume
from volume.bridge_result import BridgeResult
from volume.bridge_settings import ORIGINS, TARGETS, BridgeSettings
from volume.bridge_store import read_bridge, refuse_other, write_bridge
from volume.priors import parse_prior


def arguments() -> argparse.Namespace:
    """What was typed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--checkpoint", type=Path, default=data_folder() / "digits_mlp" / "clean_seed0_step00640.pt")
    parser.add_argument("--prior", default="gaussian:1.3975")
    parser.add_argument("--target", choices=TARGETS, default="sublevel")
    parser.add_argument("--origin", choices=ORIGINS, default="prior")
    parser.add_argument("--cutoff", type=float, default=0.01)
    parser.add_argument("--chains", type=int, default=16)
    parser.add_argument("--draws", type=int, default=24)
    parser.add_argument("--warm-up", type=int, default=8)
    parser.add_argument("--kept", type=int, default=24)
    parser.add_argument("--work-spread", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def climb(output: Path, file: Path, prior_name: str, settings: BridgeSettings) -> BridgeResult:
    """Run the ladder of one checkpoint on the held-out rows, or go on with it, and tell each rung."""
    checkpoint = read_checkpoint(file)
    landscape = make_landscape("digits-heldout", checkpoint).with_cost(kl_from_anchor)
    prior = parse_prior(prior_name, landscape.theta, layout=landscape.parameters, metadata=checkpoint.metadata)
    source = {"checkpoint_sha256": checkpoint.sha256, "prior": prior.name, "data_sha256": landscape.batches.sha256}
    earlier = None
    if output.exists():
        earlier, found = read_bridge(output)
        refuse_other(output, earlier, found, settings, source)
        if earlier.ended:
            return earlier
    start = time.perf_counter()

    def keep(result: BridgeResult) -> None:
        write_bridge(output, result, source)
        rungs = result.passes[-1]
        last = rungs[-1]
        print(
            f"{time.perf_counter() - start:6.0f} s  rung {len(rungs) - 1}: b {last.state.inverse_temperature:.4g}, "
            f"g {last.state.localisation:.4g}, mean cost {last.costs.mean():.5f}, |x|^2 {last.squares.mean():.5g}, "
            f"step {last.step_size:.3g}, acceptance {last.acceptance:.2f}, diverged {last.diverged.sum()}, "
            f"{result.gradient_evaluations:,} gradients",
            flush=True,
        )

    result = bridge_volume(landscape, prior, settings, resume=earlier, on_rung=keep)
    write_bridge(output, result, source)
    return result


def main() -> None:
    """Climb, and print the answer with what speaks for it."""
    asked = arguments()
    torch.set_num_threads(1)
    settings = BridgeSettings(
        cutoffs=(asked.cutoff,),
        target=asked.target,
        origin=asked.origin,
        chains=asked.chains,
        draws=asked.draws,
        warm_up=asked.warm_up,
        kept=asked.kept,
        work_spread=asked.work_spread,
        seed=asked.seed,
    )
    result = climb(asked.output, asked.checkpoint, asked.prior, settings)
    for volume in result.volumes:
        print(f"log mass {volume.log_volume:.2f} +- {volume.standard_error:.2f} nats at cutoff {volume.cutoff:g}")
        print(f"slope {volume.slope:.1f} +- {volume.slope_error:.1f}, {volume.share_below:.0%} of draws below")
    found = result.diagnostics
    print(f"largest R-hat {found.largest_rhat:.3f}, least effective sample {found.least_effective:.0f}")
    print(f"least overlap of neighbours {min(link.overlap for link in result.links):.3f}, ended by {result.ended}")
    if (check := result.integrated) is not None:
        by = f"{check.log_normaliser:.2f} +- {check.standard_error:.2f} by integration, {check.by_links:.2f} by links"
        print(f"log Z at the last rung: {by}")
    if result.multistate is not None:
        print("the same by pymbar: {:.2f} +- {:.2f}".format(*result.multistate))


if __name__ == "__main__":
    main()
