"""A whole installation from one database into another of either kind: every row of every table, or nothing.

In: a read transaction, and one on a database without anything in it. Out: what was copied, by table, after both sides were
counted. Called for `reconciler database`. Memory stays flat: rows go over in small portions. The copy has the schema version of
what was copied. Left behind: who works at the moment, and the job engine's rows, which are in a database of their own;
work that was under way is due again.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path

from reconciler.store import jobs, scrub
from reconciler.store.database import Tx
from reconciler.store.errors import StoreCorruptError, StoreOccupiedError, StoreVersionError, sqlite_errors
from reconciler.store.migrations import apply, migrations, schema_version

PORTION = 200
_NOT_COPIED = frozenset({"schema_version", "alive", "lease"})
_SEEDED = frozenset({"schema_version", "job_ticket"})  # a migration writes the first rows
_TICKETS = 1 << 32
_TABLES = {
    "sqlite": "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY rowid",
    "postgresql": "SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace('reconciler')::oid"
    " AND relkind = 'r' ORDER BY oid",
}
_COLUMNS = {
    "sqlite": "SELECT name, type FROM pragma_table_info(:t)",
    "postgresql": "SELECT attname, format_type(atttypid, NULL) FROM pg_attribute"
    " WHERE attrelid = to_regclass(:t)::oid AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
}
_GIVEN = {
    "sqlite": "SELECT name, seq FROM sqlite_sequence",
    "postgresql": "SELECT left(sequencename, -7), last_value FROM pg_sequences"  # run_id_seq
    " WHERE schemaname = 'reconciler' AND last_value IS NOT NULL",
}
Tell = Callable[[str, int], None]


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two databases; `where` names it in messages."""

    tx: Tx
    where: str


def copy(source: Side, target: Side, tell: Tell = lambda _table, _rows: None) -> dict[str, int]:
    """Rows by table; `tell` hears of each that is done. The target's transaction is the inner one. Raises StoreError."""
    for side in (source, target):
        _be_patient(side.tx)
    _prepare(source, target)
    copied: dict[str, int] = {}
    for table in _tables(target.tx):
        if table not in _NOT_COPIED:
            copied[table] = _copy_table(source, target, table)
            tell(table, copied[table])
    _go_on_counting(source.tx, target.tx)
    _settle(target.tx, list(copied))
    return copied


def _be_patient(tx: Tx) -> None:
    """One side waits while the other reads, writes or counts a large table."""
    if tx.dialect == "postgresql":
        tx.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        tx.execute("SET LOCAL synchronous_commit = on")


def _prepare(source: Side, target: Side) -> None:
    """Raises StoreError unless the target is empty and can be given the tables that the source has."""
    known, found, there = migrations(), source_version(source), schema_version(target.tx)
    demand_empty(target)
    if there > found:
        raise StoreVersionError(
            f"{target.where} has schema version {there}, {source.where} has {found}; bring the latter there first "
            "(reconciler migrate), or copy into a database without tables"
        )
    apply(target.tx, [migration for migration in known if migration.number <= found], target.where)
    for table in _SEEDED - _NOT_COPIED:
        target.tx.execute(f"DELETE FROM {table}")


def source_version(source: Side) -> int:
    """Raises StoreVersionError for what this program cannot copy."""
    known, found = migrations()[-1].number, schema_version(source.tx)
    if not found:
        raise StoreVersionError(f"{source.where} is no database of reconciler: it has none of its tables")
    if found > known:
        raise StoreVersionError(
            f"{source.where} has schema version {found}, this program knows {known}; use the newer release"
        )
    return found


def demand_empty(side: Side) -> None:
    """Raises StoreOccupiedError where anything was ever kept there; tables without rows may be there."""
    for table in _tables(side.tx):
        if table not in _SEEDED and side.tx.value(f"SELECT 1 FROM {table} LIMIT 1") is not None:
            raise StoreOccupiedError(
                f"{side.where} is not empty (there are rows in {table}); name a database without any"
            )


def _tables(tx: Tx) -> list[str]:
    """In the order in which they were made: what others refer to comes first."""
    return [name for (name,) in tx.all(_TABLES[tx.dialect])]


def _copy_table(source: Side, target: Side, table: str) -> int:
    columns: dict[str, str] = dict(target.tx.tuples(_COLUMNS[target.tx.dialect], t=table))
    with _errors_of(source):
        expected = int(source.tx.value(f"SELECT count(*) FROM {table}"))
    for portion in _portions(source, f"SELECT {', '.join(columns)} FROM {table}") if expected else ():
        target.tx.insert(table, columns, portion)
    found = int(target.tx.value(f"SELECT count(*) FROM {table}"))
    if found != expected:
        raise StoreCorruptError(f"{target.where}: {table} has {found} rows instead of {expected}; nothing was kept")
    return found


def _portions(source: Side, sql: str) -> Iterator[Sequence[Sequence[object]]]:
    with _errors_of(source), closing(source.tx.stream(sql)) as rows:
        while portion := rows.fetchmany(PORTION):
            yield portion


def _errors_of(source: Side) -> AbstractContextManager[None]:
    """Two files at a time: what SQLite says does not tell which of them it means."""
    return sqlite_errors(Path(source.where)) if source.tx.dialect == "sqlite" else nullcontext()


def _go_on_counting(source: Tx, target: Tx) -> None:
    """An id that was ever given out never names another row, even when its own is gone."""
    for table, last in source.all(_GIVEN[source.dialect]):
        if target.dialect == "postgresql":
            target.value("SELECT setval(pg_get_serial_sequence(:t, 'id')::regclass, :n)", t=table, n=last)
        else:
            target.execute("DELETE FROM sqlite_sequence WHERE name = :t", {"t": table})
            target.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (:t, :n)", {"t": table, "n": last})


def _settle(tx: Tx, tables: Sequence[str]) -> None:
    """Nobody works there. Tickets jump, so that rows which an engine kept from another life of this database fit no job."""
    jobs.reset(tx)
    tx.execute("UPDATE job_ticket SET value = value + :n", {"n": _TICKETS})
    scrub.forget(tx)  # what was erased did not come over
    if tx.dialect == "postgresql":
        for table in tables:
            tx.execute(f"ANALYZE {table}")
