"""SQLite's errors as ours, each naming the file."""

from __future__ import annotations

import errno
import sqlite3

from resilient.errors import BackendError, ConfigurationError, ResilientError

__all__ = ["is_busy", "translated"]

BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
UNUSABLE = {
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened",
    sqlite3.SQLITE_NOTADB: "it is not a SQLite database",
    sqlite3.SQLITE_PERM: "access is denied",
    sqlite3.SQLITE_READONLY: "it cannot be written",
}
"""What is wrong with a file that is the wrong one, or in the wrong place."""
UNREACHABLE = {
    errno.EACCES,
    errno.EEXIST,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
}
"""What is wrong with the directory of such a file."""


def code(error: sqlite3.Error) -> int:
    """The primary result code; 0 for what Python's module found wrong itself."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def is_busy(error: sqlite3.Error) -> bool:
    """Whether somebody else has what was wanted, and will give it back."""
    return code(error) in BUSY


def translated(error: Exception, path: str, *, opening: bool = False) -> ResilientError:
    """The error to raise from this one.

    Args:
        error: What was raised while the database was used.
        path: The file.
        opening: Whether it was being opened: then the configuration may be wrong.
    """
    if isinstance(error, ResilientError):
        return error
    if isinstance(error, UnicodeEncodeError):
        return ConfigurationError(f"{path}: {error.object!r} is no text that can be stored")
    if isinstance(error, OSError) and error.errno in UNREACHABLE and opening:
        return ConfigurationError(f"{path} cannot be a database of resilient: {error}")
    if not isinstance(error, sqlite3.Error):
        return BackendError(f"{path}: {error}", transient=False)
    what = UNUSABLE.get(code(error))
    if what is not None and opening:
        return ConfigurationError(f"{path} cannot be a database of resilient: {what} ({error})")
    return BackendError(f"{path}: {what or error}", transient=is_busy(error))
