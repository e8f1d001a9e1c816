"""No byte of what was erased or purged stays in the database file.

SQLite leaves what deleted rows held in unused parts of pages; zeroing on delete does not reach the copies that splits
of pages leave behind (measured: 1 of 200 keys was still there). So the whole file is written anew, without them, and
the write-ahead log is emptied. `ask` notes in the transaction that deletes that this is to be done, so it happens also
after a crash; `scrub` does it, called by the daemon every few seconds. While the file is written nobody else can write,
and the folder of the database needs room for it once more. On PostgreSQL the server does it: VACUUM.
"""

from collections.abc import Callable
from pathlib import Path

from reconciler.store.database import Database, Tx

_MARK = "scrub"
_FILE, _LOG = "file", "log"
_PATIENCE_MS = 200


def ask(tx: Tx) -> None:
    """Something was deleted that must leave no trace."""
    if tx.dialect == "sqlite":
        _put(tx, _FILE)


def is_due(tx: Tx) -> bool:
    return tx.value("SELECT 1 FROM meta WHERE key = :key", key=_MARK) is not None


async def scrub(database: Database) -> bool:
    """Do what was asked for, if anything; whether nothing is left to do. Raises StoreError, and may be called again."""
    if not await database.read(is_due):
        return True
    return await database.write(_scrub)


def _scrub(tx: Tx) -> bool:
    """Readers may keep the log from being emptied; then only that is left for the next call."""
    if tx.value("SELECT value FROM meta WHERE key = :key", key=_MARK) == _FILE:
        _outside(tx, _write_anew)
        _put(tx, _LOG)
    if _outside(tx, _empty_log):
        forget(tx)
        return True
    return False


def forget(tx: Tx) -> None:
    """Nothing is left to do."""
    tx.execute("DELETE FROM meta WHERE key = :key", {"key": _MARK})


def _put(tx: Tx, value: str) -> None:
    tx.execute(
        "INSERT INTO meta (key, value) VALUES (:key, :value) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        {"key": _MARK, "value": value},
    )


def _outside(tx: Tx, call: Callable[[Tx], bool]) -> bool:
    """SQLite does these between transactions only; this thread is the only writer, so nobody comes in between."""
    tx.execute("COMMIT")
    try:
        return call(tx)
    finally:
        tx.execute("BEGIN IMMEDIATE")


def _write_anew(tx: Tx) -> bool:
    # the copy that is made on the way belongs beside the database: there it has room, and only its owner looks in
    file = tx.value("SELECT file FROM pragma_database_list WHERE name = 'main'")
    folder = str(Path(file).parent).replace("'", "''")
    tx.execute(f"PRAGMA temp_store_directory='{folder}'")  # the environment was read when SQLite began
    tx.execute("PRAGMA temp_store=FILE")  # in memory, where it is otherwise, it would have to fit
    try:
        tx.execute("VACUUM")
    finally:
        tx.execute("PRAGMA temp_store=MEMORY")
    return True


def _empty_log(tx: Tx) -> bool:
    """False where somebody still reads the log: waiting for them would keep everybody else from writing."""
    patience = tx.value("PRAGMA busy_timeout")
    tx.execute(f"PRAGMA busy_timeout={_PATIENCE_MS}")
    try:
        return bool(tx.value("PRAGMA wal_checkpoint(TRUNCATE)") == 0)
    finally:
        tx.execute(f"PRAGMA busy_timeout={patience}")
