"""What is sent to the server, as data: scripts, plain commands, and several of them in one trip."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from importlib.resources import files
from typing import Any

from resilient.backends.redis.resp import pack
from resilient.errors import ConfigurationError

__all__ = ["Batch", "Call", "Command", "Plain", "Script", "Waiting", "milliseconds", "text"]

Argument = str | bytes | int | float

_COMMENT = re.compile(r" *--[^\n]*")
_FUNCTION = re.compile(r"^local function (?P<name>\w+)\(.*?^end\n", re.MULTILINE | re.DOTALL)
_WORD = re.compile(r"\w+")


class Command:
    """Something the server answers.

    Attributes:
        packed: What is sent.
        replies: How many replies it gets.
        repeatable: Whether it may be sent again when its reply was lost.
        apart: Whether the server keeps what is sent behind it waiting for long.
    """

    __slots__ = ("packed", "repeatable", "replies")

    apart = False
    packed: bytes
    replies: int
    repeatable: bool

    def in_full(self) -> bytes:
        """What is sent when the server does not know a script yet."""
        return self.packed

    def value(self, answers: list[Any]) -> Any:
        """What the asker gets."""
        return answers[0]

    def guarded(self, lock: str, owner: str) -> Command:
        """The same, refused (`NOTHELD`) if the lock is not the owner's; scripts only."""
        return self


class Plain(Command):
    """A command of the server's own."""

    __slots__ = ()

    def __init__(self, *words: Argument) -> None:
        self.packed = _packed(words)
        self.replies = 1
        self.repeatable = True


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
        self.packed = _packed(("EVALSHA", script.digest, len(keys), *keys, *args))
        self.replies = 1
        self.repeatable = repeatable

    def in_full(self) -> bytes:
        """The same with the script's text, which the server then knows."""
        return pack(("EVAL", self._script.text, len(self._keys), *self._keys, *self._args))

    def guarded(self, lock: str, owner: str) -> Call:
        """A call of the script with the question in front of it."""
        script = self._script.guarded
        return Call(script, [*self._keys, lock], [*self._args, owner], self.repeatable)


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

    def guarded(self, lock: str, owner: str) -> Batch:
        """All its scripts so."""
        return Batch([command.guarded(lock, owner) for command in self._commands])


class Waiting(Batch):
    """The same, of which the server answers one only after a while."""

    __slots__ = ()

    apart = True


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
        return self._text or _linked("".join(map(_lua, self._files)))

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


def _packed(words: Sequence[Argument]) -> bytes:
    try:
        return pack(words)
    except UnicodeEncodeError as error:
        raise ConfigurationError(f"{error.object!r} is no text that UTF-8 can encode") from error


def _lua(name: str) -> str:
    return (files("resilient.backends.redis") / "lua" / f"{name}.lua").read_text(encoding="utf-8")


def _linked(text: str) -> str:
    """The script without comments, and without the functions that it does not call.

    The server makes every function anew each time it runs the script, which takes it longer than
    a command of a script does. What is called stands above what calls it.
    """
    text = _COMMENT.sub("", text)
    parts: list[str] = []
    called: set[str] = set()
    end = len(text)
    for function in reversed(list(_FUNCTION.finditer(text))):
        parts.append(text[function.end() : end])
        called.update(_WORD.findall(parts[-1]))
        if function["name"] in called:
            parts.append(function[0])
            called.update(_WORD.findall(function[0]))
        end = function.start()
    parts.append(text[:end])
    return "".join(reversed(parts))


def milliseconds(seconds: float, option: str) -> int:
    """Seconds as the server takes them; at least one millisecond."""
    if not (seconds > 0 and math.isfinite(seconds)):
        raise ConfigurationError(f"{option}={seconds!r}: seconds must be positive and finite")
    return max(1, round(seconds * 1000))


def text(answer: Any) -> str:
    """A reply's bytes as text."""
    return answer.decode() if isinstance(answer, bytes) else str(answer)
