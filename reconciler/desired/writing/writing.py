"""Changes of manifests become commits: the door of this room.

In: a `Change` of one caller, the source's settings, and what the daemon knows of the source. Out: `Written` once the commit is
at the remote, `Preview`, or WriteError with nothing done. Called by the composition root. Writers of this process take turns,
source by source; those of other processes and people are met at the remote: when the branch moved, the edit is made again on
what is there now, checked again and pushed again, so that nobody's change is lost and no text is merged blindly.

A change bears a marker that its caller stored before. Before anything is made the branch is searched for it, so a change
whose answer was lost (kill -9 between push and answer, a broken connection) is found and not made twice. Nothing is forced.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from random import Random

from reconciler.desired.git_transport import Git, Refusal
from reconciler.desired.mirror import mirror_folder
from reconciler.desired.snapshot import ReadError, Snapshot
from reconciler.desired.sops.keys import Keyring
from reconciler.desired.source_error import Fault, SourceError
from reconciler.desired.source_settings import SourceSettings
from reconciler.desired.tree import GitSnapshot
from reconciler.desired.validate import Inputs, Validated, validate
from reconciler.desired.writing.difference import difference
from reconciler.desired.writing.edits import Desk, Edited
from reconciler.desired.writing.forge import Forge, Proposal
from reconciler.desired.writing.repository import TRAILER, Message, WriteRepository
from reconciler.desired.writing.rules import Mode, WriteRules
from reconciler.desired.writing.sealing import Sealer
from reconciler.desired.writing.terms import Change, Preview, WriteError, WriteFault, Written
from reconciler.model.clock import Clock

MOST_TRIES = 10
LONGEST = timedelta(seconds=30)
_PAUSE = 0.05
_LONGEST_PAUSE = 2.0
_MARKER = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]|\.(?=[A-Za-z0-9])){0,99}")
_MOVED = re.compile(
    r"fetch first|non-fast-forward|stale|cannot lock ref|failed to update ref|incorrect old value|already exists"
)
_LOST = frozenset({Fault.UNREACHABLE, Fault.TIMEOUT, Fault.FAILED})
_MOST_LOST = 2


Agree = Callable[[Validated, Validated], Awaitable[None]]
"""Called with the revision as it is and as it would be."""


async def as_it_comes(_: Validated, __: Validated) -> None:
    """For a caller that agrees to whatever a change comes to."""


@dataclass(frozen=True, kw_only=True)
class Means:
    """What writing to one source is done with. `known` is what the daemon checked last, None before the first time: it is
    where checking begins, and in mode off what is edited. `cache` is the folder that the source has its mirrors in."""

    source: SourceSettings
    rules: WriteRules
    inputs: Inputs
    cache: Path
    inherited: Mapping[str, str] = field(default_factory=dict, repr=False)
    keyring: Callable[[], Keyring] = field(repr=False)
    known: Callable[[], Validated | None] = field(repr=False)
    clock: Clock
    random: Random
    forge: Forge | None = None


class Writing:
    """Changes of one source. Safe to call from several tasks."""

    def __init__(self, means: Means) -> None:
        means.rules.check(means.source)
        folder = mirror_folder(means.source, means.cache)
        git = Git(means.source, folder, means.inherited)
        self._means = means
        self._repository = WriteRepository(means.source, folder, git)
        self._lock = asyncio.Lock()
        self._base: Validated | None = None

    @property
    def mode(self) -> Mode:
        return self._means.rules.mode

    async def change(self, change: Change, agree: Agree = as_it_comes) -> Written:
        """Make it so in Git. Raises WriteError; in mode off always, with the preview of what to commit.

        `agree` is told what it would come to before anything is pushed, and raises what its caller likes where it may not be.
        """
        _check(change)
        if self.mode is Mode.OFF:
            message = f"the source {self._means.source.name} is not written to (write_back.mode is off)"
            preview = await self.preview(change)
            raise WriteError(WriteFault.READ_ONLY, message, "commit the change that comes with this", preview=preview)
        async with self._lock:
            try:
                return await self._change(change, agree)
            except (SourceError, ReadError) as error:
                raise _unavailable(error) from None

    async def preview(self, change: Change) -> Preview:
        """What it would come to now; nothing is pushed. Raises WriteError."""
        async with self._lock:
            try:
                base = await self._current()
                edited = await asyncio.to_thread(self._edited, base, change)
                diff = await asyncio.to_thread(self._difference, edited)
            except (SourceError, ReadError) as error:
                raise _unavailable(error) from None
        return Preview(diff, tuple(edited.contents), edited.validated)

    async def current(self) -> Validated:
        """The revision that a change would be made on now. Raises WriteError."""
        async with self._lock:
            try:
                return await self._current()
            except (SourceError, ReadError) as error:
                raise _unavailable(error) from None

    async def _current(self) -> Validated:
        if self.mode is not Mode.OFF:
            repository = self._repository
            return await self._checked(await self._fetched(await repository.branch()))
        known = self._means.known()
        if known is None:
            message = f"nothing is known of the source {self._means.source.name} yet"
            raise WriteError(WriteFault.UNAVAILABLE, message, "try again when it was fetched: reconciler status")
        return known

    async def _change(self, change: Change, agree: Agree) -> Written:
        """One try after the other until it is pushed."""
        means = self._means
        into = await self._repository.branch()
        ends_at, lost = means.clock.monotonic() + LONGEST.total_seconds(), 0
        for number in range(MOST_TRIES):
            if number:
                await self._pause(number)
            head = await self._fetched(into, change)
            if done := await self._done(change, into, head, is_repeat=number == 0):
                return done
            try:
                refused, written = await self._tried(change, into, head, agree)
            except SourceError as error:
                lost += 1
                if error.fault not in _LOST or lost > _MOST_LOST:
                    raise _unpushed(error) from None
                continue
            if not refused:
                return await self._proposed(change, into, written)
            if not _MOVED.search(refused.reason):
                raise _refused(refused, written.branch)
            if means.clock.monotonic() > ends_at:
                break
        message = f"{into} moved each time that the change was about to be pushed"
        raise WriteError(WriteFault.BUSY, message, "try again; the same request does not make the change twice")

    async def _tried(self, change: Change, into: str, head: str, agree: Agree) -> tuple[Refusal | None, Written]:
        """Why the remote refused, None where it did not, and what is written then."""
        means, repository = self._means, self._repository
        base = await self._checked(head)
        edited = await asyncio.to_thread(self._edited, base, change)
        if not edited.contents:
            return None, Written("", into, (), "", base)
        await agree(base, edited.validated)
        commit = await repository.commit(head, edited.contents, self._message(change), means.rules.signing)
        diff = await asyncio.to_thread(self._difference, edited)
        branch = self._branch(change, into)
        written = Written(commit, branch, tuple(edited.contents), diff, edited.at(commit))
        refused = await repository.push(commit, branch)
        if not refused:
            with suppress(SourceError):
                await repository.tidy()
        return refused, written

    async def _done(self, change: Change, into: str, head: str, *, is_repeat: bool) -> Written | None:
        """What an earlier try with this marker left at the remote."""
        repository, branch = self._repository, into
        commit = await repository.find(head, change.marker, change.marked_at)
        if self.mode is Mode.PULL_REQUEST:
            branch = self._branch(change, into)
            tip = "" if commit else await repository.fetch(branch)
            commit = commit or (await repository.find(tip, change.marker, change.marked_at) if tip else "")
        if not commit:
            return None
        before, after = await repository.contents(commit)
        edited = Edited(before, after, await self._checked(head), tuple(edit.ref for edit in change.edits))
        diff = await asyncio.to_thread(self._difference, edited)
        written = Written(commit, branch, tuple(after), diff, edited.validated, is_repeat=is_repeat)
        return await self._proposed(change, into, written)

    async def _proposed(self, change: Change, into: str, written: Written) -> Written:
        forge = self._means.forge
        if self.mode is not Mode.PULL_REQUEST or forge is None or not written.commit:
            return written
        text = f"Requested by {change.author.name} <{change.author.email}>.\n\n{TRAILER}: {change.marker}\n"
        url = await forge.open(Proposal(written.branch, into, change.subject, text))
        return Written(
            written.commit, written.branch, written.files, written.diff, written.validated, url, written.is_repeat
        )

    def _branch(self, change: Change, into: str) -> str:
        return into if self.mode is Mode.COMMIT else f"reconciler/{change.marker}"

    async def _fetched(self, branch: str, change: Change | None = None) -> str:
        head = await self._repository.fetch(branch, change.marked_at if change else None)
        if not head:
            raise SourceError(Fault.VANISHED, f"the remote has no branch {branch}", "push it again, or change ref")
        return head

    async def _checked(self, head: str) -> Validated:
        """The revision as it is, from the nearest that was checked before."""
        if self._base is None or self._base.snapshot.revision != head:
            snapshot = await self._repository.snapshot(head)
            previous = self._base or self._means.known()
            self._base = await asyncio.to_thread(validate, snapshot, self._means.inputs, previous)
        return self._base

    def _edited(self, base: Validated, change: Change) -> Edited:
        means = self._means
        sealer = Sealer(means.inputs.registry, means.keyring, _reader(base.snapshot), means.clock.now())
        return Desk(means.inputs, sealer, means.source.path, means.rules.path).edited(base, change.edits)

    def _difference(self, edited: Edited) -> str:
        workspaces = frozenset(ref.workspace for ref in edited.refs)
        return difference(edited.before, edited.contents, self._means.inputs.registry, workspaces)

    def _message(self, change: Change) -> Message:
        trailers = {TRAILER: change.marker} | ({"Reconciler-Request": change.request} if change.request else {})
        committer = self._means.rules.committer
        return Message(change.subject, trailers, change.author, committer, self._means.clock.now())

    async def _pause(self, number: int) -> None:
        """Full jitter: two writers that met do not meet again."""
        most = min(_LONGEST_PAUSE, _PAUSE * 2**number)
        await self._means.clock.sleep(self._means.random.uniform(0, most))


def _reader(snapshot: Snapshot) -> Callable[[str], bytes | None]:
    """Any file of the revision, also above the folder of the manifests, where `.sops.yaml` may lie."""
    if isinstance(snapshot, GitSnapshot):
        return lambda path: snapshot.objects.content(snapshot.revision, path)
    return lambda path: snapshot.read(path) if path in snapshot.files and snapshot.files[path].is_regular else None


def _check(change: Change) -> None:
    """What becomes lines of a commit must not be able to add one. Raises ValueError: callers make these texts themselves."""
    if not _MARKER.fullmatch(change.marker) or change.marker.endswith(".lock"):
        raise ValueError("a marker is 1 to 100 letters, digits, dots, dashes and underscores")
    if not change.subject.strip() or not change.subject.isprintable() or not change.request.isprintable():
        raise ValueError("subject and request are printable and on one line")
    for text in (change.author.name, change.author.email):
        if not text.strip(" .,:;<>\"\\'") or not text.isprintable():
            raise ValueError("name and email of the author are printable and not empty")


def _unavailable(error: SourceError | ReadError) -> WriteError:
    if isinstance(error, SourceError) and error.fault is Fault.AUTHENTICATION:
        return _forbidden(error)
    return WriteError(WriteFault.UNAVAILABLE, str(error))


def _unpushed(error: SourceError) -> WriteError:
    return _forbidden(error) if error.fault is Fault.AUTHENTICATION else WriteError(WriteFault.UNAVAILABLE, str(error))


def _forbidden(error: SourceError) -> WriteError:
    remedy = (
        "let the token or deploy key of the source write to the repository (GitHub: contents, write; GitLab: Developer)"
    )
    return WriteError(WriteFault.FORBIDDEN, error.message, remedy)


def _refused(refusal: Refusal, branch: str) -> WriteError:
    message = f"the remote refuses the push to {branch}: {refusal}"
    if "currently checked out" in str(refusal):
        return WriteError(WriteFault.REFUSED, message, "name a bare repository: this one has the branch checked out")
    remedy = (
        "let the source's credential push there (a protected branch, or a hook), or set write_back.mode: pull-request"
    )
    return WriteError(WriteFault.REFUSED, message, remedy)
