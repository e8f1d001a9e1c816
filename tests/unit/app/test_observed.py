"""What jobs came to, as the metrics see it."""

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from reconciler.app.observed import ObservedJobs
from reconciler.model.clock import rfc3339
from reconciler.model.job import Claim, Job, Outcome
from reconciler.sdk.errors import TransientError
from reconciler.serve.metrics import Metrics
from reconciler.store import integrations
from reconciler.store.deliveries import NewDelivery, create
from tests.desk import World, embedded


def nothing() -> None:
    pass


def total(metrics: Metrics, name: str, **labels: str) -> float:
    families = text_string_to_metric_families(metrics.render().decode())
    samples = [s for family in families for s in family.samples if s.name == name]
    return sum(s.value for s in samples if labels.items() <= s.labels.items())


async def test_waiting_for_a_target_is_no_attempt(tmp_path: Path) -> None:
    metrics = Metrics()
    async with embedded(tmp_path) as world:
        await world.up()
        world.deliverer.run = ObservedJobs(world.db, metrics, world.clock, nothing).wrap(world.deliverer.run)  # type: ignore[assignment,method-assign]
        delivery_id = await _delivery(world)
        row = await world.row()
        world.remote().answers.append(TransientError("down"))
        await world.work("deliver", delivery_id, row.id)
        await world.db.write(lambda tx: integrations.suspend(tx, row.id, "ada", "", None))
        await world.work("deliver", delivery_id, row.id)
        assert total(metrics, "reconciler_delivery_attempts_total") == 1
        await world.db.write(lambda tx: integrations.suspend(tx, row.id, "", "", None))
        await world.work("deliver", delivery_id, row.id)
    for outcome in ("failed", "delivered"):
        assert total(metrics, "reconciler_delivery_attempts_total", outcome=outcome) == 1
    assert total(metrics, "reconciler_queue_adds_total", queue="deliver") == 3


async def _delivery(world: World) -> int:
    row, at = await world.row(), rfc3339(world.clock.now())
    new = NewDelivery("d1", "evt_1", "ticket.created", at, None, "", "", row.id, "s", "safe", {"text": "x"})
    ((delivery_id, _),) = await world.db.write(lambda tx: create(tx, [new], at))
    return delivery_id


async def test_what_fails_is_due_again_and_counted(tmp_path: Path) -> None:
    metrics = Metrics()

    async def broken(job: Job, claim: Claim) -> Outcome:
        raise ZeroDivisionError

    async with embedded(tmp_path) as world:
        kind = ObservedJobs(world.db, metrics, world.clock, nothing).wrap(broken)
        with pytest.raises(ZeroDivisionError):
            await kind(Job(1, "sync", "work", "1", "1", 1), Claim(1, 1, "work", "1", "me", 1))
    assert total(metrics, "reconciler_queue_retries_total", queue="work") == 1
    assert total(metrics, "reconciler_job_duration_seconds_count", result="error") == 1
