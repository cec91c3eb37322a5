"""The channels of a process at the servers of a cluster, one at each primary that has its keys.

A plain message reaches every server of a cluster, and a script is told only how many hear it at its
own. So a process has a "lane" at each primary, and who waits for a key gives the one at the key's
server: a waiter that is gone is found out there. Where the servers know sharded channels
(Redis 7.0, Valkey), "channel@{lane}" is one: its slot is that of the lane's number, which is chosen
so that the primary has it, and no other primary ever sees a message. Elsewhere it is the plain
channel "channel@lane".
https://redis.io/docs/latest/develop/pubsub/#sharded-pubsub
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import count
from typing import TypeVar

from resilient.backends.redis.commands import slot_of
from resilient.backends.redis.keys import has_tag

__all__ = ["channel_of", "is_sharded", "lanes_at", "numbered"]

T = TypeVar("T")

_SHARDED = re.compile(r"@\{\d+\}\Z")


def channel_of(own: str, lane: int, *, sharded: bool) -> str:
    """A process's channel on a lane. What wakes its waiters (`lua/prelude.lua`) reads the form."""
    return f"{own}@{{{lane}}}" if sharded else f"{own}@{lane}"


def is_sharded(channel: str) -> bool:
    """Whether it is to be subscribed as a sharded channel."""
    return _SHARDED.search(channel) is not None


def numbered(slots: Mapping[int, T]) -> dict[T, int]:
    """A lane for each of those that have slots: the least number that hashes to one of them.

    Everybody who has the same map finds the same, and it outlives a fail-over.
    """
    left = set(slots.values())
    lanes: dict[T, int] = {}
    numbers = count()
    while left:
        number = next(numbers)
        whose = slots.get(slot_of(str(number)))
        if whose is not None and whose in left:
            left.remove(whose)
            lanes[whose] = number
    return lanes


def lanes_at(own: str, slots: Mapping[int, T], lanes: Mapping[T, int]) -> dict[T, int]:
    """The lanes on which a process may be woken, with this channel of its own.

    All keys under a prefix with a hash tag are in one slot, and so are all channels.
    """
    if not has_tag(own):
        return dict(lanes)
    whose = slots.get(slot_of(own))
    return {} if whose is None or whose not in lanes else {whose: lanes[whose]}
