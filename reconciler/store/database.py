"""Transactions: query functions come in, their results go out. Every room reaches the database through here.

A query function is plain synchronous code `fn(tx) -> T`; `Database.write` and `Database.read` run it in a thread of
this module's own (never `asyncio.to_thread`: the job engine replaces the loop's executor) inside one transaction. It
changes nothing but rows, because where several processes write it may be run again from its start.
What a connection is, how transactions begin and what errors mean is in `sqlite` and `postgres`. Not done here: statements,
migrations.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing
from datetime import datetime
from queue import SimpleQueue
from typing import Any, Literal, Protocol, TypeVar

from reconciler.store.dialect import DialectName, statement
from reconciler.store.errors import StoreCorruptError, StoreFullError, StoreUnavailableError

T = TypeVar("T")
Params = Mapping[str, Any] | Sequence[Any]
Mode = Literal["read", "write", "durable", "guarded", "guarded durable"]


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

    __slots__ = ("_connection", "_now", "dialect")

    def __init__(self, connection: Any, dialect: DialectName, now: Callable[[], datetime]) -> None:
        self._connection = connection
        self._now = now
        self.dialect: DialectName = dialect

    def execute(self, sql: str, params: Params = ()) -> Cursor:
        """Text that is no Unicode, such as a file name in an old encoding, is kept with its odd characters spelled out."""
        written = statement(sql, self.dialect)
        try:
            cursor: Cursor = self._connection.execute(written, params)
        except UnicodeEncodeError:
            cursor = self._connection.execute(written, _as_unicode(params))
        return cursor

    def stream(self, sql: str, /, **params: Any) -> Cursor:
        """For results that are not to be held in memory, or not read to their end; close it."""
        if self.dialect == "sqlite":
            return self.execute(sql, params)
        cursor: Cursor = self._connection.stream(statement(sql, self.dialect), params)
        return cursor

    def tuples(self, sql: str, /, **params: Any) -> Cursor:
        """Rows as plain tuples, for the thousands of a page."""
        if self.dialect == "sqlite":
            plain = self._connection.cursor()
            plain.row_factory = None
            cursor: Cursor = plain.execute(sql, params)
            return cursor
        return self.execute(sql, params)

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

    def insert(self, table: str, columns: Mapping[str, str], rows: Sequence[Sequence[Any]]) -> None:
        """Many new rows at the least cost. `columns`: name -> PostgreSQL's name of its type, in the order of the values."""
        names = ", ".join(columns)
        if self.dialect == "sqlite":
            self.executemany(f"INSERT INTO {table} ({names}) VALUES ({', '.join('?' * len(columns))})", rows)
        else:
            self._connection.copy_in(f"COPY {table} ({names}) FROM STDIN (FORMAT BINARY)", [*columns.values()], rows)

    def blobs(self, values: Iterable[bytes | None]) -> Iterable[Any]:
        """A column for `insert`: sqlite3 looks in vain for an adapter of each `bytes`, which takes longer than to copy it."""
        if self.dialect == "sqlite":
            return [None if value is None else bytearray(value) for value in values]
        return values

    def now(self) -> datetime:
        """The time that decides ownership: one clock for all who share the database."""
        return self._now()


class Session(Protocol):
    """One connection, used by one thread at a time."""

    def run(self, query: Callable[[Tx], T], mode: Mode) -> T:
        """`query` in one transaction, more than once where others interfere; raises StoreError, or what `query` raises."""

    def transaction(self, mode: Mode) -> AbstractContextManager[Tx]:
        """One transaction for code that cannot be run again."""

    def close(self) -> None: ...


class Backend(Protocol):
    """Which database, and how many connections a process keeps to it. `where` names it in messages, without secrets."""

    where: str
    writers: int
    readers: int

    def connect(self, *, is_reader: bool) -> Session:
        """For a daemon. Raises StoreError where it cannot be reached or opened."""

    def visit(self, *, is_reader: bool) -> Session:
        """For one command, beside a daemon or without one: never creates a database. Raises StoreError."""


class Database:
    """Open with a backend, end with `close`; safe to use from any task of one event loop."""

    def __init__(self, backend: Backend) -> None:
        self.where = backend.where
        self.refused = 0  # writes that the disk refused; small ones may fit where large ones do not
        with ExitStack() as opened:
            self._write_sessions = _sessions(opened, backend, backend.writers, is_reader=False)
            self._read_sessions = _sessions(opened, backend, backend.readers, is_reader=True)
            self._opened = opened.pop_all()
        self._writers = ThreadPoolExecutor(backend.writers, thread_name_prefix="store-write")
        self._readers = ThreadPoolExecutor(backend.readers, thread_name_prefix="store-read")

    async def write(self, query: Callable[[Tx], T], *, durable: bool = False, guarded: bool = False) -> T:
        """Run `query` in a write transaction and commit. `durable`: a power cut cannot undo it (tokens, receipts).

        Transactions behave as if they ran one after the other. `guarded`: the query itself locks the row that decides
        whether it may go on (fence, claim) before it reads anything else, and waits for it rather than being run again.
        Once started, the transaction ends even when the waiting task is cancelled; its caller must then look again.
        """
        modes: Mapping[tuple[bool, bool], Mode] = {
            (False, False): "write",
            (True, False): "durable",
            (False, True): "guarded",
            (True, True): "guarded durable",
        }
        mode = modes[durable, guarded]
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._writers, _run, self._write_sessions, query, mode)
        except (StoreFullError, StoreUnavailableError, StoreCorruptError):
            self.refused += 1
            raise

    async def read(self, query: Callable[[Tx], T]) -> T:
        """Run `query` on one consistent snapshot; writing there is an error."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, _run, self._read_sessions, query, "read")

    def close(self) -> None:
        """Waits for transactions under way. May be called twice."""
        self._writers.shutdown(wait=True, cancel_futures=True)
        self._readers.shutdown(wait=True, cancel_futures=True)
        self._opened.close()


def _as_unicode(params: Params) -> Params:
    if isinstance(params, Mapping):
        return {name: _spelled(value) for name, value in params.items()}
    return [_spelled(value) for value in params]


def _spelled(value: Any) -> Any:
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _sessions(opened: ExitStack, backend: Backend, count: int, *, is_reader: bool) -> SimpleQueue[Session]:
    sessions: SimpleQueue[Session] = SimpleQueue()
    for _ in range(count):
        sessions.put(opened.enter_context(closing(backend.connect(is_reader=is_reader))))
    return sessions


def _run(idle: SimpleQueue[Session], query: Callable[[Tx], T], mode: Mode) -> T:
    session = idle.get()
    try:
        return session.run(query, mode)
    finally:
        idle.put(session)
