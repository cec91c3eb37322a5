"""Those who wait for a document to change, kept in it; and what the document says to processes.

A document's field `said` is a text: the time, and then a line for each signal, `channel|message`.
The channel is a process's own, and the message a waiter there; or it is one that all hear. Whoever
listens to a database (`subscription.py`) is told of a document's change by the server, and reads
there what concerns it: so an operation and its signals are one command.
"""

from __future__ import annotations

from typing import Any

from resilient.backends.mongodb.expressions import (
    EACH,
    NOW,
    THIS,
    VALUE,
    added,
    both,
    chosen,
    counted,
    equal,
    filtered,
    folded,
    is_in,
    is_more,
    is_not,
    joined,
    let,
    mapped,
    or_else,
    text,
    texts,
)

__all__ = [
    "LIFE",
    "LIMIT",
    "announcement",
    "escaped",
    "is_there",
    "said",
    "unescaped",
    "waited_for",
    "wake_ups",
]

LIFE = 10_000_000
"""Microseconds for which a registration lasts. Waiters look again every second, and so renew it;
one that was killed is forgotten."""
LIMIT = 500
"""How many may wait for one document. Whoever comes later still looks again every second."""

Expression = Any


def said(lines: Expression) -> Expression:
    """The field `said` when these lines are said: each begins with a newline. `""`: nothing is."""
    return chosen(equal(lines, ""), or_else("$said", ""), texts(text(NOW), lines))


def announcement(channel: Expression, message: Expression) -> Expression:
    """The line of a broadcast; the message is `escaped`."""
    return texts("\n", channel, "|", message)


def wake_ups(queue: Expression) -> Expression:
    """The lines that wake everybody in a queue."""
    return folded(
        queue,
        "",
        chosen(is_there(f"{THIS}.address"), texts(VALUE, "\n", f"{THIS}.address"), VALUE),
    )


def is_there(address: Expression) -> Expression:
    """Whether it is the address of a process that listens. One that was killed is not missed."""
    return equal({"$indexOfCP": [address, "rsl_"]}, 0)


def waited_for(queue: Expression, address: Expression) -> Expression:
    """The queue with this waiter in it; whoever waits already keeps its place."""
    entered = {"address": address, "until": added(NOW, LIFE)}
    renewed = mapped(queue, chosen(equal(f"{EACH}.address", address), entered, EACH))
    alive = filtered(queue, is_more(f"{EACH}.until", NOW))
    has_room = is_more(LIMIT, counted("$$alive"))
    entering = let({"alive": alive}, chosen(has_room, joined("$$alive", [entered]), "$$alive"))
    waits = is_in(address, mapped(queue, f"{EACH}.address"))
    return chosen(both(is_not(equal(address, "")), is_not(waits)), entering, renewed)


def escaped(message: str) -> str:
    """The message without newlines, which end a line."""
    if "%" not in message and "\n" not in message:
        return message
    return message.replace("%", "%25").replace("\n", "%0A")


def unescaped(message: str) -> str:
    """The message that was escaped."""
    return message.replace("%0A", "\n").replace("%25", "%") if "%" in message else message
