"""Desired state as the daemon holds it: every source's last good revision, checked, merged and decrypted on demand.

Checking and decrypting run in a thread of their own. Clear secrets live only in the specs handed out and in the
redactor; the store sees hashes and fingerprints. An integration that Git no longer names is kept here until it is let go.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from reconciler.control.book import Resolution
from reconciler.desired.folder import FolderSnapshot
from reconciler.desired.merge import merge
from reconciler.desired.resolve import ResolvedSpec, Resolver
from reconciler.desired.snapshot import Snapshot
from reconciler.desired.tree import GitSnapshot
from reconciler.desired.unresolved import unresolved_paths
from reconciler.desired.validate import Inputs, Validated, validate
from reconciler.model.finding import Finding
from reconciler.model.ids import Ref
from reconciler.model.secret import Secret
from reconciler.model.state import DesiredIntegration, DesiredState
from reconciler.plan.compare import Resolved
from reconciler.sdk.redact import Redactor

T = TypeVar("T")


class SpecUnusableError(Exception):
    """The spec cannot be decrypted or does not hold with its real values; `findings` say where and why."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        super().__init__("; ".join(map(str, findings)))
        self.findings = tuple(findings)


@dataclass(frozen=True, slots=True)
class _Opened:
    """A spec with its clear values, and what it was made from. Volatile ones are made anew for each question."""

    desired: DesiredIntegration
    spec: ResolvedSpec
    hashes: Resolved
    is_volatile: bool

    def serves(self, desired: DesiredIntegration) -> bool:
        is_same = self.desired is desired or self.desired.source_hash == desired.source_hash
        return is_same and not self.is_volatile


class SourceBook:
    """Implements `Book` and `Resolver` of the control room."""

    def __init__(self, inputs: Mapping[str, Inputs], resolver: Resolver, redactor: Redactor) -> None:
        self._inputs = inputs
        self._resolver = resolver
        self._redactor = redactor
        self._checked: dict[str, Validated] = {}
        self._snapshots: dict[str, Snapshot] = {}
        self._state: DesiredState | None = None
        self._departed: dict[Ref, DesiredIntegration] = {}
        self._old: dict[Ref, Snapshot] = {}  # where a departed or held spec was read: the newest revision lacks it
        self._specs: dict[Ref, _Opened] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="desired")

    @property
    def state(self) -> DesiredState | None:
        return self._state

    def get(self, ref: Ref) -> DesiredIntegration | None:
        current = self._state.integrations.get(ref) if self._state else None
        return current or self._departed.get(ref)

    async def take(self, source: str, snapshot: Snapshot) -> DesiredState | None:
        """Check a new revision of one source; None while another source has not been read yet."""
        before = self._checked.get(source)
        checked = await self._in_thread(lambda: validate(snapshot, self._inputs[source], before))
        previous = self._snapshots.get(source)
        self._checked[source], self._snapshots[source] = checked, snapshot
        if self._checked.keys() != self._inputs.keys():
            return None
        merged = merge({name: v.state for name, v in self._checked.items()})
        if previous is not None:
            self._note_old(merged, source, previous)
        self._note_departed(merged)
        self._state = merged
        return merged

    def _note_old(self, merged: DesiredState, source: str, previous: Snapshot) -> None:
        before = self._state.integrations if self._state else {}
        gone = before.keys() - merged.integrations.keys() if merged.integrations is not before else ()
        for ref in {*gone, *(merged.held & before.keys())}:
            if before[ref].origin.source == source:
                self._old.setdefault(ref, previous)
        for ref in [r for r in self._old if r in merged.integrations and r not in merged.held]:
            del self._old[ref]

    async def recall(self, ref: Ref, revision: str) -> bool:
        """Take up what an earlier process had applied, and Git stopped naming or broke before this one began.

        False where no mirror or working tree holds that revision.
        """
        for source, snapshot in self._snapshots.items():
            found = await self._in_thread(partial(self._looked_up, source, snapshot, ref, revision))
            if found is not None:
                self._departed[ref], self._old[ref] = found
                return True
        return False

    def _looked_up(
        self, source: str, snapshot: Snapshot, ref: Ref, revision: str
    ) -> tuple[DesiredIntegration, Snapshot] | None:
        earlier = snapshot.earlier(revision) if isinstance(snapshot, GitSnapshot | FolderSnapshot) else None
        if earlier is None:
            return None
        desired = validate(earlier, self._inputs[source]).state.integrations.get(ref)
        return (desired, earlier) if desired else None

    def _note_departed(self, merged: DesiredState) -> None:
        before = self._state.integrations if self._state else {}
        if merged.integrations is before:
            return
        for ref, desired in before.items():
            if ref not in merged.integrations:
                self._departed[ref] = desired
        for ref in merged.integrations:
            self._departed.pop(ref, None)

    def forget(self, ref: Ref) -> None:
        """It was let go: its spec and its secrets are not needed any more."""
        self._departed.pop(ref, None)
        self._old.pop(ref, None)
        self._specs.pop(ref, None)
        self._redactor.forget(str(ref))

    async def resolve(self, desired: DesiredState) -> Resolution:
        resolved: dict[Ref, Resolved] = {}
        failed: dict[Ref, tuple[Finding, ...]] = {}
        for ref, wanted in desired.integrations.items():
            known = self._specs.get(ref)
            if known is not None and known.serves(wanted):
                resolved[ref] = known.hashes
                continue
            try:
                await self.spec(wanted)
            except SpecUnusableError as error:
                failed[ref] = error.findings
            else:
                resolved[ref] = self._specs[ref].hashes
        return Resolution(resolved, failed)

    def authored(self, desired: DesiredIntegration) -> DesiredIntegration:
        history = self._snapshots[desired.origin.source].history(desired.origin.file)
        return replace(desired, created_by=history.created_by, updated_at=history.updated_at)

    async def spec(self, desired: DesiredIntegration) -> ResolvedSpec:
        """The decrypted spec; raises SpecUnusableError. Places outside Git (environment, files) are read each time."""
        known = self._specs.get(desired.ref)
        if known is not None and known.serves(desired):
            return known.spec
        snapshot = self._old.get(desired.ref) or self._snapshots[desired.origin.source]
        resolution = await self._in_thread(lambda: self._resolver.resolve(desired, snapshot))
        if resolution.spec is None:
            raise SpecUnusableError(resolution.findings)
        spec = resolution.spec
        hashes = Resolved(spec.effective_hash, spec.fingerprints)
        self._specs[desired.ref] = _Opened(desired, spec, hashes, _is_volatile(desired))
        self._redactor.register(str(desired.ref), [*_secrets(resolution.spec.auth), *_secrets(resolution.spec.config)])
        return resolution.spec

    def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)


def _is_volatile(desired: DesiredIntegration) -> bool:
    return any(leaf.kind in {"from_env", "from_file"} for _, leaf in unresolved_paths(desired.tree))


def _secrets(node: Any) -> Iterator[Secret]:
    if isinstance(node, Secret):
        yield node
    elif isinstance(node, Mapping):
        for value in node.values():
            yield from _secrets(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _secrets(value)
