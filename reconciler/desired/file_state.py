"""One file, read and checked: which documents it holds, what is wrong with them, which names it speaks for.

In: the bytes of a file (or why they cannot be had) and the `Setting` of this revision. Out: a frozen `FileState`, which
stays valid until the file, its workspace's defaults or a file that it refers to changes. Called by `validate`.
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from reconciler.desired.envelope import Kind, kind_of
from reconciler.desired.manifests import Outcome, Setting, check_integration, check_workspace
from reconciler.desired.positions import find_positions
from reconciler.desired.snapshot import ReadError, ReadFault, Snapshot
from reconciler.desired.source_error import SourceError
from reconciler.desired.yaml_source import YamlDocument, YamlFile, YamlProblem, read_yaml
from reconciler.model.finding import Code, Finding
from reconciler.model.ids import Ref

_WORD = re.compile(r"[a-z0-9][a-z0-9-]*")
_CODES = {
    ReadFault.MISSING: Code.FILE_UNREADABLE,
    ReadFault.TOO_LARGE: Code.FILE_TOO_LARGE,
    ReadFault.NOT_A_FILE: Code.FILE_SYMLINK,
    ReadFault.CHANGED: Code.FILE_UNREADABLE,
    ReadFault.UNREADABLE: Code.FILE_UNREADABLE,
}


@dataclass(frozen=True, slots=True)
class ParsedFile:
    """`content` is kept only while the file is checked; None where it could not be had."""

    path: str
    blob_id: str
    yaml: YamlFile
    content: bytes | None = None


@dataclass(frozen=True, slots=True)
class FileState:
    """`is_partial`: documents could not be read, or not attributed. `held` are names it spoke for before it broke.

    `words` are what a partial file might still be about; empty with `is_partial` where even that is unknown.
    """

    path: str
    blob_id: str
    outcomes: tuple[Outcome, ...] = ()
    findings: tuple[Finding, ...] = ()
    is_partial: bool = False
    held: tuple[Ref, ...] = ()
    held_workspaces: tuple[str, ...] = ()
    words: frozenset[str] = frozenset()

    @property
    def is_clean(self) -> bool:
        return not self.findings and not self.is_partial

    @property
    def is_attributed(self) -> bool:
        """Whether every broken part of it is known to be about certain names."""
        return not self.is_partial or bool(self.held or self.held_workspaces)

    @property
    def refs(self) -> tuple[Ref, ...]:
        """Names that its readable documents claim, good or broken."""
        return tuple(outcome.ref for outcome in self.outcomes if outcome.ref is not None)

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(path for outcome in self.outcomes for path in outcome.reads)


def is_manifest_file(path: str) -> bool:
    """YAML files outside hidden folders; `.sops.yaml`, `.github/` and the like are tools' own."""
    return path.endswith((".yaml", ".yml")) and not path.startswith(".") and "/." not in path


def parse_file(snapshot: Snapshot, path: str) -> ParsedFile:
    """Read and parse; whatever goes wrong is a problem of the file."""
    entry = snapshot.files[path]
    try:
        content = snapshot.read(path)
    except ReadError as error:
        message = str(error).removeprefix(f"{path}: ")
        problem = YamlProblem(0, 0, _CODES[error.fault], message, "", is_fatal=True)
        return ParsedFile(path, entry.blob_id, YamlFile(problems=(problem,)))
    except SourceError as error:
        problem = YamlProblem(0, 0, Code.SOURCE_UNAVAILABLE, str(error), "", is_fatal=True)
        return ParsedFile(path, entry.blob_id, YamlFile(problems=(problem,)))
    return ParsedFile(path, entry.blob_id, read_yaml(content), content)


def workspaces_of(parsed: ParsedFile, setting: Setting) -> list[Outcome]:
    """The workspace documents alone: their defaults must be known before any integration is checked."""
    return [
        check_workspace(document, parsed.path, setting)
        for document in parsed.yaml.documents
        if kind_of(document.tree)[0] is Kind.WORKSPACE
    ]


def check_file(parsed: ParsedFile, setting: Setting, before: FileState | None) -> FileState:
    """All findings of one file that can be known from it alone."""
    outcomes = [outcome for document in parsed.yaml.documents if (outcome := _check(document, parsed.path, setting))]
    findings = _findings(parsed, outcomes, before)
    unattributed = any(outcome.is_broken and not outcome.is_attributed for outcome in outcomes)
    state = FileState(
        parsed.path, parsed.blob_id, tuple(replace(o, problems=()) if o.problems else o for o in outcomes), findings
    )
    if not parsed.yaml.problems and not unattributed:
        return state
    return _partial(state, parsed, before)


def _partial(state: FileState, parsed: ParsedFile, before: FileState | None) -> FileState:
    held = set(before.refs + before.held) - set(state.refs) if before else set()
    workspaces = {outcome.workspace_name for outcome in before.outcomes} if before else set()
    workspaces |= set(before.held_workspaces) if before else set()
    workspaces -= {outcome.workspace_name for outcome in state.outcomes} | {""}
    text = (parsed.content or b"")[: 2**20].decode("utf-8", "replace")
    return replace(
        state,
        is_partial=True,
        held=tuple(sorted(held)),
        held_workspaces=tuple(sorted(workspaces)),
        words=frozenset(_WORD.findall(text)),
    )


def _check(document: YamlDocument, path: str, setting: Setting) -> Outcome | None:
    kind, problems = kind_of(document.tree)
    if kind is Kind.INTEGRATION:
        return check_integration(document, path, setting)
    if kind is Kind.WORKSPACE:
        return check_workspace(document, path, setting)
    if kind is Kind.BROKEN:
        return Outcome(document.index, document.line, problems=problems)
    return None


def _findings(parsed: ParsedFile, outcomes: Collection[Outcome], before: FileState | None) -> tuple[Finding, ...]:
    """Each with the workspace whose document it is about; one of the text, with the only one that the file speaks for."""
    whose = _only_workspace(outcomes, before)
    found = [_text_finding(parsed.path, problem, whose) for problem in parsed.yaml.problems]
    for document in parsed.yaml.documents:
        found += [_text_finding(parsed.path, problem, whose) for problem in document.problems]
    wrong = [(outcome, problem) for outcome in outcomes for problem in outcome.problems]
    if wrong:
        positions = find_positions(parsed.content or b"")
        found += [problem.finding(parsed.path, one.index, positions, one.tenant or whose) for one, problem in wrong]
    return tuple(sorted(set(found)))


def _only_workspace(outcomes: Iterable[Outcome], before: FileState | None) -> str:
    """Empty where there are several, or none is known: nobody is told of what may be another's."""
    held = (*before.refs, *before.held) if before else ()
    names = {outcome.tenant for outcome in outcomes} | {ref.workspace for ref in held}
    names |= {*before.held_workspaces, *(one.workspace_name for one in before.outcomes)} if before else set()
    names.discard("")
    return names.pop() if len(names) == 1 else ""


def _text_finding(path: str, problem: YamlProblem, workspace: str) -> Finding:
    return Finding(
        path, problem.line, problem.column, problem.code, problem.message, problem.remedy, workspace=workspace
    )
