"""Tables: the numbered SQL files beside this module, applied in order to an older or new database.

Called by the daemon before anything else uses the store, and by `reconciler migrate`. Each file begins with
`-- requires: N`: the lowest version a program must know to work on a database that has this file. A file that only adds
(expand) keeps the N of the file before it, so an old and a new release work side by side; one that takes away what older
programs use (contract) names its own number, or that of the file since which nothing uses it any more. The highest N is kept
in the database, and a program that knows less refuses it instead of guessing. There is no way down. A statement under
`-- only: sqlite` or `-- only: postgresql` is for that database.
"""

import re
import sqlite3
from collections.abc import Iterator, Sequence
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
_REQUIRES = re.compile(r"-- requires: (\d+)\n")
_ONLY = re.compile(r"^-- only: (\w+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Migration:
    """One file: its number is the schema version it leads to."""

    number: int
    name: str
    sql: str

    @property
    def requires(self) -> int | None:
        """None for those from before the number was kept."""
        found = _REQUIRES.match(self.sql)
        return int(found[1]) if found else None


@dataclass(frozen=True, slots=True)
class Migrated:
    """From which schema version to which; the same where nothing was to be done."""

    before: int
    after: int


def migrations(folder: Path = Path(__file__).parent) -> list[Migration]:
    """All files in order of their numbers."""
    found = [(match, file) for file in folder.iterdir() if (match := _NAME.fullmatch(file.name))]
    return sorted(
        (Migration(int(match[1]), file.stem, file.read_text(encoding="utf-8")) for match, file in found),
        key=lambda migration: migration.number,
    )


async def migrate(db: Database) -> Migrated:
    """Bring the database up to this program's version in one transaction."""
    known = migrations()
    return await db.write(lambda tx: apply(tx, known, db.where), guarded=True)


def apply(tx: Tx, known: Sequence[Migration], where: str) -> Migrated:
    """Apply what `known` has and the database lacks; refuses a database that demands more than `known`."""
    _begin(tx)
    before = schema_version(tx)
    if not before:
        tx.execute("CREATE TABLE IF NOT EXISTS schema_version (number INTEGER PRIMARY KEY, name TEXT NOT NULL)")
    refuse_newer(tx, known[-1].number, where)
    for migration in known:
        if migration.number > before:
            _apply_one(tx, migration)
    return Migrated(before, max(before, known[-1].number))


def _begin(tx: Tx) -> None:
    """Several processes may start at once: the first one brings the tables, the others wait for it."""
    if tx.dialect == "postgresql":
        tx.execute("SELECT pg_advisory_xact_lock(hashtext('reconciler migrations'))")
        tx.execute("SELECT set_config('client_min_messages', 'warning', true)")
        if not tx.value("SELECT to_regnamespace('reconciler') IS NOT NULL"):
            tx.execute("CREATE SCHEMA reconciler")


def refuse_newer(tx: Tx, known: int, where: str) -> None:
    """Raise where a newer program has changed the database beyond what this one can work on."""
    found = schema_version(tx)
    if found > known and required(tx) > known:
        raise StoreVersionError(
            f"{where} has schema version {found}, this program knows {known}; "
            "run the newer release that wrote it, or restore the backup taken before the upgrade"
        )


def required(tx: Tx) -> int:
    """The lowest version that a program must know to work here."""
    return int(tx.value("SELECT coalesce(max(requires), 0) FROM schema_version"))


def check_version(tx: Tx, where: str) -> None:
    """For offline readers: the tables are there and this program understands them."""
    latest = migrations()[-1].number
    refuse_newer(tx, latest, where)
    found = schema_version(tx)
    if found < latest:
        raise StoreVersionError(
            f"{where} has schema version {found}, this program needs {latest}; start the daemon once, or: reconciler migrate"
        )


def schema_version(tx: Tx) -> int:
    """Highest migration applied; 0 for a database without tables."""
    if not tx.value(_HAS_VERSIONS[tx.dialect]):
        return 0
    return int(tx.value("SELECT coalesce(max(number), 0) FROM schema_version"))


def _apply_one(tx: Tx, migration: Migration) -> None:
    dialect = SQLITE if tx.dialect == "sqlite" else POSTGRESQL
    for sql in _statements(render(migration.sql, dialect)):
        only = _ONLY.search(sql)
        if only is None or only[1] == dialect.name:
            tx.execute(sql)
    tx.execute(
        "INSERT INTO schema_version (number, name) VALUES (:number, :name)",
        {"number": migration.number, "name": migration.name},
    )
    if migration.requires is not None:
        tx.execute(
            "UPDATE schema_version SET requires = :requires WHERE number = :number",
            {"requires": migration.requires, "number": migration.number},
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
