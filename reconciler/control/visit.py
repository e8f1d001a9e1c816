"""One visit of a reconcile to one integration: the row as it was found, and the right to say what came of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reconciler.model.event import Lifecycle
from reconciler.model.ids import Ref
from reconciler.model.job import Claim
from reconciler.model.state import DesiredState
from reconciler.store import integrations, jobs, journal
from reconciler.store.database import Tx
from reconciler.store.integrations import IntegrationRow


@dataclass(frozen=True, slots=True)
class Visit:
    """Valid until the wish moves on or somebody else takes the lane over."""

    row: IntegrationRow
    claim: Claim

    def is_current(self, tx: Tx) -> bool:
        """Whether what we found still decides: a newer wish has a reconcile of its own due."""
        now = integrations.get(tx, self.row.id)
        return now is not None and now.generation == self.row.generation and jobs.holds(tx, self.claim)

    @property
    def was_failing(self) -> bool:
        return self.row.error_count > 0


def tell_good(tx: Tx, visit: Visit, at: str, detail: Mapping[str, Any]) -> None:
    """One event when the state turns good or the wish changed, none while it stays as it was."""
    row = visit.row
    if not row.is_connected:
        journal.emit(tx, row.id, Lifecycle.CONNECTED, at, detail)
    elif visit.was_failing:
        journal.emit(tx, row.id, Lifecycle.RECOVERED, at, detail)
    elif row.observed_generation != row.generation:
        journal.emit(tx, row.id, Lifecycle.UPDATED, at, detail)


def tell_bad(tx: Tx, visit: Visit, at: str, detail: Mapping[str, Any]) -> None:
    """One event when the state turns bad."""
    if not visit.was_failing:
        journal.emit(tx, visit.row.id, Lifecycle.ERROR, at, detail)


class Dependents:
    """Who waits for whom, turned round; worked out once for each desired state."""

    def __init__(self) -> None:
        self._state: DesiredState | None = None
        self._by_need: dict[Ref, list[Ref]] = {}

    def of(self, state: DesiredState | None, ref: Ref) -> Sequence[Ref]:
        if state is not self._state:
            self._state = state
            self._by_need = {}
            for other, desired in state.integrations.items() if state else ():
                for name in desired.manifest.spec.depends_on:
                    self._by_need.setdefault(Ref(other.workspace, name), []).append(other)
        return self._by_need.get(ref, ())
