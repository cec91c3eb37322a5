"""Names of functions and classes: equal in every process that runs the same code."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

__all__ = [
    "importable",
    "label",
    "module_name",
    "module_named",
    "name_of",
    "namespace_of",
    "unwrapped",
]

_MAIN_MODULES = ("__main__", "__mp_main__")


def module_name(obj: Any) -> str:
    """Return the name of the module where a class or function is defined.

    A program started as `python -m app.jobs` or `python jobs.py` calls its own module
    `__main__`, and a process that `multiprocessing` spawned calls it `__mp_main__`. Both are
    told by the name under which others would import it, so that the program, its children and
    its siblings agree on it, and two different programs do not.
    """
    module = str(getattr(obj, "__module__", None) or "builtins")
    return _importable_name(module) if module in _MAIN_MODULES else module


def module_named(name: str) -> ModuleType | None:
    """Return the module that `module_name` gives that name, if it is imported."""
    if name in sys.modules:
        return sys.modules[name]
    mains = (main for main in _MAIN_MODULES if main in sys.modules)
    return next((sys.modules[main] for main in mains if _importable_name(main) == name), None)


def _importable_name(main: str) -> str:
    module = sys.modules.get(main)
    spec = getattr(module, "__spec__", None)
    if spec is not None:
        return str(spec.name).removesuffix(".__main__")
    path = getattr(module, "__file__", None)
    return path.rpartition(os.sep)[2].removesuffix(".py") if path else "__main__"


def name_of(obj: Any) -> str:
    """Return `module:qualified.name` of a class or function.

    Example:
        >>> from decimal import Decimal
        >>> name_of(Decimal)
        'decimal:Decimal'
    """
    return f"{module_name(obj)}:{obj.__qualname__}"


def importable(obj: Any) -> bool:
    """Whether a class or function is what one finds under its own name.

    It is false of lambdas, of what is defined inside a function, and of what a decorator or a
    later definition of the same name has replaced.
    """
    found: Any = sys.modules.get(getattr(obj, "__module__", None) or "builtins")
    for part in obj.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is obj


def unwrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function inside `functools.partial` objects, or the function itself."""
    while isinstance(function, functools.partial):
        function = function.func
    return function


def namespace_of(function: Callable[..., Any]) -> str:
    """Return the name that separates what belongs to a function from what belongs to others.

    Example:
        >>> import json
        >>> namespace_of(json.loads)
        'json.loads'
    """
    inner = unwrapped(function)
    named = inner if hasattr(inner, "__qualname__") else type(inner)
    return f"{module_name(named)}.{named.__qualname__}"


def label(policy: str, function: Callable[..., Any]) -> str:
    """Return how an error names a decorated function.

    Example:
        >>> import json
        >>> label("cached", json.loads)
        '@cached on json.loads'
    """
    return f"@{policy} on {namespace_of(function)}"
