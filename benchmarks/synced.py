"""A sync as the daemon makes it: the run of its job, from a remote in a process of its own into a store of ours.

Out: `serving` gives the remote's URL, `syncing` something to call for each run in a new store, `over` the same for one that is
there. Left out is what starts a job: the engine is measured by `dispatch`.
"""

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, ClassVar

from benchmarks.installation import installed
from benchmarks.measure import Bench
from reconciler.model.clock import SystemClock, rfc3339
from reconciler.model.job import Claim, Job
from reconciler.model.manifest import Integration, Sync
from reconciler.model.record import LogLevel, Scope
from reconciler.model.secret import Secret
from reconciler.sdk.auth import Authenticator, bearer
from reconciler.sdk.contract import AuthClasses, Entity, NoAuth, Settings, SettingsClass
from reconciler.sdk.live import Live
from reconciler.sdk.paging import PageNumber
from reconciler.sdk.rest import RestConnector, RestEntity
from reconciler.sdk.testing.room import Bench as Room
from reconciler.store import integrations, runs
from reconciler.store.database import Database
from reconciler.store.integrations import IntegrationRow
from reconciler.store.location import Location
from reconciler.store.runs import NewRun
from reconciler.sync.run import Syncer

PAGE = 1000
CLOCK = SystemClock()
_RECORDS = RestEntity(
    name="records", key="id", path="/records", records="records", pager=PageNumber(), page_size=PAGE
)  # fmt: skip


class _Config(Settings):
    url: str


class Remote(RestConnector[_Config, NoAuth]):
    """Read with several pages in flight; has no change feed."""

    type = "bench"
    title = "Benchmark"
    Config: ClassVar[SettingsClass] = _Config
    auth_types: ClassVar[AuthClasses] = (NoAuth,)
    entities: ClassVar[tuple[Entity, ...]] = (_RECORDS,)

    def base_url(self) -> str:
        return self.config.url

    def authenticator(self) -> Authenticator:
        return bearer(Secret("benchmark-token"))

    async def probe(self) -> Any:
        raise NotImplementedError("a sync does not probe")


class OneByOne(Remote):
    """The same without pages in flight."""

    entities: ClassVar[tuple[Entity, ...]] = (replace(_RECORDS, in_flight=1),)


class Changing(Remote):
    """The same, asked for what has changed."""

    entities: ClassVar[tuple[Entity, ...]] = (
        replace(_RECORDS, cursor="updated_at", since=lambda at: {"since": rfc3339(at)}),
    )


class _Silent:
    """Implements `Journal`: what a run says is not what is measured."""

    def __call__(self, integration_id: int, level: LogLevel, message: str, /, **detail: Any) -> None:
        if level in {LogLevel.ERROR, LogLevel.WARN}:
            raise AssertionError(f"{message} {detail}")

    async def flush(self) -> None:
        return None


class _One:
    """Implements `Connections` with one integration."""

    def __init__(self, live: Live) -> None:
        self._live = live

    async def live(self, integration_id: int) -> Live:
        return self._live

    async def drop(self, integration_id: int) -> None:
        return None


@contextmanager
def serving(bench: Bench, count: int, delay: float = 0.0) -> Iterator[str]:
    program = Path(__file__).with_name("remote.py")
    command = (sys.executable, str(program), str(count), str(PAGE), str(delay))
    with subprocess.Popen(command, env=bench.env(), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


@dataclass(frozen=True, slots=True)
class Synced:
    """Call it to sync once more."""

    database: Database
    syncer: Syncer
    integration_id: int

    async def __call__(self, scope: Scope = Scope.FULL) -> None:
        at = rfc3339(CLOCK.now())
        run = await self.database.write(lambda tx: runs.create(tx, NewRun(self.integration_id, scope, "schedule"), at))
        key = str(self.integration_id)
        job = Job(run.id, "sync", "work", key, str(run.id), 1)
        outcome = await self.syncer.run(job, Claim(run.id, 1, "work", key, "benchmark", run.id))
        done = await self.database.read(lambda tx: runs.get(tx, run.id))
        assert outcome.again_at is None
        assert done is not None
        assert done.result == "success", done


@asynccontextmanager
async def syncing(folder: Path, place: Location, url: str, kind: type[Remote] = Remote) -> AsyncIterator[Synced]:
    async with installed(folder, 1, place) as made, Room() as room:
        state = made.book.state
        assert state is not None
        (desired,) = state.integrations.values()
        (row,) = await made.database.read(integrations.every)
        yield over(made.database, room, row, desired.manifest, url, kind)


def over(
    database: Database, room: Room, row: IntegrationRow, manifest: Integration, url: str, kind: type[Remote]
) -> Synced:
    """Every entity of the integration `row`, every field as it comes."""
    whole = manifest.model_copy(update={"spec": manifest.spec.model_copy(update={"sync": Sync()})})
    live = Live(row.id, row.ref, whole, room.connector(kind, {"url": url}, {}), "", "", {}, row.revision)
    return Synced(database, Syncer(database, _One(live), _Silent(), CLOCK, Random(1), lambda: None), row.id)
