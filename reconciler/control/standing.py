"""Whether there is anything left to wait for: how an integration stands between a new wish and its end.

In: its conditions, and whether a reconcile of it is due or under way. Out: one word. Asked by `reconciler apply` and by
`reconciler reconcile --wait`, of the store or of what the API tells. How well it syncs and delivers is not looked at: that
goes on for ever.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum

from reconciler.control.view import IntegrationView, overview
from reconciler.model.condition import Condition, ConditionType, Reason, Truth
from reconciler.store import jobs
from reconciler.store.database import Tx

_OFF = frozenset({Reason.DISABLED, Reason.SUSPENDED, Reason.PRUNED})


class Standing(StrEnum):
    """WORKING may still end well by itself; everything else stays until something changes."""

    CONNECTED = "connected"
    OFF = "off"
    WAITING = "waiting"
    STALLED = "stalled"
    BROKEN = "broken"
    BLOCKED = "blocked"
    WORKING = "working"

    @property
    def is_settled(self) -> bool:
        return self is not Standing.WORKING

    @property
    def is_good(self) -> bool:
        return self in {Standing.CONNECTED, Standing.OFF}


def standing(view: IntegrationView, *, is_pending: bool) -> Standing:
    row, said = view.row, {**view.conditions, ConditionType.READY: view.ready}
    is_observed = row.observed_generation >= row.generation
    return standing_by(said, is_pending=is_pending or not row.is_desired, is_observed=is_observed)


def standing_by(said: Mapping[ConditionType, Condition], *, is_pending: bool, is_observed: bool) -> Standing:
    """`said` with Ready. BROKEN: the manifest or its secrets, whatever is still connected. BLOCKED: its removal waits for an
    approval. WAITING: for another integration, or for a person to sign in."""
    if is_pending:
        return Standing.WORKING
    if ConditionType.STALLED in said:
        return Standing.STALLED
    if said[ConditionType.READY].reason in {Reason.AWAITING_AUTHORIZATION, Reason.DEPENDENCY_NOT_READY}:
        return Standing.WAITING
    connected = said.get(ConditionType.CONNECTED)
    if connected is not None and connected.reason in _OFF:
        return Standing.OFF
    gates = (ConditionType.VALID, ConditionType.SECRETS_DECRYPTED)
    shut = [said[t] for t in gates if t in said and said[t].truth is Truth.FALSE]
    if shut:
        return Standing.BLOCKED if shut[0].reason is Reason.PRUNE_BLOCKED else Standing.BROKEN
    is_up = connected is not None and connected.truth is Truth.TRUE
    return Standing.CONNECTED if is_up and is_observed else Standing.WORKING


def standings(tx: Tx, now: datetime) -> Sequence[tuple[IntegrationView, Standing]]:
    """Every integration that is not gone yet."""
    pending = jobs.pending(tx, "reconcile", now)
    return [(v, standing(v, is_pending=str(v.row.id) in pending)) for v in overview(tx, now).integrations]
