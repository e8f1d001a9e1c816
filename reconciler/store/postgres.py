"""PostgreSQL: a few connections for each process, two schemas (ours, the job engine's), the server's clock.

Write transactions are serializable, as they are on SQLite: where two interfere, the server undoes one and it is run again.
Those that lock what they decide on (`guarded`) are only read committed and wait for the row instead. A connection that was
cut is opened anew for the next transaction. What a whole process needs when it stands still with a transaction open
(SIGSTOP, a paused machine): the server ends that transaction after `STANDSTILL`, so that others go on.
"""

import random
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal, TypeVar

import psycopg
from psycopg import errors as pg
from psycopg.conninfo import conninfo_to_dict
from psycopg.types.string import StrBinaryDumper, StrDumper

from reconciler.model.secret import Secret
from reconciler.store.database import Cursor, Mode, Params, Tx
from reconciler.store.errors import (
    StoreBusyError,
    StoreConflictError,
    StoreCorruptError,
    StoreError,
    StoreFullError,
    StoreUnavailableError,
)

T = TypeVar("T")
SCHEMA = "reconciler"
TRIES = 12
PAUSE_MOST = 0.5
STANDSTILL = "10s"
_STREAM_ROWS = 100
_SETTINGS = {
    "synchronous_commit": "off",  # as on SQLite: a power cut may undo the last moments, in order, unless a write is durable
    "search_path": SCHEMA,
    "timezone": "UTC",
    "application_name": "reconciler",
    "lock_timeout": "30s",
    "idle_in_transaction_session_timeout": STANDSTILL,
}
_KEEPALIVE = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
_BEGIN: dict[Mode, str] = {
    "read": "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
    "write": "BEGIN ISOLATION LEVEL SERIALIZABLE",
    "durable": "BEGIN ISOLATION LEVEL SERIALIZABLE; SET LOCAL synchronous_commit = on",
    "guarded": "BEGIN ISOLATION LEVEL READ COMMITTED",
    "guarded durable": "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL synchronous_commit = on",
}
# FeatureNotSupported: a newer release has added a column to what a prepared statement reads; undoing the transaction
# makes the driver forget its statements.
_AGAIN = (pg.SerializationFailure, pg.DeadlockDetected, pg.FeatureNotSupported)


class Postgres:
    """The backend of `Database`. `clock` is for tests only: processes share the server's clock."""

    dialect: Literal["postgresql"] = "postgresql"
    writers = 4
    readers = 3

    def __init__(self, url: Secret, clock: Callable[[], datetime] | None = None) -> None:
        self._url = url
        self._clock = clock
        self.where = address(url)

    def connect(self, *, is_reader: bool) -> "PostgresSession":
        session = PostgresSession(self._open, self.where, self._clock)
        session.ready()
        return session

    def visit(self, *, is_reader: bool) -> "PostgresSession":
        return self.connect(is_reader=is_reader)

    def _open(self) -> "Connection":
        connection: Connection = Connection.connect(self._url.reveal(), autocommit=True, **_KEEPALIVE)  # type: ignore[arg-type]
        try:
            connection.set_up()
            for name, value in _SETTINGS.items():
                connection.execute("SELECT set_config(%s, %s, false)", (name, value))
        except BaseException:
            connection.close()
            raise
        return connection


@asynccontextmanager
async def listening(url: Secret, channel: str) -> AsyncIterator[AsyncIterator[str]]:
    """What is told on that channel from now on, on a connection of its own. Raises StoreError where there is none, or no more."""
    options: dict[str, Any] = {"autocommit": True, "application_name": "reconciler-notices", **_KEEPALIVE}
    with postgres_errors(address(url)):
        async with await psycopg.AsyncConnection.connect(url.reveal(), **options) as connection:
            await connection.execute(f"LISTEN {channel}")
            yield _told(connection)


async def _told(connection: psycopg.AsyncConnection[Any]) -> AsyncIterator[str]:
    async for notice in connection.notifies():
        yield notice.payload


def address(url: Secret) -> str:
    """Host, port and database of a URL, for messages; never a password."""
    try:
        parts = conninfo_to_dict(url.reveal())
    except psycopg.ProgrammingError:
        raise StoreUnavailableError(
            "the database URL cannot be read; expected postgresql://user:password@host:5432/database"
        ) from None
    host = parts.get("host") or "localhost"
    return f"postgresql://{host}:{parts.get('port') or 5432}/{parts.get('dbname') or parts.get('user') or ''}"


