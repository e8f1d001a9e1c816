"""One run of a sync, from its row to its result: the coroutine behind job kind `sync`.

Steps: validate, fetch, store, version, route, update. A transient error is tried again from the last stored position; a
long wait gives the slot back and the run goes on later. A missing right makes the run partial, a refused credential
makes it failed, and neither is ever green. Called by the job engine with the run's id and a fence.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from typing import Any

from reconciler.model.clock import Clock, from_rfc3339, rfc3339
from reconciler.model.condition import ConditionType, Reason, Truth
from reconciler.model.duration import render_duration
from reconciler.model.event import Lifecycle
from reconciler.model.job import Claim, Job, Outcome
from reconciler.model.record import LogLevel, RunResult, Scope, Step
from reconciler.sdk.contract import Counts, Entity
from reconciler.sdk.errors import ConnectorError, TransientError, place_of
from reconciler.sdk.live import Connections, Journal, Live, NotConnectableError, current_run
from reconciler.store import (
    conditions,
    inbox,
    integrations,
    jobs,
    journal,
    listings,
    pushed,
    rejects,
    rollback,
    run_entities,
    runs,
)
from reconciler.store import progress as telling
from reconciler.store.conditions import Say
from reconciler.store.database import Database, Tx
from reconciler.store.dataset import FencedError
from reconciler.store.errors import StoreError
from reconciler.store.history import NotKeptError
from reconciler.store.runs import EntityProgress, Lineage, Run
from reconciler.sync.choice import NothingToReadError, chosen_entities, speaks_for_all
from reconciler.sync.entity import LaneWantedError, Reading, SweepRefusedError, read_entity, request_of
from reconciler.sync.inbound import entity_of, is_taking, take_in, takes_in
from reconciler.sync.keys import list_keys
from reconciler.sync.replay import replay_entity
from reconciler.sync.rollback import restore
from reconciler.sync.schema import SchemaFrozenError

MAX_RETRIES = 5
LONGEST_WAIT = timedelta(seconds=30)
NOT_KNOWN_PAUSE = timedelta(seconds=5)
MOST_ERRORS = 100
ENDED = frozenset({"complete", "partial", "failed"})


@dataclass(frozen=True, slots=True)
class EntityResult:
    """How one entity ended: `complete`, `partial` (a person must look) or `failed`."""

    name: str
    state: str
    reason: Reason | None = None
    error: str = ""


class PausedError(Exception):
    """The remote wants a longer wait than a slot is held for: the run goes on at `again_at`."""

    def __init__(self, again_at: datetime, why: TransientError) -> None:
        super().__init__(f"paused until {again_at}")
        self.again_at = again_at
        self.why = why


class Syncer:
    """`run` is the job; everything it needs is handed in. `committed` is told after each run that changed something."""

    def __init__(
        self,
        database: Database,
        connections: Connections,
        journal: Journal,
        clock: Clock,
        random: Random,
        committed: Callable[[], None],
    ) -> None:
        self._database = database
        self._connections = connections
        self._journal = journal
        self._clock = clock
        self._random = random
        self._committed = committed

    @property
    def _at(self) -> str:
        return rfc3339(self._clock.now())

    async def run(self, job: Job, claim: Claim) -> Outcome:
        """Do one attempt at the run `job.ref`; an unfinished run asks to be called again."""
        run_id = int(job.ref)
        waiting = await self._database.read(lambda tx: runs.get(tx, run_id))
        if waiting is None or waiting.state == "done":
            return Outcome()
        token = current_run.set(run_id)
        attempt = self._run if waiting.restores is None else self._roll_back
        try:
            return await attempt(waiting, claim)
        finally:
            current_run.reset(token)
            await self._journal.flush()

    async def _run(self, waiting: Run, claim: Claim) -> Outcome:
        try:
            live = await self._connections.live(waiting.integration_id)
        except NotConnectableError as error:
            return await self._unusable(waiting, claim, error)
        run = await self._take(waiting, claim, live)
        if run is None:
            return await self._give_up(waiting)
        try:
            async with asyncio.timeout(live.manifest.spec.sync.timeout.total_seconds()):
                results = await self._read(run, live)
        except FencedError:
            return await self._give_up(run)
        except LaneWantedError:
            return await self._pause(run, self._clock.now())
        except PausedError as pause:
            return await self._pause_or_end(run, live, pause)
        except NothingToReadError as error:
            await self._finish(run, RunResult.FAILED, Reason.VALIDATION_FAILED, str(error), is_whole=False)
            return Outcome()
        except TimeoutError:
            message = f"not done within {render_duration(live.manifest.spec.sync.timeout)}"
            return await self._cut_short(run, live, Reason.TIMED_OUT, message)
        except StoreError:
            raise
        except Exception as error:  # noqa: BLE001 - a connector's own fault outside of reading: the run ends and says so
            message = self._fault(live, error)
            return await self._finish(run, RunResult.FAILED, Reason.INTERNAL_ERROR, message)
        return await self._conclude(run, live, results)

    async def _roll_back(self, waiting: Run, claim: Claim) -> Outcome:
        """Asks no remote, so it needs no connection and says nothing of how fresh the records are."""
        at = rfc3339(self._clock.now())
        run = await self._database.write(lambda tx: rollback.take(tx, waiting, claim.fence, at))
        if run is None:
            return await self._give_up(waiting)
        try:
            await restore(self._database, self._clock, run)
        except FencedError:
            return await self._give_up(run)
        except NotKeptError as error:
            return await self._finish(run, RunResult.FAILED, Reason.VALIDATION_FAILED, str(error), is_whole=False)
        return await self._finish(run, RunResult.SUCCESS, Reason.SUCCEEDED, "", is_whole=False)

    async def _unusable(self, waiting: Run, claim: Claim, error: NotConnectableError) -> Outcome:
        """After a start, work begins before Git was read: that is no failure of the run."""
        if error.reason is Reason.PENDING and not waiting.is_cancelling:
            if waiting.error != error.message:
                await self._database.write(
                    lambda tx: runs.put_off(tx, waiting.id, error.reason, error.message, self._at)
                )
            return Outcome(again_at=self._clock.now() + NOT_KNOWN_PAUSE)
        run = await self._take(waiting, claim, None)
        if run is None:
            return await self._give_up(waiting)
        return await self._finish(run, RunResult.FAILED, error.reason, error.message)

    async def _pause(self, run: Run, again_at: datetime, reason: str = "", error: str = "") -> Outcome:
        """Due again, in the same place; another run of the integration may go first meanwhile."""
        if await self._database.write(lambda tx: runs.pause(tx, run, self._at, reason, error)):
            return Outcome(again_at=again_at)
        return await self._give_up(run)

    async def _pause_or_end(self, run: Run, live: Live, pause: PausedError) -> Outcome:
        """A wait beyond the deadline of the run ends it: the next one starts from what is stored."""
        started = from_rfc3339(run.started_at or run.requested_at)
        if pause.again_at <= started + live.manifest.spec.sync.timeout:
            return await self._pause(run, pause.again_at, pause.why.why, pause.why.message)
        message = f"{pause.why.message}; the remote asks to wait until {rfc3339(pause.again_at)}, beyond the deadline"
        return await self._cut_short(run, live, pause.why.why, message)

    async def _cut_short(self, run: Run, live: Live, reason: Reason, message: str) -> Outcome:
        found = await self._database.read(lambda tx: runs.get(tx, run.id))
        result = RunResult.PARTIAL if found and found.counts.pages else RunResult.FAILED
        return await self._finish(run, result, reason, message, is_whole=speaks_for_all(run, live))

    async def _take(self, waiting: Run, claim: Claim, live: Live | None) -> Run | None:
        def take(tx: Tx) -> Run | None:
            row = integrations.get(tx, waiting.integration_id)
            lineage = Lineage(
                row.generation if row else 0,
                live.revision if live else "",
                live.source_hash if live else "",
                live.connector.version if live else "",
            )
            return runs.start(tx, waiting.id, claim.fence, lineage, rfc3339(self._clock.now()))

        return await self._database.write(take)

    async def _give_up(self, run: Run) -> Outcome:
        """Fenced: cancelled by a person or a disconnect, or taken over. Only the owner of the row may close it."""
        found = await self._database.read(lambda tx: runs.get(tx, run.id))
        if found is None or found.state == "done" or not found.is_cancelling:
            return Outcome()
        reason = Reason(found.reason) if found.reason else Reason.CANCELLED
        return await self._finish(found, RunResult.CANCELLED, reason, "")

    async def _take_in(self, run: Run, live: Live) -> list[EntityResult]:
        """What waits in the inbox, entity by entity; what cannot be done is told there, too."""
        results = []
        await self._database.write(lambda tx: runs.set_step(tx, run.id, Step.FETCH))
        for name in await self._database.read(lambda tx: inbox.waiting_entities(tx, live.integration_id)):
            last, entity = await self._database.read(inbox.newest), entity_of(live, name)
            if entity is None:
                ended = EntityResult(name, "failed", Reason.REJECTED, f"{live.connector.type} has no entity {name}")
            else:
                ended = await self._entity(Reading(self._database, self._clock, self._journal, live, run, entity))
            if ended.state == "failed":
                await self._fail_waiting(live.integration_id, name, last, ended.error)
            results.append(ended)
        return results

    async def _fail_waiting(self, integration_id: int, entity: str, upto: int, error: str) -> None:
        def fail(tx: Tx) -> None:
            pushed.forget_waiting(tx, integration_id, entity, upto)
            inbox.fail_waiting(tx, integration_id, entity, upto, error)

        await self._database.write(fail)

    async def _read(self, run: Run, live: Live) -> list[EntityResult]:
        if is_taking(run, live):
            return await self._take_in(run, live)
        entities = chosen_entities(run, live)
        if not run.is_replay:
            await self._estimate(run, live, entities)
        await self._database.write(lambda tx: runs.set_step(tx, run.id, Step.FETCH))
        if run.is_replay:
            return [
                await self._replay(Reading(self._database, self._clock, self._journal, live, run, e)) for e in entities
            ]
        skew = await self._skew(run)
        results = []
        for entity in entities:
            reading = Reading(self._database, self._clock, self._journal, live, run, entity, skew, len(entities) == 1)
            results.append(await self._entity(reading))
            if results[-1].reason is Reason.AUTHENTICATION_FAILED:
                break
        return results

    async def _replay(self, reading: Reading) -> EntityResult:
        progress = await self._open(reading)
        if progress.state not in ENDED:
            await replay_entity(reading, progress)
        return EntityResult(reading.entity.name, "complete")

    async def _skew(self, run: Run) -> timedelta:
        row = await self._database.read(lambda tx: integrations.get(tx, run.integration_id))
        return timedelta(milliseconds=row.skew_ms) if row and row.skew_ms else timedelta()

    async def _estimate(self, run: Run, live: Live, entities: Sequence[Entity]) -> None:
        if run.counts.estimated is not None or not isinstance(live.connector, Counts):
            return
        counts: list[int] = []
        for entity in entities:
            reading = Reading(self._database, self._clock, self._journal, live, run, entity)
            progress = await self._open(reading)
            try:
                count = await live.connector.count(entity, request_of(reading, progress))
            except Exception:  # noqa: BLE001 - an estimate is a courtesy; the read itself will say what is wrong
                count = None
            if count is None:
                return
            counts.append(count)
        await self._database.write(lambda tx: runs.set_estimate(tx, run.id, sum(counts)))

    async def _open(self, reading: Reading) -> EntityProgress:
        is_silent = reading.live.manifest.spec.sync.initial_events == "none"
        return await self._database.write(lambda tx: runs.open_entity(tx, reading.run, reading.entity.name, is_silent))

    async def _entity(self, reading: Reading) -> EntityResult:
        """Read it to its end. Errors are counted in a row: a long read may meet many and still get on."""
        progress = await self._open(reading)
        if progress.state in ENDED:
            why = Reason(progress.reason) if progress.reason else None
            return EntityResult(reading.entity.name, progress.state, why, progress.error)
        attempt, errors, reached = 0, 0, progress.pages
        while True:
            error = await self._read_once(reading, progress)
            if not isinstance(error, TransientError):
                return error
            progress = await self._open(reading)
            attempt = 1 if progress.pages > reached and _got_on(error) else attempt + 1
            errors, reached = errors + 1, progress.pages
            if attempt > MAX_RETRIES or errors >= MOST_ERRORS:
                return await self._fail(reading, progress, "failed", error.why, error.message)
            await self._wait(reading, progress, error, attempt)
            if error.detail.get("restart"):
                await self._restart(reading, progress)
                progress = await self._open(reading)

    async def _read_once(self, reading: Reading, progress: EntityProgress) -> EntityResult | TransientError:
        """The entity's end, or an error that may pass."""
        try:
            await _reader(reading)(reading, progress)
        except TransientError as error:
            return error
        except SweepRefusedError as error:
            return await self._fail(reading, progress, "partial", Reason.PRUNE_BLOCKED, str(error))
        except SchemaFrozenError as error:
            message = f"the schema is frozen, but {error}; if this is right: {_accepting(reading)}"
            return await self._fail(reading, progress, "failed", Reason.SCHEMA_CHANGED, message)
        except ConnectorError as error:
            return await self._fail(reading, progress, "failed", error.why, error.message, **error.detail)
        except (FencedError, LaneWantedError, StoreError):
            raise
        except Exception as error:  # noqa: BLE001 - a connector's own fault ends this entity, not the run of all others
            return await self._broken(reading, progress, error)
        return await self._refused(reading, progress) or EntityResult(reading.entity.name, "complete")

    async def _refused(self, reading: Reading, progress: EntityProgress) -> EntityResult | None:
        """What `schema: reject` left out makes the run partial."""
        if reading.sync.schema_ != "reject":
            return None
        count, first = await self._database.read(lambda tx: rejects.misfits(tx, reading.run.id, progress.entity_id))
        if not count:
            return None
        ref, some = reading.live.ref, "1 record does" if count == 1 else f"{count} records do"
        message = (
            f"{some} not fit the schema ({first}): reconciler rejects {ref}; if this is right: {_accepting(reading)},"
            f" then: reconciler rejects {ref} replay --accept-schema"
        )
        return await self._fail(reading, progress, "partial", Reason.SCHEMA_CHANGED, message)

    async def _broken(self, reading: Reading, progress: EntityProgress, error: Exception) -> EntityResult:
        message = self._fault(reading.live, error, entity=reading.entity.name)
        return await self._fail(reading, progress, "failed", Reason.INTERNAL_ERROR, message)

    def _fault(self, live: Live, error: Exception, **detail: str) -> str:
        """What is said of a fault. Its own text may hold anything, so it goes to the redacted log alone."""
        where = place_of(error)
        self._journal(live.integration_id, LogLevel.ERROR, f"{where}: {error}", **detail)
        return f"unexpected {where}; the log of this run has more"

    async def _restart(self, reading: Reading, progress: EntityProgress) -> None:
        def restart(tx: Tx) -> None:
            run_entities.restart_entity(tx, reading.run.id, progress.entity_id)
            if progress.is_watched:
                message = "read again from its beginning; what was told is not told again"
                telling.say_of(tx, reading.run.id, progress.entity_id, message, self._at)

        await self._database.write(restart)

    async def _wait(self, reading: Reading, progress: EntityProgress, error: TransientError, attempt: int) -> None:
        pause = error.retry_after or timedelta(seconds=self._random.uniform(0, min(2.0**attempt, 30.0)))
        self._journal(
            reading.live.integration_id,
            LogLevel.WARN,
            error.message,
            **{
                **error.detail,
                "entity": reading.entity.name,
                "reason": error.why,
                "retry_attempt": attempt,
                "max_retries": MAX_RETRIES,
                "retry_after_ms": int(pause / timedelta(milliseconds=1)),
            },
        )
        if progress.is_watched:
            message = f"{error.message}; tried again in {render_duration(pause)} ({attempt} of {MAX_RETRIES})"
            await self._database.write(
                lambda tx: telling.say_of(tx, reading.run.id, progress.entity_id, message, self._at)
            )
        if pause > LONGEST_WAIT:
            raise PausedError(self._clock.now() + pause, error)
        await self._clock.sleep(pause.total_seconds())

    async def _fail(
        self, reading: Reading, progress: EntityProgress, state: str, reason: Reason, error: str, **detail: Any
    ) -> EntityResult:
        run_id = reading.run.id
        said = {**detail, "entity": reading.entity.name, "reason": reason}
        self._journal(reading.live.integration_id, LogLevel.ERROR, error, **said)

        def fail(tx: Tx) -> None:
            if run_entities.fail_entity(tx, run_id, progress.entity_id, state, reason, error):
                telling.say_of(tx, run_id, progress.entity_id, error, self._at)

        await self._database.write(fail)
        return EntityResult(reading.entity.name, state, reason, error)

    async def _conclude(self, run: Run, live: Live, results: Sequence[EntityResult]) -> Outcome:
        wrong = [r for r in results if r.state != "complete"]
        is_whole = speaks_for_all(run, live)
        if not wrong:
            # what records hold was not looked at, or nothing was pushed
            is_fresh = is_whole and run.scope is not Scope.KEYS and (not takes_in(live) or await self._took_any(run))
            return await self._finish(run, RunResult.SUCCESS, Reason.SUCCEEDED, "", is_whole=is_fresh)
        read_any = any(r.state in {"complete", "partial"} for r in results)
        refused = any(r.reason is Reason.AUTHENTICATION_FAILED for r in wrong)
        result = RunResult.PARTIAL if read_any and not refused else RunResult.FAILED
        first = wrong[0]
        message = "; ".join(f"{r.name}: {r.error}" for r in wrong)
        return await self._finish(run, result, first.reason or Reason.PARTIAL, message, is_whole=is_whole)

    async def _took_any(self, run: Run) -> bool:
        found = await self._database.read(lambda tx: runs.get(tx, run.id))
        return found is not None and found.counts.pages > 0

    def _tell(self, run: Run, result: RunResult, reason: Reason, error: str) -> None:
        is_expected = result in {RunResult.SUCCESS, RunResult.CANCELLED}
        self._journal(
            run.integration_id,
            LogLevel.INFO if is_expected else LogLevel.ERROR,
            f"{run.title} {result}",
            reason=reason,
            error=error,
            **run.told,
        )

    async def _finish(
        self, run: Run, result: RunResult, reason: Reason, error: str, *, is_whole: bool = True
    ) -> Outcome:
        at = rfc3339(self._clock.now())

        def close(tx: Tx) -> Run | None:
            if not runs.finish(tx, run, result, reason, error, at, is_whole=is_whole):
                return None
            _after(tx, run, result, reason, error, at, is_whole=is_whole)
            return runs.get(tx, run.id)

        done = await self._database.write(close)
        if done is not None:
            self._tell(done, result, reason, error)
            self._committed()
        return Outcome()


