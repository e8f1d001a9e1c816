"""Desired state as the daemon holds it: every source's last good revision, checked, merged and decrypted on demand.

`take` notes what Git wants; `resolve` puts in force what of it can be read. A spec whose secrets cannot be read leaves its
last good one in force: the one in memory, after a restart the one that was applied, read from its commit again. Only a wish
to stop (`enabled: false`, `suspend`) comes into force unread. An integration that Git no longer names is kept here until it
is let go. Checking and decrypting run in a thread of their own.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from reconciler.app.opened import Opened, SpecUnusableError
from reconciler.app.trail import Names, Trail
from reconciler.control.book import SECRET_CODES, Resolution, Unread
from reconciler.desired.folder import FolderSnapshot
from reconciler.desired.merge import Merged, merge
from reconciler.desired.resolve import Resolver
from reconciler.desired.snapshot import Snapshot
from reconciler.desired.sops.keys import Keyring
from reconciler.desired.source_error import SourceError
from reconciler.desired.tree import GitSnapshot
from reconciler.desired.validate import Inputs, Validated, validate
from reconciler.model.finding import Code, Finding
from reconciler.model.ids import Ref
from reconciler.model.state import DesiredIntegration, DesiredState
from reconciler.plan.compare import Resolved
from reconciler.sdk.redact import Redactor

_LOOK_SECONDS = 2.0
T = TypeVar("T")
Findings = tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class AppliedSpec:
    """What an earlier process connected an integration with: the revision it came from, and the hash of its tree."""

    revision: str
    source_hash: str


@dataclass(slots=True)
class _Round:
    """One `resolve`: what is opened anew, what is in force without being what Git wants, and what cannot be read.

    `names` are all it looks at, None for every one; `loose` those of them that do not rest on what Git wants now.
    """

    names: Names = None
    loose: set[Ref] = field(default_factory=set)
    resolved: dict[Ref, Resolved] = field(default_factory=dict)
    fresh: dict[Ref, Opened] = field(default_factory=dict)
    kept: dict[Ref, DesiredIntegration] = field(default_factory=dict)
    unread: dict[Ref, Unread] = field(default_factory=dict)

    def open(self, opened: Opened) -> None:
        ref = opened.desired.ref
        self.fresh[ref], self.resolved[ref] = opened, opened.hashes


class SourceBook:
    """Implements `Book` and `Resolver` of the control room."""

    def __init__(self, inputs: Mapping[str, Inputs], resolver: Resolver, redactor: Redactor) -> None:
        self._inputs = inputs
        self._resolver = resolver
        self._redactor = redactor
        self._checked: dict[str, Validated] = {}
        self._snapshots: dict[str, Snapshot] = {}
        self._before: dict[str, Snapshot] = {}
        self._earlier: dict[tuple[str, str], Validated | None] = {}
        self._merged: Merged | None = None
        self._trail = Trail()
        self._resolved: DesiredState | None = None  # the wish that `_state` came of
        self._state: DesiredState | None = None
        self._departed: dict[Ref, DesiredIntegration] = {}
        self._old: dict[Ref, Snapshot] = {}  # where a spec in force was read that the newest revision lacks
        self._specs: dict[Ref, Opened] = {}
        self._outside: dict[Ref, Opened] = {}  # those of them that are partly read outside of Git
        self._hashes: Mapping[Ref, Resolved] = {}
        self._loose: set[Ref] = set()  # to be looked at by the next `resolve`, whatever Git says
        self._number = 0
        self._unread: Mapping[Ref, Unread] = {}
        self._applied: dict[Ref, AppliedSpec] = {}
        self._is_news = False
        self._looked = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="desired")

    @property
    def wished(self) -> DesiredState | None:
        """What Git wants, whether or not it can be read; None while a source has not been read yet."""
        return self._merged.state if self._merged else None

    @property
    def checked(self) -> Mapping[str, Validated]:
        """The newest revision of each source that was read."""
        return self._checked

    @property
    def state(self) -> DesiredState | None:
        return self._state

    @property
    def unread(self) -> Mapping[Ref, Unread]:
        return self._unread

    @property
    def departed(self) -> frozenset[Ref]:
        """Those that Git no longer names, until they are forgotten."""
        return frozenset(self._departed)

    def get(self, ref: Ref) -> DesiredIntegration | None:
        current = self._state.integrations.get(ref) if self._state else None
        return current or self._departed.get(ref)

    async def take(self, source: str, snapshot: Snapshot) -> DesiredState | None:
        """Check a new revision of one source; None while another source has not been read yet."""
        before = self._checked.get(source)
        self._checked[source] = await self._in_thread(lambda: validate(snapshot, self._inputs[source], before))
        previous = self._snapshots.get(source)
        if previous is not None and previous.revision != snapshot.revision:
            self._before[source] = previous
        self._snapshots[source] = snapshot
        self._earlier.clear()
        if self._checked.keys() != self._inputs.keys():
            return None
        touched = _touched(self._checked[source], snapshot, previous) if self._merged else None
        merged = merge({name: v.state for name, v in self._checked.items()}, self._merged, touched)
        self._note_gone(merged.state, source, touched)
        self._merged = merged
        self._trail.add(merged.state, touched)
        return merged.state

    def _note_gone(self, merged: DesiredState, source: str, touched: Names) -> None:
        """What Git no longer names, and where that and the specs of broken files can still be read."""
        before = self.wished.integrations if self.wished else {}
        asked = before if touched is None else touched
        gone = {ref for ref in asked if ref in before and ref not in merged.integrations}
        for ref in gone:
            self._departed[ref] = self.get(ref) or before[ref]
        for ref in {*gone, *(ref for ref in merged.held if ref in before)}:
            if before[ref].origin.source == source and source in self._before:
                self._old.setdefault(ref, self._before[source])
        for ref in [ref for ref in self._departed if ref in merged.integrations]:
            del self._departed[ref]

    def remember(self, applied: Mapping[Ref, AppliedSpec]) -> None:
        """What an earlier process had connected: to fall back to, and to let go with what Git stopped naming meanwhile."""
        self._applied = {**applied}

    def forget(self, ref: Ref) -> None:
        """It was let go: its spec and its secrets are not needed any more."""
        for kept in (self._departed, self._old, self._specs, self._outside, self._applied):
            kept.pop(ref, None)
        self._redactor.forget(str(ref))

    async def resolve(self, desired: DesiredState) -> Resolution:
        self._is_news = False
        loose, self._loose = self._loose, set()
        try:
            return await self._resolve(desired, loose)
        except BaseException:
            self._loose |= loose
            raise

    async def _resolve(self, desired: DesiredState, loose: set[Ref]) -> Resolution:
        await self._recall_departed(desired)
        touched = self._trail.between(self._resolved, desired)
        moved = await self._in_thread(self._moved)
        done = _Round(None if touched is None else touched | moved | loose, unread=dict(self._held_secrets(desired)))
        done.kept |= {
            ref: self._found_at(desired.integrations[ref]) for ref in desired.held if ref in desired.integrations
        }
        for wish in _wishes(desired, done.names):
            known = self._specs.get(wish.ref)
            if known is not None and known.is_of(wish) and wish.ref not in moved:
                done.open(known.under(wish))
            else:
                await self._settle(wish, done)
        state = replace(desired, integrations={**desired.integrations, **done.kept}) if done.kept else desired
        return self._put_in_force(desired, state, done)

    def _moved(self) -> frozenset[Ref]:
        """Those of which something may have changed outside of Git since it was read. In the thread: files are looked at."""
        opened, mark = list(self._outside.items()), self._resolver.mark
        return frozenset(ref for ref, o in opened if o.outside and (o.mark is None or mark(o.outside) != o.mark))

    async def _settle(self, wish: DesiredIntegration, done: _Round) -> None:
        found = await self._open(wish)
        if not isinstance(found, Opened):
            done.loose.add(wish.ref)
        if isinstance(found, Opened):
            done.open(found)
            return
        last = await self._last_good(wish)
        in_force = last.desired if isinstance(last, Opened) else last
        if in_force is not None and in_force.source_hash != wish.source_hash:
            if in_force.origin.source in self._before:
                self._old.setdefault(wish.ref, self._before[in_force.origin.source])
            done.kept[wish.ref] = in_force = self._found_at(in_force)
        kept = ""
        if in_force is not None and isinstance(last, Opened):
            done.open(last.under(in_force))
            kept = in_force.origin.revision
        if not kept or not _is_passing(found):
            done.unread[wish.ref] = Unread(found, kept)

    def _found_at(self, desired: DesiredIntegration) -> DesiredIntegration:
        """As of the newest commit that still has it, where it will be found after a restart."""
        old = self._old.get(desired.ref)
        if not isinstance(old, GitSnapshot):
            return desired
        return replace(desired, origin=replace(desired.origin, revision=old.revision))

    def _put_in_force(self, wish: DesiredState, state: DesiredState, done: _Round) -> Resolution:
        """All at once: whoever asks meanwhile gets the old state with its specs, or the new one with its own."""
        for opened in done.fresh.values():
            self._keep(opened)
        self._state, self._unread, self._resolved = state, done.unread, wish
        self._hashes = _carried(self._hashes, done)
        self._loose |= done.loose
        self._trail.begin_at(wish)
        for ref in [r for r in self._old if r in state.integrations and r not in state.held and r not in done.kept]:
            del self._old[ref]
        self._applied = {ref: applied for ref, applied in self._applied.items() if ref not in self._specs}
        self._number += 1
        return Resolution(state, self._hashes, done.unread, self._number, done.names)

    def _keep(self, opened: Opened) -> None:
        ref = opened.desired.ref
        if self._specs.get(ref) is not opened:
            self._specs[ref] = opened
            self._outside.pop(ref, None)
            if opened.outside is not None:
                self._outside[ref] = opened
            self._redactor.register(str(ref), opened.secrets())

    def _held_secrets(self, desired: DesiredState) -> Iterable[tuple[Ref, Unread]]:
        """Specs held because of what is wrong with their secrets, which can be seen without a key."""
        for ref in desired.held:
            claims = [claim for checked in self._checked.values() for claim in checked.index.claims.get(ref, ())]
            files = {claim.file for claim in claims}
            found = [f for f in desired.findings if f.file in files and f.code in SECRET_CODES]
            if found:
                last = desired.integrations.get(ref) or self._departed.get(ref)
                yield ref, Unread(found, self._found_at(last).origin.revision if last else "")

    async def _last_good(self, wish: DesiredIntegration) -> Opened | DesiredIntegration | None:
        """What stays in force in place of a wish that cannot be read, though that cannot always be read again either.

        Nothing where the wish is to stop, or where the integration was off.
        """
        known = self._specs.get(wish.ref)
        if known is not None and known.is_of(wish):
            return known
        if _is_off(wish):
            return None
        if known is None:
            return await self._recalled(wish)
        before = self.get(wish.ref)
        was_off = before is not None and not before.manifest.spec.enabled and not known.is_of(before)
        return None if was_off else known

    async def _recalled(self, wish: DesiredIntegration) -> Opened | DesiredIntegration | None:
        """The spec that an earlier process applied, where that is another one and its commit is still at hand."""
        applied = self._applied.get(wish.ref)
        if applied is None or applied.source_hash == wish.source_hash:
            return None
        found = await self._looked_up(wish.ref, applied.revision)
        if found is None:
            return None
        desired, self._old[wish.ref] = found
        opened = await self._open(desired)
        return opened if isinstance(opened, Opened) else desired

    async def _recall_departed(self, desired: DesiredState) -> None:
        """Take up what an earlier process had applied, and Git stopped naming or broke before this one began."""
        for ref in [r for r in self._applied if r not in desired.integrations and r not in self._departed]:
            found = await self._looked_up(ref, self._applied[ref].revision)
            if found is not None:
                self._departed[ref], self._old[ref] = found

    async def _looked_up(self, ref: Ref, revision: str) -> tuple[DesiredIntegration, Snapshot] | None:
        """None where no mirror or working tree holds that revision, or the integration was not good in it."""
        for source in self._snapshots:
            if (source, revision) not in self._earlier:
                self._earlier[source, revision] = await self._in_thread(partial(self._look_up, source, revision))
            earlier = self._earlier[source, revision]
            desired = earlier.state.integrations.get(ref) if earlier and ref not in earlier.state.held else None
            if earlier is not None and desired is not None:
                return desired, earlier.snapshot
        return None

    def _look_up(self, source: str, revision: str) -> Validated | None:
        earlier = _earlier(self._snapshots[source], revision)
        return validate(earlier, self._inputs[source], self._checked[source]) if earlier else None

    def rekey(self, keyring: Keyring) -> None:
        """Other keys from now on."""
        known = self._resolver.keyring
        if (keyring.fingerprint, keyring.faults) != (known.fingerprint, known.faults):
            self._resolver = replace(self._resolver, keyring=keyring)
            self._is_news = True

    async def is_turned(self) -> bool:
        """Whether what was unread can be read by now, or the other way round: then it is worth resolving again.

        Each look takes a bounded time (a key service may be away) and goes on where the one before it ended.
        """
        loop, refs = asyncio.get_running_loop(), list(self._unread)
        end = loop.time() + _LOOK_SECONDS
        for _ in refs:
            if self._is_news or loop.time() > end:
                break
            self._looked = (self._looked + 1) % len(refs)
            self._is_news = await self._is_readable(refs[self._looked])
        return self._is_news

    async def _is_readable(self, ref: Ref) -> bool:
        wished = self.wished
        wish = wished.integrations.get(ref) if wished and ref not in wished.held else None
        if wish is None:
            return False
        kept = ref in self._unread and self._unread[ref].kept
        if isinstance(await self._open(wish), Opened):
            return True
        return not kept and isinstance(await self._last_good(wish), Opened)

    def authored(self, desired: DesiredIntegration) -> DesiredIntegration:
        history = self._snapshots[desired.origin.source].history(desired.origin.file)
        return replace(desired, created_by=history.created_by, updated_at=history.updated_at)

    async def opened(self, ref: Ref) -> Opened | None:
        """The decrypted spec in force, None where none is known; raises SpecUnusableError.

        Places outside Git (environment, files) are read each time; what was read last counts while they cannot be. What
        is to stop is stopped with its last good spec.
        """
        desired = self.get(ref)
        if desired is None:
            return None
        known = self._specs.get(ref)
        if known is not None and known.serves(desired):
            return known.under(desired)
        found = await self._open(desired)
        if isinstance(found, Opened):
            self._is_news |= ref in self._unread and self._is_new(desired)
            if self.get(ref) is desired:
                self._keep(found)
                if found.hashes != self._hashes.get(ref):
                    self._loose.add(ref)
            return found
        if known is None or not (known.is_of(desired) or _is_off(desired)):
            raise SpecUnusableError(self._unread[ref].findings if ref in self._unread else found)
        self._is_news |= known.is_of(desired) and ref not in self._unread and not _is_passing(found)
        return known

    async def _open(self, desired: DesiredIntegration) -> Opened | Findings:
        old = None if self._is_new(desired) else self._old.get(desired.ref)
        place = old or self._snapshots[desired.origin.source]
        if isinstance(old, FolderSnapshot):
            place = self._old[desired.ref] = await self._in_thread(lambda: _lasting(old))
        return await self._in_thread(lambda: _opened(self._resolver, desired, place))

    def _is_new(self, desired: DesiredIntegration) -> bool:
        """Whether it stands in the newest revision."""
        wished = self.wished
        wish = wished.integrations.get(desired.ref) if wished and desired.ref not in wished.held else None
        return wish is not None and wish.source_hash == desired.source_hash

    def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)


def _opened(resolver: Resolver, desired: DesiredIntegration, place: Snapshot) -> Opened | Findings:
    """The mark is taken first: what changes while it is read is seen the next time."""
    outside = resolver.outside(desired)
    mark = resolver.mark(outside) if outside else None
    resolution = resolver.resolve(desired, place)
    return Opened.make(desired, resolution.spec, outside, mark) if resolution.spec else resolution.findings


def _touched(checked: Validated, snapshot: Snapshot, previous: Snapshot | None) -> Names:
    """Whose files changed, and whose author has become known."""
    told = _told(snapshot, previous)
    if checked.touched is None or told is None:
        return None
    return checked.touched.union(ref for path in told if path in checked.files for ref in checked.files[path].refs)


def _told(now: Snapshot, before: Snapshot | None) -> frozenset[str] | None:
    """Files of which Git may say more than before."""
    kinds = GitSnapshot | FolderSnapshot
    told = now.table.since(before.table) if isinstance(now, kinds) and isinstance(before, kinds) else None
    if told and isinstance(now, FolderSnapshot) and now.checkout:
        return frozenset(path.removeprefix(now.checkout.prefix) for path in told)
    return told


def _wishes(desired: DesiredState, names: Names) -> Iterable[DesiredIntegration]:
    if names is None:
        return desired.integrations.values()
    return [desired.integrations[ref] for ref in names if ref in desired.integrations]


def _carried(before: Mapping[Ref, Resolved], done: _Round) -> Mapping[Ref, Resolved]:
    """Hashes of all, with those of this round; a new mapping, because the one before was handed out."""
    if done.names is None:
        return done.resolved
    if not done.names:
        return before
    carried = {**before, **done.resolved}
    for ref in done.names - done.resolved.keys():
        carried.pop(ref, None)
    return carried


def _is_off(desired: DesiredIntegration) -> bool:
    return desired.manifest.spec.suspend or not desired.manifest.spec.enabled


def _is_passing(findings: Findings) -> bool:
    """The file is not at hand in this moment: the source tells that, and its next revision mends it."""
    return all(finding.code is Code.SOURCE_UNAVAILABLE for finding in findings)


def _earlier(snapshot: Snapshot, revision: str) -> GitSnapshot | None:
    return snapshot.earlier(revision) if isinstance(snapshot, GitSnapshot | FolderSnapshot) else None


def _lasting(folder: FolderSnapshot) -> Snapshot:
    """The same from the objects of its commit, where there is one: files in place have moved on."""
    with contextlib.suppress(SourceError):
        return folder.earlier(folder.revision) or folder
    return folder
