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
from tests.e2e.site import KEY
from tests.e2e.stage import ENV, Stage

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


async def test_a_leader_whose_database_is_silent_does_not_wait_for_it(database: Database, postgres_url: Secret) -> None:
    clock = VirtualClock()
    leadership = Leadership(database, clock, "one")
    await leadership.ask()
    clock.advance(LENGTH - 2 * RENEW - timedelta(seconds=0.1))
    with psycopg.connect(postgres_url.reveal()) as other:
        other.execute("SELECT 1 FROM reconciler.lease FOR UPDATE")
        keeping = asyncio.create_task(leadership.keep())
        async with asyncio.timeout(10):
            await leadership.lost.wait()
        keeping.cancel()
