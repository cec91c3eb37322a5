"""What options are checked for where they are written: each message names option and value."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from typing import Any, TypeVar

from resilient.errors import ConfigurationError

__all__ = [
    "check_busy",
    "check_choice",
    "check_function",
    "check_whole_number",
    "checked_call",
    "refuse_unknown",
]

F = TypeVar("F", bound=Callable[..., Any])


def checked_call(policy: str, further: Collection[str] = ()) -> Callable[[F], F]:
    """Have a decorator with options say by its own name what is wrong with its call.

    Python would take a function that stands below `@cached`, without parentheses, for a template,
    or tell of the options that are missing then, and not why.

    Args:
        policy: The decorator's name.
        further: The options that it takes as `**options`.
    """

    def checking(decorator: F) -> F:
        # Not by `inspect.signature`, which would take long enough to be seen in the import.
        code = decorator.__code__
        own = code.co_varnames[:1].count("self")
        by_place = code.co_varnames[own : code.co_argcount]
        by_name = code.co_varnames[code.co_argcount :][: code.co_kwonlyargcount]
        known = {*by_place, *by_name, *further}
        needed_place = by_place[: len(by_place) - len(decorator.__defaults__ or ())]
        needed_name = [name for name in by_name if name not in (decorator.__kwdefaults__ or ())]

        @functools.wraps(decorator)
        def called(*args: Any, **options: Any) -> Any:
            given = args[own:]
            if given and _is_decorated(given[0]):
                raise ConfigurationError(
                    f"write @{policy}(...): the decorator needs its parentheses"
                )
            if len(given) > len(by_place):
                extra = given[len(by_place)]
                raise ConfigurationError(
                    f"@{policy}: {extra!r} stands without the name of its option"
                )
            if not options.keys() <= known:
                refuse_unknown(f"@{policy}", options, known)
            for option in (*needed_place[len(given) :], *needed_name):
                if option not in options:
                    raise ConfigurationError(f"@{policy} needs {option}=, which has no default")
            return decorator(*args, **options)

        return called  # type: ignore[return-value]  # it is called as the decorator is

    return checking


def _is_decorated(given: Any) -> bool:
    """Whether it stands below an `@`; an exception's type is the option of somebody's `@retry`."""
    if isinstance(given, type):
        return not issubclass(given, BaseException)
    return callable(given) or isinstance(given, classmethod | staticmethod | property)


def check_choice(where: str, option: str, value: object, *choices: str) -> None:
    """Refuse what is none of a few words.

    Raises:
        ConfigurationError: The option's value is another one.
    """
    if value not in choices:
        *others, last = (f'"{choice}"' for choice in choices)
        raise ConfigurationError(
            f"{where}: {option}={value!r} is not {', '.join(others)} or {last}"
        )


def check_busy(where: str, on_busy: object, skipped: object) -> None:
    """Refuse what is no way to treat a busy call, and an answer for calls that are never skipped.

    Raises:
        ConfigurationError: One of the two is wrong.
    """
    check_choice(where, "on_busy", on_busy, "raise", "skip")
    if skipped is not None and on_busy != "skip":
        raise ConfigurationError(
            f'{where}: skipped={skipped!r} is never answered without on_busy="skip"'
        )


def check_whole_number(where: str, option: str, value: object, *, least: int = 1) -> None:
    """Refuse what is no whole number, or too small a one.

    Raises:
        ConfigurationError: So it is.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigurationError(
            f"{where}: {option}={value!r} is not a whole number from {least} on"
        )


def check_function(where: str, option: str, value: object) -> None:
    """Refuse what cannot be called.

    Raises:
        ConfigurationError: It cannot.
    """
    if not callable(value):
        raise ConfigurationError(f"{where}: {option}={value!r} is not a function")


def refuse_unknown(where: str, given: Collection[str], known: Collection[str]) -> None:
    """Refuse options that are not there, and name those that are.

    Raises:
        ConfigurationError: One of the given names is none of the known ones.
    """
    for option in sorted(set(given).difference(known)):
        from difflib import get_close_matches  # after a mistake only

        meant = get_close_matches(option, known, n=1)
        raise ConfigurationError(
            f"{where} has no option {option}{f': is {meant[0]} meant?' if meant else ''} "
            f"(it has {', '.join(sorted(known))})"
        )
