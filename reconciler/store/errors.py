"""Errors of the store, each with the path and what to do; callers outside the store never see a driver's exception.

Programming mistakes (bad SQL, missing tables) are deliberately not wrapped: they are ours and keep their traceback.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PRIMARY_CODE = 0xFF


class StoreError(Exception):
    """Something the store needs is not as it must be; the message says where and how to mend it."""


class StoreFullError(StoreError):
    """No room left: the transaction was undone, the connection works again as soon as there is room."""


class StoreBusyError(StoreError):
    """Another process held the database for longer than we wait; the transaction was undone and may be tried again."""


class StoreCorruptError(StoreError):
    """The file is damaged or is no database; nothing was written."""


class StoreUnavailableError(StoreError):
    """The file cannot be opened, read or written: permissions, a missing folder, a failing disk."""


class StoreConflictError(StoreError):
    """A uniqueness or reference rule of the tables refused the write."""


class StoreVersionError(StoreError):
    """The database is newer than this program, or was never set up."""


class StoreOccupiedError(StoreError):
    """A database that must be empty is not; nothing was written."""


class StateLockedError(StoreError):
    """Another process works on this state directory."""


_BY_CODE: dict[int, tuple[type[StoreError], str]] = {
    sqlite3.SQLITE_FULL: (
        StoreFullError,
        "no room left to write {path}; free space on that disk, nothing was lost and work resumes by itself",
    ),
    sqlite3.SQLITE_BUSY: (
        StoreBusyError,
        "{path} is locked by another process; end what holds it (a backup, a shell in a transaction), then retry",
    ),
    sqlite3.SQLITE_LOCKED: (StoreBusyError, "{path} is locked by another connection; retry"),
    sqlite3.SQLITE_CORRUPT: (
        StoreCorruptError,
        "{path} is damaged; stop the daemon and restore the last backup, or move the file away to start anew from Git",
    ),
    sqlite3.SQLITE_NOTADB: (
        StoreCorruptError,
        "{path} is not a SQLite database; check the state directory in the settings, or move the file away",
    ),
    sqlite3.SQLITE_READONLY: (
        StoreUnavailableError,
        "{path} cannot be written; check owner and mode",
    ),
    sqlite3.SQLITE_CANTOPEN: (
        StoreUnavailableError,
        "{path} cannot be opened; check that the folder exists and that this user may read and write it",
    ),
    sqlite3.SQLITE_IOERR: (
        StoreUnavailableError,
        "the disk failed while using {path}; check the system log",
    ),
}


@contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
    """Turn what SQLite says about the file into the errors above; anything else passes unchanged."""
    try:
        yield
    except sqlite3.IntegrityError as error:
        raise StoreConflictError(f"{path}: {error}") from error
    except sqlite3.DatabaseError as error:
        known = _BY_CODE.get(getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE)
        if known is None:
            raise
        kind, text = known
        raise kind(f"{text.format(path=path)} ({error})") from error
