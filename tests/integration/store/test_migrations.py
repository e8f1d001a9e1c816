"""An old and a new release on one database: what only adds keeps the old one working, what takes away stops it clearly."""

import re
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from reconciler.model.record import Scope
from reconciler.model.secret import Secret
from reconciler.store import integrations, runs
from reconciler.store.database import Backend, Session, Tx
from reconciler.store.errors import StoreUnavailableError, StoreVersionError
from reconciler.store.integrations import DesiredChange
from reconciler.store.migrations import Migrated, Migration, apply, check_version, migrations, required, schema_version
from reconciler.store.postgres import Postgres
from reconciler.store.runs import NewRun
from tests.desk import desired

KNOWN = migrations()
AT = "2026-05-04T00:00:00.000000Z"
LATEST = KNOWN[-1].number
ADDS = Migration(
    LATEST + 1, "added", f"-- requires: {LATEST}\nALTER TABLE run ADD COLUMN mood TEXT NOT NULL DEFAULT '';"
)
TAKES = Migration(LATEST + 2, "taken", f"-- requires: {LATEST + 1}\nALTER TABLE run DROP COLUMN mood;")


@contextmanager
def session(backend: Backend) -> Iterator[Session]:
    with closing(backend.connect(is_reader=False)) as opened:
        yield opened


@pytest.fixture
def old(backend: Backend) -> Iterator[Session]:
    """A process of this release at work: its statements are prepared, and it stays connected."""
    with session(backend) as opened:
        assert migrated(opened, KNOWN) == Migrated(0, LATEST)
        for _ in range(10):
            opened.run(work, "write")
        yield opened


def migrated(session: Session, known: list[Migration]) -> Migrated:
    return session.run(lambda tx: apply(tx, known, "the store"), "guarded")


def work(tx: Tx) -> str:
    """What a process does: a run is asked for, and read back whole."""
    wish = desired("desk")
    integration_id = integrations.want(tx, [DesiredChange(wish, "")], AT)[wish.ref]
    run = runs.create(tx, NewRun(integration_id, Scope.INCREMENTAL, "person"), AT)
    assert runs.history(tx, integration_id)[0] == run
    return run.public_id


def test_an_old_release_works_on_beside_one_that_adds(backend: Backend, old: Session) -> None:
    with session(backend) as new:
        assert migrated(new, [*KNOWN, ADDS]) == Migrated(LATEST, LATEST + 1)
        assert migrated(new, [*KNOWN, ADDS]) == Migrated(LATEST + 1, LATEST + 1)
        first = old.run(work, "write")
        old.run(lambda tx: check_version(tx, "the store"), "read")
        assert old.run(schema_version, "read") == LATEST + 1
        assert migrated(old, KNOWN) == Migrated(LATEST + 1, LATEST + 1)
        assert new.run(lambda tx: tx.value("SELECT mood FROM run WHERE public_id = :i", i=first), "read") == ""


def test_an_older_release_takes_a_listing_of_keys_for_a_full_run(backend: Backend, old: Session) -> None:
    """It does not know the word, and a full run finds the same: its own `Scope` must be able to read the row."""

    def ask(tx: Tx) -> tuple[str, Scope]:
        integration_id = integrations.want(tx, [DesiredChange(desired("desk"), "")], AT)[desired("desk").ref]
        run = runs.create(tx, NewRun(integration_id, Scope.KEYS, "schedule"), AT)
        return str(tx.value("SELECT scope FROM run WHERE id = :i", i=run.id)), run.scope

    assert old.run(ask, "write") == ("full", Scope.KEYS)


def test_what_takes_away_stops_those_who_do_not_know(backend: Backend, old: Session) -> None:
    with session(backend) as new:
        migrated(new, [*KNOWN, ADDS, TAKES])
        assert migrated(new, [*KNOWN, ADDS]) == Migrated(LATEST + 2, LATEST + 2)
    said = f"the store has schema version {LATEST + 2}, this program knows {LATEST}; run the newer release"
    with pytest.raises(StoreVersionError, match=said):
        migrated(old, KNOWN)
    with pytest.raises(StoreVersionError, match=said):
        old.run(lambda tx: check_version(tx, "the store"), "read")


