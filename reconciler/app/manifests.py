"""Git, to be written to by the API: which source a manifest belongs to, what a change comes to, and that it is taken over soon.

Implements `Manifests`. In: the writers of the sources and what the book knows. Out: commits and pull requests. How a change
is made is in `desired.writing`; whether it may be is agreed with the caller before anything is pushed.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from reconciler.app.book import SourceBook
from reconciler.app.foresight import Foresight
from reconciler.desired.validate import Inputs, Validated
from reconciler.desired.writing.rules import Mode
from reconciler.desired.writing.standing import find_standing, shown_manifest
from reconciler.desired.writing.terms import Change, Edit, WriteError, WriteFault
from reconciler.desired.writing.writing import Writing
from reconciler.model.ids import Ref
from reconciler.sdk import registry
from reconciler.serve.forms import etag_of
from reconciler.serve.ports import Committed, ManifestWish, NotReadableError, Outlook

Look = Callable[[], Awaitable[None]]


class GitManifests:
    """`look` has Git asked now, wherever that is done."""

    def __init__(
        self,
        writers: Mapping[str, Writing],
        inputs: Mapping[str, Inputs],
        book: SourceBook,
        foresight: Foresight,
        look: Look,
    ) -> None:
        self._writers = writers
        self._inputs = inputs
        self._book = book
        self._foresight = foresight
        self._look = look

    async def change(self, wish: ManifestWish) -> Committed:
        await self._foresight.look()
        refs = {edit.ref for edit in wish.edits}
        name = self._source_of(refs, wish.source)

        async def agree(before: Validated, after: Validated) -> None:
            foreseen = await self._foresight.of_validated(name, after)
            await wish.agree(Outlook(foreseen, _manifests(before, refs), _manifests(after, refs)))

        writer = self._writers[name]
        change = Change(
            edits=await self._conditional(writer, wish),
            author=wish.author,
            subject=wish.subject,
            marker=wish.marker,
            marked_at=wish.marked_at,
            request=wish.request,
        )
        written = await writer.change(change, agree)
        if writer.mode is Mode.COMMIT:
            await self._look()
        foreseen = await self._foresight.of_validated(name, written.validated)
        return Committed("commit" if writer.mode is Mode.COMMIT else "pull-request", written, foreseen)

    async def _conditional(self, writer: Writing, wish: ManifestWish) -> tuple[Edit, ...]:
        """With the tag of what stands there, where that is what the caller saw."""
        if not wish.expected:
            return tuple(wish.edits)
        checked = await writer.current()
        return tuple(_if_same(checked, edit, wish.expected) for edit in wish.edits)

    async def standing(self, ref: Ref) -> tuple[str, Mapping[str, Any]] | None:
        checked = await self._writers[self._source_of({ref}, None)].current()
        found = find_standing(checked, ref)
        return (found.tag, shown_manifest(found, registry)) if found is not None else None

    def _source_of(self, refs: set[Ref], wanted: str | None) -> str:
        """Where the manifest stands; else the one source that could hold it, and rather one that is written to."""
        holding = {name for name, one in self._book.checked.items() if refs & one.index.claims.keys()}
        if len(holding) == 1 and wanted in (None, *holding):
            return holding.pop()
        could = [name for name in self._inputs if all(self._may_hold(name, ref) for ref in refs)]
        if wanted is not None:
            if wanted not in self._inputs:
                raise NotReadableError(f"there is no source {wanted}", is_request=True)
            return wanted
        open_ones = [name for name in could if self._writers[name].mode is not Mode.OFF] or could
        if len(open_ones) == 1:
            return open_ones[0]
        said = ", ".join(open_ones) if open_ones else "none may hold manifests of that workspace"
        raise NotReadableError(f"which source is meant? {said}", is_request=True)

    def _may_hold(self, name: str, ref: Ref) -> bool:
        return any(fnmatchcase(ref.workspace, pattern) for pattern in self._inputs[name].workspaces)


def _if_same(checked: Validated, edit: Edit, expected: str) -> Edit:
    wanted, found = checked.state.integrations.get(edit.ref), find_standing(checked, edit.ref)
    if found is None:
        raise WriteError(WriteFault.NOT_FOUND, f"Git does not name {edit.ref}")
    if wanted is None or etag_of(wanted.source_hash, wanted.manifest.metadata.labels) != expected:
        message = f"the manifest of {edit.ref} is not what it was"
        raise WriteError(WriteFault.CONFLICT, message, "get it again, and make the change anew")
    return replace(edit, expected=found.tag)


def _manifests(checked: Validated, refs: set[Ref]) -> dict[Ref, dict[str, Any]]:
    """Metadata and spec as written, secrets encrypted. From the file: one that is not valid has no state, and may become so."""
    found = {ref: standing.tree for ref in refs if (standing := find_standing(checked, ref)) is not None}
    return {ref: {"metadata": tree.get("metadata", {}), "spec": tree.get("spec", {})} for ref, tree in found.items()}
