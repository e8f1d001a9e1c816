"""Deliveries as they are listed: of some integrations and statuses, newest first, and those of events with their standing.

Query functions for `Database.read`. A list is merged of one short walk of an index for each integration and status, so it costs
the same however many deliveries are kept.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from heapq import merge
from itertools import islice

from reconciler.model.event import DeliveryStatus, summary_status
from reconciler.store.database import Tx
from reconciler.store.deliveries import Delivery, delivery_of
from reconciler.store.several import among, many


@dataclass(frozen=True, slots=True)
class Standing:
    """Of one delivery: what its event's status is made of."""

    id: int
    integration_id: int
    synchronization: str
    status: DeliveryStatus


def standing(tx: Tx, event_ids: Collection[str]) -> dict[str, list[Standing]]:
    """event id -> its deliveries, oldest first."""
    rows = tx.all(f"{_STANDING} WHERE event_id {among(tx)} ORDER BY id", names=many(tx, event_ids))
    found: dict[str, list[Standing]] = defaultdict(list)
    for event_id, number, target, synchronization, status in rows:
        found[event_id].append(Standing(number, target, synchronization, DeliveryStatus(status)))
    return found


_STANDING = "SELECT event_id, id, integration_id, synchronization, status FROM delivery"


def current(those: Sequence[Standing]) -> list[Standing]:
    """The last one to each target by each synchronization: what was sent again does not count any more."""
    return list({(one.integration_id, one.synchronization): one for one in those}.values())


def status_of(those: Sequence[Standing]) -> str:
    """One word for an event."""
    return summary_status({one.status for one in current(those)})


def of_event(tx: Tx, event_id: str) -> list[Delivery]:
    """Oldest first."""
    return [delivery_of(r) for r in tx.all("SELECT * FROM delivery WHERE event_id = :e ORDER BY id", e=event_id)]


def targets(tx: Tx, workspace: str | None) -> list[int]:
    """Integrations that anything was ever delivered to, found by leaps over the index."""
    rows = tx.all(
        "WITH RECURSIVE leap (i) AS (SELECT min(integration_id) FROM delivery"
        " UNION ALL SELECT (SELECT min(integration_id) FROM delivery WHERE integration_id > leap.i) FROM leap"
        " WHERE leap.i IS NOT NULL)"
        " SELECT n.id FROM leap JOIN integration n ON n.id = leap.i"
        f"{'' if workspace is None else ' WHERE n.workspace = :w'} ORDER BY n.id",
        **({} if workspace is None else {"w": workspace}),
    )
    return [i for (i,) in rows]


def newest(
    tx: Tx, integrations: Sequence[int], statuses: Collection[str], before: int | None, limit: int
) -> list[Delivery]:
    """`before` is the id of the last one seen."""
    wanted: Sequence[str | None] = sorted(set(statuses)) or (None,)
    each = [_walk(tx, i, status, before, limit) for i in integrations for status in wanted]
    return list(islice(merge(*each, key=lambda d: d.id, reverse=True), limit))


def _walk(tx: Tx, integration_id: int, status: str | None, before: int | None, limit: int) -> Iterator[Delivery]:
    rows = tx.all(
        f"SELECT * FROM delivery WHERE integration_id = :i{'' if status is None else ' AND status = :s'}"
        f"{'' if before is None else ' AND id < :before'} ORDER BY id DESC LIMIT :n",
        **{"i": integration_id, "n": limit}
        | ({} if status is None else {"s": status})
        | ({} if before is None else {"before": before}),
    )
    return iter([delivery_of(row) for row in rows])
