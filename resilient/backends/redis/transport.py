"""How commands reach the server: blocking, or from the running event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from redis import exceptions as redis_errors

from resilient.backends.redis.blocking import Blocking
from resilient.backends.redis.commands import Command
from resilient.backends.redis.failures import backend_error
from resilient.backends.redis.multiplexed import Multiplexed
from resilient.backends.redis.resp import PUSHED
from resilient.backends.redis.settings import Settings
from resilient.engine.forks import forget_in_child

__all__ = ["RedisTransport"]

_Loops = dict[asyncio.AbstractEventLoop, Multiplexed]

_inherited: list[object] = []
"""What a forked child has of its parent's loops. It is kept, because a connection that is closed
here would be taken out of the selector that both processes share."""


class RedisTransport:
    """Sends commands to one server; thread-safe, and safe to use after a fork."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._blocking = Blocking(settings)
        self._loops: _Loops = {}
        self._apart: _Loops = {}
        forget_in_child(self._forget)

    def send(self, command: Command) -> Any:
        """Send a command and block for its answer."""
        try:
            answers = self._blocking.exchange(command.packed, command.replies, command.repeatable)
            if _lacks_script(answers):
                answers = self._blocking.exchange(
                    command.in_full(), command.replies, command.repeatable
                )
        except (redis_errors.RedisError, OSError) as error:
            raise backend_error(self._settings.name, error) from error
        for answer in answers:
            if isinstance(answer, redis_errors.ResponseError):
                raise backend_error(self._settings.name, answer) from answer
        return command.value(answers)

    def send_many(self, commands: Sequence[Command]) -> list[Any]:
        """Send several commands in one trip; the answer or the exception for each."""
        try:
            found = self._exchange_all(commands, [command.packed for command in commands])
            unknown = [i for i, answers in enumerate(found) if _lacks_script(answers)]
            if unknown:
                again = [commands[i] for i in unknown]
                full = self._exchange_all(again, [command.in_full() for command in again])
                for i, answers in zip(unknown, full, strict=True):
                    found[i] = answers
        except (redis_errors.RedisError, OSError) as error:
            return [backend_error(self._settings.name, error) for _ in commands]
        return [self._settled(c, answers) for c, answers in zip(commands, found, strict=True)]

    def asend(self, command: Command) -> asyncio.Future[Any]:
        """Send a command together with all that are asked in this turn of the running loop, but for
        one that is urgent.
        """
        loop = asyncio.get_running_loop()
        loops = self._apart if command.apart else self._loops
        shared = loops.get(loop)
        if shared is None:
            shared = self._join(loop, loops)
        return shared.ask(command)

    @property
    def channel(self) -> str:
        """What the running loop hears over its connection, if it does."""
        shared = self._loops.get(asyncio.get_running_loop())
        return "" if shared is None else shared.channel

    async def hear(self, channel: str, tell: Callable[[str | None], None]) -> str:
        """Hear a channel over the running loop's connection (`Multiplexed.hear`)."""
        if PUSHED is None:
            return ""
        loop = asyncio.get_running_loop()
        shared = self._loops.get(loop)
        if shared is None:
            shared = self._join(loop, self._loops)
        return await shared.hear(channel, tell)

    def address(self, waiter: str | None, key: str) -> str:
        """One server knows all channels."""
        return waiter or ""

    def broadcast(self, channel: str, key: str) -> str:
        """The same, for all keys."""
        return channel

    def close(self) -> None:
        """Close the idle connections of blocking callers. The transport may be used again."""
        self._blocking.close()

    async def aclose(self) -> None:
        """Close those and the running loop's own ones."""
        self._blocking.close()
        loop = asyncio.get_running_loop()
        for loops in (self._loops, self._apart):
            shared = loops.get(loop)  # kept: who waits has been given its channel
            if shared is not None:
                await shared.close()

    def relax(self) -> None:
        """Close the blocking connections that were idle for a while.

        But for one, unless all callers seem to be in event loops.
        """
        self._blocking.relax(keep=0 if self._loops else 1)

    def _join(self, loop: asyncio.AbstractEventLoop, loops: _Loops) -> Multiplexed:
        for closed in [each for each in list(loops) if each.is_closed()]:
            loops.pop(closed, None)
        shared = loops[loop] = Multiplexed(self._settings, loop)
        return shared

    def _exchange_all(
        self, commands: Sequence[Command], packed: Sequence[bytes]
    ) -> list[list[Any]]:
        answers = iter(
            self._blocking.exchange(
                b"".join(packed),
                sum(command.replies for command in commands),
                all(command.repeatable for command in commands),
            )
        )
        return [[next(answers) for _ in range(command.replies)] for command in commands]

    def _settled(self, command: Command, answers: list[Any]) -> Any:
        for answer in answers:
            if isinstance(answer, redis_errors.ResponseError):
                return backend_error(self._settings.name, answer)
        return command.value(answers)

    def _forget(self) -> None:
        _inherited.append((self._loops, self._apart))
        self._loops, self._apart = {}, {}


def _lacks_script(answers: list[Any]) -> bool:
    return redis_errors.NoScriptError in map(type, answers)
