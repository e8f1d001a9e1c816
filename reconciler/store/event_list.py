"""One page of events, whatever their source, with how their deliveries stand; and one event by its id.

A page reads a bounded stretch of an index: where few fit, it is short, or empty, and says where to go on. What did not arrive is
found by its deliveries. A change of a record that nobody was told of is in no list; by its id it is found in the version log.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import islice

from reconciler.model.event import EVENT_OF, Operation, singular
from reconciler.store import dataset, delivery_list, events
from reconciler.store.database import Tx
from reconciler.store.dataset import SHIFT
from reconciler.store.delivery_list import Standing
from reconciler.store.events import Place, Sieve, StoredEvent

MOST_WALKED = 5000
_ARRIVED = frozenset({"delivered", "none"})


@dataclass(frozen=True, slots=True)
class EventPage:
    """`after` is where to go on; None at the end."""

    found: Sequence[tuple[StoredEvent, Sequence[Standing]]]
    after: Place | None


def page(
    tx: Tx, sieve: Sieve, types: Collection[str], statuses: Collection[str], before: Place | None, limit: int
) -> EventPage:
    """Any of the types, which are patterns, and any of the statuses; all where none is named."""
    is_notable = bool(statuses) and not _ARRIVED & set(statuses)
    source = islice(events.newest(tx, replace(sieve, is_notable=is_notable), before), MOST_WALKED)
    found: list[tuple[StoredEvent, Sequence[Standing]]] = []
    walked, last = 0, None
    for stretch in _stretches(source):
        walked, last = walked + len(stretch), stretch[-1].place
        fitting = [e for e in stretch if not types or any(fnmatchcase(e.type, pattern) for pattern in types)]
        standing = delivery_list.standing(tx, [e.public_id for e in fitting]) if fitting else {}
        each = [(e, standing.get(e.public_id, [])) for e in fitting]
        found += [(e, s) for e, s in each if not statuses or delivery_list.status_of(s) in statuses]
        if len(found) > limit:
            return EventPage(found[:limit], found[limit - 1][0].place)
    return EventPage(found, last if walked >= MOST_WALKED else None)


def _stretches(source: Iterator[StoredEvent]) -> Iterator[list[StoredEvent]]:
    """Small ones first: most pages need no more."""
    size = 50
    while stretch := list(islice(source, size)):
        yield stretch
        size = events.STRETCH


def find(tx: Tx, public_id: str) -> StoredEvent | None:
    """Also one that is in no list: of a change that nobody was told of, or from before such were noted."""
    return events.find(tx, public_id) or _of_version(tx, public_id) or _of_delivery(tx, public_id)


def number_of(public_id: str) -> int | None:
    """Of the version that an event of a record's change is; None for any other."""
    digits = public_id.removeprefix("evt_")
    try:
        number = int(digits, 16)
    except ValueError:
        return None
    return number if f"evt_{number:x}" == public_id and SHIFT < number.bit_length() <= 63 else None


def payload_of(tx: Tx, public_id: str) -> bytes | None:
    """The record after the change, or before it where it was deleted; None where it is not kept any more."""
    number = number_of(public_id)
    row = tx.one("SELECT payload, prev FROM version WHERE number = :n", n=number) if number is not None else None
    if row is None:
        return None
    return row[0] if row[0] is not None else dataset.payload_of(tx, row[1])


def _of_version(tx: Tx, public_id: str) -> StoredEvent | None:
    number = number_of(public_id)
    if number is None:
        return None
    row = tx.one(
        "SELECT i.workspace, i.id, e.name, v.op, v.at FROM version v JOIN entity e ON e.id = v.entity_id"
        " JOIN integration i ON i.id = e.integration_id WHERE v.number = :n AND v.silent = 0",
        n=number,
    )
    if row is None:
        return None
    workspace, integration_id, entity, op, at = row
    told_as = dataset.OPS[op]
    verb = EVENT_OF[Operation.UPDATE if told_as is Operation.RESTORE else told_as]
    return _virtual(public_id, workspace, integration_id, f"{singular(entity)}.{verb}", at)


def _of_delivery(tx: Tx, public_id: str) -> StoredEvent | None:
    row = tx.one(
        "SELECT i.workspace, d.source_id, d.event_type, d.event_at FROM delivery d"
        " JOIN integration i ON i.id = d.integration_id WHERE d.event_id = :e LIMIT 1",
        e=public_id,
    )
    return None if row is None else _virtual(public_id, *row)


def _virtual(public_id: str, workspace: str, integration_id: int | None, event_type: str, at: str) -> StoredEvent:
    return StoredEvent(0, public_id, workspace, integration_id, event_type, at, {}, "record", "", "", None, "", None)
