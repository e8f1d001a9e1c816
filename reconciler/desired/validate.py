"""All files of a revision become one `DesiredState`, with every finding at once.

In: a `Snapshot`, the tenants' policy, the registry of connectors, and what the previous revision came to. Out: `Validated`:
the state, and what the next call needs to do only the work of what changed. Called by the control loop, `plan` and
`validate`. Pure apart from reading the snapshot: no clock, no network, no keys.

What is broken holds on to what it had: a name whose document turned bad keeps its last good spec and is `held`; a file
that cannot be read holds the names it held; a name that vanished but is still spoken of in an unreadable file is held too.
Where nobody can say what a broken part is about, the state is not complete and nothing may be pruned.
"""

import gc
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from reconciler.desired.connector_checks import Registry
from reconciler.desired.crosscheck import CrossProblem
from reconciler.desired.file_state import (
    FileState,
    ParsedFile,
    check_file,
    is_manifest_file,
    parse_file,
    workspaces_of,
)
from reconciler.desired.manifests import Defaults, Outcome, Setting
from reconciler.desired.name_index import NameIndex, update_index
from reconciler.desired.policy import TenantPolicy
from reconciler.desired.positions import Positions, find_positions
from reconciler.desired.snapshot import Snapshot
from reconciler.desired.unresolved import BlobOf
from reconciler.model.finding import Code, Finding, Severity
from reconciler.model.ids import Ref
from reconciler.model.manifest import Workspace
from reconciler.model.state import DesiredIntegration, DesiredState

_BULK = 200


class StateCache(Protocol):
    """Where checked files outlive the process; `parse_cache.ParseCache` is one."""

    def holds(self, path: str, blob_id: str) -> bool:
        """Whether this very file was right before; a file with a workspace in it is never held."""
        ...

    def get(self, path: str, blob_id: str, setting: Setting) -> FileState | None: ...

    def put(self, state: FileState, setting: Setting) -> FileState:
        """The same state, perhaps in a form that takes less memory."""
        ...


