"""Tables: the numbered SQL files beside this module, applied in order to an older or new database.

Called by the daemon before anything else uses the store. Expand, then contract: no file may break the code before it.
There is no way down; an older program refuses a newer database instead of guessing.
"""

import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from reconciler.store.database import Database, Tx
from reconciler.store.dialect import POSTGRESQL, SQLITE, render
from reconciler.store.errors import StoreVersionError

_HAS_VERSIONS = {
    "sqlite": "SELECT 1 FROM sqlite_master WHERE name = 'schema_version'",
    "postgresql": "SELECT to_regclass('schema_version') IS NOT NULL",
}
_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")


@dataclass(frozen=True, slots=True)
class Migration:
    """One file: its number is the schema version it leads to."""

    number: int
    name: str
    sql: str


def migrations(folder: Path = Path(__file__).parent) -> list[Migration]:
    """All files in order of their numbers."""
    found = [(match, file) for file in folder.iterdir() if (match := _NAME.fullmatch(file.name))]
    return sorted(
        (Migration(int(match[1]), file.stem, file.read_text(encoding="utf-8")) for match, file in found),
        key=lambda migration: migration.number,
    )


async def migrate(db: Database) -> int:
    """Bring the database up to this program's version in one transaction; gives that version."""
    known = migrations()
    return await db.write(lambda tx: apply(tx, known, db.where), guarded=True)


def apply(tx: Tx, known: list[Migration], where: str) -> int:
    """Apply what `known` has and the database lacks; refuses a database that is ahead of `known`."""
    _begin(tx)
    tx.execute("CREATE TABLE IF NOT EXISTS schema_version (number INTEGER PRIMARY KEY, name TEXT NOT NULL)")
    applied = {row["number"] for row in tx.all("SELECT number FROM schema_version")}
    refuse_newer(max(applied, default=0), known[-1].number, where)
    for migration in known:
        if migration.number not in applied:
            _apply_one(tx, migration)
    return known[-1].number


def _begin(tx: Tx) -> None:
    """Several processes may start at once: the first one brings the tables, the others wait for it."""
    if tx.dialect == "postgresql":
        tx.execute("SELECT pg_advisory_xact_lock(hashtext('reconciler migrations'))")
        tx.execute("SELECT set_config('client_min_messages', 'warning', true)")
        if not tx.value("SELECT to_regnamespace('reconciler') IS NOT NULL"):
            tx.execute("CREATE SCHEMA reconciler")


def refuse_newer(found: int, known: int, where: str) -> None:
    """Raise where the database was written by a newer program."""
    if found > known:
        raise StoreVersionError(
            f"{where} has schema version {found}, this program knows {known}; "
            "run the newer release that wrote it, or restore the backup taken before the upgrade"
        )


def check_version(tx: Tx, where: str) -> None:
    """For offline readers: the tables are there and this program understands them."""
    latest = migrations()[-1].number
    found = schema_version(tx)
    refuse_newer(found, latest, where)
    if found < latest:
        raise StoreVersionError(
            f"{where} has schema version {found}, this program needs {latest}; start the daemon once"
        )


def schema_version(tx: Tx) -> int:
    """Highest migration applied; 0 for a database without tables."""
    if not tx.value(_HAS_VERSIONS[tx.dialect]):
        return 0
    return int(tx.value("SELECT coalesce(max(number), 0) FROM schema_version"))


def _apply_one(tx: Tx, migration: Migration) -> None:
    dialect = SQLITE if tx.dialect == "sqlite" else POSTGRESQL
    for sql in _statements(render(migration.sql, dialect)):
        tx.execute(sql)
    tx.execute(
        "INSERT INTO schema_version (number, name) VALUES (:number, :name)",
        {"number": migration.number, "name": migration.name},
    )


def _statements(script: str) -> Iterator[str]:
    """Single statements: the driver's own script call would commit our transaction."""
    pending = ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            yield pending.strip()
            pending = ""
    if _meaning(pending):
        raise ValueError(f"migration ends inside a statement: {pending.strip()[:80]}")


def _meaning(text: str) -> str:
    return "".join(line for line in text.splitlines() if not line.lstrip().startswith("--")).strip()
