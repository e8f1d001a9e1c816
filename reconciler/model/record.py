"""Records on their way from a remote into the dataset, a page at a time, and what a run of a sync is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Scope(StrEnum):
    INCREMENTAL = "incremental"
    DELTA = "delta"
    FULL = "full"
    KEYS = "keys"  # which records there are, not what they hold: finds what is gone


class RunResult(StrEnum):
    SUCCESS = "success"
    PARTIAL = "partial"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Step(StrEnum):
    """The steps of a run, in order, as shown while it goes on."""

    VALIDATE = "validate"
    FETCH = "fetch"
    STORE = "store"
    VERSION = "version"
    ROUTE = "route"
    UPDATE = "update"


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARN = "warn"
    ERROR = "error"


Position = Mapping[str, Any]
"""Where a reader stands, as JSON: what the remote needs to go on. Opaque to the engine, stored with every page."""


@dataclass(frozen=True, slots=True)
class Reject:
    """A record that could not be taken: payload as received and why; which field, where one is to blame."""

    payload: bytes
    violations: tuple[str, ...]
    key: str = ""
    field: str = ""
    expected_type: str = ""
    received_type: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """One page of records in columns: `keys[i]` belongs to `payloads[i]` (JSON bytes as received).

    `deleted` are keys that the remote says are gone. `watermark` is the largest cursor value seen in the page (RFC 3339
    UTC, or the remote's own sortable text), `position` where to resume *after* this page, None after the last one.
    `total` is the remote's count of the whole read where it says one. `validators` (URL -> ETag) are stored when the
    entity completes and come back in the next request: never before the records they stand for are safe.

    In a listing of keys `payloads` are the little that came with each key and are not stored. `changed_at[i]` is the change
    time of `keys[i]`, written like a watermark, "" where the record has none; empty where the remote gives none along.
    """

    keys: tuple[str, ...]
    payloads: tuple[bytes, ...]
    partition: str = ""
    deleted: tuple[str, ...] = ()
    rejects: tuple[Reject, ...] = ()
    watermark: str | None = None
    position: Position | None = None
    total: int | None = None
    validators: Mapping[str, str] = field(default_factory=dict)
    changed_at: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Counts:
    """What a run did. `pages` counts commits; `estimated` is what the remote said it would be.

    `listed` are keys of a listing of keys, `missing` those whose record is not here and that only a full read would bring.
    """

    added: int = 0
    updated: int = 0
    unchanged: int = 0
    deleted: int = 0
    rejected: int = 0
    pages: int = 0
    estimated: int | None = None
    listed: int = 0
    missing: int = 0

    @property
    def records(self) -> int:
        """How far the read got: records, or keys where only those are listed."""
        return self.added + self.updated + self.unchanged + self.listed

    @property
    def changed(self) -> int:
        return self.added + self.updated + self.deleted

    def told(self, scope: Scope) -> dict[str, int]:
        """As a log line says them. A listing of keys compares no contents."""
        if scope is Scope.KEYS:
            return {"listed": self.listed, "deleted": self.deleted, "missing": self.missing}
        return {"added": self.added, "updated": self.updated, "deleted": self.deleted, "unchanged": self.unchanged}


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """What a reader is asked for.

    `since`: per partition, the watermark that was stored last (empty mapping: from the beginning). The reader widens it
    by the entity's overlap and asks with a closed bound. `resume`: the position of the last committed page of this very
    run, None at its start. `started_at` bounds the read where the remote needs a snapshot.
    """

    scope: Scope
    started_at: str
    since: Mapping[str, str] = field(default_factory=dict)
    resume: Position | None = None
    page_size: int | None = None
    validators: Mapping[str, str] = field(default_factory=dict)
