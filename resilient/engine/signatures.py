"""Functions that have the signature of another function, and a body of their own.

The interpreter itself then binds the arguments and applies the defaults: `f(5)`, `f(a=5)` and
`f(5, 1)` arrive alike. It costs about 40 ns a call, where `Signature.bind` costs 3 µs, and a call
with the wrong arguments fails with the very `TypeError` of the function that was meant.

Compiling is what takes long: 50 to 200 µs each. So a function has its parameters from the moment
when it is made, and its body is compiled at its first call: a program that decorates a thousand
functions, of which it calls ten, compiles ten.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from inspect import Parameter, Signature
from types import CodeType, FunctionType
from typing import Any
from weakref import ref

from resilient.errors import ConfigurationError

__all__ = ["RESERVED", "compile_with_signature", "forwarding", "signature_of"]

RESERVED = "_resilient_"
"""Names that start like this belong to the generated code: no parameter can hide them."""


def signature_of(function: Callable[..., Any], *, policy: str) -> Signature:
    """Return the signature of a callable, as its callers see it.

    Args:
        function: A function, a bound method, a `functools.partial`, an object with `__call__`.
        policy: The decorator's name, for the error.

    Raises:
        ConfigurationError: Python knows no signature for it (some builtins), or a parameter has a
            reserved name.
    """
    try:
        signature = _signature(function)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"@{policy}: Python knows no signature for {function!r}; decorate a `def` that calls it"
        ) from error
    for name in signature.parameters:
        if name.startswith(RESERVED):
            raise ConfigurationError(f"@{policy}: the parameter {name!r} has a reserved name")
    return signature


if sys.version_info >= (3, 14):
    from annotationlib import Format

    def _signature(function: Callable[..., Any]) -> Signature:
        # As text: evaluated, an annotation that is imported for type checkers only would fail.
        return inspect.signature(function, annotation_format=Format.STRING)
else:
    _signature = inspect.signature


def compile_with_signature(
    function: Callable[..., Any],
    body: str | Iterable[str],
    namespace: Mapping[str, object],
    *,
    name: str | None = None,
    is_async: bool = False,
    yields: bool = False,
    signature: Signature | None = None,
) -> FunctionType:
    """Make a function that has the parameters of another one, and a body of its own.

    The body sees the parameters under their names and the namespace under its reserved names.
    It must use nothing else, builtins neither: a parameter may be called `len`.

    Args:
        function: Whose parameters, defaults (the very objects), name and module it gets.
        body: Its lines, indented as among themselves.
        namespace: What the body refers to; every name starts with `RESERVED`.
        name: The name it bears in tracebacks; by default the function's own, so that a wrong
            call reads as it would have read without us.
        is_async: Whether it is an `async def`.
        yields: Whether it is a generator function, which is compiled at once.
        signature: Its parameters, where they are not the function's.

    Raises:
        ConfigurationError: The function has no known signature.
        SyntaxError: When called for the first time, if the body is wrong.

    Example:
        >>> def area(width, height=2): ...
        >>> twice = compile_with_signature(
        ...     area, "return _resilient_mul(width, height)", {"_resilient_mul": lambda a, b: a * b}
        ... )
        >>> twice(5), twice(height=3, width=5)
        (10, 15)
    """
    title = name or getattr(function, "__name__", None) or type(function).__name__
    parameters = list((signature or signature_of(function, policy=title)).parameters.values())
    definition = f"async def {RESERVED}function" if is_async else f"def {RESERVED}function"

    def code() -> CodeType:
        lines = [body] if isinstance(body, str) else body
        text = "\n ".join([f"{definition}({_declared(parameters)}):", *lines])
        return _own(_code(text), f"<resilient: {title}>")

    # What the body refers to are globals of the function.
    names = {**namespace, "__name__": getattr(function, "__module__", None)}
    made = FunctionType(
        code() if yields else _first_call(definition, parameters, title), names, title
    )
    made.__qualname__ = name or getattr(function, "__qualname__", None) or title
    with_default = [p for p in parameters if p.default is not _EMPTY]
    if with_default:
        named = {p.name: p.default for p in with_default if p.kind is _KEYWORD_ONLY}
        made.__defaults__ = tuple([p.default for p in with_default if p.name not in named])
        made.__kwdefaults__ = named
    if not yields:
        names |= _compiling(ref(made), code, parameters)
    return made


def _first_call(definition: str, parameters: Iterable[Parameter], title: str) -> CodeType:
    """The code of a function until it is called: it has the parameters, and compiles the rest.

    Nothing is compiled for it: it finds its arguments by `locals()`, so that all such functions
    have one code, with other names of the parameters in each.
    """
    wait = "await " if definition.startswith("async") else ""
    code = _code(f"{definition}(): return {wait}{RESERVED}first({RESERVED}locals())")
    kinds = [each.kind for each in parameters]
    varnames = tuple([p.name for p in sorted(parameters, key=_place_of)])
    flags = code.co_flags
    if _VAR_POSITIONAL in kinds:
        flags |= inspect.CO_VARARGS
    if _VAR_KEYWORD in kinds:
        flags |= inspect.CO_VARKEYWORDS
    positional_only = kinds.count(_POSITIONAL_ONLY)
    return code.replace(
        co_argcount=positional_only + kinds.count(_POSITIONAL_OR_KEYWORD),
        co_posonlyargcount=positional_only,
        co_kwonlyargcount=kinds.count(_KEYWORD_ONLY),
        co_varnames=varnames,
        co_nlocals=len(varnames),
        co_flags=flags,
        co_filename=f"<resilient: {title}>",
    )


def _compiling(
    made: ref[FunctionType], code: Callable[[], CodeType], parameters: Iterable[Parameter]
) -> dict[str, object]:
    """What a function refers to at its first call: what gives it its body, and runs that.

    It refers to the function weakly: this is among the function's globals.
    """

    def first(values: Mapping[str, Any]) -> Any:
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for each in parameters:
            value = values[each.name]
            if each.kind is _VAR_POSITIONAL:
                args += value
            elif each.kind is _VAR_KEYWORD:
                kwargs |= value
            elif each.kind is _KEYWORD_ONLY:
                kwargs[each.name] = value
            else:
                args.append(value)
        function = made()
        assert function is not None, "it is being called"
        function.__code__ = code()  # for all who call it from now on
        return function(*args, **kwargs)

    return {f"{RESERVED}first": first, f"{RESERVED}locals": locals}


@lru_cache(1024)
def _code(text: str) -> CodeType:
    """The code of a function, which others whose parameters have the same names have as well."""
    module = compile(text, "<resilient>", "exec")
    return next(each for each in module.co_consts if isinstance(each, CodeType))


def _own(code: CodeType, filename: str) -> CodeType:
    """A copy of a code: the interpreter remembers in it where one function's names are found."""
    constants = [_own(c, filename) if isinstance(c, CodeType) else c for c in code.co_consts]
    return code.replace(co_consts=tuple(constants), co_filename=filename)


