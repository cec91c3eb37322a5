"""The channels of a process at the servers of a cluster, one at each primary that has its keys.

A plain message reaches every server of a cluster, and a script is told only how many hear it at its
own. So a process has a "lane" at each primary, and who waits for a key gives the one at the key's
server: a waiter that is gone is found out there. Where the servers know sharded channels
(Redis 7.0, Valkey), "channel@{lane}" is one: its slot is that of the lane's number, which is chosen
so that the primary has it, and no other primary ever sees a message. Elsewhere it is the plain
channel "channel@lane".

What everybody shall hear is told on a lane of the key's server, too. A plain message would be lost
while two servers connect to each other anew, and nobody told; a connection of one's own that is
lost is noticed. Who tells it may have an older map of the cluster than who hears it: so the latter
listens to each of the first `HEARD` lanes, at the server that has it. A server that has none of
them, or has lost the one that was meant, tells it by a plain message after all.
https://redis.io/docs/latest/develop/pubsub/#sharded-pubsub
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import count
from typing import TypeVar

from resilient.backends.redis.commands import slot_of
from resilient.backends.redis.keys import has_tag

__all__ = [
    "HEARD",
    "broadcast_of",
    "channel_of",
    "heard_at",
    "is_sharded",
    "lanes_at",
    "numbered",
    "owners",
]

T = TypeVar("T")

HEARD = 64
"""Lanes on which every process hears what is told to all of them."""

_SHARDED = re.compile(r"@\{\d+\}\Z")


def channel_of(own: str, lane: int, *, sharded: bool) -> str:
    """A process's channel on a lane. What wakes its waiters (`lua/prelude.lua`) reads the form."""
    return f"{own}@{{{lane}}}" if sharded else f"{own}@{lane}"


def is_sharded(channel: str) -> bool:
    """Whether it is to be subscribed as a sharded channel."""
    return _SHARDED.search(channel) is not None


def broadcast_of(channel: str, lane: int | None) -> str:
    """The channel for what everybody shall hear of a server with this lane, if it is known."""
    if has_tag(channel):  # it is of one slot, whatever the lane
        lane = 0
    if lane is None or lane >= HEARD:
        return channel
    return channel_of(channel, lane, sharded=True)


def heard_at(channel: str, whose: T, slots: Mapping[int, T]) -> list[str]:
    """Where everybody listens at one of those that have slots."""
    names = {broadcast_of(channel, lane) for lane in range(HEARD)}
    return [name for name in names if slots.get(slot_of(name)) == whose]


def owners(slots: Mapping[int, T]) -> list[T | None]:
    """Who has the lanes on which everybody listens."""
    return [slots.get(slot_of(str(lane))) for lane in range(HEARD)]


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
