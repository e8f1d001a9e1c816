"""Which names are in question when a desired state is taken over: the one place that decides what need not be looked at.

In: the resolution, the store, and what was taken over last. Out: names, or None for all of them. All are in question unless
this process wrote the wishes that stand in the store, by the resolution before this one. Then only those can come out
otherwise of which Git or a secret says something else, or which the store knows not to be as they were wanted: also by the
hand of a worker or of a person. Called by `intake` in its transaction.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from reconciler.control.book import Resolution
from reconciler.model.condition import ConditionType
from reconciler.model.finding import Finding
from reconciler.model.ids import Ref
from reconciler.store import conditions, integrations
from reconciler.store.database import Tx

_GATES = (ConditionType.VALID, ConditionType.SECRETS_DECRYPTED)


@dataclass(frozen=True, slots=True)
class Taken:
    """The resolution that was written last, by its number, the `mark` by which the store still knows it, and the findings."""

    number: int
    mark: str
    findings: Sequence[Finding]


def in_question(tx: Tx, resolution: Resolution, last: Taken | None) -> Collection[Ref] | None:
    """None for every name: after a start or a failure, where another wrote, and where the database was restored."""
    if last is None or resolution.touched is None or resolution.number != last.number + 1:
        return None
    if integrations.taken(tx) != last.mark:
        return None
    unwell = [conditions.unwell_names(tx, gate) for gate in _GATES]
    state = resolution.state
    return resolution.touched.union(state.held, resolution.unread, integrations.differing(tx), *unwell)
