"""The order in which a plan is applied: what others depend on comes first; removals last, dependents before their needs."""

from collections.abc import Sequence
from graphlib import CycleError, TopologicalSorter

from reconciler.model.ids import Ref
from reconciler.model.plan import Action, PlannedAction

_REMOVALS = (Action.DISCONNECT, Action.PURGE)


def order(actions: Sequence[PlannedAction]) -> tuple[PlannedAction, ...]:
    """Connects and updates by `depends_on`, then removals in reverse; by name where nothing decides.

    A cycle cannot come here: it is a finding and its members are held. Should it, names decide.
    """
    kept = sorted((a for a in actions if a.action not in _REMOVALS), key=lambda a: a.ref)
    gone = sorted((a for a in actions if a.action in _REMOVALS), key=lambda a: a.ref)
    return tuple(_by_need(kept)) + tuple(reversed(_by_need(gone)))


def _by_need(actions: list[PlannedAction]) -> list[PlannedAction]:
    by_ref = {a.ref: a for a in actions}
    graph: TopologicalSorter[Ref] = TopologicalSorter()
    for action in actions:
        graph.add(action.ref, *sorted(r for r in action.depends_on if r in by_ref))
    try:
        return [by_ref[ref] for ref in graph.static_order()]
    except CycleError:
        return actions
