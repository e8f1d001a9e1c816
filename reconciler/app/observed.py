"""What jobs came to, told to the metrics: rooms stay free of them, so the composition root looks at what came out."""

from collections.abc import Awaitable, Callable

from reconciler.model.clock import Clock, rfc3339
from reconciler.model.condition import ConditionType
from reconciler.model.event import DeliveryStatus
from reconciler.model.job import Claim, Job, Outcome
from reconciler.serve.metrics import Metrics
from reconciler.store import conditions, deliveries, integrations, runs
from reconciler.store.database import Database
from reconciler.store.deliveries import Delivery

Kind = Callable[[Job, Claim], Awaitable[Outcome]]


class ObservedJobs:
    """Wraps the coroutines of the job kinds; `after` is called when a job has ended."""

    def __init__(self, database: Database, metrics: Metrics, clock: Clock, after: Callable[[], None]) -> None:
        self._database = database
        self._metrics = metrics
        self._clock = clock
        self._after = after

    def wrap(self, kind: Kind) -> Kind:
        looks: dict[str, Callable[[Job, Outcome, float], Awaitable[None]]] = {
            "reconcile": self._reconciled,
            "sync": self._synced,
            "deliver": self._delivered,
        }

        async def job(job: Job, claim: Claim) -> Outcome:
            started, result = self._clock.monotonic(), "error"
            self._metrics.count_queue_add(job.queue)
            try:
                outcome = await kind(job, claim)
                result = "success"
            except Exception:
                self._metrics.count_queue_retry(job.queue)
                raise
            finally:
                seconds = self._clock.monotonic() - started
                self._metrics.observe_job(job.kind, result, seconds)
            if job.kind in looks:
                await looks[job.kind](job, outcome, seconds)
            self._after()
            return outcome

        return job

    def attempted(self, type_name: str, delivery: Delivery, status: DeliveryStatus, seconds: float) -> None:
        """A delivery that a job went on with after its own."""
        self._metrics.observe_delivery(type_name, delivery.channel, status, seconds)

    async def _reconciled(self, job: Job, outcome: Outcome, seconds: float) -> None:
        integration_id = int(job.ref)
        row = await self._database.read(lambda tx: integrations.get(tx, integration_id))
        if row is None:
            return
        stalled = ConditionType.STALLED in await self._database.read(
            lambda tx: conditions.conditions(tx, integration_id)
        )
        result = "stalled" if stalled else "retry" if outcome.again_at else "success"
        self._metrics.observe_reconcile(row.type, result, seconds)

    async def _synced(self, job: Job, outcome: Outcome, seconds: float) -> None:
        run = await self._database.read(lambda tx: runs.get(tx, int(job.ref)))
        row = await self._database.read(lambda tx: integrations.get(tx, run.integration_id)) if run else None
        if run is not None and row is not None and run.result is not None and run.is_sync:
            self._metrics.observe_run(row.type, row.workspace, row.name, run.result, seconds, run.counts)

    async def _delivered(self, job: Job, outcome: Outcome, seconds: float) -> None:
        delivery = await self._database.read(lambda tx: deliveries.get(tx, int(job.ref)))
        row = await self._database.read(lambda tx: integrations.get(tx, delivery.integration_id)) if delivery else None
        if delivery is not None and row is not None and _was_tried(delivery, outcome):
            self._metrics.observe_delivery(row.type, delivery.channel, delivery.status, seconds)


def _was_tried(delivery: Delivery, outcome: Outcome) -> bool:
    """Waiting for a target that is not there is no attempt: only an attempt that failed has said when the next one is."""
    is_waiting = outcome.again_at is not None and delivery.next_at != rfc3339(outcome.again_at)
    return delivery.attempts > 0 and not is_waiting
