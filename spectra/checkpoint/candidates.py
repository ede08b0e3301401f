"""Which of the dictionaries in a file are weights, and the one that is asked for: none is dropped in silence."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, NoReturn

from torch import Tensor, nn

from spectra.errors import UserError
from spectra.files import Opaque, PickledCodeError, refused_call

# What torch.nn.Module calls what its get_extra_state() gave.
EXTRA_STATE = "_extra_state"
# Parts of a file that may hold tensors but no weights of a model, by whole words of their keys.
_BESIDE = re.compile(
    r"(?<![a-z])(optim|optimi[sz]ers?|sched|schedulers?|scalers?|rngs?|buffers?)(?![a-z])", re.IGNORECASE
)
# Words that may be of such a part, or of weights: what lies right under them counts if it has the names of weights.
_PERHAPS = re.compile(r"(?<![a-z])(opt|random)(?![a-z])", re.IGNORECASE)
# What parameters of modules are called.
_MODULAR = re.compile(r".\.|^(weight|bias)$")
# Words for averages of weights, which some programs keep as lists without names.
_AVERAGE = re.compile(r"ema|swa|shadow|averaged|polyak", re.IGNORECASE)
# How deep and how far into lists weights are looked for, and how many keys a refusal names.
_DEEPEST, _LONGEST, _MOST_NAMED = 60, 1000, 8
Path = tuple[Any, ...]


class Chosen(NamedTuple):
    """The weights of a file.

    Attributes:
        state: the state dict.
        key: where it lies, empty at the top.
        rest: everything beside it and the other candidates.
        model: the whole model that was pickled, where its code was run.
    """

    state: Mapping[str, Any]
    key: str
    rest: Mapping[Any, Any]
    model: nn.Module | None = None


def choose(content: Any, key: str | None) -> Chosen:
    """The weights in a file's content, those under a dotted key where one is given.

    Raises:
        PickledCodeError: if they are a whole pickled model.
        UserError: if there are none, several and no key, or none under the key.
    """
    candidates = list(_candidates(content, ()))
    weights = _rivals(candidates)
    found = [(path, value) for path, value in candidates if _may_be_read(path, value)]
    if key is not None:
        parts, value = _under(content, key, weights)
        place = ".".join(parts)
        state, model = _state(value, place)
        return Chosen(state, place, _without(content, found), model)
    if len(weights) > 1:
        raise UserError(f"holds several sets of weights, found {_listed(weights)}: --key takes one of them by its name")
    if not weights:
        _refuse_without_weights(content, [one for one in candidates if one[0] and _is_like(one, [], set())])
    path, value = weights[0]
    state, model = _state(value, _dotted(path))
    return Chosen(state, _dotted(path), _without(content, found), model)


def _state(value: Any, key: str) -> tuple[Mapping[str, Any], nn.Module | None]:
    if isinstance(value, nn.Module):
        return value.state_dict(), value
    if _is_model(value):
        raise PickledCodeError(
            f"contains pickled code ({value.name}), a whole model{f' as {key}' if key else ''}; basinscope never runs "
            "it: save its state_dict instead"
        )
    if not is_state_dict(value):
        raise UserError(f"has {len(value)} tensors without names as {key}, which no model can take: --key takes others")
    for name, entry in value.items():
        if _is_other_tensor(entry):
            raise UserError(f"has {entry.words} as {name}: save its plain, dense numbers instead")
    return value, None


def is_state_dict(value: object) -> bool:
    """Whether a value is a dictionary of tensors by name; a module's extra state may be anything."""
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        return False
    kept = [entry for name, entry in value.items() if name.rpartition(".")[2] != EXTRA_STATE]
    return bool(kept) and all(isinstance(entry, Tensor) or _is_other_tensor(entry) for entry in kept)


def _is_other_tensor(value: object) -> bool:
    return isinstance(value, Opaque) and value.tensor


def _is_model(value: object) -> bool:
    """Whether this stands for a pickled module, by what every module keeps."""
    return isinstance(value, Opaque) and {"_parameters", "_modules"} <= value.entries.keys()


