"""What a process leaves behind that cannot begin, that ends, or whose database is silent: nothing that others wait for."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
import pytest_asyncio

from reconciler.app.daemon import Daemon
from reconciler.app.leadership import LENGTH, RENEW, Leadership
from reconciler.model.secret import Secret
from reconciler.sdk.testing.room import VirtualClock
from reconciler.store import jobs, leases
from reconciler.store.database import Database
from reconciler.store.location import backend, open_readonly
from reconciler.store.migrations import migrate
from reconciler.store.state_directory import StateDirectory
from reconciler.work.engine import Work
from tests.e2e.site import KEY
from tests.e2e.stage import ENV, PATIENCE, HurriedClock, Stage
from tests.servers.postgres import PostgresServer

pytestmark = pytest.mark.needs("initdb")


@pytest.fixture
def address() -> Iterator[str]:
    """Where somebody else listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest_asyncio.fixture
async def database(postgres_url: Secret) -> AsyncIterator[Database]:
    made = Database(backend(postgres_url, VirtualClock()))
    await migrate(made)
    yield made
    made.close()


async def test_a_start_that_is_refused_leaves_nothing_open(tmp_path: Path, postgres_url: Secret, address: str) -> None:
    stage = Stage(tmp_path)
    with stage.servicenow, stage.slack:
        stage.commit()
        env = {**ENV, "RECONCILER_DATABASE_URL": postgres_url.reveal(), "RECONCILER_MASTER_KEY": KEY}
        with pytest.raises(OSError, match="cannot listen"):
            await Daemon(stage.settings(listen=address), env).start()
    with open_readonly(postgres_url) as tx:
        assert leases.holder(tx, leases.CONTROLLER, tx.now()) is None
        assert jobs.workers(tx) == 0
    StateDirectory(stage.state).acquire()


async def test_a_start_that_takes_longer_than_a_lease_does_not_lose_it(
    tmp_path: Path, postgres_url: Secret, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lasts_until() -> str:
        with open_readonly(postgres_url) as tx:
            return str(tx.value("SELECT until FROM lease WHERE name = :name", name=leases.CONTROLLER))

    launch = Work.launch

    async def after_a_renewal(work: Work) -> None:
        first = lasts_until()
        async with asyncio.timeout(PATIENCE):
            while lasts_until() == first:  # noqa: ASYNC110 the condition is in the database
                await asyncio.sleep(0.02)
        await launch(work)

    monkeypatch.setattr(Work, "launch", after_a_renewal)
    stage = Stage(tmp_path)
    with stage.servicenow, stage.slack:
        stage.commit()
        env = {**ENV, "RECONCILER_DATABASE_URL": postgres_url.reveal(), "RECONCILER_MASTER_KEY": KEY}
        async with stage.daemon(env=env, clock=HurriedClock()) as running:
            await running.leading.taken.wait()
            assert running.daemon.leadership is not None
            assert not running.daemon.leadership.lost.is_set()


async def test_a_leader_that_stood_still_goes_on_unless_another_has_begun(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    patience = timedelta(seconds=PATIENCE)  # it asks for so long by a real clock
    monkeypatch.setattr("reconciler.app.leadership.RENEW", patience)
    clock = VirtualClock()
    leadership = Leadership(database, clock, "one")
    await leadership.ask()
    clock.advance(LENGTH)
    await leadership._renew()
    assert not leadership.lost.is_set()
    await database.write(lambda tx: tx.execute("UPDATE lease SET owner = 'two', term = term + 1"))
    clock.advance(LENGTH)
    await leadership._renew()
    assert leadership.lost.is_set()


async def test_a_leader_that_stood_still_ends_where_the_database_is_away() -> None:
    with PostgresServer() as server:
        clock, database = VirtualClock(), Database(backend(server.create(), VirtualClock()))
        await migrate(database)
        leadership = Leadership(database, clock, "one")
        await leadership.ask()
        server.stop()
        try:
            await leadership._renew()
            assert not leadership.lost.is_set()
            clock.advance(LENGTH)
            await leadership._renew()
            assert leadership.lost.is_set()
        finally:
            server.start()
            database.close()


async def test_a_leader_whose_database_is_silent_does_not_wait_for_it(database: Database, postgres_url: Secret) -> None:
    clock = VirtualClock()
    leadership = Leadership(database, clock, "one")
    await leadership.ask()
    clock.advance(LENGTH - 2 * RENEW - timedelta(seconds=0.1))
    with psycopg.connect(postgres_url.reveal()) as other:
        other.execute("SELECT 1 FROM reconciler.lease FOR UPDATE")
        keeping = asyncio.create_task(leadership.keep())
        async with asyncio.timeout(PATIENCE):
            await leadership.lost.wait()
        keeping.cancel()
