"""`resilient.idempotency.transaction(conn, key=...)`: exactly once, in the user's own transaction.

The record of a call is a row in the user's own database, written in the transaction of its effects:
they are committed together, or neither is. So nothing has to be taken over, and no outcome is
unknown. A duplicate that comes meanwhile waits at the uncommitted row, and then has the result; one
whose predecessor was rolled back runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resilient.connections.drivers import UserConnection, recognised
from resilient.connections.tables import SECONDS, UserTable, ensured, swept
from resilient.engine.block import Block
from resilient.engine.canonical import canonical
from resilient.engine.durations import Duration, seconds
from resilient.engine.plan import Body, Plan
from resilient.errors import (
    BackendError,
    CodecError,
    ConfigurationError,
    FingerprintMismatch,
    KeyMissing,
    ResultUnavailable,
)

if TYPE_CHECKING:
    from resilient.engine.backend import Mode

__all__ = ["CALLS", "CallInTransaction", "IdempotentTransaction", "transaction"]

WHAT = "idempotency.transaction()"
CALLS = UserTable(
    "resilient_calls",
    "key",
    "key text PRIMARY KEY, fingerprint text NOT NULL, outcome text NOT NULL, result bytea, "
    "expires bigint NOT NULL",
)
TRIES = 3
"""How often to look again when another transaction has taken and lost the row meanwhile."""

# Replays only read: they lock nothing.
KNOWN = """
SELECT fingerprint, outcome, result FROM resilient_calls WHERE key = :key AND expires > {now}
"""
# Waits for whoever has inserted the row and not committed yet.
CLAIM = """
INSERT INTO resilient_calls AS known (key, fingerprint, outcome, result, expires)
VALUES (:key, :fingerprint, 'open', NULL, {now} + :ttl)
ON CONFLICT (key) DO UPDATE SET fingerprint = excluded.fingerprint, outcome = 'open',
result = NULL, expires = excluded.expires WHERE known.expires <= {now} RETURNING key
"""
FINISH = """
UPDATE resilient_calls SET outcome = :outcome, result = :result, expires = {now} + :ttl
WHERE key = :key
"""


def transaction(
    connection: Any, *, key: str, fingerprint: object = None, ttl: Duration = "30d"
) -> IdempotentTransaction:
    """Make a call exactly once, together with its effects in your own database.

    If no transaction is open, the block begins one, and ends it: committed, or rolled back when an
    exception leaves the block. In an open one it takes part: your commit is what counts, and an
    exception that leaves the block undoes that whole transaction. A table `resilient_calls` is made
    in your database when it is missing. `resilient.configure` has no part in this.

    Args:
        connection: A connection of `sqlite3`, psycopg 3 (sync or async), or SQLAlchemy (connection
            or session, sync or async) on one of them.
        key: The idempotency key, among all in this database.
        fingerprint: The payload, or its parts: the key with another one is refused. By default
            none.
        ttl: How long the result is kept, whole seconds or as `"24h"`: for as long as the same
            request may come again.

    Returns:
        For `with`, or `async with`; it binds a `CallInTransaction`.

    Raises:
        ConfigurationError: The connection is none of these, needs an event loop, or commits each
            statement by itself; the fingerprint has no canonical form.
        KeyMissing: The key is empty.
        FingerprintMismatch: The key was used before with another payload.
        ResultUnavailable: The call was made, but its result has no stored form.

    Example:
        >>> import sqlite3, resilient
        >>> connection = sqlite3.connect(":memory:")
        >>> _ = connection.execute("CREATE TABLE charge (amount integer)")
        >>> def charge(amount: int) -> str:
        ...     with resilient.idempotency.transaction(connection, key="charge:A-7") as tx:
        ...         if tx.done:
        ...             return tx.result
        ...         connection.execute("INSERT INTO charge VALUES (?)", (amount,))
        ...         tx.result = f"receipt for {amount}"
        ...     return tx.result
        >>> charge(5), charge(5)
        ('receipt for 5', 'receipt for 5')
        >>> connection.execute("SELECT * FROM charge").fetchall()
        [(5,)]
    """
    given: object = key
    if not isinstance(given, str):
        raise ConfigurationError(f"{WHAT}: key={key!r} is not a string")
    if not given:
        raise KeyMissing(f"{WHAT}: the key is empty")
    payload = "" if fingerprint is None else digest(fingerprint)
    return IdempotentTransaction(connection, key, payload, max(1, int(seconds(ttl, option="ttl"))))


def digest(fingerprint: object) -> str:
    """A payload as a short text."""
    from hashlib import blake2b

    try:
        text = canonical(fingerprint)
    except ConfigurationError as error:
        raise ConfigurationError(f"{WHAT}: fingerprint: {error}") from None
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


class CallInTransaction:
    """One call, in the user's transaction.

    Attributes:
        key: Its idempotency key.
        done: Whether it was made before, and committed: then do nothing, `result` is its result.
        result: What is stored when the block ends, and what duplicates have; any value that
            `@idempotent` stores too.
    """

    __slots__ = ("done", "key", "result")

    def __init__(self, key: str) -> None:
        self.key = key
        self.done = False
        self.result: Any = None

    @property
    def replayed(self) -> bool:
        """The same as `done`."""
        return self.done

    def __repr__(self) -> str:
        return f"<call {self.key!r}, {'done before' if self.done else 'to be made'}>"


class IdempotentTransaction(Block[CallInTransaction, CallInTransaction]):
    """What `transaction` returns: for `with` and `async with`."""

    def __init__(self, connection: Any, key: str, fingerprint: str, ttl: int) -> None:
        super().__init__()
        self._connection = connection
        self._key = key
        self._fingerprint = fingerprint
        self._ttl = ttl

    def __repr__(self) -> str:
        return f"resilient.idempotency.transaction(..., key={self._key!r})"

    def _plan(self, mode: Mode) -> Plan[None]:
        connection = recognised(self._connection, mode=mode, what=WHAT)
        return _whole(connection, self._key, self._fingerprint, self._ttl)


async def _whole(connection: UserConnection, key: str, fingerprint: str, ttl: int) -> None:
    """The block: what opened the transaction ends it."""
    ours = not await connection.is_open()
    await connection.begin()
    try:
        await _call(connection, key, fingerprint, ttl)
    except BaseException:
        if ours:
            await connection.rollback()
        else:
            await connection.doom()
        raise
    if ours:
        await connection.commit()


async def _call(connection: UserConnection, key: str, fingerprint: str, ttl: int) -> None:
    now = SECONDS[connection.dialect]
    await ensured(connection, CALLS)
    call = CallInTransaction(key)
    for _ in range(TRIES):
        found = await connection.execute(KNOWN.format(now=now), key=key)
        if found:
            _replay(call, fingerprint, *found[0])
            break
        if await connection.execute(
            CLAIM.format(now=now), key=key, fingerprint=fingerprint, ttl=ttl
        ):
            break
    else:
        raise BackendError(f"{WHAT}: {key!r} is taken and given up by others again and again")
    await Body(call)
    if call.done:
        return
    outcome, result = _stored(call.result)
    finish = FINISH.format(now=now)
    await connection.execute(finish, key=key, outcome=outcome, result=result, ttl=ttl)
    await swept(connection, CALLS, "expires")


def _replay(
    call: CallInTransaction, fingerprint: str, known: str, outcome: str, result: Any
) -> None:
    """Take the result of a call that was made before."""
    from resilient.engine import codecs
    from resilient.protocols.values import Encoded

    if fingerprint and known and fingerprint != known:
        raise FingerprintMismatch(
            f"{WHAT}: {call.key!r} was used with another payload before: a new request needs a new "
            "key",
            key=call.key,
        )
    if outcome == "open":
        raise ConfigurationError(f"{WHAT}: {call.key!r} is being made in this very transaction")
    value = codecs.decode(Encoded(bytes(result)))
    if outcome != "value":
        raise ResultUnavailable(
            f"{WHAT}: {call.key!r} was made, but its result had no stored form: {value}",
            key=call.key,
        )
    call.done, call.result = True, value


def _stored(value: Any) -> tuple[str, bytes]:
    from resilient.engine import codecs

    try:
        return "value", codecs.encode(value)
    except CodecError as error:
        return "unstored", codecs.encode(str(error))
