"""`job.map`: a function over many items, side by side, each done once and its result kept.

The result of an item is stored as that of a step, so that it is not computed again when the job
resumes. Where the calls run is the engine's affair (`resilient.engine.side_by_side`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resilient.engine.options import check_choice, check_whole_number
from resilient.engine.plan import Plan
from resilient.errors import ConfigurationError, LeaseLost
from resilient.policies.checkpointed.steps import once

if TYPE_CHECKING:
    from resilient.engine.codecs import Codec
    from resilient.policies.checkpointed.run import Run

__all__ = ["WORKERS", "Mapping", "refuse_with_connection"]

WORKERS = 8
"""Calls at a time, unless it is said."""


class Mapping:
    """One `map`: what is called for each item, and what came of it.

    Raises:
        ConfigurationError: An option is wrong.
    """

    def __init__(
        self,
        run: Run,
        items: object,
        codec: Codec,
        *,
        name: str | None,
        total: int | None,
        workers: int,
        retries: int,
        on_error: str,
    ) -> None:
        check_whole_number("map", "workers", workers)
        check_whole_number("map", "retries", retries, least=0)
        check_choice("map", "on_error", on_error, "raise", "collect")
        self._run = run
        self._codec = codec
        self._retries = retries
        self._collects = on_error == "collect"
        self._loop = run.begin_loop(name, items, total)
        self._head = f"map {self._loop.path}"
        self._outcomes: dict[int, Any] = {}
        if not self._loop.is_complete:
            self._loop.done = 0  # those with a stored result are counted again, as they come

    def one(self, number: int) -> Plan[Any]:
        """The plan of one item, whose body is the function."""
        return once(self._run, f"{self._head}[{number}]", self._codec, retries=self._retries)

    def is_due(self, number: int, result: Any, error: BaseException | None) -> bool:
        """Take the outcome of an item; whether the run has something to do.

        Raises:
            Exception: What the function raised, unless errors are collected.
        """
        if error is not None and not (
            self._collects and isinstance(error, Exception) and not isinstance(error, LeaseLost)
        ):
            raise error
        self._outcomes[number] = result if error is None else error
        return not self._loop.is_complete and self._run.item_done(self._loop)

    def ended(self) -> list[Any]:
        """All items are done: their outcomes, in the order of the items."""
        if not self._loop.is_complete:
            self._run.loop_done(self._loop)
        return [self._outcomes[number] for number in range(len(self._outcomes))]

    def left(self) -> None:
        """What the body begins now is beside it."""
        self._loop.is_open = False


def refuse_with_connection(workers: int | None, retries: int, on_error: str) -> None:
    """Refuse what a map with `conn=` cannot do: its calls share one transaction.

    Raises:
        ConfigurationError: Such an option was given.
    """
    for option, value, only in (
        ("workers", workers, (None, 1)),
        ("retries", retries, (0,)),
        ("on_error", on_error, ("raise",)),
    ):
        if value not in only:
            raise ConfigurationError(
                f"map: {option}={value!r} with conn=: its calls are made one after the other, and "
                "one that fails undoes the transaction"
            )
