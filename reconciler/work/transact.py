"""The only module that knows DBOS: starts, queues, cancels and forgets its workflows. Its rows are disposable.

One workflow without steps carries `(kind, job id, attempt)`; what that means, and whether it goes on, is decided by our rows.
DBOS is one for a process, so is `Transact`. Blocking calls are named so: callers run them in a thread of their own.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import Context
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from dbos import DBOS, DBOSClient, DBOSConfig, DBOSPortableJSONSerializer, EnqueueOptions, SetWorkflowID
from dbos import error as dbos_errors

from reconciler.model.job import QUEUES, Job
from reconciler.work.ports import EngineError
from reconciler.work.settings import WorkSettings

Body = Callable[[str, int, int], Coroutine[Any, Any, None]]
APPLICATION = "reconciler"
VERSION = "1"  # constant: rows of another version are never run, and the job's signature does not change
WORKFLOW = "job"
UNFINISHED = ["ENQUEUED", "PENDING", "DELAYED"]
FINISHED = ["SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"]
PRUNE_CHUNK = 500
SELDOM = 3600.0
_AFTER_THE_END = "cannot schedule new futures after shutdown"  # it still tells of a job that was cancelled while we end
IDLE_LONG = 1.0
LAST_WORDS = 2.0
LISTENER_POLL = 0.1  # looks at an empty map, and is what closing waits for


@contextmanager
def _told() -> Iterator[None]:
    """What the engine's database refuses, without the long story of its driver."""
    try:
        yield
    except sa.exc.OperationalError as error:
        raise EngineError(f"the job engine's database does not answer: {error.orig}") from None


class Transact:
    """DBOS with our settings. `prepare`, then `launch` inside the running loop, `close` before it ends."""

    def __init__(self, settings: WorkSettings) -> None:
        self._settings = settings
        self._job: Callable[[str, int, int], Any] | None = None

    def prepare(self) -> None:
        """Blocking. The engine's tables and queues."""
        _silence()
        if self._settings.is_alone:
            _remove(self._settings.engine_url)
        self._engine = _engine(self._settings.engine_url)
        with self._engine.connect():
            DBOS.migrate(self._settings.engine_url)
        self._serializer = DBOSPortableJSONSerializer()
        self._client = DBOSClient(
            system_database_engine=self._engine, serializer=self._serializer, application_name=APPLICATION
        )
        self._register_queues()
        if self._settings.is_alone:
            self._forget_predecessors()

    def _forget_predecessors(self) -> None:
        """On a server rows of a process that is gone outlive it; ours say what is to be done again."""
        while left := self._client.list_workflows(
            status=UNFINISHED, limit=PRUNE_CHUNK, load_input=False, load_output=False
        ):
            self._client.delete_workflows([workflow.workflow_id for workflow in left])

    def launch(self, body: Body) -> None:
        """On the loop's own thread, for some 50 ms: jobs run on the loop that is running now."""
        self._job = _register(body)
        DBOS(config=self._config())
        DBOS.launch()

    def _register_queues(self) -> None:
        """Before launch: a queue that appears later is noticed up to a second late."""
        self._queues = [
            self._client.register_queue(
                name,
                partition_concurrency=1,
                worker_concurrency=self._settings.slots,
                polling_interval_sec=self._settings.idle_engine_poll.total_seconds(),
            )
            for name in QUEUES
        ]

    def _config(self) -> DBOSConfig:
        return DBOSConfig(
            name=APPLICATION,
            system_database_url=self._settings.engine_url,
            system_database_engine=self._engine,
            application_version=VERSION,
            executor_id=self._settings.owner,
            max_executor_threads=self._settings.executor_threads,
            serializer=self._serializer,
            use_listen_notify=False,
            enable_otlp=False,
            log_level="WARNING",
            scheduler_polling_interval_sec=SELDOM,
            notification_listener_polling_interval_sec=LISTENER_POLL,
        )

    async def start(self, job: Job) -> None:
        """Run it in this process at once."""
        assert self._job is not None  # noqa: S101
        with _told(), SetWorkflowID(job.workflow_id):
            await DBOS.start_workflow_async(self._job, job.kind, job.id, job.attempt)

    @_told()
    def enqueue(self, jobs: Sequence[Job]) -> None:
        """Blocking. All or none; any process takes them."""
        with self._engine.begin() as connection:
            for job in jobs:
                options: EnqueueOptions = {
                    "workflow_name": WORKFLOW,
                    "queue_name": job.queue,
                    "queue_partition_key": job.key,
                    "workflow_id": job.workflow_id,
                    "app_version": VERSION,
                }
                self._client.enqueue_in_transaction(connection, options, job.kind, job.id, job.attempt)

    @_told()
    def poll_every(self, seconds: float) -> None:
        """Blocking. How often the engine looks into its queues."""
        for queue in self._queues:
            queue.set_polling_interval_sec(seconds)

    @_told()
    def cancel(self, jobs: Iterable[Job]) -> None:
        """Blocking. A stranded start of a lane would keep the engine from starting the next one."""
        ids = [job.workflow_id for job in jobs]
        if ids:
            self._client.cancel_workflows(ids)

    @_told()
    def unknown(self, jobs: Sequence[Job]) -> list[Job]:
        """Blocking. Those the engine will not start: it lost or ended them."""
        found = self._client.list_workflows(
            workflow_ids=[job.workflow_id for job in jobs], status=UNFINISHED, load_input=False, load_output=False
        )
        known = {workflow.workflow_id for workflow in found}
        return [job for job in jobs if job.workflow_id not in known]

    @_told()
    def recover(self, owner: str) -> int:
        """Blocking. Starts a dead process left behind go back to their queue, where our rows refuse the stale ones.

        A private call of DBOS: the public one also counts as a fresh start; a contract test watches it.
        """
        return len(DBOS._recover_pending_workflows([owner]))  # noqa: SLF001

    @_told()
    def prune(self, before: datetime) -> int:
        """Blocking. Forget one chunk of ended workflows; gives how many."""
        ended = self._client.list_workflows(
            status=FINISHED, end_time=before.isoformat(), limit=PRUNE_CHUNK, load_input=False, load_output=False
        )
        if ended:
            self._client.delete_workflows([workflow.workflow_id for workflow in ended])
        return len(ended)

    @_told()
    def unsettled(self) -> bool:
        """Blocking. Whether outcomes of this process are still to be written down."""
        pending = self._client.list_workflows(
            status="PENDING", executor_id=self._settings.owner, limit=1, load_input=False, load_output=False
        )
        return bool(pending)

    def close(self, loop: asyncio.AbstractEventLoop) -> None:
        """Blocking. DBOS had replaced the loop's executor by one that is now shut: the loop gets a new one."""
        DBOS.destroy(destroy_registry=True)
        self._client.destroy()
        self._await_connections()
        self._engine.dispose()
        loop.call_soon_threadsafe(loop.set_default_executor, ThreadPoolExecutor(thread_name_prefix="asyncio"))

    def _await_connections(self) -> None:
        """DBOS does not wait for its threads, and a connection that comes back after the disposal is never closed."""
        deadline = time.monotonic() + LAST_WORDS
        pool = self._engine.pool
        while isinstance(pool, sa.QueuePool) and pool.checkedout() and time.monotonic() < deadline:
            time.sleep(0.005)