def _reader(reading: Reading) -> Callable[[Reading, EntityProgress], Awaitable[object]]:
    if is_taking(reading.run, reading.live):
        return take_in
    return list_keys if reading.run.scope is Scope.KEYS else read_entity


def _accepting(reading: Reading) -> str:
    return f"reconciler sync {reading.live.ref} --accept-schema"


def _got_on(error: TransientError) -> bool:
    """Whether pages before this error were new ones: a remote that repeats itself, or starts anew, brings no new ones."""
    return error.why is not Reason.PROTOCOL_ERROR and not error.detail.get("restart")


def _after(tx: Tx, run: Run, result: RunResult, reason: Reason, error: str, at: str, *, is_whole: bool) -> None:
    """What a finished run says of its integration: freshness, an event, and a reconcile where the credential failed."""
    row = integrations.get(tx, run.integration_id)
    if row is None or result is RunResult.CANCELLED or not run.is_sync:
        return
    is_good = result is RunResult.SUCCESS
    is_listing = run.scope is Scope.KEYS and run.entities is None
    is_healed = is_good and is_listing and listings.take_back(tx, row.id)
    truth = Truth.TRUE if is_good else Truth.FALSE
    message = "the last sync succeeded" if is_good else f"the last sync was {result}: {error}"
    if is_whole or is_healed:
        conditions.say(tx, row.id, row.generation, [Say(ConditionType.FRESH, truth, reason, message)], at)
    done = runs.get(tx, run.id)
    counts = done.counts if done else run.counts
    detail = {
        "run": run.public_id,
        "scope": run.scope,
        "result": result,
        "reason": reason,
        **counts.told(run.scope),
        "rejected": counts.rejected,
    }
    if not run.is_inbound:  # one for each request of a remote would drown the others
        journal.emit(
            tx, row.id, Lifecycle.SYNC_FAILED if result is RunResult.FAILED else Lifecycle.SYNC_COMPLETED, at, detail
        )
    if reason is Reason.AUTHENTICATION_FAILED:
        jobs.put(tx, kind="reconcile", ref=str(row.id), key=str(row.id), prio=10, due_at=from_rfc3339(at))
