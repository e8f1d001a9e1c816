"""An installation in another database: every row of every table arrives, in either direction, or nothing does."""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from reconciler.model.secret import Secret
from reconciler.store import integrations, scrub
from reconciler.store.copying import PORTION, Side, copy
from reconciler.store.database import Backend, Tx
from reconciler.store.errors import StoreConflictError, StoreCorruptError, StoreOccupiedError, StoreVersionError
from reconciler.store.integrations import DesiredChange
from reconciler.store.migrations import apply, migrations, schema_version
from reconciler.store.postgres import Postgres
from reconciler.store.sqlite import Sqlite, new_file
from tests.desk import desired

AT = "2026-05-04T00:00:00.000000Z"
LATEST = migrations()[-1].number
LEFT = {"schema_version", "alive", "lease"}
# what a column may hold where its type says too little
_CHOSEN = {
    ("inventory", "state"): "creating",
    ("replay", "state"): "done",
    ("run", "state"): "done",
    ("run_entity", "state"): "partial",
    ("delivery", "status"): "unknown",
    ("inbox_item", "state"): "queued",
    ("job", "state"): "due",
    ("lease", "owner"): "somebody",
}


@pytest.fixture
def lite(tmp_path: Path) -> Backend:
    return Sqlite(tmp_path / "lite.db")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.needs("initdb"))])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return Sqlite(tmp_path / "target.db")
    return Postgres(request.getfixturevalue("postgres_url"))


@contextmanager
def opened(backend: Backend) -> Iterator[Tx]:
    with closing(backend.connect(is_reader=False)) as session, session.transaction("guarded") as tx:
        yield tx


@contextmanager
def reading(backend: Backend) -> Iterator[Tx]:
    with closing(backend.visit(is_reader=True)) as session, session.transaction("read") as tx:
        yield tx


def carry(source: Backend, target: Backend) -> dict[str, int]:
    with reading(source) as before, opened(target) as after:
        return copy(Side(before, source.where), Side(after, target.where))


def tables(tx: Tx) -> dict[str, list[tuple[str, str]]]:
    """Name -> columns with their types, as SQLite has them."""
    names = [n for (n,) in tx.all("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY rowid")]
    return {
        n: [(c, kind) for c, kind in tx.all("SELECT name, type FROM pragma_table_info(:n)", n=n)]
        for n in names
        if not n.startswith("sqlite_")
    }


def fill(tx: Tx) -> None:
    """Something in every column of every table; more than one portion where it is cheap."""
    tx.execute("DELETE FROM job_ticket")
    for table, columns in tables(tx).items():
        if table == "schema_version":
            continue
        count = PORTION * 2 + 7 if table in ("head", "version", "log") else 1 if table == "job_ticket" else 3
        names = ", ".join(c for c, _ in columns)
        rows = [[_value(table, *column, number) for column in columns] for number in range(1, count + 1)]
        tx.executemany(f"INSERT INTO {table} ({names}) VALUES ({', '.join('?' * len(columns))})", rows)
    tx.execute("INSERT INTO log (id, integration_id, at, level, message) VALUES (9000, 1, '', '', '')")
    tx.execute("DELETE FROM log WHERE id = 9000")


def _value(table: str, column: str, kind: str, number: int) -> Any:
    if (table, column) in _CHOSEN:
        return _CHOSEN[table, column]
    if column in ("integration_id", "delivery_id", "inbox_id", "replay_id") or (
        table in ("run_entity", "run_event") and column.endswith("_id")
    ):
        return number if column != "integration_id" else (number - 1) % 3 + 1
    if kind == "TEXT":
        return f"Grüße 🎉 '{number}' \\N \t {column}"
    if kind == "BLOB":
        return bytes(range(256)) + bytes([number % 256])
    if kind == "REAL":
        return number + 0.1
    return number if column in ("id", "number", "page") or number < 3 else 0


def content(backend: Backend, known: dict[str, list[tuple[str, str]]]) -> dict[str, list[tuple[Any, ...]]]:
    with reading(backend) as tx:
        return {
            table: sorted(map(tuple, tx.tuples(f"SELECT {', '.join(c for c, _ in columns)} FROM {table}")), key=repr)
            for table, columns in known.items()
            if table not in LEFT | {"job_ticket"}
        }


@pytest.mark.needs("initdb")
def test_every_row_goes_there_and_back(lite: Backend, postgres_url: Secret, tmp_path: Path) -> None:
    with opened(lite) as tx:
        apply(tx, migrations(), lite.where)
        fill(tx)
        known = tables(tx)
    before = content(lite, known)
    assert all(before.values()), "a table is empty: the test would not see it"
    server, back = Postgres(postgres_url), Sqlite(tmp_path / "back.db")
    copied = carry(lite, server)
    assert {table: len(rows) for table, rows in before.items()} == {t: n for t, n in copied.items() if t in before}
    assert carry(server, back) == copied
    assert content(server, known) == content(back, known) == before
    for backend in (server, back):
        with reading(backend) as tx:
            assert schema_version(tx) == LATEST
            assert [tx.value(f"SELECT count(*) FROM {table}") for table in ("alive", "lease")] == [0, 0]


def test_ids_and_tickets_are_never_given_out_again(lite: Backend, target: Backend) -> None:
    with opened(lite) as tx:
        apply(tx, migrations(), lite.where)
        fill(tx)
        tx.execute("UPDATE job SET state = 'running', owner = 'gone' WHERE id = 1")
    carry(lite, target)
    with opened(target) as tx:
        sql = "INSERT INTO log (integration_id, at, level, message) VALUES (1, '', '', '') RETURNING id"
        assert tx.value(sql) == 9001
        wish = desired("desk")
        assert integrations.want(tx, [DesiredChange(wish, "")], AT) == {wish.ref: 4}
        assert tx.value("SELECT value FROM job_ticket") > 1 << 32
        assert [row["state"] for row in tx.all("SELECT state FROM job")] == ["due"] * 3


