"""Edits of manifests as new contents of files, checked as the daemon would check the revision that has them.

In: a checked revision and the edits. Out: `Edited`: the new contents and the checked result, or WriteError. Called by `writing`
in a worker thread; pure apart from reading the revision. Which file and document holds a manifest is what validation said.
A finding that the revision had before does not stop an edit; one that the edit brings does, wherever it is.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

from reconciler.desired.file_state import is_manifest_file
from reconciler.desired.overlay import Contents, Overlay, overlay
from reconciler.desired.policy import place_problems, source_problems
from reconciler.desired.positions import find_positions
from reconciler.desired.snapshot import Snapshot
from reconciler.desired.sops.errors import SopsError
from reconciler.desired.validate import Inputs, Validated, validate
from reconciler.desired.writing.merging import wanted_tree
from reconciler.desired.writing.render import block
from reconciler.desired.writing.retouch import LayoutError
from reconciler.desired.writing.sealing import Sealer
from reconciler.desired.writing.standing import Standing, clear_secrets, find_standing
from reconciler.desired.writing.terms import (
    Edit,
    Pointed,
    Put,
    Remove,
    WriteError,
    WriteFault,
)
from reconciler.model.finding import Finding, Severity
from reconciler.model.ids import Ref
from reconciler.model.tree import json_pointer

_BOM = "\ufeff"
_LONGEST_PATH = 400


@dataclass(frozen=True, slots=True)
class Edited:
    """`before` and `contents` by path, None where there is no such file."""

    before: Contents = field(repr=False)
    contents: Contents = field(repr=False)
    validated: Validated = field(repr=False)
    refs: tuple[Ref, ...] = ()

    def at(self, revision: str) -> Validated:
        """The checked result under the name of the commit that it became."""
        base = self.validated.snapshot
        snapshot = replace(base, revision=revision) if isinstance(base, Overlay) else base
        return replace(self.validated, snapshot=snapshot, state=replace(self.validated.state, revision=revision))


@dataclass(frozen=True, slots=True)
class Desk:
    """What every edit is made with. `template` is where new manifests go, below `folder`."""

    inputs: Inputs
    sealer: Sealer
    folder: str
    template: str

    def edited(self, base: Validated, edits: Sequence[Edit]) -> Edited:
        """All edits, one after the other. Raises WriteError."""
        now, contents = base, dict[str, bytes | None]()
        for edit in edits:
            contents |= self._one(now, edit)
            now = validate(overlay(base.snapshot, contents), self.inputs, base)
        contents = {path: content for path, content in contents.items() if content != _content(base.snapshot, path)}
        if not contents:
            return Edited({}, {}, base, tuple(edit.ref for edit in edits))
        _refuse_new(base, now, [edit.ref for edit in edits])
        before = {path: _content(base.snapshot, path) for path in contents}
        return Edited(before, contents, now, tuple(edit.ref for edit in edits))

    def _one(self, now: Validated, edit: Edit) -> Contents:
        standing = find_standing(now, edit.ref)
        _check_expected(standing, edit)
        if standing is None:
            return self._created(now.snapshot, edit) if isinstance(edit, Put) else {}
        try:
            return {standing.file: self._changed(now, standing, edit)}
        except LayoutError as error:
            message = f"{standing.file}: {error.message}"
            raise WriteError(WriteFault.LAYOUT, message, "or make this change by a commit") from None
        except SopsError as error:
            raise _unsealed(standing.file, error) from None

    def _changed(self, now: Validated, standing: Standing, edit: Edit) -> bytes | None:
        text = now.snapshot.read(standing.file).decode("utf-8")
        mark, text = (_BOM, text[1:]) if text.startswith(_BOM) else ("", text)
        if isinstance(edit, Remove):
            shorter = self.sealer.removed(text, standing.index)
            return (mark + shorter).encode() if shorter else None
        _, defaults = now.workspaces.get(edit.ref.workspace, (None, {}))
        wanted = wanted_tree(standing.tree, edit, defaults)
        self._check_secrets(wanted)
        return (mark + self.sealer.changed(text, standing.file, standing.index, wanted)).encode()

    def _created(self, snapshot: Snapshot, edit: Put) -> Contents:
        path = self._path(edit.ref)
        self._check_path(snapshot, path, edit.ref)
        wanted = wanted_tree(None, edit)
        self._check_secrets(wanted)
        try:
            return {path: self.sealer.created(block(wanted, 0) + "\n", path, wanted).encode()}
        except SopsError as error:
            raise _unsealed(path, error) from None

    def _path(self, ref: Ref) -> str:
        below = self.template.replace("{workspace}", ref.workspace).replace("{name}", ref.name)
        return (PurePosixPath(self.folder) / below).as_posix() if self.folder else below

    def _check_path(self, snapshot: Snapshot, path: str, ref: Ref) -> None:
        inputs = self.inputs
        problems = [*source_problems(inputs.source, inputs.workspaces, ref.workspace)]
        problems += place_problems(inputs.policy, ref.workspace, path) if inputs.policy else ()
        if problems:
            remedy = "set write_back.path so that it fits the tenant's paths, or permit that file (tenants.paths)"
            raise WriteError(WriteFault.NOT_PERMITTED, problems[0].message, remedy)
        above = {parent.as_posix() for parent in PurePosixPath(path).parents}
        taken = next((name for name in (path, *sorted(above)) if name in snapshot.files), None)
        if taken is None and any(name.startswith(f"{path}/") for name in snapshot.files):
            taken = path
        if taken or not is_manifest_file(path) or len(path) > _LONGEST_PATH:
            message = f"{ref} would be written to {path}, " + (
                f"but {taken} is there already, for something else"
                if taken
                else "which would not be read as a manifest"
            )
            raise WriteError(WriteFault.EXISTS, message, "make this manifest by a commit, or set write_back.path")

    def _check_secrets(self, wanted: Mapping[str, Any]) -> None:
        """A number would be encrypted as one, and no connector takes that for a secret."""
        wrong = [path for path in clear_secrets(wanted, self.inputs.registry) if not isinstance(_at(wanted, path), str)]
        if wrong:
            pointed = [Pointed(json_pointer(path), "invalid", "a secret is text: send it in quotes") for path in wrong]
            raise WriteError(WriteFault.INVALID, f"{pointed[0].pointer}: {pointed[0].detail}", pointed=pointed)


def _check_expected(standing: Standing | None, edit: Edit) -> None:
    ref = edit.ref
    if standing is None:
        if edit.expected:
            raise WriteError(WriteFault.CONFLICT, f"{ref} was removed meanwhile", "read what is there now")
        if not isinstance(edit, Put):
            raise WriteError(WriteFault.NOT_FOUND, f"Git has no manifest of {ref}", "see the names: reconciler status")
    elif isinstance(edit, Put) and edit.is_new:
        message = f"{ref} is there already, in {standing.file}"
        raise WriteError(WriteFault.EXISTS, message, "take another name, or change the one that is there")
    elif edit.expected and edit.expected != standing.tag:
        raise WriteError(WriteFault.CONFLICT, f"{ref} was changed meanwhile", "read it again and repeat the change")


def _refuse_new(base: Validated, now: Validated, refs: Sequence[Ref]) -> None:
    """Raise where the edits bring errors that were not there before, in whichever file."""
    known = Counter(_said(finding) for finding in base.state.findings)
    fresh: list[Finding] = []
    for finding in now.state.findings:
        said = _said(finding)
        if finding.severity is Severity.ERROR and known[said] <= 0:
            fresh.append(finding)
        known[said] -= 1
    if fresh:
        more = f" (and {len(fresh) - 1} more)" if len(fresh) > 1 else ""
        raise WriteError(
            WriteFault.INVALID, f"{fresh[0]}{more}", findings=fresh, pointed=[*_pointed(now, fresh, set(refs))]
        )


def _said(finding: Finding) -> tuple[str, str, str]:
    return finding.file, finding.code, finding.message


def _pointed(now: Validated, findings: Sequence[Finding], refs: set[Ref]) -> list[Pointed]:
    """The findings about the manifests that were handed in, by their place in them."""
    claims = [claim for ref in refs for claim in now.index.claims.get(ref, ())]
    found = []
    for claim in claims:
        positions = find_positions(now.snapshot.read(claim.file))
        places = {
            place: path
            for known in (positions.values, positions.keys)
            for (document, path), place in known.items()
            if document == claim.document
        }
        for finding in findings:
            path = places.get((finding.line, finding.column)) if finding.file == claim.file else None
            if path is not None:
                detail = finding.message + (f" ({finding.remedy})" if finding.remedy else "")
                found.append(Pointed(json_pointer(path), finding.code, detail))
    return found


def _unsealed(file: str, error: SopsError) -> WriteError:
    return WriteError(WriteFault.UNSEALED, f"{file}: {error.message}", error.remedy)


def _content(snapshot: Snapshot, path: str) -> bytes | None:
    return snapshot.read(path) if path in snapshot.files else None


def _at(node: Any, path: Sequence[str | int]) -> Any:
    for part in path:
        node = node[part]
    return node