def test_a_database_from_before_the_number_was_kept(backend: Backend) -> None:
    with session(backend) as opened:
        assert migrated(opened, KNOWN[:6]) == Migrated(0, 6)
        with pytest.raises(StoreVersionError, match="start the daemon once, or: reconciler migrate"):
            opened.run(lambda tx: check_version(tx, "the store"), "read")
        assert migrated(opened, KNOWN) == Migrated(6, LATEST)
        assert opened.run(required, "read") == max(m.requires or 0 for m in KNOWN)


@pytest.mark.needs("initdb")
def test_who_may_not_change_tables_may_work_on_them(postgres_url: Secret) -> None:
    """`reconciler migrate` by their owner in a pipeline, the daemons as somebody with fewer rights."""
    with session(Postgres(postgres_url)) as owner:
        migrated(owner, KNOWN)
        owner.run(_let_in, "guarded")
    clerk = Secret(postgres_url.reveal().replace("postgres@", "clerk@"))
    with session(Postgres(clerk)) as opened:
        assert migrated(opened, KNOWN) == Migrated(LATEST, LATEST)
        opened.run(work, "write")
        with pytest.raises(StoreUnavailableError, match="check the rights of this user"):
            migrated(opened, [*KNOWN, ADDS])


def _let_in(tx: Tx) -> None:
    if not tx.value("SELECT 1 FROM pg_roles WHERE rolname = 'clerk'"):
        tx.execute("CREATE ROLE clerk LOGIN")
    tx.execute("GRANT USAGE ON SCHEMA reconciler TO clerk")
    tx.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA reconciler TO clerk")


@pytest.mark.parametrize("migration", KNOWN[6:], ids=lambda m: m.name)
def test_what_lets_older_programs_go_on_only_adds(migration: Migration) -> None:
    """Who drops, renames, or adds what an older program does not fill, must name the file since which nobody minds."""
    assert migration.requires is not None, "the first line says which programs may go on: -- requires: N"
    assert migration.requires <= migration.number
    if migration.requires == migration.number:
        return
    # a file has one program at a time; how one is rebuilt there is tested for itself
    shared = re.sub(r"-- only: sqlite\n[^;]*;", "", migration.sql)
    text = re.sub(r"--.*", "", shared)
    widens = r"ALTER TABLE \w+ ALTER COLUMN \w+ DROP NOT NULL"
    for statement in filter(None, map(str.strip, text.split(";"))):
        assert re.match(
            rf"CREATE (TABLE|(UNIQUE )?INDEX)|DROP INDEX|ALTER TABLE \w+ ADD COLUMN|{widens}|UPDATE|INSERT", statement
        ), statement
        if "ADD COLUMN" in statement and "NOT NULL" in statement:
            assert "DEFAULT" in statement, statement


def test_events_go_on_with_their_numbers_where_their_table_was_rebuilt(backend: Backend) -> None:
    """The router's cursor stands at the last number, and whatever comes next must have a higher one."""
    before = [one for one in KNOWN if one.number < 16]

    def tell(tx: Tx, name: str) -> int:
        sql = "INSERT INTO event (public_id, workspace, integration_id, type, at) VALUES (:p, 'w', 1, 't', :at) RETURNING id"
        return int(tx.value(sql, p=name, at=AT))

    with session(backend) as opened:
        migrated(opened, before)
        opened.run(lambda tx: integrations.want(tx, [DesiredChange(desired("desk"), "")], AT), "write")
        numbers = [opened.run(lambda tx, n=n: tell(tx, f"evt_{n}"), "write") for n in range(3)]  # type: ignore[misc]
        opened.run(lambda tx: tx.execute("DELETE FROM event WHERE id = :i", {"i": numbers[-1]}), "write")
        migrated(opened, KNOWN)
        assert opened.run(lambda tx: tell(tx, "evt_next"), "write") > numbers[-1]
        kept = opened.run(
            lambda tx: [(r[0], r[1]) for r in tx.all("SELECT public_id, source FROM event ORDER BY id")], "read"
        )
    assert kept == [("evt_0", "lifecycle"), ("evt_1", "lifecycle"), ("evt_next", "lifecycle")]
