"""Recording: a linear function run once, and the operations that touched its vector run again for other vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

# What autograd asks about shapes; the answers do not depend on the vector's values.
_QUESTIONS = (torch.ops.aten.is_same_size.default, torch.ops.aten._has_same_storage_numel.default)


@dataclass(frozen=True)
class _Step:
    """One operation on tensors that depend on the vector.

    Attributes:
        operation: the operator.
        leaves: its flattened arguments; those that depend on the vector are None.
        spec: how the arguments nest.
        reads: (position in leaves, slot) of each argument that depends on the vector.
        writes: slot of each result, None for a result that is undefined.
        several: whether it returns a tuple or list.
    """

    operation: Any
    leaves: list[Any]
    spec: TreeSpec
    reads: list[tuple[int, int]]
    writes: list[int | None]
    several: bool


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every operation on what depends on one vector; all else ran already and is a constant."""

    def __init__(self, vector: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.slots = {id(vector): 0}
        self.steps: list[_Step] = []
        self.mutates = False
        # Identities are told apart by address, so nothing seen may be freed while recording.
        self._alive: list[Tensor] = [vector]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here; torch would import its compiler, seconds, to say so."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operation, and notes it if it reads what depends on the vector."""
        kwargs = kwargs or {}
        leaves, spec = tree_flatten((args, kwargs))
        reads = [(i, self.slots[id(a)]) for i, a in enumerate(leaves) if isinstance(a, Tensor) and id(a) in self.slots]
        if func._schema.is_mutable:
            self._check_write(func, args, bool(reads))
        result = func(*args, **kwargs)
        if reads and func not in _QUESTIONS:
            several = isinstance(result, tuple | list)
            writes = [self._slot(func, one) for one in (result if several else (result,))]
            kept = list(leaves)
            for position, _ in reads:
                kept[position] = None
            self.steps.append(_Step(func, kept, spec, reads, writes, several))
        return result

    def _check_write(self, func: Any, args: Any, reads: bool) -> None:
        written = [a for a, rule in zip(args, func._schema.arguments, strict=False) if rule.is_write]
        if reads and not all(id(a) in self.slots for a in written):
            raise NotImplementedError(f"{func} writes into a tensor that was there before the vector")
        self.mutates = self.mutates or reads

    def _slot(self, func: Any, result: Any) -> int | None:
        if result is None:
            return None
        if not isinstance(result, Tensor):
            raise NotImplementedError(f"{func} reads a value, which a recording cannot follow")
        self._alive.append(result)
        self.slots[id(result)] = len(self._alive) - 1
        return self.slots[id(result)]


def record(function: Callable[[Tensor], Tensor], vector: Tensor) -> Callable[[Tensor], Tensor]:
    """A linear function as the operations that depend on its vector; the others are done once, here.

    What torch's engine does at each call, and each backward formula's work on primal values alone, is saved. The
    function must be linear and do the same operations for every vector: compare the two on another vector.

    Args:
        function: linear, (n,) -> (m,).
        vector: (n,) a vector without structure, run through the function.

    Returns:
        The same function, for vectors of the same shape and dtype.

    Raises:
        NotImplementedError: if a value is read out, or a tensor that does not depend on the vector written into.

    >>> double = record(lambda v: v * torch.ones(2).sum(), torch.randn(3))
    >>> double(torch.tensor([1.0, 2.0, 3.0]))
    tensor([2., 4., 6.])
    """
    start = vector.detach().clone(memory_format=torch.contiguous_format)
    recorder = _Recorder(start)
    with recorder:
        result = function(start)
    if id(result) not in recorder.slots:
        constant = torch.zeros_like(result)
        return lambda _: constant.clone()
    final, mutates = recorder.slots[id(result)], recorder.mutates
    run = _compiled(recorder.steps if mutates else _needed(recorder.steps, final), final)

    def replay(vector: Tensor) -> Tensor:
        with torch.no_grad():
            # Copied where an operation may write into its argument.
            found: Tensor = run(vector.detach().clone() if mutates else vector.detach().contiguous())
        return found

    return replay


def _needed(steps: list[_Step], final: int) -> list[_Step]:
    """The steps that the final result depends on."""
    wanted, kept = {final}, []
    for step in reversed(steps):
        if wanted.intersection(step.writes):
            kept.append(step)
            wanted.update(slot for _, slot in step.reads)
    return kept[::-1]


def _compiled(steps: list[_Step], final: int) -> Callable[[Tensor], Tensor]:
    """The steps as one Python function that frees each intermediate after its last use."""
    names: dict[str, Any] = {}
    last = {slot: number for number, step in enumerate(steps) for _, slot in step.reads}
    lines = ["def run(s0):"]
    for number, step in enumerate(steps):
        reads = dict(step.reads)
        written = [f"s{reads[i]}" if i in reads else _named(leaf, names) for i, leaf in enumerate(step.leaves)]
        args, kwargs = tree_unflatten(written, step.spec)
        given = [_shown(arg) for arg in args] + [f"{key}={_shown(arg)}" for key, arg in kwargs.items()]
        left = ", ".join("_" if slot is None else f"s{slot}" for slot in step.writes) + ("," if step.several else "")
        lines.append(f"    {left} = {_named(step.operation, names)}({', '.join(given)})")
        dead = [slot for slot in {slot for _, slot in step.reads} if last[slot] == number and slot != final]
        dead += [slot for slot in step.writes if slot is not None and slot not in last and slot != final]
        if dead:
            lines.append(f"    del {', '.join(f's{slot}' for slot in dead)}")
    lines.append(f"    return s{final}")
    exec("\n".join(lines), names)
    run: Callable[[Tensor], Tensor] = names["run"]
    return run


def _named(value: Any, names: dict[str, Any]) -> str:
    name = f"c{len(names)}"
    names[name] = value
    return name


def _shown(part: Any) -> str:
    if isinstance(part, str):
        return part
    inner: Iterable[str] = (_shown(one) for one in part)
    return f"[{', '.join(inner)}]"
