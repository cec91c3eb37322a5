"""Exactly once in the user's own database: `resilient.idempotency.transaction(conn, key=...)`."""

from resilient.connections.idempotency import (
    CallInTransaction,
    IdempotentTransaction,
    transaction,
)

__all__ = ["CallInTransaction", "IdempotentTransaction", "transaction"]
