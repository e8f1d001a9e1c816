"""Transactions: query functions come in, their results go out. Every room reaches the database through here.

A query function is plain synchronous code `fn(tx) -> T`; `Database.write` and `Database.read` run it in a thread of
this module's own (never `asyncio.to_thread`: the job engine replaces the loop's executor) inside one transaction.
One writer thread, because SQLite has one writer anyway; a few readers, which never wait for it (WAL).
Not done here: retries (a failed transaction is undone and the caller decides), statements, migrations.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol, Self, TypeVar
from urllib.parse import quote

from reconciler.model.clock import Clock, SystemClock
from reconciler.store.dialect import SQLITE, DialectName, statement
from reconciler.store.errors import StoreCorruptError, StoreFullError, StoreUnavailableError, sqlite_errors

T = TypeVar("T")
Params = Mapping[str, Any] | Sequence[Any]
READERS = 3
BUSY_TIMEOUT = timedelta(seconds=30)
PAGE_SIZE = 16384  # measured: 10-15 % faster than 4096 for records of 1 kB


class Row(Protocol):
    """A row by position and by column name."""

    def __getitem__(self, key: Any, /) -> Any: ...

    def __iter__(self) -> Iterator[Any]: ...

    def __len__(self) -> int: ...

    def keys(self) -> Iterable[str]: ...


class Cursor(Protocol):
    """What a statement gives back while its transaction lasts; iterate it for large results."""

    @property
    def rowcount(self) -> int: ...

    def fetchone(self) -> Any: ...

    def fetchmany(self, size: int = ..., /) -> list[Any]: ...

    def fetchall(self) -> list[Any]: ...

    def __iter__(self) -> Iterator[Any]: ...

    def close(self) -> Any: ...


class Tx:
    """One open transaction. Only valid inside the query function it was handed to."""

    __slots__ = ("_clock", "_connection", "dialect")

    def __init__(self, connection: Any, dialect: DialectName, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock
        self.dialect: DialectName = dialect

    def execute(self, sql: str, params: Params = ()) -> Cursor:
        """Text that is no Unicode, such as a file name in an old encoding, is kept with its odd characters spelled out."""
        written = statement(sql, self.dialect)
        try:
            cursor: Cursor = self._connection.execute(written, params)
        except UnicodeEncodeError:
            cursor = self._connection.execute(written, _as_unicode(params))
        return cursor

    def executemany(self, sql: str, rows: Iterable[Params]) -> None:
        """The cheap way to write many."""
        every = list(rows)
        left = iter(every)
        with closing(self._connection.cursor()) as cursor:
            try:
                cursor.executemany(statement(sql, self.dialect), left)
            except UnicodeEncodeError:
                first = len(every) - len(list(left)) - 1  # the row that could not be bound; all before it are written
                for row in every[first:]:
                    self.execute(sql, row).close()

    def all(self, sql: str, /, **params: Any) -> list[Row]:
        return self.execute(sql, params).fetchall()

    def one(self, sql: str, /, **params: Any) -> Row | None:
        """The first row; closes the statement, so `RETURNING` never keeps the commit waiting."""
        cursor = self.execute(sql, params)
        row: Row | None = cursor.fetchone()
        cursor.close()
        return row

    def value(self, sql: str, /, **params: Any) -> Any:
        """The first column of the first row, None where there is no row."""
        row = self.one(sql, **params)
        return None if row is None else row[0]

    def rowcount(self, sql: str, /, **params: Any) -> int:
        """Rows the statement touched: zero is how a fence says stop."""
        return self.execute(sql, params).rowcount

    def now(self) -> datetime:
        """The time that decides ownership: one clock for all who share the database."""
        return self._clock.now()


class Database:
    """Own with `open_sqlite`, end with `close`; safe to use from any task of one event loop."""

    def __init__(self, path: Path, clock: Clock, connect: Callable[[], sqlite3.Connection]) -> None:
        self.path = path
        self.refused = 0  # writes that the disk refused; small ones may fit where large ones do not
        self.dialect = SQLITE
        self._clock = clock
        with sqlite_errors(path), ExitStack() as opened:
            self._writer_connection, *readers = [opened.enter_context(closing(connect())) for _ in range(1 + READERS)]
            self._connections = opened.pop_all()
        self._idle_readers: SimpleQueue[sqlite3.Connection] = SimpleQueue()
        for reader in readers:
            reader.execute("PRAGMA query_only=ON")
            self._idle_readers.put(reader)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="store-write")
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="store-read")

    @classmethod
    def open_sqlite(cls, path: Path, clock: Clock | None = None, busy_timeout: timedelta = BUSY_TIMEOUT) -> Self:
        """Opens or creates the file; tables come from `migrations.migrate`."""
        return cls(path, clock or SystemClock(), lambda: _connect(path, busy_timeout))

    async def write(self, query: Callable[[Tx], T], *, durable: bool = False) -> T:
        """Run `query` in a write transaction and commit. `durable`: a power cut cannot undo it (tokens, receipts).

        Once started, the transaction ends even when the waiting task is cancelled; its caller must then look again.
        """
        run = self._write_durably if durable else self._write
        return await asyncio.get_running_loop().run_in_executor(self._writer, run, query)

    async def read(self, query: Callable[[Tx], T]) -> T:
        """Run `query` on one consistent snapshot; writing there is an error."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, query)

    def close(self) -> None:
        """Waits for transactions under way; folds the WAL into the file. May be called twice."""
        self._writer.shutdown(wait=True, cancel_futures=True)
        self._readers.shutdown(wait=True, cancel_futures=True)
        self._connections.close()

    def _write(self, query: Callable[[Tx], T]) -> T:
        try:
            with sqlite_errors(self.path), _transaction(self._writer_connection, "BEGIN IMMEDIATE"):
                return query(Tx(self._writer_connection, "sqlite", self._clock))
        except (StoreFullError, StoreUnavailableError, StoreCorruptError):
            self.refused += 1
            raise

    def _write_durably(self, query: Callable[[Tx], T]) -> T:
        self._writer_connection.execute("PRAGMA synchronous=FULL")
        try:
            return self._write(query)
        finally:
            self._writer_connection.execute("PRAGMA synchronous=NORMAL")

    def _read(self, query: Callable[[Tx], T]) -> T:
        connection = self._idle_readers.get()
        try:
            with sqlite_errors(self.path), _transaction(connection, "BEGIN DEFERRED"):
                return query(Tx(connection, "sqlite", self._clock))
        finally:
            self._idle_readers.put(connection)


