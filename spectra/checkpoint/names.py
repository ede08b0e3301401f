"""Names of weights as the model has them: without what wrappers put into them, and with a prefix more or less."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from spectra.errors import UserError

# What torch.compile, FSDP and activation checkpointing put into names, at the front or before the part they wrap.
_INSIDE = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
# What DistributedDataParallel and AveragedModel put before every name, and the latter's count of averages.
_MODULE, AVERAGES = "module.", "n_averaged"
# How a LightningModule mostly calls its network, and what only its checkpoints have.
_LIGHTNING, LIGHTNING_MARK = ("model.", "net."), "pytorch-lightning_version"


def unwrapped(names: Iterable[str]) -> dict[str, str]:
    """Each name without what wrappers put into it -> the name as it was; AveragedModel's count is left out.

    >>> unwrapped(["n_averaged", "module.0._orig_mod.weight"])
    {'0.weight': 'module.0._orig_mod.weight'}
    """
    whole = list(names)
    found = {".".join(part for part in name.split(".") if part not in _INSIDE): name for name in whole}
    if len(found) < len(whole):  # names that only the wrappers tell apart stay as they are
        found = {name: name for name in whole}
    while found:
        rest = {name: saved for name, saved in found.items() if name != AVERAGES}
        # A network that is itself in a part called module keeps it: only where all names have it, it is a wrapper's.
        if not rest or not all(name.startswith(_MODULE) for name in rest):
            break
        found = {name.removeprefix(_MODULE): saved for name, saved in rest.items()}
    return found


def renamed(names: Iterable[str], strip: str | None, *, lightning: bool) -> tuple[dict[str, str], str]:
    """Each name as it is used -> the name as saved, and the prefix that was taken off beside those of wrappers.

    Args:
        names: names as saved.
        strip: the prefix that was asked for; empty for none, None for that of a Lightning module's network.
        lightning: whether a Lightning module was saved.

    Raises:
        UserError: if a name does not begin with the prefix that was asked for.

    >>> renamed(["net.0.weight", "net.0.bias"], None, lightning=True)
    ({'0.weight': 'net.0.weight', '0.bias': 'net.0.bias'}, 'net.')
    """
    whole = list(names)
    found = unwrapped(whole)
    if strip:
        prefix = strip.rstrip(".") + "."
        plain = {name: name for name in whole if name.rpartition(".")[2] != AVERAGES}
        # A prefix may be given with that of a wrapper before it, or without.
        for one in (plain, found):
            if one and all(name.startswith(prefix) for name in one):
                short = {name.removeprefix(prefix): saved for name, saved in one.items()}
                return {name: short[inner] for name, inner in unwrapped(short).items()}, prefix
        lacking = next(name for name in found or whole if not name.startswith(prefix))
        raise UserError(
            f"has names without the prefix {prefix}, such as {lacking[:80]}: leave --strip-prefix out, "
            f"or take only the weights under it, by --key"
        )
    if strip is None and lightning:
        for prefix in _LIGHTNING:
            if found and all(name.startswith(prefix) for name in found):
                return {name.removeprefix(prefix): saved for name, saved in found.items()}, prefix
    return found, ""


def fitting(saved: Collection[str], known: Collection[str], prefix: str) -> dict[str, str]:
    """Each saved name -> the name to look for in the model.

    That is the name itself, unless names are foreign to the model and all are known to it with the prefix put back
    that was taken off, or without a first part that all of them share.

    >>> fitting(["net.weight", "net.bias"], ["weight", "bias"], "")
    {'net.weight': 'weight', 'net.bias': 'bias'}
    """
    same = {name: name for name in saved}
    if not saved or set(saved) <= set(known):
        return same
    back = {name: prefix + name for name in saved}
    first = next(iter(saved)).partition(".")[0] + "."
    without = {name: name.removeprefix(first) for name in saved if name.startswith(first)}
    for other in (back, without):
        if len(other) == len(same) and set(other.values()) <= set(known):
            return other
    return same


def parts_with(names: Collection[str], known: Collection[str]) -> list[str]:
    """First parts of names under which all that a model knows is found.

    >>> parts_with(["model.weight", "ema.weight", "head.bias"], ["weight"])
    ['model', 'ema']
    """
    under: dict[str, set[str]] = {}
    for name in names:
        first, _, rest = name.partition(".")
        under.setdefault(first, set()).add(rest)
    return [first for first, rest in under.items() if known and set(known) <= rest]
