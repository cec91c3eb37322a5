"""Names of keys on Redis: one slot an entity, and no two entities under one name."""

from __future__ import annotations

import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from resilient.backends.redis.keys import Keys
from resilient.errors import ConfigurationError
from resilient.testing.conformance.base import ODD_KEYS

PREFIXES = ["", "billing:", "{tenant}:", "a{b}c:"]
BRACES = st.text(alphabet="a{}%:1", max_size=8)


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("key", ODD_KEYS)
def test_helpers_share_the_slot(prefix: str, key: str) -> None:
    """A script that touches a lock, its memory and its waiters may run on a cluster."""
    names = Keys(prefix).names("lock", key, "memory", "waiters")

    assert len(set(names)) == 3
    assert len({key_slot(name.encode("utf-8", "surrogatepass")) for name in names}) == 1


@given(st.sampled_from(PREFIXES), BRACES, BRACES)
def test_no_two_keys_share_a_name(prefix: str, one: str, other: str) -> None:
    """Escaping is injective, and no helper has the name of another entity's primary key."""
    keys = Keys(prefix)
    of_one = keys.names("lock", one, "memory", "waiters")
    of_other = keys.names("lock", other, "memory", "waiters")

    assert (one == other) == bool(set(of_one) & set(of_other))


@given(st.sampled_from(PREFIXES), st.one_of(BRACES, st.sampled_from(ODD_KEYS)))
def test_the_key_comes_back_from_its_name(prefix: str, key: str) -> None:
    """What a scan finds is told by the users' own keys; helpers and strangers are not found."""
    keys = Keys(prefix)
    primary, *helpers = keys.names("cache", key, "lease", "waiters")

    assert keys.key_of("cache", primary) == key
    assert [keys.key_of("cache", helper) for helper in helpers] == [None, None]


def test_plain_keys_are_the_seeds() -> None:
    """The names that the customer's own adapter uses."""
    keys = Keys("p:")

    assert keys.names("lock", "k", "memory") == ["p:lock:k", "{p:lock:k}:memory"]
    assert keys.names("circuit", "k") == ["p:circuit:k"]
    assert keys.names("cache", "user:7") == ["p:cache:user:7"]
    assert keys.names("idempotency", "k") == ["p:idempotency:k"]
    assert keys.job("import")[-1] == "p:checkpoint:import"


def test_a_tag_is_used_as_it_is() -> None:
    """Whoever puts a hash tag into a key chooses the slot."""
    names = Keys("p:").names("lock", "{acme}:42", "memory")

    assert names == ["p:lock:{acme}:42", "p:lock-memory:{acme}:42"]
    assert {key_slot(name.encode()) for name in names} == {key_slot(b"acme")}


def test_a_task_does_not_look_like_a_checkpoint() -> None:
    """The id of a task may end like a checkpoint's number."""
    assert Keys("").job("a:1")[-1] == "checkpoint:a%3A1"
    assert len({Keys("").job(task)[-1] for task in ("a:1", "a%3A1", "a%253A1", "a")}) == 4


@pytest.mark.parametrize("prefix", ["{", "a}", "{}", "{a}{", "}{", "a{b"])
def test_half_a_tag_in_a_prefix_is_refused(prefix: str) -> None:
    """It would put an entity's keys into different slots."""
    with pytest.raises(ConfigurationError, match="hash tag"):
        Keys(prefix)


def test_patterns_escape_the_prefix() -> None:
    """A prefix with a glob's characters does not reach into other tenants."""
    pattern = Keys("a*[b]:").pattern("cache", "k?")

    assert pattern == r"a\*\[b\]:cache:k\?*"
    assert not fnmatch.fnmatchcase("axb:cache:k", pattern)
