"""Desired and observed state: what Git asks for, and what was applied last.

A spec travels between rooms as a *tree*: plain JSON values as written in Git, with an `Unresolved` where ciphertext or
a reference stands. `source_hash` is a hash of that tree, so it changes exactly when Git changes; `effective_hash` is
keyed and covers the decrypted values too.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from reconciler.model.finding import Finding
from reconciler.model.ids import Ref
from reconciler.model.manifest import Integration, Workspace

Tree = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a manifest stands: source name, path inside it, line of the document, commit."""

    source: str
    file: str
    line: int
    revision: str


@dataclass(frozen=True, slots=True)
class DesiredIntegration:
    """One integration as Git wants it. `tree` is `spec` as written; `manifest` the validated whole, defaults filled in."""

    ref: Ref
    manifest: Integration
    tree: Tree
    source_hash: str
    origin: Origin
    created_by: str = ""
    updated_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class DesiredState:
    """What one revision asks for. `held` are names that belong to a broken file: present, but not to be changed.

    `is_complete` is false where something could not be read or attributed; then nothing may be pruned.
    """

    revision: str
    integrations: Mapping[Ref, DesiredIntegration]
    workspaces: Mapping[str, Workspace] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    held: frozenset[Ref] = frozenset()
    is_complete: bool = True


@dataclass(frozen=True, slots=True)
class ObservedIntegration:
    """One integration as it was applied last. `drifted` names remote objects that differ from what we wrote."""

    ref: Ref
    type: str
    tree: Tree
    source_hash: str
    effective_hash: str = ""
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    is_connected: bool = True
    deletion_policy: str = "disconnect"
    drifted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ActiveKey:
    """A key with which others push to an integration, and that is not on its way out."""

    key_id: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class KeysSeen:
    """Those of all integrations that have any, at one moment."""

    at: datetime
    active: Mapping[Ref, tuple[ActiveKey, ...]]


@dataclass(frozen=True, slots=True)
class ObservedState:
    """What was applied; `revision` is the commit it came from, empty before the first apply.

    `counted` says how many of each workspace are connected where `integrations` are not all of them.
    """

    revision: str
    integrations: Mapping[Ref, ObservedIntegration]
    counted: Mapping[str, int] | None = None

    @property
    def connected(self) -> Mapping[str, int]:
        """How many of each workspace."""
        if self.counted is not None:
            return self.counted
        return Counter(ref.workspace for ref, seen in self.integrations.items() if seen.is_connected)
