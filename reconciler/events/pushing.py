"""Records and events that are pushed to us, in the transaction that stores them: what is new, what is stale, what is missing.

Called by `serve` with what was read and checked already. Events are in the log when the transaction is done; records wait in
the inbox for the integration's run. A refusal raises, and nothing of the request is stored.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from reconciler.events.inbound import FullError, Taken, emit_new
from reconciler.model.clock import rfc3339
from reconciler.sdk.live import Live
from reconciler.sdk.pushed import Events, Pushed
from reconciler.store import inbox, pushed
from reconciler.store.database import Tx
from reconciler.store.inbox import Item, Kind, Op
from reconciler.store.integrations import IntegrationRow
from reconciler.store.pushed import Verdict


class StaleError(Exception):
    """A newer version was accepted before."""

    def __init__(self, version: str) -> None:
        super().__init__("a newer version was accepted before")
        self.version = version


class SnapshotError(Exception):
    """It would delete more than the manifest permits."""

    def __init__(self, gone: int, known: int, ratio: float) -> None:
        super().__init__(f"it names too few records: {gone} of {known} would be deleted, more than {ratio:.0%}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Push:
    """One request: to whom, when, and the id that its sender signed, if any.

    The same request has the same `digest`; "" is none's.
    """

    row: IntegrationRow
    live: Live
    now: datetime
    message: str = ""
    digest: str = ""

    @property
    def is_ready(self) -> bool:
        return self.row.is_connected and not self.row.is_suspended


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """`complete` ends the snapshot: what no page of it named goes."""

    entity: str
    records: Sequence[tuple[int, Pushed]]
    rejected: Sequence[Mapping[str, Any]] = ()
    snapshot: str = ""
    complete: bool = False
    max_ratio: float = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What a request came to."""

    taken: Taken
    accepted: int = 0
    duplicates: int = 0
    rejected: Sequence[Mapping[str, Any]] = field(default=())
    verdict: Verdict | None = None


def push_events(tx: Tx, push: Push, found: Events) -> Stored:
    """Told once each, also where the sender sends again."""
    number, public_id = _open(tx, push, "events")
    told = emit_new(tx, push.row.id, found.events, number, rfc3339(push.now))
    inbox.close_request(tx, number, told, len(found.events) - told)
    taken = Taken(public_id, tells=told > 0)
    return Stored(taken=taken, accepted=told, duplicates=len(found.events) - told, rejected=found.rejected)


def push_record(tx: Tx, push: Push, entity: str, one: Pushed) -> Stored:
    """Raises StaleError."""
    verdict = pushed.accept(tx, push.row.id, entity, one, push.now)
    if verdict.state == "stale":
        raise StaleError(verdict.version)
    is_same = verdict.state == "unchanged"
    if is_same and not push.message:
        return Stored(taken=Taken(""), verdict=verdict)
    number, public_id = _open(tx, push, "record")
    if is_same:  # signed: once the record has changed, the message must not change it back
        inbox.close_request(tx, number, 0, 1)
        return Stored(taken=Taken(public_id), duplicates=1, verdict=verdict)
    inbox.put_items(tx, push.row.id, number, [_item(entity, 0, one)])
    inbox.close_request(tx, number, 1)
    return Stored(taken=Taken(public_id, run_id=_run(tx, push)), accepted=1, verdict=verdict)


def push_batch(tx: Tx, push: Push, batch: Batch) -> Stored:
    """What is stale is told of and left out; raises SnapshotError."""
    number, public_id = _open(tx, push, "batch")
    is_silent = bool(batch.snapshot) and _is_silent(tx, push, batch.entity)
    items, rejected, duplicates = list[Item](), list(batch.rejected), 0
    for place, one in batch.records:
        verdict = pushed.accept(tx, push.row.id, batch.entity, one, push.now)
        if verdict.state == "stale":
            rejected.append(
                {"index": place, "id": one.key, "code": "stale-version", "detail": "a newer version is known"}
            )
        elif verdict.state == "unchanged":
            duplicates += 1
        else:
            items.append(_item(batch.entity, place, one, is_silent=is_silent))
    items += _snapshot(tx, push, batch, number)
    inbox.put_items(tx, push.row.id, number, items)
    accepted = len(batch.records) - (len(rejected) - len(batch.rejected)) - duplicates
    inbox.close_request(tx, number, accepted, duplicates)
    run_id = _run(tx, push) if items else None
    return Stored(
        taken=Taken(public_id, run_id=run_id),
        accepted=accepted,
        duplicates=duplicates,
        rejected=sorted(rejected, key=lambda one: one["index"]),
    )


def note_named(tx: Tx, push: Push, batch: Batch) -> None:
    """A record of a snapshot that is not taken is there all the same."""
    named = [one.key for _, one in batch.records if one.payload is not None]
    named += [one["id"] for one in batch.rejected if "id" in one]
    if batch.snapshot:
        pushed.note_snapshot(tx, push.row.id, batch.entity, batch.snapshot, named, rfc3339(push.now))


def _is_again(tx: Tx, push: Push, batch: Batch, number: int) -> bool:
    """The last page of a snapshot that is complete, sent once more: what the others named is forgotten by now."""
    i, identity = push.row.id, f"snapshot:{batch.entity}:{batch.snapshot}:{push.digest}"
    if not push.digest:
        return False
    if not pushed.has_pages(tx, i, batch.entity, batch.snapshot):
        return inbox.is_known(tx, i, identity)
    inbox.is_new(tx, i, identity, number, rfc3339(push.now))
    return False


def _snapshot(tx: Tx, push: Push, batch: Batch, number: int) -> list[Item]:
    """Deletions of what the pages of a snapshot did not name, once it is complete."""
    if batch.complete and _is_again(tx, push, batch, number):
        return []
    note_named(tx, push, batch)
    if not batch.complete:
        return []
    i = push.row.id
    gone, known = pushed.missing(tx, i, batch.entity, batch.snapshot)
    if len(gone) > known * batch.max_ratio:
        raise SnapshotError(len(gone), known, batch.max_ratio)
    for key in gone:
        pushed.accept(tx, i, batch.entity, Pushed(key, None), push.now)
    pushed.end_snapshot(tx, i, batch.entity, batch.snapshot)
    return [Item(entity=batch.entity, key=key, op="delete") for key in gone]


def _is_silent(tx: Tx, push: Push, entity: str) -> bool:
    """A first snapshot tells nobody, like a first sync."""
    return push.live.manifest.spec.sync.initial_events == "none" and pushed.is_first(tx, push.row.id, entity)


def _open(tx: Tx, push: Push, kind: Kind) -> tuple[int, str]:
    if inbox.is_full(tx, push.row.id):
        raise FullError
    at = rfc3339(push.now)
    number, public_id = inbox.open_request(tx, push.row.id, kind, at)
    if push.message:
        inbox.is_new(tx, push.row.id, f"message:{push.message}", number, at)
    return number, public_id


def _item(entity: str, place: int, one: Pushed, *, is_silent: bool = False) -> Item:
    op: Op = "delete" if one.payload is None else "put"
    return Item(entity=entity, key=one.key, op=op, payload=one.payload, position=place, is_silent=is_silent)


def _run(tx: Tx, push: Push) -> int | None:
    return inbox.ask_run(tx, push.row.id, push.now) if push.is_ready else None
