"""The stores by hand: `backend.sync.cache.get("k")`, `await backend.aio.cache.get("k")`.

A view calls the very methods that the policies call. Where a store takes or returns `Encoded`
bytes, the view encodes and decodes, so that a caller sees values.
"""

from __future__ import annotations

import functools
import inspect
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, get_type_hints

from resilient.engine.budget import within
from resilient.engine.drivers.sync import drive
from resilient.engine.plan import Listen
from resilient.errors import BackendError, CapabilityMissing
from resilient.protocols.cache import CacheStore
from resilient.protocols.checkpoints import CheckpointStore
from resilient.protocols.circuits import CircuitStore, CircuitView, parse_announcement
from resilient.protocols.idempotency import IdempotencyStore
from resilient.protocols.locks import LockStore
from resilient.protocols.values import Encoded

if TYPE_CHECKING:
    from resilient.engine.backend import Backend, Mode

__all__ = ["AsyncView", "SyncView"]

log = logging.getLogger("resilient")

PROTOCOLS: dict[str, type] = {
    "locks": LockStore,
    "circuits": CircuitStore,
    "cache": CacheStore,
    "idempotency": IdempotencyStore,
    "checkpoints": CheckpointStore,
}

CHANNEL = "circuits"

LOOKS = {
    "locks": "holder",
    "circuits": "view",
    "cache": "has",
    "idempotency": "get",
    "checkpoints": "latest",
}
"""What is asked of a store, to see whether it answers."""
PATIENCE = 2.0
"""Seconds for which that answer is awaited."""


class _View(ABC):
    """The capabilities of one backend."""

    _mode: Mode

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.locks = self._by_hand("locks")
        self.circuits = CircuitsByHand(backend, self._by_hand("circuits"), self._drive)
        self.cache = self._by_hand("cache")
        self.idempotency = self._by_hand("idempotency")
        self.checkpoints = self._by_hand("checkpoints")

    def _by_hand(self, capability: Any) -> ByHand:
        return ByHand(
            PROTOCOLS[capability],
            functools.partial(self._backend.require, capability, self._mode),
            self._drive,
        )

    def is_connected(self) -> Any:
        """Whether the backend answers now, within two seconds: it is asked for a key or the like.

        There is nothing to connect by hand: each operation does that if need be.
        """
        return self._drive(_answers(self._backend, self._mode), lambda answer: answer)

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


class CircuitsByHand:
    """The methods of the store of circuits, and its announcements."""

    def __init__(self, backend: Backend, methods: ByHand, run: Callable[..., Any]) -> None:
        self._backend = backend
        self._methods = methods
        self._run = run

    def subscribe(self, callback: Callable[[str, CircuitView], object]) -> Any:
        """Have a function called with key and view of every transition, whoever causes it.

        It is called on the thread that listens, and should return at once. What is announced while
        the connection is lost is not heard. Returns what ends that. (`resilient.subscribe` tells of
        the circuits that this process uses itself, and misses nothing of them.)

        Raises:
            CapabilityMissing: The backend tells its processes nothing.
            BackendError: It could not be listened to.
        """
        self._backend.require("circuits")
        return self._run(_subscribed(self._backend, callback), lambda answer: answer)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return getattr(self._methods, name)  # type: ignore[no-any-return]  # as it says itself

    def __dir__(self) -> list[str]:
        return sorted({*dir(self._methods), "subscribe"})


async def _answers(backend: Backend, mode: Mode) -> bool:
    capability: Any = next(each for each in LOOKS if getattr(backend, each) is not None)
    look = getattr(backend.require(capability, mode), LOOKS[capability])
    try:
        await within(PATIENCE, look("is-connected"))
    except BackendError:
        return False
    return True


async def _subscribed(
    backend: Backend, callback: Callable[[str, CircuitView], object]
) -> Callable[[], None]:
    hub = backend.hub

    def heard(message: str | None) -> None:
        if message is not None:
            try:
                callback(*parse_announcement(message))
            except Exception:
                log.exception("a subscriber failed on a circuit's transition")

    if not hub.has_source:
        raise CapabilityMissing(f"{backend.name} tells no process what others do")
    hub.enlist(CHANNEL, heard)
    try:
        await Listen(hub, broadcasts=True)
    except BaseException:
        hub.dismiss(CHANNEL, heard)
        raise
    return functools.partial(hub.dismiss, CHANNEL, heard)


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
