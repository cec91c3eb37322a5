"""`@fallback`: what answers in the place of a call that failed."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

import resilient
from resilient import ConfigurationError, KeyMissing, LockNotAcquired, distributed_lock, fallback
from resilient.config import disabled
from resilient.events import Event, FellBack
from tests.support.modes import Mode


class Service:
    """What is called: it fails while it has an error."""

    def __init__(self, mode: Mode, *args: Any, **options: Any) -> None:
        self.error: BaseException | None = None

        async def rate(currency: str, *, of: int = 1) -> str:
            if self.error is not None:
                raise self.error
            return f"{of} {currency}"

        self.call = mode.decorate(fallback(*args, **options), rate)


def last_known(error: Exception, currency: str, of: int = 1) -> str:
    """Answers by what it is told."""
    return f"{type(error).__name__} {currency} {of}"


async def alast_known(error: Exception, currency: str, of: int = 1) -> str:
    """The same, awaited."""
    return last_known(error, currency, of)


def test_it_answers_for_calls_that_fail(mode: Mode) -> None:
    """It is given the exception and the arguments; other calls are what they were."""
    service = Service(mode, last_known)
    assert mode.call(service.call, "EUR", of=5) == "5 EUR"
    service.error = ConnectionError("reset")
    assert mode.call(service.call, "EUR", of=5) == "ConnectionError EUR 5"
    assert list(inspect.signature(service.call).parameters) == ["currency", "of"]


def test_it_may_be_async_where_it_is_awaited(mode: Mode) -> None:
    """On a `def` that is refused, when decorated or when it is seen."""
    if mode.is_async:
        service = Service(mode, alast_known)
        service.error = OSError()
        assert mode.call(service.call, "EUR") == "OSError EUR 1"
        return
    with pytest.raises(ConfigurationError, match="async def"):
        Service(mode, alast_known)
    service = Service(mode, lambda error, *args, **given: alast_known(error, *args, **given))
    service.error = OSError()
    with pytest.raises(ConfigurationError, match="coroutine alast_known"):
        mode.call(service.call, "EUR")


@pytest.mark.parametrize(
    "on", [OSError, (ValueError, OSError), lambda error: isinstance(error, OSError)]
)
def test_for_which_exceptions_it_answers(mode: Mode, on: Any) -> None:
    """A type, several, or what a function says; others pass, and so do interruptions."""
    service = Service(mode, last_known, on=on)
    service.error = ConnectionError()
    assert mode.call(service.call, "EUR") == "ConnectionError EUR 1"
    for error in (KeyError("x"), GeneratorExit(), SystemExit(3)):
        service.error = error
        with pytest.raises(type(error)) as caught:
            mode.call(service.call, "EUR")
        assert caught.value is error


def test_what_is_the_developers_to_mend_passes(mode: Mode) -> None:
    """A configuration that is wrong is not hidden, nor is the end of an iterator an error."""
    service = Service(mode, last_known)
    service.error = KeyMissing("no user")
    with pytest.raises(KeyMissing):
        mode.call(service.call, "EUR")

    @fallback(last_known)
    def ended(currency: str) -> str:
        raise StopIteration(7)

    with pytest.raises(StopIteration):
        ended("EUR")


def test_its_own_error_passes(mode: Mode) -> None:
    """With what it was to answer for as the context."""

    def none(error: Exception, currency: str, of: int) -> str:
        raise LookupError("not known")

    service = Service(mode, none)
    service.error = ConnectionError("reset")
    with pytest.raises(LookupError) as caught:
        mode.call(service.call, "EUR")
    assert caught.value.__context__ is service.error


def test_each_one_is_an_event(mode: Mode) -> None:
    """It names the function and the error."""
    seen: list[Event] = []
    service = Service(mode, last_known)
    service.error = ConnectionError("reset")
    stop = resilient.subscribe(seen.append)
    mode.call(service.call, "EUR")
    stop()
    assert [type(each) for each in seen] == [FellBack]
    assert seen[0].error is service.error  # type: ignore[attr-defined]  # the line above


def test_disabled_policies_answer_nothing(mode: Mode) -> None:
    """In a test that asks for it, errors are seen."""
    service = Service(mode, last_known)
    service.error = ConnectionError("reset")
    with disabled(), pytest.raises(ConnectionError):
        mode.call(service.call, "EUR")


def test_above_other_decorators(mode: Mode) -> None:
    """It answers for their refusals, of methods too, and their controls are found through it."""

    class Prices:
        async def price(self, n: int) -> str:
            return "fresh"

    method: Any = mode.function(Prices.price)
    locked = distributed_lock("prices:{n}", wait=0)(method)
    Prices.price = fallback(lambda error, self, n: type(error).__name__)(locked)  # type: ignore[method-assign]  # as a decorator would
    with resilient.using("memory://"):
        prices = Prices()
        assert mode.call(prices.price, 7) == "fresh"
        with mode.entered(distributed_lock.of(prices.price).at(7)):
            assert mode.call(prices.price, 7) == LockNotAcquired.__name__


def test_what_is_wrong_is_said_when_decorated() -> None:
    """No function, no exception, a generator."""

    def items() -> Any:
        yield 1

    any_fallback: Any = fallback  # as the type checkers do not know it
    wrong: Any
    for wrong, word in (
        (lambda: any_fallback(7), "callable"),
        (lambda: any_fallback(last_known, on=KeyboardInterrupt), "on="),
        (lambda: any_fallback(last_known, on=()), "on="),
        (lambda: any_fallback(last_known)(items), "generator"),
        (lambda: any_fallback(last_known)(7), "decorates functions"),
    ):
        with pytest.raises(ConfigurationError, match=word):
            wrong()
