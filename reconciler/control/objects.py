"""Remote objects of an integration, such as webhooks: created, adopted, repaired and removed, never made twice.

An inventory row `creating` is committed before the remote call. After a crash, or with an empty store, the listing finds
what bears our marker and adopts it. A listing that fails raises: it is never read as "nothing there".
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reconciler.model.clock import Clock, rfc3339
from reconciler.model.manifest import Drift
from reconciler.sdk.contract import RemoteObject, Subscribes
from reconciler.sdk.live import Live
from reconciler.store import inventory
from reconciler.store.database import Database
from reconciler.store.inventory import InventoryItem, Present

Name = tuple[str, str]


@dataclass(slots=True)
class ObjectChanges:
    """What was done, by marker; `drifted` differs at the remote and was left as it is."""

    created: list[str] = field(default_factory=list)
    adopted: list[str] = field(default_factory=list)
    repaired: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    drifted: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.created or self.adopted or self.repaired or self.removed)


class Objects:
    """Brings the remote objects of one live integration to what its manifest asks for."""

    def __init__(self, database: Database, clock: Clock, live: Live, connector: Subscribes) -> None:
        self._database = database
        self._clock = clock
        self._id = live.integration_id
        self._connector = connector
        self._drift = live.manifest.spec.drift
        self.changes = ObjectChanges()

    async def correct(self) -> ObjectChanges:
        """Create, adopt, repair and remove. Each step is recorded, so an interrupted pass goes on where it was."""
        wanted = {(w.kind, w.marker): w for w in self._connector.wanted_objects()}
        found = _by_name(await self._connector.list_objects())
        known = {(i.kind, i.marker): i for i in await self._items()}
        for name, want in wanted.items():
            await self._want(want, found.get(name, ()), known.get(name))
        for name in (found.keys() | known.keys()) - wanted.keys():
            await self._remove(name, found.get(name, ()), known.get(name))
        return self.changes

    async def remove_all(self) -> ObjectChanges:
        """Remove every object that bears our marker: the integration is let go."""
        found = _by_name(await self._connector.list_objects())
        known = {(i.kind, i.marker): i for i in await self._items()}
        for name in found.keys() | known.keys():
            await self._remove(name, found.get(name, ()), known.get(name))
        return self.changes

    async def _items(self) -> list[InventoryItem]:
        return await self._database.read(lambda tx: inventory.items(tx, self._id))

    async def _want(self, want: RemoteObject, found: Sequence[RemoteObject], item: InventoryItem | None) -> None:
        if not found:
            await self._want_missing(want, item)
            return
        kept, *extra = found
        for twin in extra:
            await self._connector.delete_object(twin)
            self.changes.removed.append(twin.marker)
        if item is None or item.state != "present" or item.remote_id != kept.remote_id:
            await self._adopt(want, kept, is_ours=item is not None)
        elif _is_changed(want, item):
            await self._update_if(want, kept, Drift(), is_rotated=item.secret_fingerprint != want.secret_fingerprint)
        elif _differs(want, kept, self._drift):
            await self._drifted(want, kept)

    async def _want_missing(self, want: RemoteObject, item: InventoryItem | None) -> None:
        """Never made, or made and gone: the latter is drift, unless the manifest asks for something else now."""
        is_lost = item is not None and item.state == "present" and not _is_changed(want, item)
        if not is_lost or self._drift.mode == "correct":
            await self._create(want)
        elif self._drift.mode == "detect":
            self.changes.drifted.append(want.marker)

    async def _drifted(self, want: RemoteObject, kept: RemoteObject) -> None:
        if self._drift.mode == "correct":
            await self._update(want, kept)
        elif self._drift.mode == "detect":
            self.changes.drifted.append(want.marker)

    async def _update_if(self, want: RemoteObject, kept: RemoteObject, drift: Drift, *, is_rotated: bool) -> None:
        """Write what differs, or a secret that cannot be read back; else only note that it is as it should be."""
        if _differs(want, kept, drift) or (is_rotated and want.secret_fingerprint):
            await self._update(want, kept)
        else:
            await self._present(await self._intend(want), want, kept.remote_id)

    async def _create(self, want: RemoteObject) -> None:
        item_id = await self._intend(want)
        made = await self._connector.create_object(want)
        await self._present(item_id, want, made.remote_id)
        self.changes.created.append(want.marker)

    async def _adopt(self, want: RemoteObject, kept: RemoteObject, *, is_ours: bool) -> None:
        """It is in our books before it is touched; a crash in between finds it there and goes on."""
        item_id = await self._intend(want)
        present = Present(kept.remote_id, {}, "", is_adopted=not is_ours)
        await self._database.write(lambda tx: inventory.record_present(tx, item_id, present, self._at()))
        self.changes.adopted.append(want.marker)
        await self._update_if(want, kept, Drift(ignore=self._drift.ignore), is_rotated=True)

    async def _update(self, want: RemoteObject, kept: RemoteObject) -> None:
        item_id = await self._intend(want)
        made = await self._connector.update_object(kept.remote_id, want)
        await self._present(item_id, want, made.remote_id or kept.remote_id)
        if want.marker not in self.changes.adopted:
            self.changes.repaired.append(want.marker)

    async def _remove(self, name: Name, found: Sequence[RemoteObject], item: InventoryItem | None) -> None:
        if item is not None:
            item_id = item.id
            await self._database.write(lambda tx: inventory.record_deleting(tx, item_id, self._at()))
        for thing in found:
            await self._connector.delete_object(thing)
        if item is not None:
            await self._database.write(lambda tx: inventory.forget(tx, item_id))
        self.changes.removed.append(name[1])

    async def _intend(self, want: RemoteObject) -> int:
        return await self._database.write(
            lambda tx: inventory.intend(tx, self._id, want.kind, want.marker, self._at()), durable=True
        )

    async def _present(self, item_id: int, want: RemoteObject, remote_id: str) -> None:
        present = Present(remote_id, _plain(want.spec), want.secret_fingerprint)
        await self._database.write(lambda tx: inventory.record_present(tx, item_id, present, self._at()), durable=True)

    def _at(self) -> str:
        return rfc3339(self._clock.now())


def _by_name(found: Sequence[RemoteObject]) -> dict[Name, list[RemoteObject]]:
    grouped: dict[Name, list[RemoteObject]] = {}
    for thing in sorted(found, key=lambda f: f.remote_id):
        grouped.setdefault((thing.kind, thing.marker), []).append(thing)
    return grouped


def _is_changed(want: RemoteObject, item: InventoryItem) -> bool:
    """The manifest asks for something else than what we wrote last."""
    return dict(item.spec) != _plain(want.spec) or item.secret_fingerprint != want.secret_fingerprint


def _plain(spec: Mapping[str, Any]) -> dict[str, Any]:
    return dict(json.loads(json.dumps(dict(spec))))


def _differs(want: RemoteObject, found: RemoteObject, drift: Drift) -> bool:
    """Only what we set is compared, less the ignored pointers; what the remote adds by itself is no drift."""
    return any(
        _sorted(value) != _sorted(_at_pointer(found.spec, pointer))
        for pointer, value in _pointers(_plain(want.spec))
        if not any(pointer == i or pointer.startswith(f"{i}/") for i in drift.ignore)
    )


def _pointers(value: Any, at: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        return [p for k, v in value.items() for p in _pointers(v, f"{at}/{k}")]
    return [(at, value)]


def _at_pointer(value: Any, pointer: str) -> Any:
    for step in pointer.split("/")[1:]:
        value = value.get(step) if isinstance(value, Mapping) else None
    return value


def _sorted(value: Any) -> Any:
    return sorted(value, key=str) if isinstance(value, list | tuple) else value
