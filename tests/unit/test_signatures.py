"""Compiled functions: the same parameters, the same defaults, the same `TypeError`."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from resilient.engine.signatures import compile_with_signature, forwarding, signature_of
from resilient.errors import ConfigurationError

MARKER = object()


def plain(a: Any, b: Any = MARKER) -> Any: ...


def positional_only(a: Any, b: Any = 1, /) -> Any: ...


def keyword_only(*, a: Any, b: Any = MARKER) -> Any: ...


def everything(
    a: Any, /, b: Any, c: Any = MARKER, *rest: Any, d: Any, e: Any = MARKER, **others: Any
) -> Any: ...


def hiding(len: Any, exec: Any, str: Any = 1, *, dict: Any = 2) -> Any:  # noqa: A002 - on purpose
    """Parameters may have the names of builtins."""


class Service:
    def method(self, a: int, b: int = 2) -> None: ...

    def __call__(self, a: int, *, b: int = 2) -> None: ...


FUNCTIONS: list[Callable[..., Any]] = [
    plain,
    positional_only,
    keyword_only,
    everything,
    hiding,
    lambda a, *b: None,
    Service.method,
    Service().method,
    Service(),
    functools.partial(everything, 1, 2, d=4),
    functools.partial(plain, b=5),
    isinstance,
]


def passing(function: Callable[..., Any], target: Callable[..., Any], **options: Any) -> Any:
    """Return a compiled function that passes its arguments on to the target."""
    return compile_with_signature(
        function,
        f"return _resilient_target({forwarding(inspect.signature(function))})",
        {"_resilient_target": target},
        **options,
    )


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_parameters_are_the_functions_own(function: Callable[..., Any]) -> None:
    """Kinds, names and the very default objects are kept; annotations are left out."""
    compiled = passing(function, print)

    expected = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in inspect.signature(function).parameters.values()
    ]
    found = list(inspect.signature(compiled).parameters.values())
    assert expected == found
    assert all(e.default is f.default for e, f in zip(expected, found, strict=True))


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "expected"),
    [
        (plain, (1,), {}, ((1, MARKER), {})),
        (plain, (), {"b": 2, "a": 1}, ((1, 2), {})),
        (positional_only, (1, 2), {}, ((1, 2), {})),
        (keyword_only, (), {"a": 1}, ((), {"a": 1, "b": MARKER})),
        (
            everything,
            (1, 2, 3, 4, 5),
            {"d": 6, "a": 7, "f": 8},
            ((1, 2, 3, 4, 5), {"d": 6, "e": MARKER, "a": 7, "f": 8}),
        ),
        (hiding, (1, 2), {"dict": 3}, ((1, 2, 1), {"dict": 3})),
    ],
)
def test_arguments_are_bound_by_the_interpreter(
    function: Callable[..., Any], args: Any, kwargs: Any, expected: Any
) -> None:
    """The body sees every argument once, defaults applied, and passes all of them on."""
    compiled = passing(function, lambda *a, **k: (a, k))

    assert expected == compiled(*args, **kwargs)


def test_a_wrong_call_fails_as_the_function_would() -> None:
    """The `TypeError` names the function that was meant, not ours."""
    with pytest.raises(TypeError) as expected:
        Service.method()  # type: ignore[call-arg]  # the wrong call is the point
    with pytest.raises(TypeError) as found:
        passing(Service.method, print)()

    assert str(expected.value) == str(found.value)


@pytest.mark.parametrize("call", [1, 2])
def test_the_first_call_is_like_any_other(call: int) -> None:
    """The body is compiled then, and neither what is passed on nor what is wrong differs."""
    compiled = passing(everything, lambda *a, **k: (a, k))
    plainly = compiled.__code__

    for _ in range(call):
        assert compiled(1, 2, 3, 4, d=5, f=6) == ((1, 2, 3, 4), {"d": 5, "e": MARKER, "f": 6})
        with pytest.raises(TypeError, match="missing"):
            compiled()
    assert compiled.__code__ is not plainly
    assert compiled.__code__.co_varnames[:7] == plainly.co_varnames


def test_a_function_that_is_never_called_is_never_compiled() -> None:
    """A thousand of them are decorated in the time in which some would be compiled."""
    compiled = compile_with_signature(plain, "return 1 +", {})

    assert inspect.signature(compiled).parameters["b"].default is MARKER
    with pytest.raises(SyntaxError):
        compiled(1)


def test_many_threads_call_it_for_the_first_time() -> None:
    """Each gets its answer, by whomever the body was compiled."""
    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            compiled = passing(plain, lambda a, b: a)
            everybody = threading.Barrier(8)

            def one(number: int, call: Any = compiled, wait: Any = everybody.wait) -> Any:
                wait()
                return call(number)

            assert list(pool.map(one, range(8))) == list(range(8))


def test_a_function_goes_when_nobody_has_it() -> None:
    """What compiles it does not hold it; it may be gone when the coroutine of a call begins."""
    compiled = compile_with_signature(plain, "return a", {}, is_async=True)
    coroutine, gone = compiled(1), weakref.ref(compiled)
    del compiled

    assert asyncio.run(coroutine) == 1
    del coroutine
    assert gone() is None


def test_a_generator_function_is_one_from_the_beginning() -> None:
    """Its code says so, and is compiled at once."""
    compiled = compile_with_signature(plain, "yield a", {}, yields=True)

    assert inspect.isgeneratorfunction(compiled)
    assert list(compiled(1)) == [1]


def test_name_module_and_form_are_chosen() -> None:
    """A compiled function bears the function's name and module unless told otherwise."""
    own = passing(Service.method, print)
    other = passing(Service.method, print, name="key")

    assert (own.__name__, own.__qualname__) == ("method", "Service.method")
    assert own.__module__ == __name__
    assert (other.__name__, other.__qualname__) == ("key", "key")


def test_a_coroutine_function_is_compiled_on_demand() -> None:
    """With `is_async` the body may await."""
    compiled = compile_with_signature(
        plain,
        ["_resilient_result = await _resilient_target(a)", "return _resilient_result"],
        {"_resilient_target": functools.partial(asyncio.sleep, 0)},
        is_async=True,
    )

    assert inspect.iscoroutinefunction(compiled)
    assert asyncio.run(compiled("done")) == "done"


def test_a_body_of_several_lines_keeps_its_indentation() -> None:
    """Lines are indented as among themselves."""
    compiled = compile_with_signature(
        plain, ["if a:", "    return b", "return _resilient_no"], {"_resilient_no": "no"}
    )

    assert compiled(1, 2) == 2
    assert compiled(0, 2) == "no"


def test_another_signature_may_stand_for_the_functions() -> None:
    """What leaves the signature, such as a job, is not asked of the caller."""
    signature = inspect.signature(plain)
    shorter = signature.replace(parameters=list(signature.parameters.values())[1:])

    compiled = compile_with_signature(plain, "return b", {}, signature=shorter)

    assert compiled(7) == 7


def test_a_builtin_without_signature_is_refused() -> None:
    """A callable that tells no signature is a configuration error with the way out."""
    with pytest.raises(ConfigurationError, match=r"@cached: Python knows no signature.*`def`"):
        signature_of(iter, policy="cached")


def test_a_reserved_parameter_name_is_refused() -> None:
    """A parameter cannot hide what the generated code refers to."""

    def clash(_resilient_key: int) -> None: ...

    with pytest.raises(ConfigurationError, match="reserved name"):
        signature_of(clash, policy="cached")