@dataclass(frozen=True, slots=True)
class Validated:
    """One revision, checked. Hand it back with the next snapshot of the same source.

    `touched`: the names that may stand otherwise than in the revision it was checked after; None where any may.
    """

    state: DesiredState
    snapshot: Snapshot
    files: Mapping[str, FileState]
    index: NameIndex
    workspaces: Mapping[str, tuple[Workspace, Mapping[str, Any]]]
    policy: TenantPolicy | None
    workspace_findings: tuple[Finding, ...] = ()
    salvaged: frozenset[Ref] = frozenset()
    partial: frozenset[str] = frozenset()
    with_findings: frozenset[str] = frozenset()
    readers: Mapping[str, frozenset[str]] = field(default_factory=dict)
    declaring: frozenset[str] = frozenset()
    located: Mapping[CrossProblem, Finding] = field(default_factory=dict)
    touched: frozenset[Ref] | None = None

    def holding(self, refs: Iterable[Ref]) -> DesiredState:
        """The state for one who knows no revision before: of `refs`, which are somewhere in force, a file that cannot be
        read holds those it still speaks of."""
        held = frozenset(_spoken_of(self.files, self.partial, (ref for ref in refs if ref not in self.index.claims)))
        return replace(self.state, held=self.state.held | held) if held else self.state


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What stays the same from revision to revision. `workspaces` are globs of those that the source may speak for.

    `blob_of` is given where files outside the snapshot may be named; without `check_links` names of manifests that are
    not at hand are taken to exist. `is_alone`: no other source holds manifests of the same workspaces.
    """

    source: str
    registry: Registry
    policy: TenantPolicy | None = None
    workspaces: tuple[str, ...] = ("*",)
    cache: StateCache | None = None
    blob_of: BlobOf | None = None
    check_links: bool = True
    is_alone: bool = True


def validate(snapshot: Snapshot, inputs: Inputs, previous: Validated | None = None) -> Validated:
    """Check what changed since `previous`; without it, everything."""
    known = previous if previous and previous.policy == inputs.policy else None
    paths = _to_check(snapshot, known)
    if known and not paths:
        state = replace(known.state, revision=snapshot.revision)
        return replace(known, snapshot=snapshot, state=state, touched=frozenset())
    with _paused_gc(bulk=len(paths) > _BULK):
        return _Run(snapshot, inputs, previous, known, paths).run()


def _to_check(snapshot: Snapshot, known: Validated | None) -> dict[str, bool]:
    """Paths to look at anew: True where the file is there, False where it is gone."""
    if known is None:
        return dict.fromkeys(filter(is_manifest_file, snapshot.files), True)
    changes = snapshot.changes(known.snapshot)
    paths = {path: entry is not None for path, entry in changes.items() if is_manifest_file(path)}
    for changed in changes:
        for reader in known.readers.get(changed, ()):
            paths.setdefault(reader, True)
    return paths


@contextmanager
def _paused_gc(*, bulk: bool) -> Iterator[None]:
    """Ten thousand new trees would be walked by the collector again and again: four times the cost."""
    was_on = gc.isenabled()
    if bulk:
        gc.disable()
    try:
        yield
    finally:
        if bulk:
            gc.freeze()
        if was_on:
            gc.enable()


@dataclass(slots=True)
class _Run:
    """One call of `validate`, step by step. `previous` holds good specs; `known` is the same where its checks still count."""

    snapshot: Snapshot
    inputs: Inputs
    previous: Validated | None
    known: Validated | None
    paths: dict[str, bool]
    parsed: dict[str, ParsedFile] = field(default_factory=dict)
    workspaces: dict[str, tuple[Workspace, Mapping[str, Any]]] = field(default_factory=dict)
    workspace_findings: list[Finding] = field(default_factory=list)

    def run(self) -> Validated:
        declaring = self._declare_workspaces()
        setting = self._setting({name: defaults for name, (_, defaults) in self.workspaces.items()})
        self._add_affected(setting.defaults)
        fresh = {path: self._checked(path, setting) for path, is_there in self.paths.items() if is_there}
        files = dict(self.known.files) if self.known else {}
        replaced = [files[path] for path in self.paths if path in files]
        for path in self.paths:
            files.pop(path, None)
        files |= fresh
        index = update_index(self.known.index if self.known else NameIndex(), files, replaced, fresh.values())
        return self._result(files, fresh, index, declaring)

    def _setting(self, defaults: Defaults) -> Setting:
        files = self.snapshot.files
        blob_of = self.inputs.blob_of or (lambda path: files[path].blob_id if path in files else None)
        inputs = self.inputs
        return Setting(
            inputs.source, self.snapshot.revision, inputs.registry, inputs.policy, defaults, blob_of, inputs.workspaces
        )

    # Workspaces come first: their defaults are part of every integration of theirs.

    def _declare_workspaces(self) -> frozenset[str]:
        """Finds every workspace document; gives back the files that hold one."""
        setting = self._setting({})
        declared: dict[str, list[tuple[str, Outcome]]] = {}
        unchanged = self.known.declaring - self.paths.keys() if self.known else frozenset()
        for path in unchanged:
            for outcome in self.known.files[path].outcomes if self.known else ():
                declared.setdefault(outcome.workspace_name, []).append((path, outcome))
        for path, is_there in self.paths.items():
            if is_there:
                for outcome in self._workspaces_in(path, setting):
                    declared.setdefault(outcome.workspace_name, []).append((path, outcome))
        declared.pop("", None)
        for name, places in sorted(declared.items()):
            self._settle_workspace(name, places)
        self._keep_unreadable(declared)
        return frozenset(path for places in declared.values() for path, _ in places)

    def _workspaces_in(self, path: str, setting: Setting) -> Iterable[Outcome]:
        cache = self.inputs.cache
        if cache and cache.holds(path, self.snapshot.files[path].blob_id):
            return ()
        self.parsed[path] = parse_file(self.snapshot, path)
        return workspaces_of(self.parsed[path], setting)

    def _settle_workspace(self, name: str, places: list[tuple[str, Outcome]]) -> None:
        before = self.previous.workspaces.get(name) if self.previous else None
        good = [outcome for _, outcome in places if outcome.workspace is not None]
        if len(places) > 1:
            self.workspace_findings += _twice(name, places)
        if len(places) == 1 and good and good[0].workspace is not None:
            self.workspaces[name] = (good[0].workspace, good[0].defaults)
        elif before is not None:
            self.workspaces[name] = before

    def _keep_unreadable(self, declared: Mapping[str, Any]) -> None:
        """A workspace whose file can no longer be read stays as it was."""
        if self.previous is None:
            return
        broken = {path for path, parsed in self.parsed.items() if parsed.yaml.problems}
        broken |= self.previous.partial - self.paths.keys()
        for path in broken:
            state = self.previous.files.get(path)
            names = (
                {outcome.workspace_name for outcome in state.outcomes} | set(state.held_workspaces) if state else set()
            )
            for name in names & self.previous.workspaces.keys() - declared.keys():
                self.workspaces[name] = self.previous.workspaces[name]

    def _add_affected(self, defaults: Defaults) -> None:
        """Where a workspace's defaults changed, its integrations are checked again."""
        if self.known is None:
            return
        before = {name: given for name, (_, given) in self.known.workspaces.items()}
        changed = {name for name in before.keys() | defaults.keys() if before.get(name, {}) != defaults.get(name, {})}
        if changed:
            for path, state in self.known.files.items():
                if any(ref.workspace in changed for ref in state.refs):
                    self.paths.setdefault(path, True)

    def _checked(self, path: str, setting: Setting) -> FileState:
        before = self.previous.files.get(path) if self.previous else None
        cache, blob = self.inputs.cache, self.snapshot.files[path].blob_id
        cached = cache.get(path, blob, setting) if cache and path not in self.parsed else None
        if cached is not None:
            return cached
        state = check_file(self.parsed.get(path) or parse_file(self.snapshot, path), setting, before)
        self.parsed.pop(path, None)
        return cache.put(state, setting) if cache else state

    def _result(
        self, files: dict[str, FileState], fresh: dict[str, FileState], index: NameIndex, declaring: frozenset[str]
    ) -> Validated:
        partial = _kept(self.known.partial if self.known else frozenset(), self.paths, fresh, lambda s: s.is_partial)
        told = _kept(
            self.known.with_findings if self.known else frozenset(), self.paths, fresh, lambda s: bool(s.findings)
        )
        salvaged = self._salvaged(files, partial, index)
        before = self.known.state.held if self.known else frozenset()
        problems = self._certain(index.problems)
        wrong = {one.ref for one in problems if one.problem.severity is Severity.ERROR}
        held = index.broken | wrong | salvaged
        findings = [finding for path in told for finding in files[path].findings]
        located = self._located(problems)
        findings += [*located.values(), *self.workspace_findings]
        state = DesiredState(
            revision=self.snapshot.revision,
            integrations=self._integrations(index, held),
            workspaces={name: workspace for name, (workspace, _) in self.workspaces.items()},
            findings=tuple(sorted(findings)),
            held=frozenset(held),
            is_complete=all(files[path].is_attributed for path in partial),
        )
        readers = _readers(self.known, self.paths, fresh)
        touched = index.touched | before | held if self.known else None
        return Validated(
            state, self.snapshot, files, index, self.workspaces, self.inputs.policy, tuple(self.workspace_findings),
            salvaged, partial, told, readers, declaring, located, touched,
        )  # fmt: skip

    def _certain(self, problems: tuple[CrossProblem, ...]) -> tuple[CrossProblem, ...]:
        """Not what a manifest that is not at hand might refute."""
        uncertain = set() if self.inputs.check_links else {Code.INVALID_REFERENCE}
        uncertain |= set() if self.inputs.check_links and self.inputs.is_alone else {Code.UNKNOWN_EVENT}
        return tuple(one for one in problems if one.problem.code not in uncertain) if uncertain else problems

    def _integrations(self, index: NameIndex, held: Collection[Ref]) -> dict[Ref, DesiredIntegration]:
        if not held:
            return index.good
        integrations = dict(index.good)
        last = self.previous.state.integrations if self.previous else {}
        for ref in held:
            integrations.pop(ref, None)
            if ref in last:
                integrations[ref] = last[ref]
        return integrations

    def _salvaged(self, files: Mapping[str, FileState], partial: frozenset[str], index: NameIndex) -> frozenset[Ref]:
        """Names that nobody claims any more, but that an unreadable file still speaks of: moved there, probably."""
        if self.previous is None or not partial:
            return frozenset()
        claimed, last = index.claims, self.previous.state
        known = index.touched & last.integrations.keys() if self.known else last.integrations.keys()
        gone = [ref for ref in (*known, *last.held) if ref not in claimed]
        return frozenset(_spoken_of(files, partial, gone))

    def _located(self, problems: Iterable[CrossProblem]) -> dict[CrossProblem, Finding]:
        """With their places; a file that has not changed is not read for it again."""
        before = self.known.located if self.known else {}
        known: dict[str, Positions] = {}
        found = {}
        for one in problems:
            file = one.claim.file
            if one in before and file not in self.paths:
                found[one] = before[one]
                continue
            if file not in known:
                parsed = parse_file(self.snapshot, file)
                known[file] = find_positions(parsed.content or b"")
            found[one] = one.problem.finding(file, one.claim.document, known[file], one.ref.workspace)
        return found


