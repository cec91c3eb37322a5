"""What is sent to the server, as data: scripts, plain commands, and several of them in one trip."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from functools import cached_property
from importlib.resources import files
from typing import Any

from redis.crc import key_slot

from resilient.backends.redis.linking import linked
from resilient.backends.redis.resp import pack
from resilient.errors import ConfigurationError

__all__ = [
    "Asking",
    "Batch",
    "Call",
    "Command",
    "Everywhere",
    "Handing",
    "OfNode",
    "Plain",
    "Read",
    "Script",
    "Waiting",
    "milliseconds",
    "slot_of",
    "text",
]

Argument = str | bytes | int | float

_ASKING = pack(("ASKING",))
_PING = pack(("PING",))


class Command:
    """Something the server answers.

    Attributes:
        packed: What is sent.
        replies: How many replies it gets.
        repeatable: Whether it may be sent again when its reply was lost.
        apart: Whether the server keeps what is sent behind it waiting for long.
        urgent: Whether others wait for what it does: a loop that expects no answers sends it at
            once, and not at the end of its turn.
    """

    __slots__ = ("packed", "repeatable", "replies")

    apart = False
    urgent = False
    packed: bytes
    replies: int
    repeatable: bool

    @property
    def key(self) -> str | None:
        """A key of the slot in which it works; `None`: any server of a cluster may answer."""
        return None

    @property
    def parts(self) -> Sequence[Command]:
        """What it consists of where each command must be of one slot; their order is kept there."""
        return (self,)

    def joined(self, values: list[Any]) -> Any:
        """What the asker gets of the values of its parts."""
        return values[0]

    @property
    def bare(self) -> Command:
        """The same without what is sent in front of it."""
        return self

    def in_full(self) -> bytes:
        """What is sent when the server does not know a script yet."""
        return self.packed

    def value(self, answers: list[Any]) -> Any:
        """What the asker gets."""
        return answers[0]

    def guarded(self, lock: str, owner: str, *, in_slot: bool = False) -> Command:
        """The same, refused (`NOTHELD`) if the lock is not the owner's; scripts only.

        With `in_slot` those only that work in the lock's own slot of a cluster.
        """
        return self


class Plain(Command):
    """A command of the server's own.

    Args:
        words: The command and its arguments.
        key: A key of the slot in which it works.
    """

    __slots__ = ("_key",)

    def __init__(self, *words: Argument, key: str | None = None) -> None:
        self.packed = _packed(words)
        self.replies = 1
        self.repeatable = True
        self._key = key

    @property
    def key(self) -> str | None:
        """A key of the slot in which it works."""
        return self._key

    def at(self, key: str) -> Plain:
        """The same command, asked of the server that has this key."""
        command = Plain.__new__(Plain)
        command.packed, command.replies, command.repeatable = self.packed, 1, True
        command._key = key
        return command


class Read(Plain):
    """`MGET` of keys of any slots."""

    __slots__ = ("_names",)

    def __init__(self, *names: str) -> None:
        super().__init__("MGET", *names, key=names[0])
        self._names = names

    @property
    def parts(self) -> Sequence[Command]:
        """One for each key."""
        return [Plain("MGET", name, key=name) for name in self._names]

    def joined(self, values: list[Any]) -> Any:
        """All values."""
        return [value for (value,) in values]


class Everywhere(Command):
    """A command for each primary of a cluster; its answers as a list, errors among them."""

    __slots__ = ("command",)

    def __init__(self, command: Plain) -> None:
        self.command = command
        self.packed = command.packed
        self.replies = 1
        self.repeatable = True

    def value(self, answers: list[Any]) -> Any:
        """Where there is one server only."""
        return answers


class OfNode(Plain):
    """A command for one of the primaries of a cluster, by its number."""

    __slots__ = ("node",)

    def __init__(self, node: int, *words: Argument) -> None:
        super().__init__(*words)
        self.node = node

    @classmethod
    def of(cls, command: Plain, node: int) -> OfNode:
        """A command for this one."""
        made = cls.__new__(cls)
        made.packed, made.replies, made.repeatable = command.packed, 1, True
        made._key, made.node = None, node
        return made


class Asking(Command):
    """A command for a server that is about to get its slot.

    https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#ask-redirection
    """

    __slots__ = ("_command",)

    def __init__(self, command: Command) -> None:
        self._command = command = command.bare  # only the next one is let in
        self.packed = _ASKING + command.packed
        self.replies = 1 + command.replies
        self.repeatable = command.repeatable

    def in_full(self) -> bytes:
        """With the script's text."""
        return _ASKING + self._command.in_full()

    def value(self, answers: list[Any]) -> Any:
        """The command's own."""
        return self._command.value(answers[1:])


