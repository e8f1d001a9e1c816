"""Commands that need no daemon: a plan between two revisions or against a daemon's store. No engine, web or HTTP library.

In: a local repository or folder. Out: a `Plan`. No key and no network is used: secrets are compared by their ciphertext.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.desired.folder import scan_folder
from reconciler.desired.parse_cache import ParseCache
from reconciler.desired.snapshot import Snapshot
from reconciler.desired.tree import GitSnapshot, open_snapshot
from reconciler.desired.validate import Inputs, Validated, validate
from reconciler.model.plan import Plan
from reconciler.model.state import KeysSeen, ObservedState
from reconciler.plan.compare import base_as_observed, compare
from reconciler.plan.keys import with_dues
from reconciler.sdk import registry

if TYPE_CHECKING:
    from reconciler.store.location import Location


@dataclass(frozen=True, slots=True)
class Applied:
    """What a daemon has done: the state it applied, the prunes it may do, and keys it has made; None where that is not known."""

    observed: ObservedState
    approved: frozenset[str] = frozenset()
    keys: KeysSeen | None = None


NOTHING_APPLIED = Applied(ObservedState("", {}))


class Offline:
    """A repository on this machine. `cache` is a folder for parsed files; None parses everything anew."""

    def __init__(self, repo: Path, path: str = "", cache: Path | None = None) -> None:
        self._repo = repo
        self._path = path
        self._cache = ParseCache(cache / "manifests.cache") if cache else None
        self._inputs = Inputs(source="local", registry=registry, cache=self._cache)

    def read(self, ref: str | None, previous: Validated | None = None) -> Validated:
        """A revision, or with None the files as they lie there. Raises SourceError."""
        checked = validate(self._snapshot(ref, previous), self._inputs, previous)
        if self._cache:
            self._cache.save()
        return checked

    def _snapshot(self, ref: str | None, previous: Validated | None) -> Snapshot:
        if ref is None:
            return scan_folder(self._repo, self._path, keeps=True)
        near = previous.snapshot if previous else None
        return open_snapshot(self._repo, ref, self._path, near=near if isinstance(near, GitSnapshot) else None)

    def plan_between(self, base: str, head: str | None) -> Plan:
        """What merging `head` into `base` would do. Findings are those of `head`; what `base` had wrong is ignored."""
        before = self.read(base)
        after = self.read(head, before)
        return with_dues(compare(after.state, base_as_observed(before.state)), after.state, None)

    def plan_against(self, applied: Applied, head: str | None) -> Plan:
        """What a daemon that has applied this would do with `head`."""
        state = self.read(head).holding(applied.observed.integrations)
        return with_dues(compare(state, applied.observed, approved=applied.approved), state, applied.keys)


def applied_state(location: "Location") -> Applied | None:
    """Of the daemon of that store; None where there is none."""
    if isinstance(location, Path) and not location.is_file():
        return None
    # The plan between two revisions needs no store, and most plans are of that kind.
    from reconciler.store import ingest_keys, integrations, journal
    from reconciler.store.location import open_readonly
    from reconciler.store.migrations import check_version

    with open_readonly(location) as tx:
        check_version(tx, "the store")
        return Applied(integrations.observed_state(tx), journal.approvals(tx), ingest_keys.seen(tx))
