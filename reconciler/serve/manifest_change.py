"""A change of a manifest on its way from a request to Git, and what is answered of it. Called by `routes`.

Before anything is pushed it is agreed to: what the daemon's settings reserve is not touched, and the prune guard lets it pass,
counting also what the API let go within the last hour. Afterwards the answer waits, bounded, for what the commit brings about.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

from reconciler.control.retaining import logs_kept
from reconciler.desired.writing.terms import Author, Edit, WriteError, WriteFault
from reconciler.model.access import Operation, Permission
from reconciler.model.clock import rfc3339
from reconciler.model.finding import Finding
from reconciler.model.ids import Ref
from reconciler.model.plan import Action, PlannedAction
from reconciler.model.state import DesiredIntegration
from reconciler.plan.guard import prune_limit
from reconciler.plan.render import plan_form
from reconciler.serve.foreseen import demanded, not_readable, seen_by
from reconciler.serve.once import Done, Mark, Mutation
from reconciler.serve.parts import until
from reconciler.serve.ports import Committed, Manifests, ManifestWish, NotReadableError, Outlook
from reconciler.serve.problem import ProblemError
from reconciler.store import integrations, requests
from reconciler.store.database import Tx
from reconciler.store.integrations import IntegrationRow

T = TypeVar("T")
GUARDED = timedelta(hours=1)
LETS_GO = "lets_go"
"""In the audit: how many integrations a change let go, for the guard."""
_GOES = {Action.DISCONNECT: Operation.DISCONNECT, Action.PURGE: Operation.PURGE}
"""However it is asked for: a patch or a removal that comes to one of them is one."""
_STATUS = {
    WriteFault.NOT_FOUND: 404,
    WriteFault.INVALID: 422,
    WriteFault.UNSEALED: 422,
    WriteFault.NOT_PERMITTED: 403,
    WriteFault.BUSY: 503,
    WriteFault.UNAVAILABLE: 503,
    WriteFault.UNSIGNED: 503,
    WriteFault.FORGE: 503,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestChange:
    """`goes_beyond`: a caller with `admin` lets more go than the guard permits. `wait`: seconds."""

    mutation: Mutation
    ref: Ref
    subject: str
    edit: Edit
    expected: str = ""
    source: str | None = None
    wait: float = 0.0
    goes_beyond: bool = False
    pointer: Callable[[str], str] = str
    """From a place in the manifest to that in the request's body."""

    async def commit(self, mark: Mark) -> Committed:
        """Raises ProblemError."""
        mutation = self.mutation
        wish = ManifestWish(
            edits=(self.edit,),
            author=Author(mutation.caller.name, f"{mutation.caller.name}@{self.ref.workspace}.reconciler.invalid"),
            subject=self.subject,
            marker=mark.marker,
            marked_at=mark.at,
            request=mutation.request_id,
            agree=self._agree,
            source=self.source,
            expected=self.expected,
        )
        return await self._told(self._manifests.change(wish))

    async def standing(self) -> tuple[str, Mapping[str, Any]]:
        """The tag and the manifest as it is in Git now, secrets masked. Raises ProblemError."""
        found = await self._told(self._manifests.standing(self.ref))
        if found is None:
            raise ProblemError(404, "git-not-found", f"Git does not name {self.ref} any more")
        return found

    @property
    def _manifests(self) -> Manifests:
        return demanded(self.mutation.parts.ports.manifests)

    async def _told(self, asked: Awaitable[T]) -> T:
        try:
            return await asked
        except NotReadableError as error:
            raise not_readable(error) from None
        except WriteError as error:
            raise self._refusal(error) from None

    async def _agree(self, outlook: Outlook) -> None:
        parts, caller = self.mutation.parts, self.mutation.caller
        for ref, after in outlook.after.items():
            parts.admission.change(caller, outlook.before.get(ref, {}), after)
        for action in _going(outlook):
            self.mutation.refuse_operation(_GOES[action.action])
        if self.goes_beyond and not caller.may(Permission.ADMIN):
            raise ProblemError(403, "permission-missing", "only admin goes beyond the prune guard")
        if not self.goes_beyond:
            await self._guard(outlook)

    async def _guard(self, outlook: Outlook) -> None:
        """What this change lets go, with what others over the API did a while ago, is no more than one revision may."""
        going, mine = _going(outlook), _mine(outlook)
        for block in (one for one in outlook.foreseen.plan.blocks if mine.intersection(one.refs)):
            more = {"plan": plan_form(seen_by(self.mutation.caller, outlook.foreseen))}
            raise ProblemError(
                409, f"prune-{block.code.removeprefix('prune-')}", f"{block.message}; {block.remedy}", more
            )
        if not going:
            return
        since = rfc3339(self.mutation.parts.clock.now() - GUARDED)
        before, total = await self.mutation.parts.database.read(
            lambda tx: (
                requests.let_go(tx, self.ref.workspace, since),
                integrations.connected_in(tx, self.ref.workspace),
            )
        )
        limit = prune_limit(total + before)
        if before + len(going) > limit:
            message = (
                f"{before} integrations of {self.ref.workspace} were let go within the hour, and {len(going)} more would be;"
                f" the limit is {limit}. Wait, or let a caller with admin do it with beyond_guard=true"
            )
            raise ProblemError(409, "prune-limit", message)

    def _refusal(self, error: WriteError) -> ProblemError:
        pointed = [
            {"pointer": self.pointer(one.pointer), "code": one.code, "detail": one.detail} for one in error.pointed
        ]
        caller = self.mutation.caller
        errors = pointed or [_finding(one) for one in error.findings if caller.sees(one.workspace)]
        more: dict[str, Any] = {"errors": errors} if errors else {}
        if error.preview is not None:
            more["diff"] = error.preview.diff
        is_condition = error.fault is WriteFault.CONFLICT and bool(self.expected or self.edit.expected)
        status = 412 if is_condition else _STATUS.get(error.fault, 409)
        headers = {"retry-after": "5"} if status == 503 else {}
        return ProblemError(status, f"git-{error.fault}", str(error), more, headers)

    async def answered(self, made: Committed) -> Done:
        """202, with the integration as it stands when the commit is taken over, or as soon as nobody waits any longer."""
        parts = self.mutation.parts
        wanted = made.foreseen.desired.integrations.get(self.ref)
        row = None
        if made.mode == "commit" and wanted is not None:
            row = await until(parts, lambda tx: _taken(tx, wanted), self.wait)
        if row is None:
            row = await parts.database.read(lambda tx: integrations.find(tx, self.ref))
        entry = next(
            (e for e in (await parts.board.current()).entries if e.key == (self.ref.workspace, self.ref.name)), None
        )
        named = {
            "id": row.public_id if row else None,
            "workspace": self.ref.workspace,
            "name": self.ref.name,
            "type": wanted.manifest.spec.type if wanted else row.type if row else "",
            "status": entry.status if entry else None,
        }
        written = made.written
        body = {
            "mode": made.mode,
            "commit": written.commit,
            "branch": written.branch,
            "pull_request_url": written.pull_request_url,
            "files": written.files,
            "diff": written.diff,
            "plan": plan_form(seen_by(self.mutation.caller, made.foreseen)),
            "integration": named,
        }
        return replace(self.done(made, row), body=body, status=202)

    def done(self, made: Committed, row: IntegrationRow | None) -> Done:
        """What the audit keeps of it."""
        going = Counter(a.ref for a in made.foreseen.plan.actions if a.action in _GOES)[self.ref]
        return Done(
            body=None,
            workspace=self.ref.workspace,
            target=row.public_id if row else str(self.ref),
            revision=made.written.commit,
            detail={"mode": made.mode, "files": list(made.written.files), **({LETS_GO: 1} if going else {})},
        )


