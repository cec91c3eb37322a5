"""What annotations say: the one of a function's result, and the classes that one names."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NewType, get_args, get_type_hints

from resilient.engine.names import name_of, unwrapped

__all__ = ["UNKNOWN", "classes_in", "is_alias", "return_annotation"]

UNKNOWN: Any = object()
"""There is no annotation, or it names something that is not there at run time."""


def return_annotation(function: Callable[..., Any]) -> Any:
    """Return the resolved return annotation of a function, or `UNKNOWN`.

    Only this annotation is resolved: those of parameters may name what is imported for type
    checkers only. Names local to the function around are found if the function uses them.
    """
    inner: Any = inspect.unwrap(unwrapped(function))
    if not inspect.isroutine(inner):
        inner = type(inner).__call__
    inner = getattr(inner, "__func__", inner)
    try:
        annotations = inner.__annotations__
        bare = SimpleNamespace(__annotations__={"return": annotations["return"]})
        hints = get_type_hints(bare, _globals(inner), _closure(inner), include_extras=True)
    except Exception:  # an annotation is any expression: evaluating it may raise anything
        return UNKNOWN
    return hints["return"]


def classes_in(annotation: Any) -> dict[str, type]:
    """Return the classes that an annotation names, and those that their fields name, by name."""
    found: dict[str, type] = {}
    _collect(annotation, found)
    return found


def is_alias(annotation: Any) -> bool:
    """Whether an annotation was defined by `type X = ...`, or by the backport of that."""
    return type(annotation).__name__ == "TypeAliasType"


def _collect(annotation: Any, found: dict[str, type]) -> None:
    if is_alias(annotation):
        annotation = annotation.__value__
    if isinstance(annotation, NewType):
        annotation = annotation.__supertype__
    for part in get_args(annotation):
        _collect(part, found)
    if not isinstance(annotation, type) or annotation.__module__ == "builtins":
        return
    name = name_of(annotation)
    if name in found:
        return
    found[name] = annotation
    try:
        hints = get_type_hints(annotation, include_extras=True)
    except Exception:  # what a field's annotation names is not there
        return
    for hint in hints.values():
        _collect(hint, found)


def _globals(function: Any) -> dict[str, Any]:
    names: dict[str, Any] = function.__globals__
    return names


def _closure(function: Any) -> dict[str, Any]:
    try:
        return dict(inspect.getclosurevars(function).nonlocals)
    except (TypeError, ValueError):  # a variable that has no value yet
        return {}
