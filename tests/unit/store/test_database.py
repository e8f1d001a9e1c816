"""The database base: transactions, classed errors, offline reading, migrations, the state directory."""

import asyncio
import multiprocessing
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio

from reconciler.store.database import Database, Tx
from reconciler.store.dialect import POSTGRESQL, SQLITE, render, statement
from reconciler.store.errors import (
    StateLockedError,
    StoreBusyError,
    StoreConflictError,
    StoreCorruptError,
    StoreFullError,
    StoreUnavailableError,
    StoreVersionError,
)
from reconciler.store.location import open_readonly
from reconciler.store.migrations import Migration, apply, check_version, migrate, migrations, schema_version
from reconciler.store.sqlite import Sqlite
from reconciler.store.state_directory import StateDirectory


@pytest_asyncio.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    opened = Database(Sqlite(tmp_path / "with space ?#.db", busy_timeout=timedelta(seconds=0.05)))
    await opened.write(lambda tx: tx.rowcount("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT UNIQUE)"))
    yield opened
    opened.close()


def insert(tx: Tx, text: str) -> int:
    made: int = tx.value("INSERT INTO t (b) VALUES (:b) RETURNING a", b=text)
    return made


def count(tx: Tx) -> int:
    found: int = tx.value("SELECT count(*) FROM t")
    return found


async def test_rows_by_name_and_position(db: Database) -> None:
    await db.write(lambda tx: tx.executemany("INSERT INTO t (b) VALUES (?)", [("x",), ("y",)]))
    rows = await db.read(lambda tx: tx.all("SELECT a, b FROM t ORDER BY a"))
    assert [(row[0], row["b"]) for row in rows] == [(1, "x"), (2, "y")]
    assert await db.read(lambda tx: tx.one("SELECT a FROM t WHERE b = :b", b="none")) is None
    assert await db.write(lambda tx: tx.rowcount("DELETE FROM t WHERE a > :a", a=0)) == 2


async def test_text_that_is_no_unicode_is_kept_spelled_out(db: Database) -> None:
    """File names, authors and mail servers may be older than UTF-8; none of them may keep everything else from being written."""

    def write(tx: Tx) -> None:
        insert(tx, "caf\udce9")
        tx.executemany("INSERT INTO t (b) VALUES (?)", [("one",), ("\udcff.yaml",), ("two",), ("\ud800",)])

    await db.write(write)
    kept = await db.read(lambda tx: [text for (text,) in tx.all("SELECT b FROM t ORDER BY a")])
    assert kept == [r"caf\udce9", "one", r"\udcff.yaml", "two", r"\ud800"]


async def test_a_failed_transaction_leaves_nothing_and_the_connection_works(db: Database) -> None:
    def fails(tx: Tx) -> None:
        insert(tx, "x")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await db.write(fails)
    assert await db.write(lambda tx: insert(tx, "y")) == 1
    assert await db.read(count) == 1


async def test_a_reader_sees_one_snapshot_while_others_write(db: Database) -> None:
    loop = asyncio.get_running_loop()

    def reads(tx: Tx) -> tuple[int, int]:
        before = count(tx)
        asyncio.run_coroutine_threadsafe(db.write(lambda tx: insert(tx, "x")), loop).result(5)
        return before, count(tx)

    assert await db.read(reads) == (0, 0)
    assert await db.read(count) == 1


async def test_readers_cannot_write(db: Database) -> None:
    with pytest.raises(StoreUnavailableError):
        await db.read(lambda tx: insert(tx, "x"))


async def test_durable_commits_in_full_and_goes_back(db: Database) -> None:
    def mode(tx: Tx) -> int:
        found: int = tx.value("PRAGMA synchronous")
        return found

    assert await db.write(mode, durable=True) == 2
    assert await db.write(mode) == 1


async def test_pragmas(db: Database) -> None:
    def read(tx: Tx) -> list[object]:
        return [tx.value(f"PRAGMA {name}") for name in ("journal_mode", "page_size", "foreign_keys")]

    assert await db.read(read) == ["wal", 16384, 1]


async def test_a_full_disk_is_said_and_undone(db: Database) -> None:
    await db.write(lambda tx: tx.value("PRAGMA max_page_count=4"))
    with pytest.raises(StoreFullError, match=r"with space.*free space"):
        await db.write(lambda tx: tx.executemany("INSERT INTO t (b) VALUES (?)", [("x" * 90_000,)]))
    assert db.refused == 1
    assert await db.write(lambda tx: insert(tx, "small")) == 1
    assert db.refused == 1


async def test_a_lock_held_too_long_is_said_and_the_next_write_works(db: Database) -> None:
    blocker = sqlite3.connect(Path(db.where), isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreBusyError, match="locked by another process"):
        await db.write(lambda tx: insert(tx, "x"))
    blocker.execute("ROLLBACK")
    blocker.close()
    assert await db.write(lambda tx: insert(tx, "x")) == 1


