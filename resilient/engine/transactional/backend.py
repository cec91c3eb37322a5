"""A whole backend from one store with transactions."""

from __future__ import annotations

from resilient.engine.backend import BOTH_MODES, Backend, Mode
from resilient.engine.transactional.cache import TransactionalCache
from resilient.engine.transactional.checkpoints import TransactionalCheckpoints
from resilient.engine.transactional.circuits import TransactionalCircuits
from resilient.engine.transactional.idempotency import TransactionalIdempotency
from resilient.engine.transactional.locks import TransactionalLocks
from resilient.engine.transactional.store import GuardedStore, TransactionalStore
from resilient.protocols.signals import SignalSource

__all__ = ["TransactionalBackend"]


class TransactionalBackend(Backend):
    """All five capabilities over a store of yours.

    Args:
        name: What error messages call it; no password in it.
        store: Runs the transactions.
        source: Where signals come from. Without one, waiters look every 50 ms, and the store's
            `wake` and `publish` may do nothing.
        modes: The kinds of callers that it serves; a store that suspends on an event loop serves
            `"async"` only.
        serial: Whether its reads wait for its writers as these do: then nothing is looked up by a
            read first that the change would look up again.
    """

    def __init__(
        self,
        name: str,
        store: TransactionalStore,
        *,
        source: SignalSource | None = None,
        modes: frozenset[Mode] = BOTH_MODES,
        serial: bool = False,
    ) -> None:
        guarded = GuardedStore(store)
        super().__init__(
            name,
            locks=TransactionalLocks(store),
            circuits=TransactionalCircuits(store, self._record_ttl),
            cache=TransactionalCache(guarded, self._record_ttl),
            idempotency=TransactionalIdempotency(guarded, reads_first=not serial),
            checkpoints=TransactionalCheckpoints(guarded, self._record_ttl),
            source=source,
            modes=modes,
        )

    def _record_ttl(self) -> float:
        return self.max_ttl
