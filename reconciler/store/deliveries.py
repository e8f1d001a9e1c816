"""Deliveries and their attempts, and the cursors of the router. A delivery's status moves only along TRANSITIONS."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from reconciler.model.clock import from_rfc3339, rfc3339
from reconciler.model.event import TRANSITIONS, DeliveryStatus
from reconciler.model.ids import new_id
from reconciler.store.database import Row, Tx
from reconciler.store.several import among, many

LONGEST_ATTEMPT = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class NewDelivery:
    """`fields` are rendered already. `dedupe` makes routing the same event twice harmless."""

    dedupe: str
    event_id: str
    event_type: str
    event_at: str
    source_id: int | None
    entity: str
    key: str
    integration_id: int
    synchronization: str
    channel: str
    fields: Mapping[str, Any]
    reason: str = ""
    error: str = ""

    @property
    def status(self) -> DeliveryStatus:
        """Dead from the start where it could not even be rendered: shown, never silently dropped."""
        return DeliveryStatus.DEAD if self.error else DeliveryStatus.PENDING


@dataclass(frozen=True, slots=True)
class Delivery:
    id: int
    public_id: str
    event_id: str
    event_type: str
    event_at: str
    source_id: int | None
    entity: str
    key: str
    integration_id: int
    synchronization: str
    channel: str
    status: DeliveryStatus
    attempts: int
    fence: int
    fields: Mapping[str, Any]
    progress: Mapping[str, Any]
    receipt: Mapping[str, Any]
    reason: str
    error: str
    retry_of: int | None
    is_cancelling: bool
    created_at: str
    first_attempt_at: str | None
    next_at: str | None
    finished_at: str | None
    message_id: str | None
    deadline_at: str | None


def delivery_of(row: Row) -> Delivery:
    values = {name: row[name] for name in Delivery.__slots__}
    for name in ("fields", "progress", "receipt"):
        values[name] = json.loads(values[name])
    values["status"] = DeliveryStatus(values["status"])
    values["is_cancelling"] = bool(values["is_cancelling"])
    return Delivery(**values)


def create(tx: Tx, new: Iterable[NewDelivery], at: str) -> list[tuple[int, int]]:
    """(delivery id, target integration id) of those that did not exist yet and are to be sent, in their order."""
    named = {new_id("dlv"): one for one in new}
    tx.executemany(
        "INSERT INTO delivery (public_id, dedupe, event_id, event_type, event_at, source_id, entity, key,"
        " integration_id, synchronization, channel, status, fields, reason, error, created_at, next_at, finished_at)"
        " VALUES (:public, :dedupe, :event, :type, :event_at, :source, :entity, :key, :i, :sync, :channel, :status,"
        " :fields, :reason, :error, :at, :next, :finished) ON CONFLICT (dedupe) DO NOTHING",
        [_values(public, one, at) for public, one in named.items()],
    )
    rows = tx.all(
        f"SELECT id, integration_id FROM delivery WHERE public_id {among(tx)} AND status = 'pending' ORDER BY id",
        names=many(tx, named),
    )
    return [(i, target) for i, target in rows]


def _values(public_id: str, n: NewDelivery, at: str) -> dict[str, Any]:
    return {
        "public": public_id,
        "dedupe": n.dedupe,
        "event": n.event_id,
        "type": n.event_type,
        "event_at": n.event_at,
        "source": n.source_id,
        "entity": n.entity,
        "key": n.key,
        "i": n.integration_id,
        "sync": n.synchronization,
        "channel": n.channel,
        "status": n.status,
        "fields": json.dumps(dict(n.fields), ensure_ascii=False),
        "reason": n.reason,
        "error": n.error,
        "at": at,
        "next": None if n.error else at,
        "finished": at if n.error else None,
    }


def get(tx: Tx, delivery_id: int) -> Delivery | None:
    row = tx.one("SELECT * FROM delivery WHERE id = :id", id=delivery_id)
    return delivery_of(row) if row else None


def find(tx: Tx, public_id: str) -> Delivery | None:
    row = tx.one("SELECT * FROM delivery WHERE public_id = :id", id=public_id)
    return delivery_of(row) if row else None


def listing(tx: Tx, *, status: str | None = None, integration_id: int | None = None, limit: int = 50) -> list[Delivery]:
    rows = tx.all(
        "SELECT * FROM delivery WHERE status = coalesce(:s, status) AND integration_id = coalesce(:i, integration_id)"
        " ORDER BY id DESC LIMIT :n",
        s=status,
        i=integration_id,
        n=limit,
    )
    return [delivery_of(r) for r in rows]


def begin(tx: Tx, delivery_id: int, fence: int, at: str, deadline_at: str | None = None) -> Delivery | None:
    """pending or failed -> sending, under `fence`; None where it is finished, cancelled, or was left `sending`."""
    row = tx.one(
        "UPDATE delivery SET status = 'sending', fence = :f, attempts = attempts + 1, next_at = NULL,"
        " first_attempt_at = coalesce(first_attempt_at, :at), deadline_at = :deadline"
        " WHERE id = :id AND status IN ('pending', 'failed') AND is_cancelling = 0 RETURNING *",
        f=fence,
        at=at,
        deadline=deadline_at,
        id=delivery_id,
    )
    if row is None:
        return None
    delivery = delivery_of(row)
    tx.execute(
        "INSERT INTO attempt (delivery_id, number, at, outcome) VALUES (:d, :n, :at, 'sending')",
        {"d": delivery_id, "n": delivery.attempts, "at": at},
    )
    return delivery


def is_doubtful(tx: Tx, delivery_id: int) -> bool:
    """Whether an earlier attempt may have reached the remote: it was interrupted, or sent and not answered.

    Also one of the delivery that this one repeats.
    """
    sql = (
        "SELECT 1 FROM attempt WHERE delivery_id = :d AND outcome IN ('sending', 'unknown')"
        " UNION ALL SELECT 1 FROM delivery WHERE id = :d AND message_id IS NOT NULL LIMIT 1"
    )
    return bool(tx.value(sql, d=delivery_id))


def take_over(tx: Tx, delivery_id: int, fence: int, deadline_at: str | None = None) -> Delivery | None:
    """A delivery that an interrupted attempt left `sending`: ours under a newer fence."""
    row = tx.one(
        "UPDATE delivery SET fence = :f, deadline_at = :deadline WHERE id = :id AND status = 'sending' AND fence < :f"
        " RETURNING *",
        f=fence,
        id=delivery_id,
        deadline=deadline_at,
    )
    return delivery_of(row) if row else None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended. `next_at` only for `failed`. `is_doubtful`: it was sent, and no answer came.
    `is_refused`: the credential was.

    `exchange` is the last request and its answer, without secrets.
    """

    status: DeliveryStatus
    reason: str = ""
    message: str = ""
    receipt: Mapping[str, Any] | None = None
    progress: Mapping[str, Any] | None = None
    next_at: str | None = None
    seconds: float | None = None
    is_doubtful: bool = False
    is_refused: bool = False
    exchange: Mapping[str, Any] | None = None