def forwarding(signature: Signature) -> str:
    """Return the text of a call's arguments that passes every parameter on as it came.

    Example:
        >>> def f(a, /, b=1, *rest, c, **others): ...
        >>> forwarding(inspect.signature(f))
        'a, b, *rest, c=c, **others'
    """
    return ", ".join(_FORWARDED[p.kind].format(p.name) for p in signature.parameters.values())


_EMPTY = Parameter.empty
_POSITIONAL_ONLY = Parameter.POSITIONAL_ONLY
_KEYWORD_ONLY = Parameter.KEYWORD_ONLY
_POSITIONAL_OR_KEYWORD = Parameter.POSITIONAL_OR_KEYWORD
_VAR_POSITIONAL = Parameter.VAR_POSITIONAL
_VAR_KEYWORD = Parameter.VAR_KEYWORD

_PLACES: dict[Any, int] = {_KEYWORD_ONLY: 1, _VAR_POSITIONAL: 2, _VAR_KEYWORD: 3}


def _place_of(parameter: Parameter) -> int:
    """Where a code object names it: `*args` after those that are given by name only."""
    return _PLACES.get(parameter.kind, 0)


_FORWARDED = {
    Parameter.POSITIONAL_ONLY: "{0}",
    Parameter.POSITIONAL_OR_KEYWORD: "{0}",
    Parameter.VAR_POSITIONAL: "*{0}",
    Parameter.KEYWORD_ONLY: "{0}={0}",
    Parameter.VAR_KEYWORD: "**{0}",
}

_STARS: dict[Any, str] = {Parameter.VAR_POSITIONAL: "*", Parameter.VAR_KEYWORD: "**"}


def _declared(parameters: Iterable[Parameter]) -> str:
    """Render the parameters with `None` in the place of each default: the objects come later."""
    terms: list[str] = []
    before: Any = None
    star_seen = False
    for parameter in parameters:
        kind = parameter.kind
        if before is _POSITIONAL_ONLY and kind is not before:
            terms.append("/")
        if kind is _KEYWORD_ONLY and not star_seen:
            terms.append("*")
        star_seen = star_seen or kind is _VAR_POSITIONAL or kind is _KEYWORD_ONLY
        before = kind
        default = "" if parameter.default is _EMPTY else "=None"
        terms.append(f"{_STARS.get(kind, '')}{parameter.name}{default}")
    if before is _POSITIONAL_ONLY:
        terms.append("/")
    return ", ".join(terms)
