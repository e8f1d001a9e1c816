"""What the conformance kit must be told about one connector: a `Case`, a few short methods beside the simulator.

The author of a connector subclasses `Case`; `reconciler.sdk.testing.conformance.Conformance` asks it. `put` is the only way
in which records come into being: the kit seeds, updates, moves and poisons records with it.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar

from reconciler.model.event import Message
from reconciler.sdk.contract import Channel, Connector, Entity, RemoteObject
from reconciler.sdk.rest import RestChannel, RestEntity
from reconciler.sdk.testing.faults import empty_page, status

CANARY = "canary-7f3a9c51d2e84b06"
"""Begins every secret that a case uses: it must never appear in a log, an error or a repr."""


@dataclass(frozen=True, kw_only=True)
class Dispatch:
    """A delivery the kit tries: the channel's fields, and how to count what the remote then has."""

    fields: Mapping[str, Any]
    arrived: Callable[[Any], int]


class Case(ABC):
    """Subclass it per connector. `sim` is what `simulator` returned, started."""

    connector: ClassVar[type[Connector[Any, Any]]]
    page_size: ClassVar[int] = 3
    tick: ClassVar[timedelta] = timedelta(seconds=1)  # the smallest step of the vendor's change times
    pages_may_be_empty: ClassVar[bool] = True  # the vendor can give an empty page while more follow
    reads_all: ClassVar[frozenset[str]] = frozenset()  # entities whose remote cannot be asked for changes only
    null_cursors: ClassVar[frozenset[str]] = frozenset()  # entities whose change time may be missing
    revokes: ClassVar[bool] = False  # tokens obtained at run time are given back on disconnect
    finds_by_content: ClassVar[frozenset[str]] = frozenset()  # FIND channels without a mark: equal texts look the same
    renews: ClassVar[bool] = False  # there is an auth type whose token the connector renews after a 401

    @abstractmethod
    def simulator(self, now: Callable[[], datetime]) -> Any:
        """A new, empty remote (not started) whose time is `now`."""

    @abstractmethod
    def config(self, sim: Any) -> Mapping[str, Any]:
        """`spec.config` of a manifest that points at `sim`."""

    @abstractmethod
    def auth(self, sim: Any) -> Mapping[str, Any]:
        """`spec.auth` that the remote accepts; every secret in it begins with CANARY."""

    def reach(self, sim: Any) -> Mapping[str, Any]:
        """Fields of `Bench` that reaching `sim` needs, such as the `ca_file` of its certificate."""
        return {}

    def auths(self, sim: Any) -> Sequence[Mapping[str, Any]]:
        """One accepted `spec.auth` for every auth type of the connector."""
        return (self.auth(sim),)

    def renewable_auth(self, sim: Any) -> Mapping[str, Any]:
        """`spec.auth` of a kind that the connector can renew after a 401 (`renews` only)."""
        return self.auth(sim)

    @abstractmethod
    def wrong_auth(self, sim: Any) -> Mapping[str, Any]:
        """`spec.auth` that the remote refuses, with secrets that begin with CANARY."""

    def put(self, sim: Any, entity: Entity, number: int, at: datetime | None, text: str = "") -> str:
        """Create record `number` of `entity`, or change it, at `at`, with `text` in a free field. Returns its key.

        `at=None` is a record without a change time (asked for `null_cursors` only).
        """
        raise NotImplementedError(f"{type(self).__name__} has entities, so it must say how a record is put")

    def remove(self, sim: Any, entity: Entity, key: str) -> None:
        """Delete the record at the remote."""
        raise NotImplementedError(f"{type(self).__name__} notices deletions, so it must say how a record is removed")

    def shapes(self) -> Sequence[Entity]:
        """One entity of each kind that is read by the same code: the checks of bad days run for these."""
        first: dict[tuple[object, ...], Entity] = {}
        for entity in self.connector.entities:
            pager = type(entity.pager) if isinstance(entity, RestEntity) else None
            first.setdefault((type(entity), pager, entity.cursor is None, entity.deletes, entity.has_delta), entity)
        return tuple(first.values())

    def listing(self, entity: Entity) -> str:
        """Shell pattern of the URL path under which the entity is listed: where faults are aimed."""
        return pattern_of(entity.path) if isinstance(entity, RestEntity) else "*"

    def deny(self, sim: Any, entity: Entity) -> None:
        """Make the remote refuse this entity to us, the way it does."""
        sim.faults.add(status(403), path=self.listing(entity), times=None)

    def empty_page(self, sim: Any, entity: Entity) -> None:
        """Make the remote give an empty page in the middle of the seeded records, the way it does."""
        sim.faults.add(empty_page(), path=self.listing(entity), first=2, times=1)

    def expire(self, sim: Any) -> None:
        """Make the remote refuse the token it gave us (`renews` only)."""
        raise NotImplementedError(f"{type(self).__name__} renews tokens, so it must say how one expires")

    def sending(self, channel: Channel) -> str:
        """Shell pattern of the URL path to which the channel sends."""
        return pattern_of(channel.path) if isinstance(channel, RestChannel) else "*"

    def sending_method(self, channel: Channel) -> str:
        return channel.method if isinstance(channel, RestChannel) else "*"

    def dispatch(self, sim: Any, channel: Channel) -> Dispatch:
        """A valid message for the channel; prepare at `sim` what it refers to."""
        raise NotImplementedError(f"{type(self).__name__} has channels, so it must give a message for each")

    def disturb(self, sim: Any, found: RemoteObject) -> None:
        """Change the remote object behind our back, so that it no longer is what we want (`Subscribes` only)."""
        raise NotImplementedError(f"{type(self).__name__} keeps remote objects, so it must say how one is changed")

    def objects_path(self) -> str:
        """Shell pattern of the URL path under which remote objects are listed (`Subscribes` only)."""
        raise NotImplementedError(f"{type(self).__name__} keeps remote objects, so it must say where they are listed")

    def same_text(self, entity: Entity, text: str) -> bool:
        """Whether the vendor keeps `text` in that entity's free field as it is."""
        return True


def pattern_of(path: str) -> str:
    """`/repos/{owner}/issues` -> `*/repos/*/issues`."""
    return "*" + re.sub(r"\{\w+\}", "*", path.partition("?")[0])


def message(
    channel: Channel, fields: Mapping[str, Any], *, number: int = 1, is_repeat: bool = False, at: datetime | None = None
) -> Message:
    """A message as the engine makes it: fields checked by the channel's model."""
    checked = channel.fields.model_validate(dict(fields), strict=False).model_dump(mode="json", exclude_none=True)
    return Message(f"dlv-{number}", f"evt-{number}", "kit.checked", checked, is_repeat=is_repeat, first_attempt_at=at)
