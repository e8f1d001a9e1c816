"""What a person, the API and the metrics see of an integration: computed from rows, never stored."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from reconciler.model.clock import from_rfc3339, rfc3339
from reconciler.model.condition import (
    Condition,
    ConditionType,
    Health,
    Reason,
    Status,
    SyncStatus,
    Truth,
    health,
    ready,
    status,
)
from reconciler.model.finding import Finding
from reconciler.store import conditions, deliveries, integrations, journal, probes, runs
from reconciler.store.database import Tx
from reconciler.store.integrations import IntegrationRow
from reconciler.store.journal import SourceRow
from reconciler.store.runs import Run

UPTIME_DAYS = 30


@dataclass(frozen=True, slots=True)
class IntegrationView:
    """One integration now. `objective` is its freshness objective where one is stated."""

    row: IntegrationRow
    conditions: Mapping[ConditionType, Condition]
    ready: Condition
    status: Status
    health: Health
    sync_status: SyncStatus | None
    uptime_percent: float | None
    objective: timedelta | None
    running: Run | None
    deliveries: Mapping[str, int]
    oldest_delivery_at: str | None

    @property
    def message(self) -> str:
        """What a person should read first: the reason of Ready where it is not true, else of what degrades it."""
        if self.ready.truth is not Truth.TRUE:
            return f"{self.ready.reason}: {self.ready.message}"
        soft = self.conditions.get(ConditionType.DRIFTED) or self.conditions.get(ConditionType.CREDENTIAL_EXPIRING)
        return f"{soft.reason}: {soft.message}" if soft else self.ready.message


@dataclass(frozen=True, slots=True)
class Overview:
    """Everything a status table, the API and `/metrics` show, of one moment."""

    at: datetime
    integrations: Sequence[IntegrationView]
    sources: Sequence[SourceRow]
    findings: Sequence[Finding]


def overview(tx: Tx, now: datetime) -> Overview:
    """Reads each table once, whatever the number of integrations."""
    since = rfc3339(now - timedelta(days=UPTIME_DAYS))[:10]
    rows = integrations.every(tx)
    said = conditions.every_condition(tx)
    uptimes = probes.uptime(tx, since)
    counts: dict[int, dict[str, int]] = {}
    for (integration_id, name), count in deliveries.counts(tx).items():
        counts.setdefault(integration_id, {})[name] = count
    oldest, running, objectives = deliveries.oldest_open(tx), runs.every_running(tx), integrations.freshness(tx)
    views = [
        _view(
            row,
            said.get(row.id, {}),
            uptimes.get(row.id),
            objectives.get(row.id),
            running.get(row.id),
            counts.get(row.id, {}),
            oldest.get(row.id),
            now,
        )
        for row in rows
    ]
    return Overview(now, views, journal.sources(tx), journal.findings(tx))


def views(
    tx: Tx, now: datetime, ids: Iterable[int], counts: Mapping[int, Mapping[str, int]]
) -> Iterator[IntegrationView]:
    """Only these, one after another, as far as they are still there: for whoever keeps the rest.

    `counts` are their deliveries by status.
    """
    since = rfc3339(now - timedelta(days=UPTIME_DAYS))[:10]
    oldest, running = deliveries.oldest_open(tx), runs.every_running(tx)
    for i in ids:
        row = integrations.get(tx, i)
        if row is not None and row.removed_at is None:
            uptime, objective = probes.uptime_of(tx, i, since), integrations.freshness_of(tx, i)
            said, sent = conditions.conditions(tx, i), counts.get(i, {})
            yield _view(row, said, uptime, objective, running.get(i), sent, oldest.get(i), now)


def _view(
    row: IntegrationRow,
    said: Mapping[ConditionType, Condition],
    uptime: tuple[int, int] | None,
    objective: timedelta | None,
    running: Run | None,
    counts: Mapping[str, int],
    oldest: str | None,
    now: datetime,
    /,
) -> IntegrationView:
    good, bad = uptime or (0, 0)
    return IntegrationView(
        row=row,
        conditions=said,
        ready=ready(said, now),
        status=status(said, running is not None),
        health=health(said),
        sync_status=_sync_status(row, said, objective, now),
        uptime_percent=round(100 * good / (good + bad), 3) if good + bad else None,
        objective=objective,
        running=running,
        deliveries=counts,
        oldest_delivery_at=oldest,
    )


def _sync_status(
    row: IntegrationRow, said: Mapping[ConditionType, Condition], objective: timedelta | None, now: datetime
) -> SyncStatus | None:
    """None where no run has finished. Stale beyond twice the objective counts as failed."""
    if not row.last_sync_result and row.last_sync_at is None:
        return None
    age = now - from_rfc3339(row.last_sync_at) if row.last_sync_at else None
    if row.last_sync_result == "failed" or (objective and (age is None or age > 2 * objective)):
        return SyncStatus.FAILED
    fresh = said.get(ConditionType.FRESH)
    is_late = fresh is not None and fresh.truth is Truth.FALSE and fresh.reason in {Reason.LATE, Reason.STALE}
    if row.last_sync_result == "partial" or is_late or (objective and age and age > objective):
        return SyncStatus.DEGRADED
    return SyncStatus.HEALTHY
