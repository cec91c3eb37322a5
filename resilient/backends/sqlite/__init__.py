"""The SQLite backend: one file, shared by the threads and processes of one machine."""

from resilient.backends.sqlite.backend import SqliteBackend, from_url

__all__ = ["SqliteBackend", "from_url"]
