"""The packages beside this one keep their names: a user's ``volume.py`` is not imported in their place, nor lost."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

NAMES = ("spectra", "volume", "comparisons")
_HOME = Path(__file__).resolve().parent.parent


def claim(*scripts: Path) -> None:
    """Sees to it that the three names are basinscope's packages, whatever of these names is imported or would be.

    What else has such a name stays within reach: the package of basinscope takes names and modules that it lacks from
    there. Of names that both have its own come first, which a warning says. Called again after ``sys.path`` has
    changed, it finds what is new there.

    Args:
        scripts: files that run under another name, as a task's file does, and that nobody imports.
    """
    started = getattr(sys.modules.get("__main__"), "__file__", None)
    running = {path.resolve() for path in (*scripts, *([Path(started)] if started else []))}
    for name in NAMES:
        loaded = sys.modules.get(name)
        is_own = loaded is not None and _is_own(loaded.__spec__, name)
        other = _found_elsewhere(name, running) if loaded is None or is_own else loaded
        own = loaded if loaded is not None and is_own else _load_own(name)
        if other is not None and not hasattr(own, "__beside__"):
            _join(own, other)


def _is_own(spec: ModuleSpec | None, name: str) -> bool:
    return spec is not None and spec.origin is not None and Path(spec.origin).resolve().parent == _HOME / name


def _found_elsewhere(name: str, running: set[Path]) -> ModuleSpec | None:
    """What Python would import, if that is another module than ours; a folder without code is none."""
    found = PathFinder.find_spec(name)
    if found is None or found.origin is None or _is_own(found, name):
        return None
    return None if Path(found.origin).resolve() in running else found


def _load_own(name: str) -> ModuleType:
    folder = _HOME / name
    # Modules of the other one that ours has too; who imported them before has them still.
    for key in [key for key in sys.modules if key.startswith(f"{name}.")]:
        part = key.split(".")[1]
        if (folder / part).is_dir() or (folder / f"{part}.py").exists():
            del sys.modules[key]
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _join(own: ModuleType, other: ModuleType | ModuleSpec) -> None:
    """Names and modules that our package lacks are those of the other one, which is run when one is asked for."""
    spec = other if isinstance(other, ModuleSpec) else other.__spec__
    folders = list((spec.submodule_search_locations if spec is not None else None) or [])
    places = [getattr(other, "__file__", None), getattr(spec, "origin", None), *folders, "another place"]
    origin = next(str(place) for place in places if place)
    own.__path__.extend(folders)
    ours, loaded = own.__getattr__, [] if isinstance(other, ModuleSpec) else [other]

    def either(name: str) -> Any:
        try:
            return ours(name)
        except AttributeError:
            if name.startswith("__"):
                raise
        if not loaded:
            loaded.append(_run(other))
        return getattr(loaded[0], name)

    own.__getattr__ = either  # type: ignore[method-assign]
    own.__beside__ = origin  # type: ignore[attr-defined]
    warnings.warn_explicit(
        f"basinscope has a package named {own.__name__} too: `import {own.__name__}` gives its names before those of "
        f"{origin}; rename your own to be sure of them",
        UserWarning,
        origin,
        1,
    )


def _run(spec: Any) -> ModuleType:
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
