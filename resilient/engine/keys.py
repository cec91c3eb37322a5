"""The keys and fingerprints of calls, compiled when a function is decorated.

key_function(...)           the key: from a template, from `key=`, or from all arguments
compile_fingerprint(...)    what must be equal when an idempotency key is used again
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import blake2b
from inspect import Parameter, Signature
from types import ModuleType
from typing import Any, cast

from resilient.engine.names import label, name_of, namespace_of, unwrapped
from resilient.engine.signatures import (
    RESERVED,
    compile_with_signature,
    forwarding,
    signature_of,
)
from resilient.engine.templates import (
    Field,
    KeyFunction,
    compile_keyword_template,
    compile_template,
    parse_template,
)
from resilient.errors import ConfigurationError, KeyMissing

__all__ = [
    "KeyFunction",
    "compile_arguments_key",
    "compile_callable",
    "compile_fingerprint",
    "compile_keyword_template",
    "compile_template",
    "key_function",
    "namespace_of",
]


def key_function(
    function: Callable[..., Any],
    template: str | None = None,
    key: Callable[..., Any] | None = None,
    *,
    policy: str,
    namespace: str | None = None,
    empty_ok: bool = False,
    signature: Signature | None = None,
) -> KeyFunction:
    """Return the function that makes the key of a call out of its arguments.

    Args:
        function: The decorated function.
        template: A key template, or
        key: a function of the same arguments that returns a `str`, or a tuple of values, or
            neither: then all arguments make the key, which needs a namespace.
        policy: The decorator's name, for errors.
        namespace: What every key starts with; `None` where keys are global.
        empty_ok: Whether a template's field may be `None` or empty.
        signature: The parameters, where they are not the function's.

    Raises:
        ConfigurationError: Both are given, neither is and the keys are global, or the one that is
            given is wrong.
    """
    if template is not None and key is not None:
        raise ConfigurationError(
            f"{label(policy, function)}: give a key template or key=, not both"
        )
    if template is None and key is None:
        if namespace is None:
            raise ConfigurationError(
                f"{label(policy, function)} needs a key: a template, such as "
                '"invoice:{invoice_id}", or key=, a function of the same arguments'
            )
        return compile_arguments_key(
            function, policy=policy, namespace=namespace, signature=signature
        )
    prefix = "" if namespace is None else f"{namespace}:"
    if key is not None:
        return compile_callable(function, key, policy=policy, prefix=prefix, signature=signature)
    return compile_template(
        function,
        cast("str", template),
        policy=policy,
        empty_ok=empty_ok,
        prefix=prefix,
        signature=signature,
    )


def compile_arguments_key(
    function: Callable[..., Any],
    *,
    policy: str,
    namespace: str,
    signature: Signature | None = None,
) -> KeyFunction:
    """Compile a key of all arguments, typed: `f(1)`, `f(True)` and `f("1")` have three keys.

    Short keys can be read, `app.users.profile(7,"en")`; longer ones are hashed. The `self` of a
    method takes part by what its class says that it is, `cls` by its name.

    Raises:
        ConfigurationError: When called: an argument, or `self`, has no identity but its address.

    Example:
        >>> def profile(user_id, language="en"): ...
        >>> compile_arguments_key(profile, policy="cached", namespace="profile")(7)
        'profile(7,"en")'
    """
    where = label(policy, function)
    signature = signature or signature_of(function, policy=policy)
    parameters = list(signature.parameters)
    receiver = _receiver(function, parameters)
    has_bound = _binds(function)
    terms = [f"{RESERVED}identity({name})" if name == receiver else name for name in parameters]

    def identity(value: Any) -> Any:
        return _identity(value, where)

    def key(values: tuple[Any, ...]) -> str:
        text = _named_canonical(parameters, values, where)
        if has_bound:
            text = _canonical(_bound_values(function, where)) + text
        return namespace + _shortened(text)

    return compile_with_signature(
        function,
        f"return {RESERVED}key({_tuple(terms)})",
        {f"{RESERVED}key": key, f"{RESERVED}identity": identity},
        signature=signature,
    )


def compile_callable(
    function: Callable[..., Any],
    key: Callable[..., Any],
    *,
    policy: str,
    prefix: str = "",
    signature: Signature | None = None,
) -> KeyFunction:
    """Compile a key that a function of the same arguments returns, defaults applied.

    Raises:
        ConfigurationError: `key` is a coroutine function, or cannot be called with these
            arguments. When called: it returned neither a `str` nor a tuple of values.
        KeyMissing: When called: it returned `None` or nothing.

    Example:
        >>> def charge(order, retry=False): ...
        >>> compile_callable(charge, lambda order, retry: order["id"], policy="idempotent")(
        ...     {"id": "A-7"}
        ... )
        'A-7'
    """
    where = label(policy, function)
    parameters = signature or signature_of(function, policy=policy)
    _check_takes(key, parameters, where)

    def checked(result: Any) -> str:
        if result is None or result == "" or result == ():
            raise KeyMissing(f"{where}: key= returned {result!r}, which identifies nothing")
        if isinstance(result, tuple):
            names = [f"item {number} of what key= returned" for number in range(len(result))]
            return prefix + _shortened(_named_canonical(names, result, where))
        if not isinstance(result, str):
            raise ConfigurationError(
                f"{where}: key= returned a {name_of(type(result))}; expected a str, or a tuple"
            )
        return prefix + str.__str__(result)

    return compile_with_signature(
        function,
        f"return {RESERVED}checked({RESERVED}key({forwarding(parameters)}))",
        {f"{RESERVED}checked": checked, f"{RESERVED}key": key},
        signature=parameters,
    )


def compile_fingerprint(
    function: Callable[..., Any],
    names: Sequence[str] | None = None,
    *,
    template: str | None = None,
    policy: str,
    signature: Signature | None = None,
) -> KeyFunction:
    """Compile the fingerprint of a call: 32 hexadecimal digits of the arguments that matter.

    Args:
        function: The decorated function.
        names: The parameters that take part; `None`: every one that is not as a whole a field of
            the template, and `self` only if its class says what identifies it.
        template: The key template, or `None`.
        policy: The decorator's name, for errors.
        signature: The parameters, where they are not the function's.

    Raises:
        ConfigurationError: A name is no parameter. When called: an argument has no identity but
            its address.

    Example:
        >>> def charge(order_id, amount, note=""): ...
        >>> fingerprint = compile_fingerprint(charge, ("amount",), policy="idempotent")
        >>> fingerprint("A-7", 5) == fingerprint("A-8", amount=5, note="again")
        True
        >>> fingerprint("A-7", 5) == fingerprint("A-7", 5.0)
        False
    """
    where = label(policy, function)
    signature = signature or signature_of(function, policy=policy)
    known = list(signature.parameters)
    if isinstance(names, str):
        raise ConfigurationError(f"{where}: fingerprint={names!r}: expected a tuple of names")
    for name in names or ():
        if name not in known:
            raise ConfigurationError(
                f"{where}: fingerprint names {name!r}, which is no parameter; "
                f"known are: {', '.join(known) or 'none'}"
            )
    receiver = _receiver(function, known) if names is None else None
    # By name, so that parameters may change their places without changing what they mean.
    chosen = sorted(_beside_the_key(known, template, where) if names is None else set(names))
    terms = [f"{RESERVED}identity({name})" if name == receiver else name for name in chosen]
    title = _canonical(tuple(chosen))

    def identity(value: Any) -> Any:
        return value if _says_what_it_is(value) else None

    def fingerprint(values: tuple[Any, ...]) -> str:
        return _digest(title + _named_canonical(chosen, values, where))

    if not chosen:  # then it is the same for every call
        return compile_with_signature(
            function,
            f"return {RESERVED}fingerprint",
            {f"{RESERVED}fingerprint": fingerprint(())},
            signature=signature,
        )
    return compile_with_signature(
        function,
        f"return {RESERVED}fingerprint({_tuple(terms)})",
        {f"{RESERVED}fingerprint": fingerprint, f"{RESERVED}identity": identity},
        signature=signature,
    )


# --- who the receiver is ---------------------------------------------------------------------


def _receiver(function: Callable[..., Any], parameters: Sequence[str]) -> str | None:
    """Return `self` or `cls` where the function is defined in a class.

    A decorator sees a plain function: its qualified name tells of the class around it.
    """
    around = getattr(function, "__qualname__", "").rpartition(".")[0]
    in_class = bool(around) and not around.endswith("<locals>")
    first = parameters[0] if parameters else ""
    return first if in_class and first in ("self", "cls") else None


def _identity(receiver: Any, where: str) -> Any:
    if isinstance(receiver, type):
        return name_of(receiver)
    if _says_what_it_is(receiver):
        return receiver
    raise ConfigurationError(
        f"{where}: the key of all arguments needs to tell one {name_of(type(receiver))} from "
        "another; give the class a method __resilient_key__, or write a template such as "
        '"{self.id}", or use key='
    )


def _binds(function: Callable[..., Any]) -> bool:
    """Whether something is bound before the call that no parameter shows."""
    inner = unwrapped(function)
    return inner is not function or _owner(inner) is not None


def _bound_values(function: Callable[..., Any], where: str) -> tuple[Any, ...]:
    owner = _owner(unwrapped(function))
    arguments = function.args if isinstance(function, partial) else ()
    return (*arguments, None if owner is None else _identity(owner, where))


def _owner(function: Callable[..., Any]) -> Any:
    """Return the object that a bound method, or an object with `__call__`, works on."""
    if not hasattr(function, "__qualname__"):
        return function
    owner = getattr(function, "__self__", None)
    return None if isinstance(owner, ModuleType) else owner


# --- texts -----------------------------------------------------------------------------------

_READABLE_BYTES = 96


def _canonical(value: Any) -> str:
    # It knows the types of many modules, which take longer to import than all of this package.
    from resilient.engine.canonical import canonical

    return canonical(value)


def _says_what_it_is(value: Any) -> bool:
    from resilient.engine.canonical import says_what_it_is

    return says_what_it_is(value)


def _named_canonical(names: Sequence[str], values: tuple[Any, ...], where: str) -> str:
    try:
        return _canonical(values)
    except ConfigurationError:
        # Only now does it matter which one it is.
        for name, value in zip(names, values, strict=True):
            try:
                _canonical(value)
            except ConfigurationError as error:
                raise ConfigurationError(f"{where}: {name}: {error}") from None
        raise


def _shortened(text: str) -> str:
    try:
        readable = len(text.encode()) <= _READABLE_BYTES
    except UnicodeEncodeError:  # lone surrogates, which no backend could store
        readable = False
    return text if readable else f"#{_digest(text)}"


def _digest(text: str) -> str:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _tuple(terms: Sequence[str]) -> str:
    return f"({''.join(f'{term}, ' for term in terms)})"


def _beside_the_key(known: Sequence[str], template: str | None, where: str) -> list[str]:
    parts = () if template is None else parse_template(template, where=where)
    in_key = {part.root for part in parts if isinstance(part, Field) and part.is_whole}
    return [name for name in known if name not in in_key]


def _check_takes(key: Callable[..., Any], parameters: Signature, where: str) -> None:
    """Refuse, while decorating, a `key=` that could not be called like the function."""
    if not callable(key):
        raise ConfigurationError(f"{where}: key={key!r} is not callable")
    if inspect.iscoroutinefunction(key):
        raise ConfigurationError(f"{where}: key= must be a plain function, not a coroutine one")
    positional = [p for p in parameters.parameters.values() if p.kind in _POSITIONAL]
    keywords = [n for n, p in parameters.parameters.items() if p.kind is Parameter.KEYWORD_ONLY]
    try:
        taken = signature_of(key, policy="key=")
    except ConfigurationError:  # a builtin that tells nothing: the first call will
        return
    try:
        taken.bind(*positional, **dict.fromkeys(keywords))
    except TypeError as error:
        raise ConfigurationError(
            f"{where}: key= does not take the arguments of the function: {error}"
        ) from None


_POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