def _mine(outlook: Outlook) -> frozenset[Ref]:
    return frozenset(outlook.before.keys() | outlook.after.keys())


def _going(outlook: Outlook) -> list[PlannedAction]:
    mine = _mine(outlook)
    return [one for one in outlook.foreseen.plan.actions if one.action in _GOES and one.ref in mine]


def _taken(tx: Tx, wanted: DesiredIntegration) -> IntegrationRow | None:
    row = integrations.find(tx, wanted.ref)
    return row if row is not None and row.desired_hash == wanted.source_hash else None


def is_disabled(tx: Tx, wanted: DesiredIntegration) -> IntegrationRow | None:
    """The row once that wish is in force, and nothing of it is connected any more."""
    row = _taken(tx, wanted)
    return row if row is not None and not row.is_connected and row.observed_generation >= row.generation else None


def is_removed(tx: Tx, ref: Ref) -> IntegrationRow | None:
    row = integrations.find(tx, ref)
    return row if row is not None and row.removed_at is not None else None


def farewell(tx: Tx, row: IntegrationRow, commit: str, at: datetime, *, purges: bool) -> Mapping[str, Any]:
    """The answer about one that is disconnected."""
    return {
        "id": row.public_id,
        "commit": commit,
        "disconnected_at": rfc3339(at),
        "purge_data": purges,
        "logs_retained_until": rfc3339(at + logs_kept(tx, row.workspace)),
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "pointer": "",
        "code": finding.code,
        "detail": finding.message,
        "file": finding.file,
        "line": finding.line,
        "column": finding.column,
        "remedy": finding.remedy,
    }
