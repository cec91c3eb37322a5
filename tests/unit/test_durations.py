"""Durations: what is read, and what is refused with the option's name."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.engine.durations import optional_seconds, seconds
from resilient.errors import ConfigurationError


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (30, 30.0),
        (0.5, 0.5),
        (timedelta(minutes=2, milliseconds=5), 120.005),
        ("250ms", 0.25),
        ("3ms", 0.003),
        ("30s", 30.0),
        ("5m", 300.0),
        ("1.5h", 5400.0),
        ("1h30m", 5400.0),
        ("7d", 604_800.0),
        ("2w", 1_209_600.0),
        ("1w2d3h4m5s6ms", 788_645.006),
    ],
)
def test_reads_numbers_timedeltas_and_texts(value: Any, expected: float) -> None:
    """Each accepted spelling is the same number of seconds everywhere, as a float."""
    result = seconds(value, option="ttl")

    assert (result, type(result)) == (expected, float)


@pytest.mark.parametrize(
    "value",
    [
        True,
        False,
        None,
        float("nan"),
        float("inf"),
        -1,
        -0.001,
        timedelta(seconds=-1),
        10**400,
        pytest.param(10**5000, id="5000 digits"),
        "",
        " 30s",
        "30 s",
        "30s\n",
        "30",
        "1h30",
        "30m1h",
        "1m1m",
        "-5s",
        "+5s",
        "1e3s",
        ".5s",
        "5.s",
        "٣s",
        "5M",
        "5us",
        "9" * 400 + "d",
        b"30s",
        [30],
        complex(1),
    ],
)
def test_refuses_what_is_no_duration(value: Any) -> None:
    """Anything else is a configuration error, which names the option."""
    with pytest.raises(ConfigurationError, match="soft_ttl="):
        seconds(value, option="soft_ttl")


@pytest.mark.parametrize("zero", [0, 0.0, -0.0, "0s", timedelta(0)])
def test_zero_is_refused_unless_it_means_something(zero: Any) -> None:
    """Zero passes only where it has a meaning, and is then zero."""
    assert seconds(zero, option="wait", allow_zero=True) == 0
    with pytest.raises(ConfigurationError, match="more than zero"):
        seconds(zero, option="ttl")


def test_no_text_is_no_zero() -> None:
    """An empty text is a slip, even where zero is allowed."""
    with pytest.raises(ConfigurationError, match="wait=''"):
        seconds("", option="wait", allow_zero=True)


def test_the_error_shows_the_value() -> None:
    """Option and value both stand in the message, so that the line is found."""
    with pytest.raises(ConfigurationError, match="lease='1h30' is not a duration"):
        seconds("1h30", option="lease")


def test_none_passes_where_it_is_an_answer() -> None:
    """`optional_seconds` leaves `None` to its caller, and reads everything else."""
    assert optional_seconds(None, option="wait") is None
    assert optional_seconds("2s", option="wait") == 2.0
    assert optional_seconds(0, option="wait", allow_zero=True) == 0.0
    with pytest.raises(ConfigurationError, match="wait"):
        optional_seconds(0, option="wait")


@given(st.integers(1, 10**9))
def test_units_agree_with_timedelta(milliseconds: int) -> None:
    """A text in milliseconds is the same duration as the timedelta."""
    expected = timedelta(milliseconds=milliseconds).total_seconds()

    assert seconds(f"{milliseconds}ms", option="ttl") == expected