def test_only_an_empty_database_is_filled(lite: Backend, target: Backend) -> None:
    with opened(lite) as tx:
        apply(tx, migrations(), lite.where)
        fill(tx)
    with opened(target) as tx:
        apply(tx, migrations(), target.where)
    carry(lite, target)
    with pytest.raises(StoreOccupiedError, match=r"is not empty \(there are rows in meta\)"):
        carry(lite, target)


def test_the_copy_has_the_version_of_what_was_copied(lite: Backend, target: Backend) -> None:
    """So that a backup taken by a new release can be restored by the old one."""
    with opened(lite) as tx:
        apply(tx, migrations()[:6], lite.where)
        tx.execute("INSERT INTO meta (key, value) VALUES ('a', 'b')")
    carry(lite, target)
    with opened(target) as tx:
        assert schema_version(tx) == 6
        assert apply(tx, migrations(), target.where).after == LATEST
        assert tx.value("SELECT value FROM meta") == "b"


def test_versions_that_do_not_fit_are_refused(lite: Backend, target: Backend) -> None:
    with opened(lite):
        pass
    with pytest.raises(StoreVersionError, match="is no database of reconciler"):
        carry(lite, target)
    with opened(lite) as tx:
        apply(tx, migrations()[:6], lite.where)
    with opened(target) as tx:
        apply(tx, migrations(), target.where)
    with pytest.raises(StoreVersionError, match=r"has schema version \d+, .* has 6; bring the latter there first"):
        carry(lite, target)
    with opened(lite) as tx:
        apply(tx, migrations(), lite.where)
        tx.execute(f"INSERT INTO schema_version (number, name, requires) VALUES ({LATEST + 1}, 'x', 1)")
    with pytest.raises(StoreVersionError, match="use the newer release"):
        carry(lite, target)


@pytest.mark.needs("initdb")
def test_rows_that_do_not_arrive_are_missed(lite: Backend, postgres_url: Secret) -> None:
    """The other side counts for itself, and nothing is kept."""
    target = Postgres(postgres_url)
    with opened(lite) as tx:
        apply(tx, migrations(), lite.where)
        fill(tx)
    with opened(target) as tx:
        apply(tx, migrations(), target.where)
        tx.execute("CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
        tx.execute(
            "CREATE TRIGGER lose BEFORE INSERT ON head FOR EACH ROW WHEN (NEW.id % 2 = 0) EXECUTE FUNCTION lose()"
        )
    with pytest.raises(StoreCorruptError, match=r"head has 20\d rows instead of 407; nothing was kept"):
        carry(lite, target)
    with reading(target) as tx:
        assert tx.value("SELECT count(*) FROM integration") == 0


def test_it_is_one_moment_of_a_database_at_work(backend: Backend, tmp_path: Path) -> None:
    """A writer keeps two tables the same; the copy never sees one without the other."""
    with opened(backend) as tx:
        apply(tx, migrations(), backend.where)
    write_both(backend, 1)
    stop = threading.Event()

    def work() -> None:
        number = 2
        while not stop.is_set():
            write_both(backend, number)
            number += 1

    writer = threading.Thread(target=work)
    writer.start()
    try:
        counts = [carry(backend, Sqlite(tmp_path / "copy0.db"))]
        while len(counts) < 5 or counts[-1]["meta"] == counts[0]["meta"]:
            counts.append(carry(backend, Sqlite(tmp_path / f"copy{len(counts)}.db")))
    finally:
        stop.set()
        writer.join()
    assert all(count["meta"] == count["budget"] for count in counts)


def write_both(backend: Backend, number: int) -> None:
    with opened(backend) as tx:
        for table, column in (("budget", "blocked_until"), ("meta", "value")):
            tx.execute(f"INSERT INTO {table} (key, {column}) VALUES (?, '')", (str(number),))


def test_what_was_erased_does_not_come_over(lite: Sqlite, tmp_path: Path) -> None:
    secret = b"Ada Lovelace, 12 St James's Square"
    with opened(lite) as tx:
        apply(tx, migrations(), lite.where)
        tx.executemany("INSERT INTO meta (key, value) VALUES (?, ?)", [(str(n), secret.decode()) for n in range(9)])
    with opened(lite) as tx:
        tx.execute("PRAGMA secure_delete=OFF")
        tx.execute("DELETE FROM meta")
        scrub.ask(tx)
    assert secret in lite.path.read_bytes()
    target = Sqlite(tmp_path / "copy.db")
    carry(lite, target)
    assert secret not in target.path.read_bytes()
    with reading(target) as tx:
        assert not scrub.is_due(tx)


def _breaks(tx: Tx) -> None:
    tx.execute("INSERT INTO meta (key, value) VALUES ('a', 'b')")
    tx.execute("INSERT INTO meta (key, value) VALUES ('a', 'b')")


def _gives_up(tx: Tx) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(("step", "error"), [(_breaks, StoreConflictError), (_gives_up, KeyboardInterrupt)])
def test_a_file_that_was_not_finished_is_not_there(
    tmp_path: Path, step: Callable[[Tx], None], error: type[BaseException]
) -> None:
    def write() -> None:
        with new_file(tmp_path / "b.db") as session, session.transaction("guarded") as tx:
            apply(tx, migrations(), "b.db")
            step(tx)

    with pytest.raises(error):
        write()
    assert list(tmp_path.iterdir()) == []
