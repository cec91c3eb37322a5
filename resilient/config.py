"""Which backend a policy uses: the process's default, one for a capability, or a test's.

resilient.configure("redis://localhost:6379/0", prefix="billing:")
resilient.configure("redis://...", checkpoints="sqlite:///jobs.db")
with resilient.using("memory://"): ...
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

from resilient.engine.backend import CAPABILITIES, Backend, Capability, Mode
from resilient.engine.durations import Duration
from resilient.engine.options import check_choice, refuse_unknown
from resilient.engine.passing import Passing, View
from resilient.errors import ConfigurationError
from resilient.resolving import BackendLike, Configuration, configuration_of, resolve

__all__ = [
    "Source",
    "aclose",
    "close",
    "configure",
    "disabled",
    "is_disabled",
    "using",
]

DEFAULT_URL = "sqlite:///.resilient/state.db"
MAY_USE_MEMORY: frozenset[Capability] = frozenset({"circuits", "cache"})


epoch: int = 0
"""Another number after every change of configuration; -1 while it depends on the context.

What is remembered about a backend (an in-process entry, a closed circuit) may be used without
asking as long as this number is the one under which it was remembered.
"""
_changes = 0
_shown = Passing()
_lock = threading.RLock()
_prefix = ""
_configured: Configuration | None = None
_process: tuple[Configuration, ...] = ()
_contexts = 0
_context: ContextVar[tuple[Configuration, ...]] = ContextVar("resilient.using", default=())
_by_url: dict[tuple[str, str], Backend] = {}
_fallback: Backend | None = None


def configure(
    backend: BackendLike | None = None,
    *,
    prefix: str | None = None,
    max_ttl: Duration = "30d",
    locks: BackendLike | None = None,
    circuits: BackendLike | None = None,
    cache: BackendLike | None = None,
    idempotency: BackendLike | None = None,
    checkpoints: BackendLike | None = None,
) -> Backend:
    """Choose the process's default backend, and others for single capabilities.

    Call it once, at start-up. Nothing is connected before the first use.

    Args:
        backend: A URL (`memory://`, `sqlite:///file.db`, `redis://host:6379/0`,
            `postgresql://host/database`, `mongodb://host/database`), a backend object, or a ready
            client: a `redis.Redis`, a `psycopg_pool.ConnectionPool`, a `pymongo.MongoClient`, ...
            By default the environment's `RESILIENT_URL`, else SQLite at `./.resilient/state.db`:
            durable without a server.
        prefix: Put before every key, so that applications can share a server. By default the
            environment's `RESILIENT_PREFIX`, else none.
        max_ttl: How long a record is kept whose own TTL is `None`, in seconds or as `"30d"`:
            nothing is kept for ever.
        locks: A backend for locks alone.
        circuits: A backend for circuit breakers alone.
        cache: A backend for cached values alone.
        idempotency: A backend for idempotent calls alone.
        checkpoints: A backend for jobs alone.

    Returns:
        The default backend.

    Raises:
        ConfigurationError: If a URL has an unknown scheme or option, or an object is no backend.

    Example:
        >>> import resilient
        >>> resilient.configure("memory://")
        <MemoryBackend memory://>
        >>> resilient.close()
    """
    global _configured, _prefix
    chosen = os.environ.get("RESILIENT_URL", DEFAULT_URL) if backend is None else backend
    chosen_prefix = os.environ.get("RESILIENT_PREFIX", "") if prefix is None else prefix
    given = {
        "locks": locks,
        "circuits": circuits,
        "cache": cache,
        "idempotency": idempotency,
        "checkpoints": checkpoints,
    }
    configuration = configuration_of(chosen, chosen_prefix, given, max_ttl)
    with _lock:
        replaced, _configured, _prefix = _configured, configuration, chosen_prefix
        _changed()
    if replaced is not None:
        kept = {id(each) for each in configuration.backends()}
        for old in replaced.backends():
            if id(old) not in kept:
                old.close()
    assert configuration.default is not None
    return configuration.default


@contextmanager
def using(
    backend: BackendLike,
    *,
    prefix: str = "",
    scope: Literal["process", "context"] = "process",
    max_ttl: Duration = "30d",
    **capabilities: BackendLike,
) -> Iterator[Backend]:
    """Use another backend until exit: a test swaps the backend, not the code.

    A URL makes a fresh backend each time, closed at exit. Decorators that name a `backend=` of
    their own keep it.

    Args:
        backend: As for `configure`.
        prefix: As for `configure`, but none by default.
        scope: `"process"`: every thread and task. `"context"`: only the calling thread or task and
            the tasks that it starts.
        max_ttl: As for `configure`.
        **capabilities: Backends for single capabilities, as for `configure`.

    Yields:
        The backend.

    Raises:
        ConfigurationError: An option is wrong, as for `configure`.

    Example:
        >>> import resilient
        >>> with resilient.using("memory://"):
        ...     with resilient.lock("k") as lease:
        ...         lease.lost
        False
    """
    refuse_unknown("using()", capabilities, CAPABILITIES)
    configuration = configuration_of(backend, prefix, capabilities, max_ttl)
    with _active(configuration, scope):
        try:
            assert configuration.default is not None
            yield configuration.default
        finally:
            for each, given in _given(configuration, backend, capabilities):
                if isinstance(given, str):
                    each.close()


@contextmanager
def disabled(scope: Literal["process", "context"] = "process") -> Iterator[None]:
    """Have every policy pass its calls through, until exit."""
    with _active(Configuration(None, {}, disabled=True), scope):
        yield


def is_disabled() -> bool:
    """Whether policies pass calls through here and now; for those that need no backend."""
    active = _overriding()
    return active is not None and active.disabled


def close() -> None:
    """Close every default backend: connections, files and background threads.

    They open again when they are used again.
    """
    for backend in _ours():
        backend.close()


async def aclose() -> None:
    """The same in an event loop, whose own connections are closed too."""
    for backend in _ours():
        await backend.aclose()


class Source:
    """Where one policy finds its backend, at each call.

    Args:
        capability: What it needs.
        policy: Its name, for messages.
        mode: Sync or async.
        backend: The decorator's own `backend=`, which wins over every default.

    Raises:
        ConfigurationError: If `backend` is not usable; `CapabilityMissing` if it lacks the
            capability or the mode. A default that is configured already is checked too.
    """

    __slots__ = ("_capability", "_last", "_mode", "_own", "_own_given", "_policy")

    def __init__(
        self,
        capability: Capability,
        policy: str,
        mode: Mode | None = None,
        backend: BackendLike | None = None,
    ) -> None:
        self._capability: Capability = capability
        self._policy = policy
        self._mode: Mode | None = mode
        self._own_given = backend
        self._own: Backend | None = None
        self._last: tuple[int, Backend | None] = (-1, None)
        known = epoch
        early = self._resolve_own() if backend is not None else self._default()
        if early is not None:
            early.require(capability, mode)
            self._last = known, early

    def backend(self) -> Backend | None:
        """The backend for this call; `None` while policies are disabled.

        Raises:
            ConfigurationError: If nothing is configured and the policy's promise would be false
                in this process's memory.
        """
        known, backend = self._last
        if known != epoch or known < 0:
            known = epoch
            backend = self._find()
            self._last = (known, backend)
        return backend

    def _find(self) -> Backend | None:
        active = _overriding()
        if active is not None and active.disabled:
            return None
        if self._own_given is not None:
            return self._own or self._resolve_own()
        active = active or _configured
        if active is None:
            return self._unconfigured()
        backend = active.get(self._capability)
        if backend is not None:
            backend.require(self._capability, self._mode)
        return backend

    def _default(self) -> Backend | None:
        active = _overriding() or _configured
        return None if active is None else active.get(self._capability)

    def _resolve_own(self) -> Backend:
        self._own = _shared(self._own_given)
        return self._own

    def _unconfigured(self) -> Backend:
        if self._capability in MAY_USE_MEMORY:
            return _memory_fallback()
        raise ConfigurationError(
            f"@{self._policy} needs a backend that outlives this process, and none is configured: "
            "call resilient.configure() for SQLite at ./.resilient/state.db, or name one, as in "
            'resilient.configure("redis://localhost:6379/0")'
        )


def _shared(backend: BackendLike) -> Backend:
    """One backend a URL: decorators that name the same URL share its connections."""
    if not isinstance(backend, str):
        return resolve(backend, _prefix)
    with _lock:
        known = (backend, _prefix)
        if known not in _by_url:
            _by_url[known] = resolve(backend, _prefix)
        return _by_url[known]


def _memory_fallback() -> Backend:
    global _fallback
    with _lock:
        if _fallback is None:
            _fallback = resolve("memory://")
        return _fallback


def _given(
    configuration: Configuration, backend: BackendLike, capabilities: dict[Any, BackendLike]
) -> Iterator[tuple[Backend, BackendLike]]:
    assert configuration.default is not None
    yield configuration.default, backend
    for name, given in capabilities.items():
        yield configuration.special[name], given


@contextmanager
def _active(configuration: Configuration, scope: str) -> Iterator[None]:
    global _process, _contexts
    check_choice("using()", "scope", scope, "process", "context")
    if scope == "context":
        token = _context.set((*_context.get(), configuration))
        with _lock:
            _contexts += 1
            _changed()
        try:
            yield
        finally:
            _context.reset(token)
            with _lock:
                _contexts -= 1
                _changed()
        return
    with _lock:
        _process = (*_process, configuration)
        _changed()
    try:
        yield
    finally:
        with _lock:
            _process = tuple(each for each in _process if each is not configuration)
            _changed()


def _overriding() -> Configuration | None:
    in_context = _context.get() if _contexts else ()
    stack = in_context or _process
    return stack[-1] if stack else None


def _changed() -> None:
    global epoch, _changes
    _changes += 1
    uncertain = _contexts or any(each.disabled for each in _process)
    epoch = -1 if uncertain else _changes
    _shown.end()


def show_until_changed(known: int, view: View, show: Callable[[], None]) -> None:
    """Show what holds under the configuration of an epoch, if that is still the present one.

    The next change of configuration hides it: nobody needs to compare epochs to trust it.
    """
    with _lock:
        if known == epoch:
            _shown.add(view)
            show()


def _ours() -> list[Backend]:
    with _lock:
        found = list(_by_url.values())
        if _configured is not None:
            found += _configured.backends()
        if _fallback is not None:
            found.append(_fallback)
    return list({id(backend): backend for backend in found}.values())


atexit.register(close)
