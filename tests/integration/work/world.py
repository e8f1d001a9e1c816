"""A store and the seam on a real database, with numbers short enough for tests. Run as a program it is a peer process."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from reconciler.model.clock import SystemClock
from reconciler.model.job import Claim, Job, Outcome, Window
from reconciler.model.secret import Secret
from reconciler.store import jobs
from reconciler.store.database import Backend, Database, Tx
from reconciler.store.job_store import StoredJobs
from reconciler.store.migrations import migrate
from reconciler.store.notices import Topic
from reconciler.store.postgres import Postgres
from reconciler.store.sqlite import Sqlite
from reconciler.work.engine import Work
from reconciler.work.settings import WorkSettings

PATIENCE = 180.0


class MovableClock(SystemClock):
    """The real time, plus a jump."""

    def __init__(self) -> None:
        self.jump = timedelta(0)

    def now(self) -> datetime:
        return datetime.now(UTC) + self.jump


async def until(is_so: Callable[[], bool]) -> None:
    """Bounded wait for a condition, polled: the condition, not the time, decides."""
    async with asyncio.timeout(PATIENCE):
        while not is_so():  # noqa: ASYNC110 conditions live in files and other processes too
            await asyncio.sleep(0.005)


class World:
    """One process: what ran is in `started`, `ended` and, for all processes, in the file `log`."""

    def __init__(self, folder: Path, url: str = "", *, is_alone: bool = True) -> None:
        self.folder = folder
        self.url = url
        self.clock = MovableClock()
        self.settings = settings(url or f"sqlite:///{folder / 'jobs.db'}", is_alone=is_alone and not url)
        self.started: list[str] = []
        self.ended: list[str] = []
        self.cancelled: list[str] = []
        self.reports: list[tuple[str, BaseException, Job | None]] = []
        self.body: Callable[[Job, Claim], Awaitable[Outcome]] = self.at_once

    async def open(self, busy_timeout: timedelta = timedelta(seconds=30)) -> None:
        self.db = Database(self.backend(busy_timeout))
        await migrate(self.db)

    def backend(self, busy_timeout: timedelta = timedelta(seconds=30)) -> Backend:
        if self.url:
            return Postgres(Secret(self.url), self.clock.now)
        return Sqlite(self.folder / "reconciler.db", self.clock, busy_timeout)

    def share(self) -> None:
        """Other processes work on the same store."""
        self.settings = settings(self.settings.engine_url, is_alone=False)

    def peek(self, sql: str) -> list[Any]:
        """Read beside whatever is going on."""
        with closing(self.backend().visit(is_reader=True)) as session, session.transaction("read") as tx:
            return [row[0] for row in tx.all(sql)]

    async def launch(self) -> None:
        kinds = dict.fromkeys(("reconcile", "sync", "deliver"), self._run)
        self.work = Work(StoredJobs(self.db), kinds, self.settings, self.clock, self._report, lambda: 0.0)
        await self.work.launch()

    def hear(self, topic: Topic) -> None:
        """As the daemon does."""
        if topic == "asked":
            self.work.wake()
        elif topic == "dropped":
            self.work.look()

    async def stop(self, patience: timedelta = timedelta(seconds=PATIENCE)) -> None:
        await self.work.stop(patience)

    async def put(self, *refs: str, key: str = "", kind: str = "sync", age: float = 0) -> None:
        due_at = self.clock.now() - timedelta(seconds=age)

        def all_of_them(tx: Tx) -> None:
            for number, ref in enumerate(refs):
                jobs.put(tx, kind, ref, key or ref, 10, due_at + timedelta(microseconds=number))

        await self.db.write(all_of_them)

    async def states(self) -> dict[str, str]:
        rows = await self.db.read(lambda tx: tx.all("SELECT ref, state FROM job"))
        return {row["ref"]: row["state"] for row in rows}

    async def at_once(self, job: Job, claim: Claim) -> Outcome:
        return Outcome()

    async def until_released(self, job: Job, claim: Claim) -> Outcome:
        await until((self.folder / "release").exists)
        return Outcome()

    async def _run(self, job: Job, claim: Claim) -> Outcome:
        self._note("start", job)
        self.started.append(job.ref)
        try:
            outcome = await self.body(job, claim)
        except asyncio.CancelledError:
            self._note("cancel", job)
            self.cancelled.append(job.ref)
            raise
        self._note("end", job)
        self.ended.append(job.ref)
        return outcome

    def _note(self, what: str, job: Job) -> None:
        with (self.folder / "log").open("a") as log:
            log.write(f"{what} {job.ref} {job.key}\n")

    def _report(self, what: str, error: BaseException, job: Job | None) -> None:
        self.reports.append((what, error, job))

    def log(self) -> list[str]:
        path = self.folder / "log"
        return path.read_text().splitlines() if path.exists() else []


def settings(engine_url: str, *, is_alone: bool) -> WorkSettings:
    return WorkSettings(
        engine_url=engine_url,
        is_alone=is_alone,
        window=Window(least=1),
        share_above=2,
        busy_poll=timedelta(seconds=0.02),
        idle_poll=timedelta(seconds=0.05),
        idle_engine_poll=timedelta(seconds=0.05),
        beat=timedelta(seconds=0.1),
        look=timedelta(seconds=0.1),
        dead_after=timedelta(seconds=30),  # nobody who is only slow
        missing_after=timedelta(seconds=0.3),
        retry_first=timedelta(seconds=0.01),
    )


async def _peer(folder: Path, url: str, *, is_alone: bool) -> None:
    world = World(folder, url, is_alone=is_alone)
    await world.open()
    world.body = world.until_released
    await world.launch()
    (folder / "ready").touch()
    await until((folder / "leave").exists)
    await world.stop()
    world.db.close()


if __name__ == "__main__":
    asyncio.run(_peer(Path(sys.argv[1]), os.environ.get("PEER_DATABASE", ""), is_alone=sys.argv[2] == "alone"))