class Call(Command):
    """A call of a script, by its digest."""

    __slots__ = ("_args", "_keys", "_script")

    def __init__(
        self,
        script: Script,
        keys: Sequence[str],
        args: Sequence[Argument],
        repeatable: bool = True,
    ) -> None:
        self._script = script
        self._keys = keys
        self._args = args
        try:  # not `_packed`: whoever waits for a lock waits for this
            self.packed = pack(("EVALSHA", script.digest, len(keys), *keys, *args))
        except UnicodeEncodeError as error:
            raise _no_text(error) from error
        self.replies = 1
        self.repeatable = repeatable

    @property
    def key(self) -> str | None:
        """All its keys are of one slot."""
        return self._keys[0]

    def in_full(self) -> bytes:
        """The same with the script's text, which the server then knows."""
        return pack(("EVAL", self._script.text, len(self._keys), *self._keys, *self._args))

    def guarded(self, lock: str, owner: str, *, in_slot: bool = False) -> Call:
        """A call of the script with the question in front of it."""
        if in_slot and slot_of(self._keys[0]) != slot_of(lock):
            return self
        script = self._script.guarded
        return Call(script, [*self._keys, lock], [*self._args, owner], self.repeatable)


class Handing(Command):
    """A call for whose effect others wait: the server tells them before it answers the caller.

    A server writes at the end of a turn, first to whom it got something to write for last
    (`putClientInPendingWriteQueue` in its networking.c). What a script publishes is there before
    its caller's reply, and would be written after it; unless that caller has another reply coming
    already. Who is written to first has the processor first where there are few.
    """

    __slots__ = ("_call",)

    urgent = True

    def __init__(self, call: Call) -> None:
        self._call = call
        self.packed = _PING + call.packed
        self.replies = 2
        self.repeatable = call.repeatable

    @property
    def key(self) -> str | None:
        """The call's own."""
        return self._call.key

    @property
    def bare(self) -> Call:
        """The call."""
        return self._call

    def in_full(self) -> bytes:
        """With the script's text."""
        return _PING + self._call.in_full()

    def value(self, answers: list[Any]) -> Any:
        """The call's own."""
        return answers[1]


class Batch(Command):
    """Several commands in one trip, in this order; their answers as a list."""

    __slots__ = ("_commands",)

    def __init__(self, commands: Iterable[Command]) -> None:
        self._commands = list(commands)
        self.packed = b"".join([command.packed for command in self._commands])
        self.replies = len(self._commands)
        self.repeatable = all(command.repeatable for command in self._commands)

    def in_full(self) -> bytes:
        """All of them again: their order may matter."""
        return b"".join([command.in_full() for command in self._commands])

    def value(self, answers: list[Any]) -> Any:
        """One answer for each."""
        return answers

    @property
    def parts(self) -> Sequence[Command]:
        """Those of all of them."""
        return [part for command in self._commands for part in command.parts]

    def joined(self, values: list[Any]) -> Any:
        """One value for each."""
        left = iter(values)
        return [command.joined([next(left) for _ in command.parts]) for command in self._commands]

    def guarded(self, lock: str, owner: str, *, in_slot: bool = False) -> Batch:
        """All its scripts so."""
        return Batch([each.guarded(lock, owner, in_slot=in_slot) for each in self._commands])


class Waiting(Batch):
    """The same, of which the server answers one only after a while."""

    __slots__ = ()

    apart = True

    @property
    def key(self) -> str | None:
        """All of it goes to one server, over one connection."""
        return self._commands[0].key

    @property
    def parts(self) -> Sequence[Command]:
        """It has none."""
        return (self,)

    def joined(self, values: list[Any]) -> Any:
        """The answers."""
        return values[0]


class Script:
    """A Lua file of the folder `lua`, behind what it calls of what all of them share.

    Args:
        name: The file, without its suffix.
        shared: More files in front of it than `prelude.lua`, in this order.
        text: What to run instead of the file.
    """

    def __init__(self, name: str, *, shared: Sequence[str] = (), text: str | None = None) -> None:
        self.name = name
        self._files = ("prelude", *shared, name)
        self._text = text

    @cached_property
    def text(self) -> str:
        """What the server runs."""
        return self._text or linked("".join(map(_lua, self._files)))

    @cached_property
    def digest(self) -> str:
        """The server's name for it: its SHA-1, which is no matter of security."""
        return hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    def __call__(self, keys: Sequence[str], *args: Argument, repeatable: bool = True) -> Call:
        """A call of this script; one that must not happen twice is not repeatable."""
        return Call(self, keys, args, repeatable)

    @cached_property
    def guarded(self) -> Script:
        """The script that runs only if its caller holds a lock (`locks/guard.lua`)."""
        return Script(f"{self.name} under a lock", text=_lua("locks/guard") + self.text)


def slot_of(key: str) -> int:
    """The slot of a key on a cluster."""
    return key_slot(key.encode())


def _packed(words: Sequence[Argument]) -> bytes:
    try:
        return pack(words)
    except UnicodeEncodeError as error:
        raise _no_text(error) from error


def _no_text(error: UnicodeEncodeError) -> ConfigurationError:
    return ConfigurationError(f"{error.object!r} is no text that UTF-8 can encode")


def _lua(name: str) -> str:
    return (files("resilient.backends.redis") / "lua" / f"{name}.lua").read_text(encoding="utf-8")


def milliseconds(seconds: float, option: str) -> int:
    """Seconds as the server takes them; at least one millisecond."""
    if not (seconds > 0 and math.isfinite(seconds)):
        raise ConfigurationError(f"{option}={seconds!r}: seconds must be positive and finite")
    return max(1, round(seconds * 1000))


def text(answer: Any) -> str:
    """A reply's bytes as text."""
    return answer.decode() if isinstance(answer, bytes) else str(answer)
