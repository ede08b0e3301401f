"""Reading with transformers, whatever the kind of model: quietly, and with one sentence where it fails."""

from __future__ import annotations

import importlib.util
import io
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

from basinscope.tasks.declared_model import check_kinds, examined, no_larger_than
from spectra.errors import ForeignError, UserError, foreign

_NAMED = 3


def import_transformers(task: str, path: Path, extra: str, further: tuple[str, ...] = ()) -> Any:
    """The package transformers, imported when it is needed.

    Args:
        task: name of the task that needs it, for the message.
        path: file or folder that it is to read, for the message.
        extra: name of the extra of basinscope that brings it.
        further: other packages that have to be there.

    Returns:
        The module.

    Raises:
        UserError: if one of them is not installed.
    """
    missing = [name for name in ("transformers", *further) if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"task {task} needs {' and '.join(missing)} for {path}: install the extra, 'basinscope[{extra}]'"
        )
    import transformers

    return transformers


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no advice on stderr while transformers reads."""
    from transformers.utils import logging

    switch: Any = logging  # not annotated
    level, bars, given = logging.get_verbosity(), logging.is_progress_bar_enabled(), sys.stdin
    switch.set_verbosity_error()
    switch.disable_progress_bar()
    # Whatever it may want to ask, nobody answers.
    sys.stdin = io.StringIO()
    try:
        # The bar of dequantising heeds no switch.
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        sys.stdin = given
        logging.set_verbosity(level)
        if bars:
            switch.enable_progress_bar()


@contextmanager
def in_a_sentence(path: Path, what: str) -> Iterator[None]:
    """Whatever transformers raises on ``what`` of a path becomes a UserError of one sentence."""
    try:
        with foreign("transformers"):
            yield
    except ForeignError as failure:
        error = failure.__cause__ or failure
        reason = " ".join(str(error).split()).partition(". ")[0][:300]
        if "trust_remote_code" in str(error):
            raise UserError(
                f"{path} needs code of its own for the {what} (auto_map in its config), which basinscope never runs: "
                "give --task a function of yours that builds the model"
            ) from error
        if "ignore_mismatched_sizes" in reason:
            reason = "a parameter has another shape in the weights than in the config"
        raise UserError(f"{path}: transformers cannot read the {what} ({type(error).__name__}: {reason})") from error


def load_pretrained(transformers: Any, kind: str, path: Path, source: str, **options: Any) -> Any:
    """A model of transformers from this machine's files alone, with all of its weights and no others.

    Args:
        transformers: the package.
        kind: name of the class that makes the model, such as ``AutoModelForCausalLM``.
        path: folder of the model, or a GGUF file.
        source: what transformers is to read: an absolute path, which it never takes for a name on a hub.
        options: further options of ``from_pretrained``, such as the dtype.

    Returns:
        The model.
    """
    weights = examined(path)
    with quiet(), in_a_sentence(path, "model"), no_larger_than(weights):
        model, found = getattr(transformers, kind).from_pretrained(
            source, local_files_only=True, trust_remote_code=False, output_loading_info=True, **options
        )
    check_weights(path, found)
    check_kinds(weights, model)
    return model


def check_weights(path: Path, found: Mapping[str, Any]) -> None:
    """Refuses weights that are not the model's: transformers would draw what is missing at random.

    Raises:
        UserError: if parameters are missing or too many.

    >>> check_weights(Path("here"), {"missing_keys": {"a"}, "unexpected_keys": set()})
    Traceback (most recent call last):
        ...
    spectra.errors.UserError: here lacks a
    """
    for what, key in (("lacks", "missing_keys"), ("holds what is not in the model:", "unexpected_keys")):
        if names := sorted(found[key]):
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            raise UserError(f"{path} {what} {', '.join(names[:_NAMED])}{more}")