def _spoken_of(files: Mapping[str, FileState], partial: Iterable[str], refs: Iterable[Ref]) -> Iterator[Ref]:
    """Names that stand in a file which cannot be read."""
    words = [files[path].words for path in partial]
    return (ref for ref in refs if any(ref.name in one for one in words))


def _twice(name: str, places: list[tuple[str, Outcome]]) -> Iterator[Finding]:
    for path, outcome in places:
        others = ", ".join(f"{other}:{one.line}" for other, one in places if one is not outcome)
        message = f"the workspace {name} is also defined in {others}"
        yield Finding(path, outcome.line, 1, Code.DUPLICATE_NAME, message, "keep one of them", workspace=name)


def _kept(
    before: frozenset[str], changed: Mapping[str, bool], fresh: Mapping[str, FileState], test: Any
) -> frozenset[str]:
    return before - changed.keys() | {path for path, state in fresh.items() if test(state)}


def _readers(
    known: Validated | None, changed: Iterable[str], fresh: Mapping[str, FileState]
) -> Mapping[str, frozenset[str]]:
    """Which manifests refer to which file of the source; the same mapping where those that changed refer as before."""
    before = {path: known.files[path].reads for path in changed if path in known.files} if known else {}
    after = {path: state.reads for path, state in fresh.items()}
    readers: dict[str, set[str]] = {}
    for path in before.keys() | after.keys():
        old, new = set(before.get(path, ())), set(after.get(path, ()))
        for read in old ^ new:
            by = readers.setdefault(read, set(known.readers.get(read, ()) if known else ()))
            (by.add if read in new else by.discard)(path)
    same: Mapping[str, frozenset[str]] = known.readers if known else {}
    return {**same, **{read: frozenset(by) for read, by in readers.items()}} if readers else same
