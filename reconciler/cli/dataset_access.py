"""One dataset as the commands see it: its entities, moments as people name them, and records stretch by stretch.

In: the integration's name and what was typed for a moment. Out: cuts, entries and differences, read from the daemon's store.
No daemon is needed. Raises CommandError and StoreError with what there is instead. `server_dataset` reads the same from a server.
"""

import argparse
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from reconciler.cli.names import meant
from reconciler.cli.store_access import CommandError, Snapshots, find_integration, snapshots
from reconciler.cli.times import instant

if TYPE_CHECKING:
    from reconciler.model.plan import FieldChange
    from reconciler.store.database import Tx
    from reconciler.store.history import Cut, DatasetVersion, Difference, EntityOf, Entry, LineageStep
    from reconciler.store.integrations import IntegrationRow

T = TypeVar("T")
NOW = "now"
MOMENT = "VERSION|TIME"
MOMENT_HELP = "a version such as 3, a time (RFC 3339, or 2h for two hours ago), or now"
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class Change:
    """One record at two moments. `kind`: added, updated or deleted; of an updated one come the fields, of others the record."""

    entity: str
    key: str
    kind: str
    record: bytes
    fields: "Sequence[FieldChange]" = ()


class Readable(Protocol):
    """What can be read, of the store or of a server."""

    @property
    def ref(self) -> str: ...

    def versions(self, limit: int) -> list[dict[str, Any]]: ...

    def cut(self, text: str, option: str) -> "Cut": ...

    def entity(self, name: str) -> "EntityOf": ...

    def entries(self, cut: "Cut", entity: "EntityOf") -> "Iterator[Entry]": ...

    def record(
        self, cut: "Cut", entity: "EntityOf", key: str, limit: int
    ) -> "tuple[Entry | None, Sequence[LineageStep]]": ...

    def changes(self, before: "Cut", after: "Cut", entity: str | None) -> Iterator[Change]: ...


@contextmanager
def opened(args: argparse.Namespace) -> "Iterator[Dataset]":
    """The dataset of `args.name`; also of an integration that Git no longer names, as long as its records are kept."""
    with snapshots(args) as read:
        yield Dataset(read, read(lambda tx: find_integration(tx, args.name, with_removed=True)))


class Dataset:
    """`row` is the integration whose records these are."""

    def __init__(self, read: Snapshots, row: "IntegrationRow") -> None:
        self._read = read
        self.row = row

    @property
    def ref(self) -> str:
        return str(self.row.ref)

    def read(self, query: "Callable[[Tx], T]") -> T:
        return self._read(query)

    def versions(self, limit: int) -> list[dict[str, Any]]:
        """The newest first, in the stable form."""
        from reconciler.store import history

        return [_version_form(v) for v in self._read(lambda tx: history.versions(tx, self.row.id, limit))]

    def cut(self, text: str, option: str) -> "Cut":
        """The moment that `text` means."""
        from reconciler.model.clock import rfc3339
        from reconciler.store import history

        now = datetime.now(UTC)
        if text == NOW:
            return self._read(lambda tx: history.at_present(tx, self.row.id, rfc3339(now)))
        if text.isdecimal():
            return self._read(lambda tx: history.at_version(tx, self.row.id, int(text)))
        at = instant(text, option, now)
        if at > now:
            raise CommandError(f"{option} {text}: this is in the future")
        return self._read(lambda tx: history.at_moment(tx, self.row.id, rfc3339(at)))

    def entities(self) -> "list[EntityOf]":
        from reconciler.store import history

        return self._read(lambda tx: history.entities(tx, self.row.id))

    def entity(self, name: str) -> "EntityOf":
        """Raises CommandError with the names that are there."""
        known = {entity.name: entity for entity in self.entities()}
        if name in known:
            return known[name]
        if not known:
            raise CommandError(f"{self.row.ref} has no records; nothing was synced yet, or it was purged")
        raise CommandError(f"{self.row.ref} has no entity {name}{meant(name, known)}")

    def entries(self, cut: "Cut", entity: "EntityOf") -> "Iterator[Entry]":
        """In key order; a few hundred are in memory at a time."""
        from reconciler.store import history

        after: str | None = ""
        while after is not None:
            found, after = self._read(lambda tx, at=after: history.records(tx, cut, entity.id, at))  # type: ignore[misc]
            yield from found

    def record(
        self, cut: "Cut", entity: "EntityOf", key: str, limit: int
    ) -> "tuple[Entry | None, Sequence[LineageStep]]":
        """As it was then, and what became of it, the newest first."""
        from reconciler.store import history

        steps = self._read(lambda tx: history.lineage(tx, self.row.id, entity.id, key, limit))
        if not steps:
            raise CommandError(f"{self.row.ref} has no record {visible(key)} in {entity.name}")
        return self._read(lambda tx: history.record(tx, cut, entity.id, key)), steps

    def changes(self, before: "Cut", after: "Cut", entity: str | None) -> Iterator[Change]:
        """In the order of entities and keys."""
        for one in [self.entity(entity)] if entity else self.entities():
            for difference in self.differences(before, after, one):
                yield _change(one.name, difference)

    def differences(self, before: "Cut", after: "Cut", entity: "EntityOf") -> "Iterator[Difference]":
        """In key order; a few hundred are in memory at a time."""
        from reconciler.store import history

        behind: str | None = ""
        while behind is not None:
            found, behind = self._read(
                lambda tx, at=behind: history.differences(tx, before, after, entity.id, at)  # type: ignore[misc]
            )
            yield from found


def _version_form(version: "DatasetVersion") -> dict[str, Any]:
    return {
        "number": version.number,
        "at": version.at,
        "run": version.run,
        "revision": version.revision,
        "spec_hash": version.spec_hash,
        "connector": version.connector,
        "connector_version": version.connector_version,
        "added": version.counts.added,
        "updated": version.counts.updated,
        "deleted": version.counts.deleted,
        "restores": version.restores,
    }


def _change(entity: str, one: "Difference") -> Change:
    from reconciler.model.difference import field_changes

    if one.before is not None and one.after is not None:
        return Change(entity, one.key, "updated", one.after, field_changes(one.before, one.after))
    return Change(entity, one.key, "added" if one.before is None else "deleted", one.after or one.before or b"null")


def said(cut: "Cut", text: str) -> str:
    """The moment for a person."""
    at = f"{cut.at[:19]}Z"
    if text == NOW:
        return "now"
    return f"version {cut.version} of {at}" if text.isdecimal() else at


def visible(text: str) -> str:
    """What a remote wrote, harmless for a terminal."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def in_one_line(payload: bytes) -> bytes:
    """JSON as received, on one line: between its values a line break means nothing, inside them it is escaped."""
    return payload.translate(None, b"\r\n")
