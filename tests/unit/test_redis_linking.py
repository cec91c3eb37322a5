"""Scripts as the server gets them: every function where it is needed, and none that is not."""

from __future__ import annotations

import textwrap
from typing import Any

import pytest
import redis

from resilient.backends.redis.linking import linked
from tests.support.servers import RedisAt

SHARED = """
-- What is shared.
local base = 10
local function plus(a, b)
  return a + b  -- a comment
end

local function raised(n)
  return plus(n, base)
end

local function twice(n)
  return raised(n) * 2
end

local function unused(n)
  return n
end
"""


def script(body: str) -> str:
    """A script behind what is shared, as the server gets it."""
    return linked(SHARED + textwrap.dedent(body))


def order(text: str, *pieces: str) -> bool:
    """Whether each of the pieces is there, one behind the other."""
    places = [text.find(piece) for piece in pieces]
    return -1 not in places and places == sorted(places)


def test_only_what_is_called_is_there() -> None:
    """No comment, and no function that nobody calls, not even from others."""
    text = script("return raised(tonumber(ARGV[1]))\n")
    assert "unused" not in text
    assert "twice" not in text
    assert "--" not in text


def test_as_late_as_may_be() -> None:
    """In front of the statement that calls it, behind those that do not."""
    text = script("local n = tonumber(ARGV[1])\nif n < 0 then return 0 end\nreturn twice(n)\n")
    assert order(text, "local base", "if n < 0", "function plus", "function raised", "return twice")


def test_inside_of_the_block_that_calls_it() -> None:
    """And again behind it, if it is called there as well."""
    text = script(
        """
        local n = tonumber(ARGV[1])
        if n < 0 then
          return raised(n)
        end
        return plus(n, 1)
        """
    )
    assert order(text, "if n < 0", "function plus", "function raised", "return raised")
    assert text.count("function plus") == 2


def test_a_name_means_what_it_meant_where_the_function_was_written() -> None:
    """Nothing that the script declares comes between a function and what it uses."""
    text = script("local base = 20\nlocal n = base\nreturn raised(n)\n")
    assert order(text, "local base = 10", "function raised", "local base = 20")


@pytest.mark.parametrize(("n", "expected"), [(-3, 7), (0, 20), (4, 28)])
def test_it_runs(every_redis: RedisAt, n: int, expected: int) -> None:
    """With every function defined where it is called, in whatever way the script goes."""
    text = script(
        """
        local n = tonumber(ARGV[1])
        if n < 0 then
          return raised(n)
        end
        if n == 0 then
          n = twice(n)
        else
          n = twice(n)
        end
        for i = 1, 1 do
          n = plus(n, 0)
        end
        return n
        """
    )
    with every_redis.client() as client:
        answer: Any = client.eval(text, 0, str(n))
    assert answer == expected


def test_a_function_that_is_missing_would_be_noticed(every_redis: RedisAt) -> None:
    """Servers refuse a name that is not defined."""
    with every_redis.client() as client, pytest.raises(redis.ResponseError, match="nonexistent"):
        client.eval("return raised(1)", 0)