def _register(body: Body) -> Callable[[str, int, int], Any]:
    @DBOS.workflow(name=WORKFLOW, max_recovery_attempts=None)
    async def job(kind: str, job_id: int, attempt: int) -> None:
        # In a context of its own: to the engine, what a job starts would be its child, and a step of it to be written down.
        await asyncio.create_task(body(kind, job_id, attempt), context=Context())

    return job


def engine_address(url: str) -> sa.URL:
    """With the driver named: ours is psycopg 3."""
    address = sa.make_url(url)
    return address.set(drivername="postgresql+psycopg") if address.drivername.startswith("postgres") else address


def _engine(url: str) -> sa.Engine:
    """Our own, because only here pragmas can be set for each connection."""
    if not url.startswith("sqlite"):
        engine = sa.create_engine(engine_address(url), pool_size=5, max_overflow=15)
        sa.event.listen(engine, "connect", _set_up_postgres)
        sa.event.listen(engine, "checkin", _note_use)
        sa.event.listen(engine, "checkout", _look_at_idle(engine.dialect))
        return engine
    # One connection: threads queue for it instead of sleeping in SQLite's lock. Measured: a third less CPU for each job.
    engine = sa.create_engine(url, pool_size=1, max_overflow=0)
    sa.event.listen(engine, "connect", _set_up_sqlite)
    return engine


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = "IMMEDIATE"
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=30000", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _set_up_postgres(connection: Any, _record: Any) -> None:
    """A power cut may undo the last moments: these rows are disposable, and no commit need wait for the disk."""
    connection.execute("SET synchronous_commit = off")
    connection.commit()


def _note_use(_connection: Any, record: Any) -> None:
    record.info["used_at"] = time.monotonic()


def _look_at_idle(dialect: sa.Dialect) -> Callable[[Any, Any, Any], None]:
    def look(connection: Any, record: Any, _proxy: Any) -> None:
        """A server that was restarted shows before the first statement; where one was just used that costs no round trip."""
        if time.monotonic() - record.info.get("used_at", 0.0) < IDLE_LONG:
            return
        try:
            dialect.do_ping(connection)
        except dialect.loaded_dbapi.Error:
            raise sa.exc.DisconnectionError from None

    return look


def _remove(url: str) -> None:
    """A file nobody else uses: starting anew is the cheapest recovery, our rows know what to do."""
    database = sa.make_url(url).database
    if url.startswith("sqlite") and database:
        for ending in ("", "-wal", "-shm"):
            with suppress(FileNotFoundError):
                Path(database + ending).unlink()


class _Quiet(logging.Filter):
    """One line without a traceback; what follows from our cancelling or dropping its rows is for debugging only."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        is_ours = "no longer owned by this execution" in record.getMessage() or _AFTER_THE_END in str(error)
        if is_ours or isinstance(error, dbos_errors.DBOSException):
            record.levelno, record.levelname = logging.DEBUG, "DEBUG"
        if error is not None:
            record.msg, record.args = f"{record.getMessage()} {_in_a_line(error)}", ()
        record.exc_info = record.exc_text = None
        return logging.getLogger().isEnabledFor(record.levelno)


def _in_a_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".split("\n", 1)[0]


def _silence() -> None:
    """DBOS adds a console of its own unless there is a handler; records go on to ours."""
    logger = logging.getLogger("dbos")
    if not any(isinstance(handler, logging.NullHandler) for handler in logger.handlers):
        logger.addHandler(logging.NullHandler())
        logger.addFilter(_Quiet())
    logger.propagate = True