def settle(tx: Tx, delivery: Delivery, outcome: Outcome, at: str) -> bool:
    """Record the end of an attempt; False where another owner or an operator was faster."""
    if outcome.status not in TRANSITIONS[DeliveryStatus.SENDING]:
        raise ValueError(f"a delivery cannot go from sending to {outcome.status}")
    is_final = outcome.status is not DeliveryStatus.FAILED
    touched = tx.rowcount(
        "UPDATE delivery SET status = :s, reason = :reason, error = :message,"
        " receipt = coalesce(:receipt, receipt), progress = coalesce(:progress, progress), next_at = :next,"
        " finished_at = CASE WHEN :final = 1 THEN :at END WHERE id = :id AND status = 'sending' AND fence = :f",
        s=outcome.status,
        reason=outcome.reason,
        message=outcome.message[:2000],
        receipt=json.dumps(dict(outcome.receipt)) if outcome.receipt is not None else None,
        progress=json.dumps(dict(outcome.progress)) if outcome.progress is not None else None,
        next=outcome.next_at,
        final=int(is_final),
        at=at,
        id=delivery.id,
        f=delivery.fence,
    )
    if touched:
        tx.execute(
            "UPDATE attempt SET outcome = :o, reason = :r, message = :m, seconds = :s, exchange = :x"
            " WHERE delivery_id = :d AND number = :n",
            {
                "x": json.dumps(dict(outcome.exchange), ensure_ascii=False) if outcome.exchange else "",
                "o": DeliveryStatus.UNKNOWN if outcome.is_doubtful else outcome.status,
                "r": outcome.reason,
                "m": outcome.message[:2000],
                "s": outcome.seconds,
                "d": delivery.id,
                "n": delivery.attempts,
            },
        )
    return bool(touched)


def take_back(tx: Tx, delivery: Delivery) -> None:
    """The attempt that `begin` began never happened."""
    touched = tx.rowcount(
        "UPDATE delivery SET status = CASE WHEN attempts = 1 THEN 'pending' ELSE 'failed' END, attempts = attempts - 1,"
        " first_attempt_at = CASE WHEN attempts > 1 OR message_id IS NOT NULL THEN first_attempt_at END"
        " WHERE id = :id AND status = 'sending' AND fence = :f",
        id=delivery.id,
        f=delivery.fence,
    )
    if touched:
        tx.execute(
            "DELETE FROM attempt WHERE delivery_id = :d AND number = :n", {"d": delivery.id, "n": delivery.attempts}
        )


