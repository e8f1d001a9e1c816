"""The embedded database: one file in WAL mode, one writer, a few readers that never wait for it."""

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import mkstemp
from typing import Literal, TypeVar
from urllib.parse import quote

from reconciler.model.clock import Clock, SystemClock
from reconciler.store.database import Mode, Tx
from reconciler.store.errors import StoreCorruptError, StoreOccupiedError, StoreUnavailableError, sqlite_errors

T = TypeVar("T")
BUSY_TIMEOUT = timedelta(seconds=30)
PAGE_SIZE = 16384  # measured: 10-15 % faster than 4096 for records of 1 kB


class Sqlite:
    """The backend of `Database`. Opens or creates the file; tables come from `migrations.migrate`."""

    dialect: Literal["sqlite"] = "sqlite"
    writers = 1  # SQLite has one anyway
    readers = 3

    def __init__(self, path: Path, clock: Clock | None = None, busy_timeout: timedelta = BUSY_TIMEOUT) -> None:
        self.path = path
        self.where = str(path)
        self._now = (clock or SystemClock()).now
        self._busy_timeout = busy_timeout

    def connect(self, *, is_reader: bool) -> "SqliteSession":
        with sqlite_errors(self.path):
            connection = _connect(self.path, self._busy_timeout)
            if is_reader:
                connection.execute("PRAGMA query_only=ON")
            return SqliteSession(connection, self.path, self._now)

    def visit(self, *, is_reader: bool) -> "SqliteSession":
        if not self.path.is_file():
            raise StoreUnavailableError(
                f"{self.path} does not exist; check the state directory, or start the daemon once"
            )
        with sqlite_errors(self.path):
            connection = _connect_readonly(self.path) if is_reader else _connect(self.path, self._busy_timeout)
            return SqliteSession(connection, self.path, self._now)


@contextmanager
def new_file(path: Path) -> Iterator["SqliteSession"]:
    """A database that is written in one go, for its owner's eyes only; it bears its name when it is whole, or never.

    Raises StoreOccupiedError where there is one already, and StoreError.
    """
    for place in (path, *(path.with_name(f"{path.name}{end}") for end in ("-wal", "-shm", "-journal"))):
        if place.exists():
            raise StoreOccupiedError(f"{place} exists; move it away first, or name another place")
    partial = _private_file(path)
    try:
        with sqlite_errors(path), closing(_connect(partial, BUSY_TIMEOUT)) as connection:
            # what fails on the way is thrown away, so no journal is needed; the result is one file, readable on any disk
            connection.execute("PRAGMA journal_mode=OFF")
            connection.execute("PRAGMA synchronous=OFF")
            yield SqliteSession(connection, path, SystemClock().now)
        _keep(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def check_integrity(tx: Tx, path: Path) -> None:
    """Reads all of it. Raises StoreCorruptError."""
    with sqlite_errors(path):
        found = tx.value("PRAGMA integrity_check(1)")
    if found != "ok":
        raise StoreCorruptError(str(found))


def _private_file(path: Path) -> Path:
    try:
        descriptor, name = mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise StoreUnavailableError(f"{path} cannot be written ({error.strerror}); check the folder") from error
    os.close(descriptor)
    return Path(name)


def _keep(partial: Path, path: Path) -> None:
    """It is on the disk before it has its name, and the name before anybody is told."""
    try:
        _to_disk(partial)
        partial.rename(path)
        _to_disk(path.parent)
    except OSError as error:
        raise StoreUnavailableError(f"{path} cannot be written ({error.strerror}); check the disk") from error


def _to_disk(place: Path) -> None:
    descriptor = os.open(place, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class SqliteSession:
    """One connection; closing the last one folds the WAL into the file."""

    def __init__(self, connection: sqlite3.Connection, path: Path, now: Callable[[], datetime]) -> None:
        self._connection = connection
        self._path = path
        self._tx = Tx(connection, "sqlite", now)

    def run(self, query: Callable[[Tx], T], mode: Mode) -> T:
        with self.transaction(mode) as tx:
            return query(tx)

    @contextmanager
    def transaction(self, mode: Mode) -> Iterator[Tx]:
        with sqlite_errors(self._path), self._synchronous(mode), self._begun(mode):
            yield self._tx

    def close(self) -> None:
        self._connection.close()

    @contextmanager
    def _synchronous(self, mode: Mode) -> Iterator[None]:
        if mode not in {"durable", "guarded durable"}:
            yield
            return
        self._connection.execute("PRAGMA synchronous=FULL")
        try:
            yield
        finally:
            self._connection.execute("PRAGMA synchronous=NORMAL")

    @contextmanager
    def _begun(self, mode: Mode) -> Iterator[None]:
        connection = self._connection
        connection.execute("BEGIN DEFERRED" if mode == "read" else "BEGIN IMMEDIATE")
        try:
            yield
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:  # SQLite undoes some failures (disk full) by itself
                connection.execute("ROLLBACK")
            raise


def _connect(path: Path, busy_timeout: timedelta) -> sqlite3.Connection:
    wait = busy_timeout.total_seconds()
    connection = sqlite3.connect(path, timeout=wait, isolation_level=None, check_same_thread=False)
    try:
        _set_up(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _set_up(connection: sqlite3.Connection) -> None:
    connection.row_factory = sqlite3.Row
    for pragma in (
        f"page_size={PAGE_SIZE}",  # only heeded by a file that is still empty, and only before WAL
        "journal_mode=WAL",
        "synchronous=NORMAL",
        "foreign_keys=ON",
        "temp_store=MEMORY",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _connect_readonly(path: Path) -> sqlite3.Connection:
    uri = f"file:{quote(str(path.resolve()))}?mode=ro"
    connection = sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT.total_seconds(), isolation_level=None)
    connection.row_factory = sqlite3.Row
    return connection
