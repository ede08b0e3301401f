"""Into any logger: TensorBoard's writer, a logger of Lightning, a run of wandb, or a function of a dictionary."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from spectra.errors import UserTypeError

Log = Callable[[Mapping[str, float], int], None]
PREFIX = "curvature/"


def logger(log: Any) -> Log:
    """A function of the numbers by name and the step, whatever it is that they are to go to.

    Args:
        log: an object with ``add_scalar(name, value, step)``, ``log_metrics(dict, step=)`` or ``log(dict, step=)``; a
            callable ``log(dict, step=)`` or ``log(dict)``, whose dictionary then has the step too; a list of these; or
            None, which logs nothing.

    Returns:
        The function; names begin with ``curvature/``.

    Raises:
        UserTypeError: if it is none of these.

    >>> logger(print)({"trace": 2.0}, 7)
    {'curvature/trace': 2.0, 'step': 7}
    """
    if log is None:
        return _of_all(())
    if isinstance(log, list | tuple):
        return _of_all([logger(one) for one in log])
    if callable(add := getattr(log, "add_scalar", None)):
        return _one_by_one(add)
    method = next((found for name in ("log_metrics", "log") if callable(found := getattr(log, name, None))), log)
    if not callable(method):
        raise UserTypeError(
            f"log must be a callable of a dictionary, or have add_scalar, log_metrics or log; got {type(log).__name__}"
        )
    return _at_once(method)


def _of_all(logs: Sequence[Log]) -> Log:
    def write(values: Mapping[str, float], step: int) -> None:
        for log in logs:
            log(values, step)

    return write


def _one_by_one(add: Callable[[str, float, int], object]) -> Log:
    def write(values: Mapping[str, float], step: int) -> None:
        for name, value in _named(values).items():
            add(name, value, step)

    return write


def _at_once(log: Callable[..., object]) -> Log:
    apart = _takes_step(log)

    def write(values: Mapping[str, float], step: int) -> None:
        if apart:
            log(_named(values), step=step)
        else:
            log({**_named(values), "step": step})

    return write


def _named(values: Mapping[str, float]) -> dict[str, float]:
    return {f"{PREFIX}{name}": value for name, value in values.items()}


def _takes_step(log: Callable[..., Any]) -> bool:
    try:
        return "step" in inspect.signature(log).parameters
    except (TypeError, ValueError):  # of some builtin functions nothing is known
        return False