def _candidates(content: Any, path: Path, seen: set[int] | None = None) -> Iterator[tuple[Path, Any]]:
    """Where there are state dicts, whole models, and averages that have no names."""
    seen = set() if seen is None else seen
    if id(content) in seen or len(path) > _DEEPEST:
        return
    seen.add(id(content))
    if is_state_dict(content) or isinstance(content, nn.Module) or _is_model(content):
        yield path, content
    elif isinstance(content, list | tuple):
        if len(content) > 1 and all(isinstance(one, Tensor) for one in content):
            yield path, content
        for place, value in enumerate(content[:_LONGEST]):
            yield from _candidates(value, (*path, place), seen)
    elif isinstance(content, Mapping) and "param_groups" not in content:
        if _tensors(content):
            yield path, content
        for name, value in _entries(content).items():
            beside = not isinstance(name, str | int) or _BESIDE.search(str(name))
            if not beside and (not _PERHAPS.search(str(name)) or is_state_dict(value)):
                yield from _candidates(value, (*path, name), seen)


def _tensors(content: Mapping[Any, Any]) -> dict[str, Any]:
    """The tensors among the entries of a dictionary, by name."""
    found = _entries(content).items()
    return {name: one for name, one in found if isinstance(name, str) and (_is_float(one) or _is_other_tensor(one))}


def _entries(content: Mapping[Any, Any]) -> Mapping[Any, Any]:
    return content.entries if isinstance(content, Opaque) else content


def _rivals(found: list[tuple[Path, Any]]) -> list[tuple[Path, Any]]:
    """The sets of weights, and what may be one beside them: with other entries among its tensors, or without names.

    Such a part counts where it has names of one of the sets, or of a module's parameters; a list where it has the word
    of an average, or the shapes of one of the sets. Without a set none of them is one.
    """
    sets = _sets([(path, value) for path, value in found if _may_be_read(path, value)])
    named = [value for _, value in sets if is_state_dict(value)]
    names = {name for value in named for name in value}
    chosen = {id(value) for _, value in sets}
    beside = [] if not sets else [one for one in found if id(one[1]) not in chosen and _is_like(one, named, names)]
    kept = chosen | {id(value) for _, value in beside}
    return [one for one in found if id(one[1]) in kept]


def _may_be_read(path: Path, value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(_AVERAGE.search(str(part)) for part in path)
    if isinstance(value, nn.Module) or _is_model(value):
        return True
    return is_state_dict(value) and not any(_PERHAPS.search(str(part)) for part in path)


def _is_like(candidate: tuple[Path, Any], sets: list[Mapping[str, Any]], names: set[str]) -> bool:
    """Whether something that is no set of weights by itself looks like one beside these."""
    _, value = candidate
    if isinstance(value, list | tuple):
        shapes = sorted(tuple(one.shape) for one in value)
        return any(len(shape) > 1 for shape in shapes) and any(
            shapes == sorted(tuple(one.shape) for one in entries.values() if _is_float(one)) for entries in sets
        )
    tensors = value if is_state_dict(value) else _tensors(value)
    modular = any(_MODULAR.search(name) and _has_matrix({name: one}) for name, one in tensors.items())
    return bool(names & tensors.keys()) or (modular and not is_state_dict(value))


def _sets(found: list[tuple[Path, Any]]) -> list[tuple[Path, Any]]:
    """Those with a matrix, or a name that one of those has; where no one has a matrix, all.

    Statistics and histories are vectors and numbers by names of their own.
    """
    large = [value for _, value in found if not is_state_dict(value) or _has_matrix(value)]
    whole = set(map(id, large))
    names = {name for value in large if is_state_dict(value) for name in value}
    kept = [
        (path, value) for path, value in found if id(value) in whole or (is_state_dict(value) and names & value.keys())
    ]
    return kept or [(path, value) for path, value in found if not path or any(map(_is_float, value.values()))]


def _has_matrix(state: Mapping[str, Any]) -> bool:
    return any(_is_other_tensor(one) or (_is_float(one) and one.ndim > 1) for one in state.values())


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())


