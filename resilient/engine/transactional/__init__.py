"""All five capabilities over any store with transactions.

Memory and SQLite are such stores, and yours may be one: implement `TransactionalStore`, two methods
that run a function on a `Transaction` (get, put, delete and scan records that expire; wake and
publish), and hand it to `TransactionalBackend`. What the capabilities mean is written once, in this
package, as plain functions; `resilient.testing.conformance` checks that a store does its part.
"""

from resilient.engine.transactional.backend import TransactionalBackend
from resilient.engine.transactional.cache import TransactionalCache
from resilient.engine.transactional.checkpoints import TransactionalCheckpoints
from resilient.engine.transactional.circuits import TransactionalCircuits
from resilient.engine.transactional.idempotency import TransactionalIdempotency
from resilient.engine.transactional.locks import TransactionalLocks
from resilient.engine.transactional.store import (
    Optimistic,
    Record,
    Table,
    Transaction,
    TransactionalStore,
)

__all__ = [
    "Optimistic",
    "Record",
    "Table",
    "Transaction",
    "TransactionalBackend",
    "TransactionalCache",
    "TransactionalCheckpoints",
    "TransactionalCircuits",
    "TransactionalIdempotency",
    "TransactionalLocks",
    "TransactionalStore",
]
