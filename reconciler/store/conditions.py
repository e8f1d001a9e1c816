"""What is said of an integration: a row for each condition, read and stated by id. `model/condition` draws the conclusions.

Query functions for `Database.read` and `Database.write`. Called by all that reconciles, probes, syncs, delivers or shows.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from reconciler.model.clock import from_rfc3339, rfc3339
from reconciler.model.condition import Condition, ConditionType, Health, Reason, Truth, health, soft
from reconciler.model.event import Lifecycle
from reconciler.model.ids import Ref
from reconciler.store import journal
from reconciler.store.database import Row, Tx


def conditions(tx: Tx, integration_id: int) -> dict[ConditionType, Condition]:
    rows = tx.all(
        "SELECT type, truth, reason, message, since, generation FROM condition WHERE integration_id = :i",
        i=integration_id,
    )
    return {c.type: c for c in map(_condition, rows)}


def every_condition(tx: Tx) -> dict[int, dict[ConditionType, Condition]]:
    found: dict[int, dict[ConditionType, Condition]] = {}
    for row in tx.all("SELECT type, truth, reason, message, since, generation, integration_id FROM condition"):
        condition = _condition(row)
        found.setdefault(row[6], {})[condition.type] = condition
    return found


def stands(tx: Tx, integration_id: int, type_name: ConditionType) -> bool:
    """Whether it is said to be true already, of the generation that there is now."""
    sql = (
        "SELECT 1 FROM condition c JOIN integration n ON n.id = c.integration_id AND n.generation = c.generation"
        " WHERE c.integration_id = :i AND c.type = :t AND c.truth = 'True' AND n.removed_at IS NULL"
    )
    return bool(tx.value(sql, i=integration_id, t=type_name))


def gone(tx: Tx, integration_id: int) -> str:
    """What was said when the remote wanted no more of the generation that there is now; empty where it did not say so."""
    sql = (
        "SELECT c.message FROM condition c JOIN integration n ON n.id = c.integration_id AND n.generation = c.generation"
        " WHERE c.integration_id = :i AND c.type = :t AND c.reason = :r"
    )
    return str(tx.value(sql, i=integration_id, t=ConditionType.DELIVERING, r=Reason.GONE) or "")


def unwell(tx: Tx, type_name: ConditionType) -> frozenset[int]:
    """Those of which that condition was not true when it was looked at last."""
    sql = "SELECT integration_id FROM condition WHERE type = :t AND truth <> 'True'"
    return frozenset(i for (i,) in tx.all(sql, t=type_name))


def unwell_names(tx: Tx, type_name: ConditionType) -> frozenset[Ref]:
    sql = (
        "SELECT i.workspace, i.name FROM condition c JOIN integration i ON i.id = c.integration_id"
        " WHERE c.type = :t AND c.truth <> 'True'"
    )
    return frozenset(Ref(workspace, name) for workspace, name in tx.all(sql, t=type_name))


def _condition(row: Row) -> Condition:
    return Condition(ConditionType(row[0]), Truth(row[1]), Reason(row[2]), row[3], from_rfc3339(row[4]), row[5])


@dataclass(frozen=True, slots=True)
class Say:
    """One condition to state; a truth of None takes it away."""

    type: ConditionType
    truth: Truth | None
    reason: Reason = Reason.SUCCEEDED
    message: str = ""


def say(tx: Tx, integration_id: int, generation: int, statements: Iterable[Say], at: str) -> list[Condition]:
    """State conditions; returns those that changed their truth or reason. `since` moves only with the truth.

    Where health turns from healthy to degraded by it, that is an event. Worse than that has events of its own, with whoever
    reconciles.
    """
    before = conditions(tx, integration_id)
    changed = []
    for s in statements:
        old = before.get(s.type)
        if s.truth is None:
            if old is not None:
                tx.execute(
                    "DELETE FROM condition WHERE integration_id = :i AND type = :t", {"i": integration_id, "t": s.type}
                )
                changed.append(Condition(s.type, Truth.UNKNOWN, s.reason, s.message, from_rfc3339(at), generation))
            continue
        if old and (old.truth, old.reason, old.message, old.generation) == (s.truth, s.reason, s.message, generation):
            continue
        since = rfc3339(old.since) if old and old.truth is s.truth else at
        tx.execute(
            "INSERT INTO condition (integration_id, type, truth, reason, message, since, generation)"
            " VALUES (:i, :t, :truth, :reason, :message, :since, :g) ON CONFLICT (integration_id, type) DO UPDATE SET"
            " truth = excluded.truth, reason = excluded.reason, message = excluded.message, since = excluded.since,"
            " generation = excluded.generation",
            {
                "i": integration_id,
                "t": s.type,
                "truth": s.truth,
                "reason": s.reason,
                "message": s.message[:2000],
                "since": since,
                "g": generation,
            },
        )
        if old is None or (old.truth, old.reason) != (s.truth, s.reason):
            changed.append(Condition(s.type, s.truth, s.reason, s.message, from_rfc3339(since), generation))
    if changed and health(before) is Health.HEALTHY:
        _tell_degraded(tx, integration_id, at)
    return changed


def _tell_degraded(tx: Tx, integration_id: int, at: str) -> None:
    """In words of our own: a condition's message may quote a record, and events are sent on and kept."""
    said = conditions(tx, integration_id)
    if health(said) is not Health.DEGRADED:
        return
    bad = {one.type: one.reason for one in sorted(soft(said), key=lambda one: one.type)}
    detail = {"message": ", ".join(f"{kind}: {why}" for kind, why in bad.items()), "conditions": bad}
    journal.emit(tx, integration_id, Lifecycle.DEGRADED, at, detail)
