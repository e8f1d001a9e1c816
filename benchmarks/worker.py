"""A process that runs jobs which do nothing: `python -m benchmarks.worker PLACE [deaf]`, a PostgreSQL URL or a folder for SQLite.

Prints `ready`, then the time (monotonic, the same for all processes) at which it started each job of kind `sync`. A line on
its standard input is the `ref` of such a job that a person asked for here. Ends when that is closed. Where it is deaf, it
finds what is asked for elsewhere by looking, as it does when notices are lost.
"""

import asyncio
import sys
import time
from datetime import timedelta
from pathlib import Path

from reconciler.model.clock import SystemClock
from reconciler.model.job import Claim, Job, Outcome
from reconciler.model.secret import Secret
from reconciler.store.database import Database
from reconciler.store.job_store import StoredJobs
from reconciler.store.location import Location, backend
from reconciler.store.migrations import migrate
from reconciler.store.notices import Notices
from reconciler.work.engine import Work
from reconciler.work.settings import WorkSettings


def location(place: str) -> Location:
    return Secret(place) if place.startswith("postgresql:") else Path(place) / "reconciler.db"


async def main(place: str) -> None:
    database = Database(backend(location(place)))
    await migrate(database)
    is_shared = place.startswith("postgresql:")
    settings = WorkSettings(place if is_shared else f"sqlite:///{place}/jobs.db", is_alone=not is_shared)
    kinds = {"reconcile": _nothing, "sync": _started}
    work = Work(StoredJobs(database), kinds, settings, SystemClock(), _report)
    await work.launch()
    hearing = asyncio.create_task(_listen(location(place), work))
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        await work.ask("sync", line.strip())
    hearing.cancel()
    await work.stop(timedelta(seconds=5))
    database.close()


async def _listen(place: Location, work: Work) -> None:
    """As the daemon does."""
    if isinstance(place, Secret) and "deaf" not in sys.argv[2:]:
        await Notices(place, SystemClock(), lambda _: work.wake(), lambda why: print(why, file=sys.stderr)).listen()


async def _nothing(_: Job, __: Claim) -> Outcome:
    return Outcome()


async def _started(_: Job, __: Claim) -> Outcome:
    print(time.monotonic(), flush=True)
    return Outcome()


def _report(what: str, error: BaseException, _: Job | None) -> None:
    print(what, error, file=sys.stderr)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
