"""`reconciler dataset NAME --server`: what was synced, read over the API, records as they were received; and rollback.

A server knows versions, not times, and does not count records: without a command only the newest version is told. Erase
and purge are for whoever is at the daemon.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

from reconciler.cli.dataset import read
from reconciler.cli.dataset_access import NOW, Change
from reconciler.cli.dataset_orders import agree, counted, events_text
from reconciler.cli.server_access import as_ref, client_of
from reconciler.cli.store_access import CommandError

if TYPE_CHECKING:
    from reconciler.api.integrations import IntegrationStatus
    from reconciler.api.syncs import SyncDetail
    from reconciler.client import Client
    from reconciler.model.plan import FieldChange
    from reconciler.model.record import Counts
    from reconciler.store.history import Cut, EntityOf, Entry, LineageStep

PAGE = 100
LOOK_SECONDS = 0.5


def run(args: argparse.Namespace) -> int:
    with client_of(args) as client:
        dataset = FarDataset(client, client.integrations.get_status(as_ref(args.name)))
        if args.action is None:
            return _summary(dataset)
        return _roll_back(dataset, args) if args.action == "rollback" else read(dataset, args)


class FarDataset:
    """As `Dataset`. Cuts have a version and no number of the log."""

    def __init__(self, client: "Client", one: "IntegrationStatus") -> None:
        self.client = client
        self.one = one
        self.ref = f"{one.workspace}/{one.name}"

    def versions(self, limit: int) -> list[dict[str, Any]]:
        every = self.client.dataset.all_versions(self.one.id, limit=min(limit, PAGE))
        told = (version.model_dump(mode="json") for version in islice(every, limit))
        return [
            {"number": one.pop("version"), "at": one.pop("at"), "run": one.pop("sync_job_id"), **one} for one in told
        ]

    def cut(self, text: str, option: str) -> "Cut":
        from reconciler.model.clock import rfc3339
        from reconciler.store.history import Cut

        if text == NOW:
            return Cut(0, 0, None, rfc3339(datetime.now(UTC)))
        if not text.isdecimal():
            raise CommandError(
                f"{option} {text}: a server knows versions and now, not times; they are: {self._listed()}"
            )
        every = self.client.dataset.all_versions(self.one.id, limit=PAGE)
        found = next((version for version in every if version.version <= int(text)), None)
        if found is None or found.version != int(text):
            raise CommandError(f"{option} {text}: {self.ref} has no such version; those there are: {self._listed()}")
        return Cut(0, 0, found.version, rfc3339(found.at))

    def _listed(self) -> str:
        return f"reconciler dataset {self.ref} versions"

    def entity(self, name: str) -> "EntityOf":
        """Whether there is one the server says when it is asked for records."""
        from reconciler.store.history import EntityOf

        return EntityOf(0, name, 0)

    def entries(self, cut: "Cut", entity: "EntityOf") -> "Iterator[Entry]":
        from reconciler.store.history import Entry

        query = {"entity": entity.name, "version": cut.version}
        for one in self._pages("records", query):
            yield Entry(_value(one["key"]), 0, _value(one["at"]), bytes(one["record"]))

    def record(
        self, cut: "Cut", entity: "EntityOf", key: str, limit: int
    ) -> "tuple[Entry | None, Sequence[LineageStep]]":
        """A server tells of the last hundred versions."""
        from reconciler.client.ask import segment
        from reconciler.store.history import Entry, LineageStep

        path = f"records/{segment(entity.name)}/{segment(key)}"
        told = self._asked(path, {"version": cut.version})
        found = Entry(key, 0, at, bytes(told["record"])) if (at := _value(told["at"])) is not None else None
        history, has_older = _value(told["history"]), bool(_value(told["has_older"]))
        has_older = has_older or len(history) > limit
        steps = [
            LineageStep(0, one["change"], one["at"], one["sync_job_id"], one["version"], has_older)
            for one in history[:limit]
        ]
        return found, steps

    def changes(self, before: "Cut", after: "Cut", entity: str | None) -> Iterator[Change]:
        """Now is the newest version."""
        newest = next((one["number"] for one in self.versions(1)), 0)
        first, last = (newest if cut.version is None else cut.version for cut in (before, after))
        if not last:
            return
        for one in self._pages(f"dataset/versions/{last}/diff", {"against": first, "entity": entity}):
            fields = [_field(each) for each in _members(one["fields"])]
            yield Change(_value(one["entity"]), _value(one["key"]), _value(one["change"]), bytes(one["record"]), fields)

    def _pages(self, path: str, query: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        cursor: str | None = None
        while True:
            page = self._asked(path, {**query, "limit": PAGE, "cursor": cursor})
            yield from _members(page["data"])
            cursor = _value(page["next_cursor"])
            if cursor is None:
                return

    def _asked(self, path: str, query: Mapping[str, Any]) -> Mapping[str, Any]:
        """Members as they came: numbers and texts of records keep their spelling."""
        import msgspec

        reply = self.client.request("GET", f"/v1/integrations/{self.one.id}/{path}", query=query)
        told: dict[str, Any] = msgspec.json.decode(reply.content, type=dict[str, msgspec.Raw])
        return told


def _value(raw: Any) -> Any:
    import msgspec

    return msgspec.json.decode(raw)


def _members(raw: Any) -> list[dict[str, Any]]:
    import msgspec

    found: list[dict[str, Any]] = msgspec.json.decode(raw, type=list[dict[str, msgspec.Raw]])
    return found


def _field(told: Mapping[str, Any]) -> "FieldChange":
    from reconciler.model.plan import FieldChange

    before = None if _value(told["is_added"]) else bytes(told["before"]).decode()
    after = None if _value(told["is_removed"]) else bytes(told["after"]).decode()
    return FieldChange(_value(told["path"]), before, after)


def _summary(dataset: FarDataset) -> int:
    newest = next(iter(dataset.versions(1)), None)
    made = f"version {newest['number']} of {newest['at'][:19]}Z" if newest else "no version yet"
    print(f"{dataset.ref}: {made}")
    return 0


def _roll_back(dataset: FarDataset, args: argparse.Namespace) -> int:
    from reconciler.client import ForbiddenError

    target, changed = dataset.cut(str(args.version), "VERSION"), None
    with suppress(ForbiddenError):  # to see records is another right
        changed = _counts(dataset, target)
    head = f"{dataset.ref}: back to version {target.version} of {target.at[:19]}Z"
    if changed == {}:
        print(f"{head}: nothing to do, the records are as they were then")
        return 0
    print("\n".join([head, *_preview(changed, args), _next_sync(dataset.one, args)]))
    print(flush=True)
    agree(args)
    asked = {"version": args.version, "emit_events": args.emit_events, "suspend": args.suspend}
    started = dataset.client.dataset.roll_back(dataset.one.id, asked).sync_job_id
    try:
        return _told(_ended(dataset.client, started))
    except KeyboardInterrupt:
        print(f"reconciler: {started} goes on in the daemon; end it: reconciler sync cancel {started}", file=sys.stderr)
        return 130


def _preview(changed: "dict[str, Counts] | None", args: argparse.Namespace) -> list[str]:
    if changed is None:
        return ["  what changes is not for this token; spec.access gives the right to read"]
    lines = [f"  {name}: {counted(counts)}" for name, counts in changed.items()]
    return [*lines, events_text(changed, emits=args.emit_events)]


def _counts(dataset: FarDataset, target: "Cut") -> "dict[str, Counts]":
    from reconciler.model.record import Counts

    kinds: dict[str, Counter[str]] = {}
    for change in dataset.changes(dataset.cut(NOW, NOW), target, None):
        kinds.setdefault(change.entity, Counter())[change.kind] += 1
    return {name: Counts(**found) for name, found in kinds.items()}


def _next_sync(one: "IntegrationStatus", args: argparse.Namespace) -> str:
    if args.suspend or one.suspended is not None:
        return f"Next sync: none before `reconciler resume {one.workspace}/{one.name}`"
    when = f"at {one.next_sync_at:%Y-%m-%dT%H:%M:%S}Z" if one.next_sync_at else "when somebody starts it"
    return f"Next sync: {when}; what it reads anew is as the remote has it; --suspend keeps it off"


def _ended(client: "Client", sync_id: str) -> "SyncDetail":
    while (found := client.syncs.get(sync_id)).state != "done":
        time.sleep(LOOK_SECONDS)
    return found


def _told(found: "SyncDetail") -> int:
    if found.result != "success":
        why = ": ".join(part for part in (found.reason, found.error) if part)
        raise CommandError(f"{found.id} was {found.result}" + (f": {why}" if why else ""))
    n = found.records
    made = f"is version {found.dataset_version}" if found.dataset_version is not None else "changed nothing"
    print(f"{found.id} {made}: {n.added} added, {n.updated} updated, {n.deleted} deleted")
    return 0