class Connection(psycopg.Connection[Any]):
    """What `Tx` asks of a connection: rows by name and position, results in binary, streams, copies."""

    def set_up(self) -> None:
        self.row_factory = named_rows
        for kind in (_Text, _TextBinary):
            self.adapters.register_dumper(str, kind)

    def execute(self, query: Any, params: Any = None, *, prepare: bool | None = None, binary: bool = True) -> Any:
        return super().execute(query, params, prepare=prepare, binary=binary)

    def stream(self, query: str, params: Params) -> Cursor:
        cursor = self.cursor(name=f"stream{id(params):x}")
        cursor.itersize = _STREAM_ROWS
        cursor.execute(query, params, binary=True)
        return cursor

    def copy_in(self, statement: str, types: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        with self.cursor() as cursor, cursor.copy(statement) as copy:
            copy.set_types(types)
            for row in rows:
                copy.write_row(row)


class _Text(StrDumper):
    """A text there cannot hold NUL; what a remote or a person wrote is kept readable instead of being refused."""

    def dump(self, obj: str) -> Any:
        return super().dump(_storable(obj))


class _TextBinary(StrBinaryDumper):
    def dump(self, obj: str) -> Any:
        return super().dump(_storable(obj))


def _storable(text: str) -> str:
    if "\0" in text:
        text = text.replace("\0", "\u2400")
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def named_rows(cursor: psycopg.Cursor[Any]) -> Callable[[Sequence[Any]], Any]:
    """Rows like those of sqlite3: by position, by name, unpackable."""
    return _row_class(tuple(column.name for column in cursor.description or ()))


@lru_cache(maxsize=512)
def _row_class(names: tuple[str, ...]) -> type[tuple[Any, ...]]:
    places = {name: place for place, name in enumerate(names)}

    class NamedRow(tuple[Any, ...]):
        __slots__ = ()

        def __getitem__(self, key: Any) -> Any:
            return tuple.__getitem__(self, places[key] if isinstance(key, str) else key)

        def keys(self) -> tuple[str, ...]:
            return names

    return NamedRow


class PostgresSession:
    """One connection that comes back after it was cut."""

    def __init__(self, connect: Callable[[], Connection], where: str, clock: Callable[[], datetime] | None) -> None:
        self._connect = connect
        self._where = where
        self._clock = clock
        self._connection: Connection | None = None

    def ready(self) -> None:
        with postgres_errors(self._where):
            self._connected()

    def run(self, query: Callable[[Tx], T], mode: Mode) -> T:
        with postgres_errors(self._where):
            for number in range(TRIES):
                try:
                    with self._transaction(mode) as tx:
                        return query(tx)
                except _AGAIN:
                    time.sleep(random.uniform(0, min(0.002 * 2**number, PAUSE_MOST)))
            with self._transaction(mode) as tx:
                return query(tx)

    @contextmanager
    def transaction(self, mode: Mode) -> Iterator[Tx]:
        with postgres_errors(self._where), self._transaction(mode) as tx:
            yield tx

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextmanager
    def _transaction(self, mode: Mode) -> Iterator[Tx]:
        connection = self._begun(mode)
        tx = Tx(connection, "postgresql", self._clock or (lambda: _server_time(connection)))
        try:
            yield tx
            connection.execute("COMMIT", binary=False)
        except BaseException:
            with suppress(psycopg.Error):
                connection.execute("ROLLBACK", binary=False)
            raise

    def _begun(self, mode: Mode) -> Connection:
        """A connection that was cut while it lay idle shows only now, and nothing is lost by a second try."""
        try:
            return self._begin(self._connected(), mode)
        except psycopg.OperationalError:
            if self._connection is None or not self._connection.broken:
                raise
        return self._begin(self._connected(), mode)

    def _begin(self, connection: Connection, mode: Mode) -> Connection:
        for statement in _BEGIN[mode].split("; "):
            connection.execute(statement, binary=False)
        return connection

    def _connected(self) -> Connection:
        if self._connection is None or self._connection.closed:
            self._connection = self._connect()
        return self._connection


def _server_time(connection: Connection) -> datetime:
    at: datetime = connection.execute("SELECT clock_timestamp()").fetchone()[0]
    return at.astimezone(UTC)


@contextmanager
def postgres_errors(where: str) -> Iterator[None]:
    """What the server or the connection says, in the store's own errors; programming mistakes pass unchanged."""
    try:
        yield
    except psycopg.Error as error:
        made = _store_error(error, where)
        if made is None:
            raise
        raise made from error


def _store_error(error: psycopg.Error, where: str) -> StoreError | None:
    said = (error.diag.message_primary or str(error)).strip().splitlines()[0:1]
    text = said[0] if said else type(error).__name__
    if isinstance(error, pg.DiskFull | pg.OutOfMemory | pg.ConfigurationLimitExceeded):
        return StoreFullError(f"no room left at {where}; free space there, nothing was lost and work resumes ({text})")
    if isinstance(error, pg.LockNotAvailable | pg.QueryCanceled | pg.SerializationFailure | pg.DeadlockDetected):
        return StoreBusyError(f"{where} is kept busy by other transactions; retry ({text})")
    if isinstance(error, psycopg.IntegrityError):
        return StoreConflictError(f"{where}: {text}")
    if isinstance(error, pg.DataCorrupted | pg.IndexCorrupted):
        return StoreCorruptError(f"{where} is damaged; restore the last backup ({text})")
    if isinstance(error, pg.InsufficientPrivilege | pg.ReadOnlySqlTransaction):
        return StoreUnavailableError(f"{where} refuses; check the rights of this user, or who is primary ({text})")
    if isinstance(error, psycopg.OperationalError):
        return StoreUnavailableError(f"{where} cannot be used: {text}; check that it runs and the URL is right")
    return None