def cancel(tx: Tx, delivery_id: int, reason: str, at: str) -> bool:
    """Take back what is not sent yet; what is being sent ends by itself."""
    touched = tx.rowcount(
        "UPDATE delivery SET status = 'cancelled', reason = :r, next_at = NULL, finished_at = :at"
        " WHERE id = :id AND status IN ('pending', 'failed')",
        r=reason,
        at=at,
        id=delivery_id,
    )
    return bool(touched)


def cancel_stuck(tx: Tx, delivery_id: int, reason: str, message: str, at: str) -> bool:
    """Give up one that has been `sending` beyond its deadline; whoever still works on it can no longer settle it."""
    touched = tx.rowcount(
        "UPDATE delivery SET status = 'cancelled', reason = :r, error = :m, next_at = NULL, finished_at = :at"
        " WHERE id = :id AND status = 'sending' AND coalesce(deadline_at, :old) < :at",
        r=reason,
        m=message,
        at=at,
        # an older release, which noted no deadline, began it: when, its newest attempt says
        old=_given_up_at(tx, delivery_id),
        id=delivery_id,
    )
    return bool(touched)


def _given_up_at(tx: Tx, delivery_id: int) -> str:
    begun = tx.value("SELECT max(at) FROM attempt WHERE delivery_id = :d", d=delivery_id)
    return rfc3339(from_rfc3339(begun) + LONGEST_ATTEMPT) if begun else ""


def bury(tx: Tx, delivery_id: int, reason: str, message: str, at: str) -> bool:
    """Dead without an attempt; False where one was begun, or it has ended."""
    touched = tx.rowcount(
        "UPDATE delivery SET status = 'dead', reason = :r, error = :m, next_at = NULL, finished_at = :at"
        " WHERE id = :id AND status IN ('pending', 'failed')",
        r=reason,
        m=message[:2000],
        at=at,
        id=delivery_id,
    )
    return bool(touched)


def abandon(tx: Tx, delivery: Delivery, fence: int, reason: str, message: str, at: str) -> bool:
    """The target was let go: what was never sent is cancelled, what an interrupted attempt left is unknown."""
    if cancel(tx, delivery.id, reason, at):
        return True
    interrupted = take_over(tx, delivery.id, fence)
    unknown = Outcome(DeliveryStatus.UNKNOWN, reason, message)
    return interrupted is not None and settle(tx, interrupted, unknown, at)


def cancel_open(tx: Tx, integration_id: int, reason: str, at: str) -> list[int]:
    """Take back everything not yet sent to an integration that is let go."""
    rows = tx.all(
        "UPDATE delivery SET status = 'cancelled', reason = :r, next_at = NULL, finished_at = :at"
        " WHERE integration_id = :i AND status IN ('pending', 'failed') RETURNING id",
        r=reason,
        at=at,
        i=integration_id,
    )
    return [i for (i,) in rows]


def retry(tx: Tx, original: Delivery, at: str) -> int:
    """A new delivery of the same message, linked to the first; the original stays as it ended.

    It goes on where a partly successful one stopped; one that arrived is sent again as a whole. Where the original may have
    arrived, the remote is given the same id again, or asked for it.
    """
    first = original.retry_of or original.id
    is_same = original.status is not DeliveryStatus.DELIVERED and is_doubtful(tx, original.id)
    return int(
        tx.value(
            "INSERT INTO delivery (public_id, dedupe, event_id, event_type, event_at, source_id, entity, key,"
            " integration_id, synchronization, channel, status, fields, progress, retry_of, created_at, next_at,"
            " message_id, first_attempt_at)"
            " SELECT :public, dedupe || ':' || :public, event_id, event_type, event_at, source_id, entity, key,"
            " integration_id, synchronization, channel, 'pending', fields,"
            " CASE WHEN status = 'delivered' THEN '{}' ELSE progress END, :first, :at, :at, :message, :begun"
            " FROM delivery WHERE id = :id RETURNING id",
            public=new_id("dlv"),
            first=first,
            at=at,
            id=original.id,
            message=(original.message_id or original.public_id) if is_same else None,
            begun=original.first_attempt_at if is_same else None,
        )
    )


def resent(tx: Tx, first_id: int) -> list[Delivery]:
    """The deliveries that were made to send the same message again, oldest first."""
    return [delivery_of(r) for r in tx.all("SELECT * FROM delivery WHERE retry_of = :d ORDER BY id", d=first_id)]


