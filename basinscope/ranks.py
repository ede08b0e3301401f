"""A command on several processes, as torchrun starts them: one prints and writes, and all end together."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from basinscope.failures import USER_ERROR, Interrupted, exit_code_of
from basinscope.terminal import muted, say

if TYPE_CHECKING:
    from spectra.files import Provenance

# Commands that share their work out; what torchrun sets for each process.
SHARED = ("spectrum", "volume", "compare", "bridge")
_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# What ranks have to read alike before they go on with it.
STORED = "stored result (an --output that all ranks can read)"
# Seconds that a rank waits to hear whether another one says why the run ends; torchrun leaves 30 before it kills.
_HEARING = 1.0
_STORE_SECONDS = 5.0


def started_on_ranks() -> bool:
    """Whether torchrun, or something that sets the same variables, started this process as one of several."""
    return all(name in os.environ for name in _VARIABLES) and os.environ["WORLD_SIZE"] not in ("", "0", "1")


def run_on_ranks(command: Callable[[], int | None], words: list[str]) -> int:
    """Run a command as one of several ranks; the exit code is that of ``exit_code_of``, 2 where a rank was lost."""
    first = os.environ["RANK"] == "0"
    unclear = _unclear()
    if unclear:
        say(unclear)
        return USER_ERROR
    if not words or words[0].startswith("-"):
        return exit_code_of(command, words=words) if first else 0
    if words[0] not in SHARED:
        if first:
            several = f"{', '.join(SHARED[:-1])} and {SHARED[-1]}"
            say(f"{words[0]} runs in one process: leave torchrun out ({several} run on several)")
        return USER_ERROR
    ending = _Ending()
    signal.signal(signal.SIGTERM, ending.terminate)
    told = ("--debug", "--json", "--table")
    words = words if first else [word for word in words if word.partition("=")[0] not in told]
    return exit_code_of(lambda: ending.watched(command), words=words, tell=ending.tell)


def _unclear() -> str:
    """What is wrong with the variables by which ranks know each other; empty if nothing is."""
    for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"):
        if not re.fullmatch(r"[0-9]{1,9}", os.environ[name]):
            return (
                f"{name} in the environment must be a whole number, got {os.environ[name]!r}: unset it, or use torchrun"
            )
    rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if rank >= count:
        return f"RANK in the environment must be below WORLD_SIZE, {count}, got {rank}: unset both, or use torchrun"
    return ""


class _Ending:
    """Sees to it that one sentence is said, whichever rank fails, and however many notice."""

    def __init__(self) -> None:
        self._rank, self._count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self._lost, self._terminated = False, False
        self._store: Any = None

    def watched(self, command: Callable[[], int | None]) -> int | None:
        """The command with a process group; what ends it is remembered."""
        from spectra.ranks import LostRankError, Ranks

        with self._group():
            try:
                with _quiet_unless(self._rank == 0):
                    code = command()
                Ranks.current().wait()
            except LostRankError as error:
                self._lost = True
                raise ConnectionError(str(error)) from error
            except (KeyboardInterrupt, Interrupted):
                self._lost = True
                raise
            finally:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return code

    def tell(self, text: str) -> None:
        """Says why the run ends, if no other rank does."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if self._lost or self._terminated:
            if self._heard("failed"):
                return
            text = f"stopped by SIGTERM, as torchrun does when a rank has died; {text}" if self._terminated else text
        else:
            self._post("failed")
            if self._rank:
                if self._heard("failed first"):
                    return
                text = f"rank {self._rank} of {self._count}: {text}"
            else:
                self._post("failed first")
        if self._alone():
            say(text)

    @contextmanager
    def _group(self) -> Iterator[None]:
        import torch
        import torch.distributed as dist

        from spectra.ranks import TIMEOUT

        cuda = torch.cuda.is_available() and dist.is_nccl_available()
        if cuda:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", self._rank)) % torch.cuda.device_count())
        try:
            if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
                self._store = self._own_store()
                self._meet(TIMEOUT.total_seconds())
            dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=TIMEOUT)
            self._store = self._store or self._own_store()
        except RuntimeError as error:
            raise ConnectionError(f"the ranks cannot meet: {str(error).splitlines()[0]}") from error
        yield
        dist.destroy_process_group()

    def _meet(self, seconds: float) -> None:
        """Waits for all ranks where a signal can interrupt it, as it cannot in torch."""
        self._post(f"met {self._rank}")
        until = time.monotonic() + seconds
        while not self._asked(lambda: self._store.check([f"met {rank}" for rank in range(self._count)])):
            if time.monotonic() > until:
                raise RuntimeError(f"some were not there after {seconds:g} seconds")
            time.sleep(0.02)

    def terminate(self, *_: object) -> None:
        """What SIGTERM does: as Control-C, once."""
        self._terminated = True
        # While an exception is on its way the run ends already, and says what is saved.
        if sys.exc_info()[0] is None:
            raise KeyboardInterrupt

    def _own_store(self) -> Any:
        """A connection of our own to torch's store of keys, which torchrun keeps while ranks die."""
        from datetime import timedelta

        import torch.distributed as dist

        place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        inner = dist.TCPStore(*place, is_master=False, timeout=timedelta(seconds=_STORE_SECONDS))  # type: ignore[attr-defined]
        restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        return dist.PrefixStore(f"basinscope/{restart}", inner)  # type: ignore[attr-defined]

    def _post(self, key: str) -> None:
        self._asked(lambda: self._store.set(key, "1"))

    def _heard(self, key: str) -> bool:
        """Whether another rank has posted a key, or does so within a second."""
        until = time.monotonic() + _HEARING
        while not (found := bool(self._asked(lambda: self._store.check([key])))) and time.monotonic() < until:
            time.sleep(0.02)
        return found

    def _alone(self) -> bool:
        """Whether no other rank has said a sentence yet."""
        count = self._asked(lambda: self._store.add("told", 1))
        return count in (None, 1)

    def _asked(self, question: Callable[[], Any]) -> Any:
        """The store's answer; None where there is no store, or none any more."""
        try:
            return None if self._store is None else question()
        except RuntimeError:
            return None


@contextmanager
def _quiet_unless(first: bool) -> Iterator[None]:
    if first:
        yield
        return
    with muted():
        yield


def writes_files() -> bool:
    """Whether this process is the one that writes files: the only one, or rank 0."""
    if "torch.distributed" not in sys.modules:  # no ranks without it, and a figure is drawn sooner
        return True
    from spectra.ranks import Ranks

    return Ranks.current().first


def agreed(what: str, text: str) -> None:
    """Refuse ranks whose texts for ``what`` differ; one process has nothing to agree on."""
    from spectra.ranks import Ranks

    Ranks.current().require_same(what, text)


def common(provenance: Provenance, stored: str) -> Provenance:
    """The provenance with rank 0's time and device; refuses ranks that differ in the rest, or in what is ``stored``."""
    from dataclasses import replace

    from spectra.ranks import Ranks

    ranks = Ranks.current()
    ranks.require_same("checkpoint", f"{provenance.checkpoint_sha256} {provenance.checkpoint_weights}".strip())
    ranks.require_same("task, cost and dtype", f"{provenance.task}, {provenance.cost}, {provenance.dtype}")
    ranks.require_same(STORED, stored)
    created, device = ranks.texts(provenance.created)[0], ranks.texts(provenance.device)[0]
    return replace(provenance, created=created, device=device)