def _as_unicode(params: Params) -> Params:
    if isinstance(params, Mapping):
        return {name: _spelled(value) for name, value in params.items()}
    return [_spelled(value) for value in params]


def _spelled(value: Any) -> Any:
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


@contextmanager
def open_readonly(path: Path, clock: Clock | None = None) -> Iterator[Tx]:
    """One snapshot for commands without a daemon; works while a daemon writes, and never creates or changes a file."""
    if not path.is_file():
        raise StoreUnavailableError(f"{path} does not exist; check the state directory, or start the daemon once")
    with sqlite_errors(path):
        connection = _connect_readonly(path)
        try:
            with _transaction(connection, "BEGIN DEFERRED"):
                yield Tx(connection, "sqlite", clock or SystemClock())
        finally:
            connection.close()


@contextmanager
def _transaction(connection: sqlite3.Connection, begin: str) -> Iterator[None]:
    connection.execute(begin)
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


def write_once(path: Path, query: Callable[[Tx], T], clock: Clock | None = None) -> T:
    """One write transaction of a command, beside a running daemon. Raises StoreError."""
    if not path.is_file():
        raise StoreUnavailableError(f"{path} does not exist; check the state directory, or start the daemon once")
    with (
        sqlite_errors(path),
        closing(_connect(path, BUSY_TIMEOUT)) as connection,
        _transaction(connection, "BEGIN IMMEDIATE"),
    ):
        return query(Tx(connection, "sqlite", clock or SystemClock()))
