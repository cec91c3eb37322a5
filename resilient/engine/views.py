"""The stores by hand: `backend.sync.cache.get("k")`, `await backend.aio.cache.get("k")`.

A view calls the very methods that the policies call. Where a store takes or returns `Encoded`
bytes, the view encodes and decodes, so that a caller sees values.
"""

from __future__ import annotations

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, get_type_hints

from resilient.engine.drivers.sync import drive
from resilient.protocols.cache import CacheStore
from resilient.protocols.checkpoints import CheckpointStore
from resilient.protocols.circuits import CircuitStore
from resilient.protocols.idempotency import IdempotencyStore
from resilient.protocols.locks import LockStore
from resilient.protocols.values import Encoded

if TYPE_CHECKING:
    from resilient.engine.backend import Backend, Mode

__all__ = ["AsyncView", "SyncView"]

PROTOCOLS: dict[str, type] = {
    "locks": LockStore,
    "circuits": CircuitStore,
    "cache": CacheStore,
    "idempotency": IdempotencyStore,
    "checkpoints": CheckpointStore,
}


class _View(ABC):
    """The capabilities of one backend."""

    _mode: Mode

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.locks = self._by_hand("locks")
        self.circuits = self._by_hand("circuits")
        self.cache = self._by_hand("cache")
        self.idempotency = self._by_hand("idempotency")
        self.checkpoints = self._by_hand("checkpoints")

    def _by_hand(self, capability: Any) -> ByHand:
        return ByHand(
            PROTOCOLS[capability],
            functools.partial(self._backend.require, capability, self._mode),
            self._drive,
        )

    @staticmethod
    @abstractmethod
    def _drive(plan: Any, decode: Callable[[Any], Any]) -> Any:
        """Run a plan for these callers, and decode its answer."""


class SyncView(_View):
    """The stores, blocking."""

    _mode = "sync"

    @staticmethod
    def _drive(plan: Any, decode: Callable[[Any], Any]) -> Any:
        return decode(drive(plan))


class AsyncView(_View):
    """The stores, awaitable."""

    _mode = "async"

    @staticmethod
    async def _drive(plan: Any, decode: Callable[[Any], Any]) -> Any:
        from resilient.engine.drivers.aio import adrive

        return decode(await adrive(plan))


class ByHand:
    """The methods of one store, with values in the place of their stored form."""

    def __init__(self, protocol: type, store: Callable[[], Any], run: Callable[..., Any]) -> None:
        self._protocol = protocol
        self._store = store
        self._run = run

    def __getattr__(self, name: str) -> Callable[..., Any]:
        declared = getattr(self._protocol, name, None)
        if declared is None or name.startswith("_"):
            raise AttributeError(f"{self._protocol.__name__} has no method {name!r}")
        encoded = _encoded_parameters(declared)
        signature = inspect.signature(declared)

        @functools.wraps(declared)
        def method(*args: Any, **kwargs: Any) -> Any:
            from resilient.engine.codecs import encode

            bound = signature.bind(self, *args, **kwargs)
            for parameter in encoded & bound.arguments.keys():
                bound.arguments[parameter] = encode(bound.arguments[parameter])
            if name == "fill_many":
                fillings = [each._replace(value=encode(each.value)) for each in bound.args[1]]
                bound.arguments["values"] = fillings
            plan = getattr(self._store(), name)(*bound.args[1:], **bound.kwargs)
            return self._run(plan, _decoded)

        return method

    def __dir__(self) -> list[str]:
        return [name for name in vars(self._protocol) if not name.startswith("_")]


@functools.cache
def _encoded_parameters(method: Callable[..., Any]) -> frozenset[str]:
    hints = get_type_hints(method)
    return frozenset(name for name, hint in hints.items() if hint is Encoded) - {"return"}


@functools.cache
def _encoded_fields(kind: Any) -> tuple[frozenset[str], frozenset[str]]:
    """The fields of an answer that hold `Encoded`, and those that hold answers or mappings."""
    hints = get_type_hints(kind)
    own = frozenset(name for name, hint in hints.items() if hint is Encoded)
    nested = frozenset(name for name, hint in hints.items() if _is_nested(hint))
    return own, nested


def _is_nested(hint: Any) -> bool:
    text = repr(hint)
    return hint is not Encoded and any(
        name in text for name in ("Encoded", "Checkpoint", "cache.Entry")
    )


def _decoded(answer: Any) -> Any:
    """The answer with values where the store gave their stored form."""
    from resilient.engine.codecs import decode

    if isinstance(answer, list):
        return [_decoded(each) for each in answer]
    if not hasattr(answer, "_fields"):
        return answer
    kind: Any = type(answer)
    own, nested = _encoded_fields(kind)
    changes: dict[str, Any] = {
        name: decode(stored) for name in own if (stored := getattr(answer, name))
    }
    for name in nested:
        inner = getattr(answer, name)
        changes[name] = (
            {key: decode(value) for key, value in inner.items()}
            if isinstance(inner, dict)
            else _decoded(inner)
        )
    return answer._replace(**changes) if changes else answer
