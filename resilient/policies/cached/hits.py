"""What every call runs first, compiled with the function's own signature.

A hit in this process is a look into a dict, a look at the clock and a count: no lock, no coroutine,
no binding of arguments, no text of a key. The key of that dict is made of the arguments and their
types, so that `1`, `1.0` and `True` are three. Where arguments have no such key (a list, an object
of the user's) or no entry, the text of the key is made, and looked for in the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from inspect import Parameter, Signature
from typing import TYPE_CHECKING, Any

from resilient.engine import clock
from resilient.engine.drivers.sync import drive
from resilient.engine.flights import Errand, Late, alaunch, ashare, launch, share
from resilient.engine.local_store import Alias, Entry, LocalStore
from resilient.engine.signatures import compile_with_signature, forwarding
from resilient.engine.templates import Field, parse_template
from resilient.engine.wrap import Shape, finish
from resilient.errors import TimedOut
from resilient.policies.cached.context import CacheContext, without
from resilient.policies.cached.near import Call, Near
from resilient.policies.cached.plan import computed, loaded, read
from resilient.policies.cached.settings import Settings

if TYPE_CHECKING:
    from resilient.policies.cached.decorator import CachedLayer

__all__ = ["View", "aliased_by", "wrapped"]


NOTHING = object()
Aliases = list[tuple[str, str]] | None


class View:
    """The values at hand that a hit may use without asking; none while it is hidden.

    Attributes:
        values: What it shows; `None` while it is hidden.
        singles: Values by their aliases; so is `tuples`.
        entries: Values by their keys.
    """

    __slots__ = ("__weakref__", "entries", "singles", "tuples", "values")

    values: LocalStore | None
    singles: dict[type, dict[Any, Entry]]
    tuples: dict[Alias, Entry]
    entries: dict[str, Entry]

    def __init__(self) -> None:
        self.hide()

    def show(self, values: LocalStore) -> None:
        """Let hits use these from now on."""
        self.values = values
        self.singles = values.singles
        self.tuples = values.tuples
        self.entries = values.entries

    def hide(self) -> None:
        """Let no hit find anything from now on."""
        self.values = None
        self.singles, self.tuples, self.entries = {}, {}, {}


def aliased_by(
    signature: Signature, template: str | None, key: Callable[..., Any] | None
) -> Aliases:
    """What identifies a call in this process: expressions over its arguments, and their types.

    `None` where only the text of the key does: `key=` says what identifies a call.
    """
    if key is not None:
        return None
    if template is not None:
        parts = parse_template(template, where="")
        expressions = [part.expression for part in parts if isinstance(part, Field)]
        return [(each, f"_resilient_type({each})") for each in dict.fromkeys(expressions)]
    return [
        # No others: `None`. Any others: a tuple or dict, which is no alias, and found by its key.
        (f"({name} or None)", "_resilient_NoneType")
        if parameter.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
        else (name, f"_resilient_type({name})")
        for name, parameter in signature.parameters.items()
    ]


def wrapped(layer: CachedLayer, signature: Signature, alias: Aliases) -> Callable[..., Any]:
    """The wrapper of a cached function."""
    is_async = layer.shape is Shape.COROUTINE
    keyed = forwarding(without(signature, layer.context))
    at_hand = [
        "try:",
        f" _resilient_entry = _resilient_view.{_place(alias, keyed)}",
        "except _resilient_Exception:",  # nothing there, or nothing that can be looked for
        " pass",
        "else:",
        " if _resilient_entry.expires > _resilient_clock.ticks() "
        "< _resilient_clock.believed_until:",
        "  _resilient_entry.hits += 1",
        f"  return {_copied(layer)}",
    ]
    if layer.settings.local is None:  # nothing ever is
        at_hand, alias = [], None
    terms = None if alias is None else _tuple([term for pair in alias for term in pair])
    bound = "None"
    if layer.context is not None:
        # Else no lambda: for that the arguments would have to lie in cells, at every call.
        inner = _with_context(signature, layer.context)
        bound = f"lambda _resilient_value: _resilient_function({inner})"
    wait = "await " if is_async else ""
    body = [
        *at_hand,
        "_resilient_near = _resilient_attend()",
        "if _resilient_near is None:",
        f" return {wait}_resilient_function({forwarding(signature)})",
        # All else is in functions that are the same for all, because compiling takes long.
        f"return {wait}_resilient_fly(_resilient_near, _resilient_keyed({keyed}), {terms}, "
        f"{bound}, {keyed})",
    ]
    names: dict[str, object] = {
        "_resilient_clock": clock,
        "_resilient_view": layer.view,
        "_resilient_type": type,
        "_resilient_NoneType": type(None),
        "_resilient_Exception": Exception,
        "_resilient_attend": layer.attend,
        "_resilient_function": layer.function,
        "_resilient_keyed": layer.key,
        "_resilient_decode": layer.settings.records.decode,
        "_resilient_fly": partial(_afly if is_async else _fly, layer),
    }
    compiled = compile_with_signature(
        layer.function, body, names, is_async=is_async, signature=signature
    )
    return finish(layer, compiled)


def _place(alias: Aliases, keyed: str) -> str:
    if alias is None:
        return f"entries[_resilient_keyed({keyed})]"
    if len(alias) == 1:
        # By type and then by value: faster than a tuple of both.
        [(value, kind)] = alias
        return f"singles[{kind}][{value}]"
    return f"tuples[{_tuple([term for pair in alias for term in pair])}]"


def _tuple(terms: list[str]) -> str:
    return f"({''.join(f'{term}, ' for term in terms)})"


def _copied(layer: CachedLayer) -> str:
    if layer.copies:
        return "_resilient_decode(_resilient_entry.key, _resilient_entry.value)"
    return "_resilient_entry.value"


def _with_context(signature: Signature, context: str) -> str:
    """A call's arguments, with the context of its plan in the place of the caller's."""
    parameters = [
        each.replace(name="_resilient_value") if each.name == context else each
        for each in signature.parameters.values()
    ]
    text = forwarding(signature.replace(parameters=parameters))
    return text.replace("_resilient_value=_resilient_value", f"{context}=_resilient_value")


def _errand(
    settings: Settings, near: Near, call: Call, function: Callable[[Any], Any]
) -> Errand[Any]:
    return Errand(
        call.key,
        call.tags,
        partial(loaded, settings, near, call),
        partial(computed, near, call),
        function,
        may_serve=settings.freshness.serves_stale,
    )


def _fly(
    layer: CachedLayer,
    near: Near,
    key: str,
    alias: Alias | None,
    bound: Callable[[Any], Any] | None,
    /,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """What a call does that found nothing in its dict.

    Args:
        layer: Whose call it is.
        near: Where its values are.
        key: What identifies it.
        alias: What identifies it in this process.
        bound: The function with its arguments, of a context; `None`: it takes none.
        *args: The arguments that identify the call.
        **kwargs: The same by name.
    """
    settings = layer.settings
    if (entry := near.find(key, alias)) is not None:
        return near.given(entry)
    call = Call(key, alias, layer.tags(*args, **kwargs), CacheContext() if bound else None)
    if near.local is None:
        found = drive(read(settings, near, call, NOTHING))
        if found is not NOTHING:
            return found
    errand = _errand(settings, near, call, bound or (lambda _: layer.function(*args, **kwargs)))
    if (stale := near.stale(key)) is not None:
        launch(near.nearby.flights, errand)
        return near.given(stale)
    try:
        value, ours = share(near.nearby.flights, errand, settings.computing)
    except Late:
        raise _timed_out(settings, call) from None
    return value if ours else _shared(near, call, value)


async def _afly(
    layer: CachedLayer,
    near: Near,
    key: str,
    alias: Alias | None,
    bound: Callable[[Any], Any] | None,
    /,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """The same for a coroutine function."""
    settings = layer.settings
    if (entry := near.find(key, alias)) is not None:
        return near.given(entry)
    call = Call(key, alias, layer.tags(*args, **kwargs), CacheContext() if bound else None)
    if near.local is None:
        from resilient.engine.drivers.aio import adrive

        found = await adrive(read(settings, near, call, NOTHING))
        if found is not NOTHING:
            return found
    errand = _errand(settings, near, call, bound or (lambda _: layer.function(*args, **kwargs)))
    if (stale := near.stale(key)) is not None:
        await alaunch(near.nearby.flights, errand)
        return near.given(stale)
    try:
        value, ours = await ashare(near.nearby.flights, errand, settings.computing)
    except Late:
        raise _timed_out(settings, call) from None
    return value if ours else _shared(near, call, value)


def _timed_out(settings: Settings, call: Call) -> TimedOut:
    return TimedOut(f"{call.key!r} was not computed within {settings.computing.hard:g} seconds")


def _shared(near: Near, call: Call, value: Any) -> Any:
    """What those get who waited for another caller's value."""
    near.counters.hits += 1
    return near.own(call.key, value)