async def test_a_broken_rule_is_a_conflict(db: Database) -> None:
    await db.write(lambda tx: insert(tx, "x"))
    with pytest.raises(StoreConflictError):
        await db.write(lambda tx: insert(tx, "x"))


async def test_what_is_no_database_is_said(tmp_path: Path) -> None:
    (tmp_path / "bad.db").write_bytes(b"not a database, but long enough to be read as one" * 50)
    with pytest.raises(StoreCorruptError, match=r"bad\.db"):
        Database(Sqlite(tmp_path / "bad.db"))
    with pytest.raises(StoreUnavailableError, match="folder exists"):
        Database(Sqlite(tmp_path / "nowhere" / "x.db"))


async def test_reading_offline_beside_a_daemon_and_after_it(db: Database) -> None:
    await db.write(lambda tx: insert(tx, "x"))
    with open_readonly(Path(db.where)) as tx:
        assert count(tx) == 1
    db.close()
    with open_readonly(Path(db.where)) as tx:
        assert count(tx) == 1
    with pytest.raises(StoreUnavailableError), open_readonly(Path(db.where)) as tx:
        insert(tx, "y")
    with pytest.raises(StoreUnavailableError, match="does not exist"), open_readonly(Path(db.where).with_name("none")):
        pass


async def test_migrations_apply_once_and_a_newer_database_is_refused(tmp_path: Path) -> None:
    db = Database(Sqlite(tmp_path / "r.db"))
    latest = await migrate(db)
    assert (latest.before, latest.after) == (0, await db.read(schema_version))
    assert (await migrate(db)).before == latest.after
    await db.read(lambda tx: check_version(tx, "r.db"))
    await db.write(lambda tx: tx.rowcount("INSERT INTO schema_version VALUES (9999, 'future', 9999)"))
    with pytest.raises(StoreVersionError, match=r"r\.db has schema version 9999, this program knows"):
        await migrate(db)
    db.close()


async def test_a_failing_migration_leaves_the_database_as_it_was(db: Database) -> None:
    broken = [Migration(1, "0001_x", "CREATE TABLE one (a TEXT); -- a; b\nCREATE TABLE t (a TEXT);")]
    with pytest.raises(sqlite3.OperationalError):
        await db.write(lambda tx: apply(tx, broken, "db"))
    assert await db.read(schema_version) == 0
    assert await db.read(lambda tx: tx.value("SELECT count(*) FROM sqlite_master WHERE name = 'one'")) == 0
    with pytest.raises(StoreVersionError, match="start the daemon once"):
        await db.read(lambda tx: check_version(tx, "db"))


def test_numbers_of_migrations_have_no_gap() -> None:
    assert [migration.number for migration in migrations()] == list(range(1, len(migrations()) + 1))


def test_migrations_render_for_both_databases() -> None:
    for migration in migrations():
        assert "AUTOINCREMENT" not in render(migration.sql, POSTGRESQL)
        assert "bytea" not in render(migration.sql, SQLITE)
    with pytest.raises(ValueError, match="blub"):
        render("a {blub}", SQLITE)


def test_placeholders_for_psycopg() -> None:
    sql = "SELECT a::text FROM t WHERE b = :b AND c LIKE '%x' AND d = ?"
    assert statement(sql, "sqlite") == sql
    assert statement(sql, "postgresql") == "SELECT a::text FROM t WHERE b = %(b)s AND c LIKE '%%x' AND d = %s"


def test_the_state_directory_is_private_and_has_one_owner(tmp_path: Path) -> None:
    with StateDirectory(tmp_path / "a" / "state") as state:
        assert stat.S_IMODE(state.path.stat().st_mode) == 0o700
        with pytest.raises(StateLockedError, match=f"in use by process {os.getpid()}"):
            StateDirectory(state.path).acquire()
    with StateDirectory(state.path):
        pass


def _hold(path: Path, ready: "multiprocessing.synchronize.Event") -> None:
    StateDirectory(path).acquire()
    ready.set()
    os.kill(os.getpid(), 9)


def test_a_killed_owner_leaves_no_lock(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_hold, args=(tmp_path, ready))
    process.start()
    assert ready.wait(120)
    process.join(120)
    with StateDirectory(tmp_path):
        pass


def test_a_state_directory_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailableError, match="choose another"):
        StateDirectory(tmp_path / "file" / "state").acquire()


def test_the_base_imports_neither_engine_nor_driver() -> None:
    code = (
        "import sys, reconciler.store.database; print({'dbos', 'psycopg', 'sqlalchemy', 'pydantic'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
