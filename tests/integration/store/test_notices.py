"""Word between processes on a real PostgreSQL: after the commit, never before; again after a cut; and work without it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import pytest

from reconciler.model.clock import SystemClock
from reconciler.model.secret import Secret
from reconciler.store import journal
from reconciler.store.database import Database, Tx
from reconciler.store.migrations import migrate
from reconciler.store.notices import Notices, Topic, tell
from reconciler.store.postgres import Postgres
from tests.integration.work.world import until
from tests.servers.postgres import cut_listeners

pytestmark = pytest.mark.needs("initdb")
_EVERY: list[Topic] = ["asked", "dropped", "order", "event", "due"]


class Impatient(SystemClock):
    """Waits as often as asked, but not as long."""

    def __init__(self) -> None:
        self.waited: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.waited.append(seconds)
        await asyncio.sleep(0.01)


class Ear:
    """What was heard, and what was said of the connection."""

    def __init__(self, url: Secret) -> None:
        self.heard: list[Topic] = []
        self.said: list[str | None] = []
        self.clock = Impatient()
        self._notices = Notices(url, self.clock, self.heard.append, self.said.append)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        listening = asyncio.create_task(self._notices.listen())
        try:
            yield
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)


async def test_what_is_told_is_heard_after_the_commit(postgres_url: Secret) -> None:
    database, ear = Database(Postgres(postgres_url)), Ear(postgres_url)
    await migrate(database)

    def told_and_undone(tx: Tx) -> None:
        tell(tx, "dropped")
        raise RuntimeError("undone")

    async with ear.open():
        await until(lambda: ear.heard == _EVERY)
        with pytest.raises(RuntimeError, match="undone"):
            await database.write(told_and_undone)
        await database.write(lambda tx: tell(tx, "asked"))
        await until(lambda: len(ear.heard) == 6)
        await database.write(lambda tx: journal.ask(tx, "reconcile", None, {}, "me", "2026-05-04T12:00:00Z"))
        await until(lambda: len(ear.heard) == 7)
    database.close()
    assert ear.heard == [*_EVERY, "asked", "order"]
    assert ear.said == []


async def test_a_cut_connection_comes_back_and_looks_once(postgres_url: Secret) -> None:
    ear = Ear(postgres_url)
    async with ear.open():
        await until(lambda: ear.heard == _EVERY)
        for times in (1, 2):
            assert cut_listeners(postgres_url) >= 1  # the one that was cut before says so first and goes then
            await until(lambda times=times: ear.heard == _EVERY * (times + 1))  # type: ignore[misc]
    assert [said is None for said in ear.said] == [False, True, False, True]
    assert "postgresql://" in str(ear.said[0])


async def test_a_server_that_is_away_is_told_once_and_waited_for(postgres_url: Secret) -> None:
    nobody = Ear(Secret("postgresql://reconciler:very-secret@/none?host=/nonexistent"))
    async with nobody.open():
        await until(lambda: len(nobody.clock.waited) >= 7)
    assert nobody.clock.waited[:7] == [1, 2, 4, 8, 16, 30, 30]
    assert nobody.heard == []
    assert len(nobody.said) == 1
    assert "very-secret" not in str(nobody.said[0])


async def test_what_a_newer_release_tells_is_passed_over(postgres_url: Secret) -> None:
    ear = Ear(postgres_url)
    async with ear.open():
        await until(lambda: ear.heard == _EVERY)
        with psycopg.connect(postgres_url.reveal(), autocommit=True) as connection:
            connection.execute("SELECT pg_notify('reconciler', 'something-new'), pg_notify('reconciler', 'asked')")
        await until(lambda: len(ear.heard) == 6)
    assert ear.heard == [*_EVERY, "asked"]