def _under(content: Any, key: str, weights: list[tuple[Path, Any]]) -> tuple[list[str], Any]:
    """What lies under a key, and the key in its parts; what is left of it in a state dict begins the names to take."""
    path: list[str] = []
    value, left = content, key.strip(".")
    while left:
        if is_state_dict(value):
            within = {name.removeprefix(f"{left}."): one for name, one in value.items() if name.startswith(f"{left}.")}
            if not within:
                raise UserError(f"has no weights under the key {key[:80]!r}: found {_parts(value)}")
            return [*path, left], within
        entries = _entries(value) if isinstance(value, Mapping) else {}
        if isinstance(value, list | tuple):
            entries = dict(enumerate(value))
        # A name may have dots itself: the longest that the key begins with counts.
        fits = [name for name in entries if f"{left}.".startswith(f"{name}.")]
        if not fits:
            raise UserError(f"has nothing under the key {key[:80]!r}: found {_listed(weights) or _parts(entries)}")
        name = max(fits, key=lambda one: len(str(one)))
        value, left = entries[name], left[len(str(name)) + 1 :]
        path.append(str(name))
    inner = _rivals(list(_candidates(value, ())))
    if not inner and isinstance(value, Mapping) and _is_like(((), value), [], set()):
        return path, _tensors(value)
    if len(inner) != 1:
        what = f"several sets of weights, {_listed(inner)}" if inner else "no weights"
        raise UserError(f"has {what} under the key {key[:80]!r}: give the whole key; found {_listed(weights)}")
    return [*path, *map(str, inner[0][0])], inner[0][1]


def _without(content: Any, found: list[tuple[Path, Any]]) -> Mapping[Any, Any]:
    """The content without its weights."""
    rest = {}
    for name, value in _entries(content).items() if isinstance(content, Mapping) else ():
        inside = [(path[1:], one) for path, one in found if path and path[0] == name]
        if not inside:
            rest[name] = value
        elif all(path for path, _ in inside):
            rest[name] = _without(value, inside) if isinstance(value, Mapping) else value
    return {} if any(not path for path, _ in found) else rest


def _refuse_without_weights(content: Any, mixed: list[tuple[Path, Any]]) -> NoReturn:
    if not isinstance(content, Mapping) or (isinstance(content, Opaque) and not content.entries):
        what = content.words if isinstance(content, Opaque) else f"a {type(content).__name__}"
        raise UserError(f"is not a checkpoint: it holds {what}, not a state dict")
    objects = [value for value in (content, *content.values()) if isinstance(value, Opaque)]
    if objects:
        raise refused_call(objects[0].name)
    if mixed:
        entries = _entries(mixed[0][1])
        other = next(str(name) for name in entries if name not in _tensors(mixed[0][1]))
        raise UserError(
            f"is not a checkpoint as it stands: {_listed(mixed)} has entries among its tensors that are none, such as "
            f"{other[:40]!r}; --key takes the tensors alone"
        )
    raise UserError(f"is not a checkpoint: no state dict at the top or under any key; found {_parts(content)}")


def _dotted(path: Path) -> str:
    return ".".join(map(str, path))


def _listed(found: list[tuple[Path, Any]]) -> str:
    """The keys of candidates, each with what it is where that is no state dict."""
    names = []
    for path, value in found[:_MOST_NAMED]:
        note = "" if is_state_dict(value) else " (a list without names)" if isinstance(value, list | tuple) else ""
        note = " (a whole pickled model)" if _is_model(value) else note
        names.append((_dotted(path)[:80] or "those at the top") + note)
    more = f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    return ", ".join(names) + more


def _parts(entries: Mapping[Any, Any]) -> str:
    names = dict.fromkeys(str(name).partition(".")[0][:40] for name in entries if isinstance(name, str | int))
    return ", ".join(map(repr, list(names)[:5])) or "nothing"