@dataclass(frozen=True, slots=True)
class Attempt:
    number: int
    at: str
    seconds: float | None
    outcome: str
    reason: str
    message: str
    exchange: Mapping[str, Any]


def attempts(tx: Tx, delivery_id: int) -> list[Attempt]:
    """In order."""
    rows = tx.all(
        "SELECT number, at, seconds, outcome, reason, message, exchange FROM attempt WHERE delivery_id = :d ORDER BY number",
        d=delivery_id,
    )
    return [Attempt(n, at, s, o, r, m, json.loads(x) if x else {}) for n, at, s, o, r, m, x in rows]


def counts(tx: Tx) -> dict[tuple[int, str], int]:
    """(integration id, status) -> how many; only of deliveries that are kept."""
    rows = tx.all("SELECT integration_id, status, count(*) FROM delivery GROUP BY 1, 2")
    return {(i, s): n for i, s, n in rows}


def oldest_open(tx: Tx) -> dict[int, str]:
    """integration id -> creation time of its oldest delivery that is neither finished nor cancelled."""
    rows = tx.all(
        "SELECT integration_id, min(created_at) FROM delivery WHERE status IN ('pending', 'sending', 'failed') GROUP BY 1"
    )
    return {row[0]: row[1] for row in rows}


def failing(tx: Tx, integration_id: int) -> tuple[int, str]:
    """How many deliveries are to be tried again, and the error of the newest of them."""
    where = f"FROM delivery WHERE {_OPEN} AND status = 'failed' AND integration_id = :i"
    count = int(tx.value(f"SELECT count(*) {where}", i=integration_id))
    return count, str(tx.value(f"SELECT error {where} ORDER BY id DESC LIMIT 1", i=integration_id)) if count else ""


def pending(tx: Tx, integration_id: int) -> list[int]:
    """Deliveries that no attempt was made at yet, oldest first."""
    rows = tx.all(
        f"SELECT id FROM delivery WHERE {_OPEN} AND status = 'pending' AND integration_id = :i ORDER BY id",
        i=integration_id,
    )
    return [i for (i,) in rows]


def position(tx: Tx, name: str) -> int:
    return int(tx.value("SELECT position FROM route_cursor WHERE name = :n", n=name) or 0)


def set_position(tx: Tx, name: str, value: int) -> None:
    tx.execute(
        "INSERT INTO route_cursor (name, position) VALUES (:n, :p)"
        " ON CONFLICT (name) DO UPDATE SET position = excluded.position",
        {"n": name, "p": value},
    )


def unrouted(tx: Tx) -> list[tuple[int, int]]:
    """(integration id, routed seq) of those whose log is longer than what was routed."""
    rows = tx.all("SELECT id, routed_seq FROM integration WHERE seq > routed_seq ORDER BY id")
    return [(i, s) for i, s in rows]


def set_routed(tx: Tx, integration_id: int, before: int, after: int) -> bool:
    """Move the cursor; False where another router was faster: then nothing of this transaction may stay."""
    moved = tx.rowcount(
        "UPDATE integration SET routed_seq = :a WHERE id = :i AND routed_seq = :b", a=after, i=integration_id, b=before
    )
    tx.execute(
        "UPDATE run SET step = 'update' WHERE integration_id = :i AND step = 'route'"
        " AND EXISTS (SELECT 1 FROM integration n WHERE n.id = :i AND n.seq = n.routed_seq)",
        {"i": integration_id},
    )
    return bool(moved)


# written out in every question about open deliveries, so that they are answered from the index of just these
_OPEN = "status IN ('pending', 'sending', 'failed')"


def unfinished(tx: Tx) -> list[tuple[int, int, str]]:
    """(delivery id, target id, due time) of all that are still to be sent or were interrupted."""
    rows = tx.all(
        "SELECT id, integration_id, coalesce(next_at, created_at) FROM delivery"
        " WHERE status IN ('pending', 'sending', 'failed') ORDER BY id"
    )
    return [(d, i, at) for d, i, at in rows]


def open_counts(tx: Tx) -> dict[int, dict[str, int]]:
    """integration id -> status -> how many, of those not finished: cheap, whatever history is kept."""
    found: dict[int, dict[str, int]] = {}
    rows = tx.all(
        "SELECT integration_id, status, count(*) FROM delivery WHERE status IN ('pending', 'sending', 'failed') GROUP BY 1, 2"
    )
    for i, status, count in rows:
        found.setdefault(i, {})[status] = count
    return found


def counts_of(tx: Tx, integration_id: int) -> dict[str, int]:
    """status -> how many deliveries to this integration are kept."""
    rows = tx.all("SELECT status, count(*) FROM delivery WHERE integration_id = :i GROUP BY 1", i=integration_id)
    return {row[0]: row[1] for row in rows}
