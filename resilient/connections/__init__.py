"""Our records inside the user's own database connection, committed together with the user's writes.

    connection = recognised(conn, mode="sync", what="lease.bind()")
    await connection.begin()
    await ensured(connection, FENCES)
    rows = await connection.execute("SELECT ... WHERE name = :name", name="k")

These are plans: driven by either driver, they run on the connection that the user handed over, in
its transaction. What the user's driver raises passes through unchanged: it is their transaction,
and a serialization failure is theirs to retry.
"""

from resilient.connections.drivers import UserConnection, recognised
from resilient.connections.fences import bound
from resilient.connections.tables import UserTable, ensured

__all__ = ["UserConnection", "UserTable", "bound", "ensured", "recognised"]
