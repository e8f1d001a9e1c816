"""What a run reads: the entities that a person, the manifest or the connector chose. Pure; called by `run`."""

from collections.abc import Sequence

from reconciler.model.record import Scope
from reconciler.sdk.contract import Deletes, Entity
from reconciler.sdk.live import Live
from reconciler.store.runs import Run
from reconciler.sync.inbound import entity_of, takes_in


class NothingToReadError(Exception):
    """What was asked for does not exist or is not read: the message says what there is."""


def chosen_entities(run: Run, live: Live) -> list[Entity]:
    """The entities of this run: asked for, else the manifest's, else those read by default. Raises NothingToReadError."""
    offered = live.connector.entities_of(live.connector.config)
    if live.manifest.spec.sync_direction == "outbound":
        raise NothingToReadError("sync_direction is outbound: nothing is read")
    if takes_in(live):
        return [found for name in run.entities or () if (found := entity_of(live, name))]
    unknown = sorted(set(run.entities or ()) - {e.name for e in offered})
    if unknown and not run.is_replay:
        there = ", ".join(e.name for e in offered) or "none"
        raise NothingToReadError(f"no entity {', '.join(unknown)}; {live.connector.type} has: {there}")
    chosen = _usual(live) if run.entities is None else [e for e in offered if e.name in run.entities]
    if not chosen:
        raise NothingToReadError(f"{live.connector.type} is asked to read no entity; see spec.sync.entities")
    if run.scope is Scope.DELTA and run.cause == "person" and not any(e.has_delta for e in chosen):
        raise NothingToReadError(f"{live.connector.type} has no change feed; use --scope incremental or full")
    if run.scope is Scope.KEYS:
        return _listable(live, chosen)
    return chosen


def _listable(live: Live, chosen: Sequence[Entity]) -> list[Entity]:
    found = [e for e in chosen if e.deletes is Deletes.KEYS]
    if not found:
        names = ", ".join(e.name for e in chosen)
        raise NothingToReadError(f"{live.connector.type} lists no keys alone of {names}; use --scope full")
    return found


def _usual(live: Live) -> list[Entity]:
    """What a run reads for which nobody chose."""
    names = live.manifest.spec.sync.entities
    offered = live.connector.entities_of(live.connector.config)
    return [e for e in offered if (e.by_default if names is None else e.name in names)]


def speaks_for_all(run: Run, live: Live) -> bool:
    """Whether the result speaks for the integration: a person may have chosen only a part of it."""
    if run.is_replay or (run.is_inbound and not takes_in(live)):
        return False
    if takes_in(live):
        return True
    return run.entities is None or {e.name for e in _usual(live)} <= set(run.entities)
