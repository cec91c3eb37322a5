"""What `@distributed_lock` and `lock()` refuse when they are declared, and how they say so."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

import resilient
from resilient import distributed_lock, lock, lock_all, read_lock, semaphore

pytestmark = pytest.mark.usefixtures("backend")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"ttl": -1}, "ttl"),
        ({"ttl": 0}, "ttl"),
        ({"ttl": float("nan")}, "ttl"),
        ({"ttl": None}, "ttl"),
        ({"ttl": True}, "ttl"),
        ({"ttl": "1h30"}, "ttl"),
        ({"wait": -0.5}, "wait"),
        ({"wait": "soon"}, "wait"),
        ({"on_busy": "wait"}, "on_busy"),
        ({"on_backend_error": "ignore"}, "on_backend_error"),
        ({"backend": "nosuch://x"}, "nosuch"),
        ({"backend": object()}, "backend"),
        ({"backend": "redis://localhost:0x"}, "redis"),
        ({"key": 5}, "key"),
        ({"tll": 5}, "tll"),
    ],
)
def test_a_wrong_option_is_named_when_decorated(options: dict[str, Any], named: str) -> None:
    """Each is a `ConfigurationError` that says which, before anything is called."""
    decorate: Any = distributed_lock
    with pytest.raises(resilient.ConfigurationError, match=named):
        decorate(None if "key" in options else "k", **options)(lambda: None)


@pytest.mark.parametrize("make", [lock, partial(semaphore, limit=2), read_lock, lock_all])
def test_an_option_that_there_is_not_is_refused_when_made(make: Any) -> None:
    """A slip of the pen is no option that is ignored."""
    with pytest.raises(resilient.ConfigurationError, match="timeout"):
        make("k", timeout=5)


@pytest.mark.parametrize("template", ["{nosuch}", "", "{}", "{a!r}", "{a:>5}", "{a"])
def test_a_wrong_template_is_refused_when_decorated(template: str) -> None:
    """Unknown names, empty templates, positional fields, conversions and formats."""

    def function(a: int) -> None: ...

    with pytest.raises(resilient.ConfigurationError):
        distributed_lock(template)(function)


def test_omitted_parentheses_are_pointed_out() -> None:
    """`@distributed_lock` without a call is an error at once."""
    decorate: Any = distributed_lock
    with pytest.raises(resilient.ConfigurationError, match="distributed_lock"):
        decorate(lambda: None)


def test_no_template_and_no_key_is_an_error() -> None:
    """A lock must have a name."""
    with pytest.raises(resilient.ConfigurationError):
        distributed_lock()(lambda: None)


@pytest.mark.parametrize("value", [None, ""])
def test_an_empty_field_is_refused(value: Any) -> None:
    """A key that would not identify anything is no key."""

    def settle(number: Any) -> None: ...

    locked = distributed_lock("invoice:{number}")(settle)
    with pytest.raises(resilient.KeyMissing, match="number"):
        locked(value)


def test_the_key_of_a_block_is_checked() -> None:
    """It is literal text, and not empty."""
    wrong: Any = 5
    with pytest.raises(resilient.ConfigurationError, match="5"):
        lock(wrong)
    with pytest.raises(resilient.KeyMissing):
        lock("")


def test_unconfigured_says_what_to_do() -> None:
    """Nothing is configured: the error has the line to add."""
    import subprocess
    import sys

    code = (
        "import resilient\n"
        "@resilient.distributed_lock('k')\n"
        "def f(): ...\n"
        "try:\n f()\n"
        "except resilient.ConfigurationError as e:\n print(e)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "resilient.configure(" in out.stdout
