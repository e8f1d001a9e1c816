"""Mutations: each is done once for one Idempotency-Key, and all of them are audited.

In: a request and what it asks for. Out: the answer, new or as it was given before. What only touches our store is done in one
transaction with the key and the audit line (`in_store`). What happens elsewhere (`elsewhere`) gets a marker that is stored
first and that the effect bears: asked again after a crash, the effect is found by it. Follows
draft-ietf-httpapi-idempotency-key-header.

What a known caller may not do is audited as well, although it never begins (`denied`). A 404 is not, so that no time tells of
what is another workspace's, and a request with wrong fields asks for nothing.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Annotated, Any

import structlog
from fastapi import Depends, Header
from starlette.requests import Request
from starlette.responses import Response

from reconciler.control.carried import Carried, OrderError
from reconciler.control.orders import obey
from reconciler.model.access import Caller, Operation, Permission
from reconciler.model.clock import from_rfc3339, rfc3339
from reconciler.model.ids import new_id
from reconciler.serve.admission import demand
from reconciler.serve.denials import Denials
from reconciler.serve.forms import to_json
from reconciler.serve.listing import resolve
from reconciler.serve.parts import Parts, parts_of
from reconciler.serve.problem import PATIENCE, ProblemError
from reconciler.serve.snapshot import Entry
from reconciler.serve.wellformed import check_form
from reconciler.store import journal, requests, shown
from reconciler.store.database import Tx
from reconciler.store.requests import AuditLine, Kept, Outcome

LEASE = PATIENCE + timedelta(seconds=15)
"""After this time without an answer the process that worked on it is gone: no request lasts longer than `PATIENCE`."""
REPLAYED = {"idempotent-replayed": "true"}
DENIED = frozenset({403, 409})
DENIED_PATIENCE = 2.0
"""Seconds that a refusal waits for its line of the audit."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What the effect of a request bears, the same in every try, and when the first one was."""

    marker: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Order:
    """For whoever leads, stored together with the answer."""

    kind: str
    integration_id: int
    params: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What a mutation came to. `once` are members of the answer that are shown this one time and stored nowhere."""

    body: Mapping[str, Any] | None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    once: Mapping[str, Any] = field(default_factory=dict)
    workspace: str | None = None
    target: str = ""
    revision: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)
    carried: Carried | None = None
    """An order that was carried out: what it starts and stops is prompted when all is stored."""
    orders: Sequence[Order] = ()


@dataclass(slots=True)
class Mutation:
    """One request that changes something, made by a dependency: see `changes`.

    `ref`: the integration that its path names. `is_begun`: from here on the audit is kept by whichever does it.
    """

    parts: Parts
    denials: Denials
    caller: Caller
    action: str
    key: str | None
    request_id: str
    ref: str
    fingerprint: str = ""
    is_begun: bool = False

    async def in_store(self, do: Callable[[Tx], Done]) -> Response:
        """`do` in a transaction; raises ProblemError, of which the audit knows as well."""
        self.is_begun = True
        try:
            done = await self.parts.database.write(lambda tx: self._in_one(tx, do), durable=True)
        except ProblemError as problem:
            await self._note(problem)
            raise
        if isinstance(done, Kept):
            return self._again(done)
        if done.carried is not None:
            await self.parts.ports.prompt(done.carried)
        return _answer(done)

    def _in_one(self, tx: Tx, do: Callable[[Tx], Done]) -> Done | Kept:
        at = rfc3339(self.parts.clock.now())
        if self.key is not None:
            kept, is_new = requests.begin(tx, self._who, self.key, self.fingerprint, at)
            if not is_new:
                return kept
        done = do(tx)
        self._finish(tx, done, at)
        return done

    async def elsewhere(self, do: Callable[[Mark], Awaitable[Done]]) -> Response:
        """`do` looks for what bears the mark before it acts."""
        self.is_begun = True
        mark = Mark(new_id("chg"), self.parts.clock.now())
        if self.key is not None:
            kept = await self._begin(self.key)
            if kept.status is not None:
                return self._again(kept)
            mark = Mark(kept.marker, from_rfc3339(kept.made_at))
        try:
            done = await do(mark)
        except ProblemError as problem:
            await self._note(problem)
            raise
        at = rfc3339(self.parts.clock.now())
        await self.parts.database.write(lambda tx: self._finish(tx, done, at), durable=True)
        if done.carried is not None:
            await self.parts.ports.prompt(done.carried)
        return _answer(done)

    async def _begin(self, key: str) -> Kept:
        now = self.parts.clock.now()

        def begin(tx: Tx) -> Kept | None:
            kept, is_new = requests.begin(tx, self._who, key, self.fingerprint, rfc3339(now))
            self._check(kept)
            is_left = from_rfc3339(kept.started_at) + LEASE <= now
            if is_new or kept.status is not None:
                return kept
            return kept if is_left and requests.take_over(tx, self._who, key, kept.started_at, rfc3339(now)) else None

        kept = await self.parts.database.write(begin, durable=True)
        if kept is None:
            raise _IN_PROGRESS
        return kept

    def _finish(self, tx: Tx, done: Done, at: str) -> None:
        if self.key is not None:
            body = to_json(done.body).decode() if done.body is not None else ""
            requests.finish(tx, self._who, self.key, done.status, done.headers, body)
        for one in done.orders:
            journal.ask(tx, one.kind, one.integration_id, one.params, self.caller.name, at)
        requests.write_audit(tx, self._line(at, "done", done.status, done))

    def _again(self, kept: Kept) -> Response:
        self._check(kept)
        if kept.status is None:
            raise _IN_PROGRESS
        return Response(kept.body or None, kept.status, {**kept.headers, **REPLAYED}, _media(kept.body))

    def _check(self, kept: Kept) -> None:
        if kept.fingerprint != self.fingerprint:
            message = "this Idempotency-Key came with another request before; give each change a key of its own"
            raise ProblemError(422, "idempotency-mismatch", message)

    async def _note(self, problem: ProblemError) -> None:
        """The audit of what was refused. What was not done may be tried again with the same key, and what failed goes on."""
        at, done = rfc3339(self.parts.clock.now()), _refused(problem.code, await self._meant())
        is_ours = self.key is not None and problem.code not in {"idempotency-mismatch", "in-progress"}

        def note(tx: Tx) -> None:
            outcome: Outcome = "refused" if problem.status < 500 else "failed"
            if is_ours and self.key is not None:
                let_go = requests.forget if outcome == "refused" else requests.release
                let_go(tx, self._who, self.key)
            requests.write_audit(tx, self._line(at, outcome, problem.status, done))

        await self.parts.database.write(note)

    async def denied(self, problem: ProblemError) -> None:
        """The audit of one that was refused before it began. Whatever is wrong with the audit, the answer stays the same."""
        if self.is_begun or problem.status not in DENIED:
            return
        try:
            async with asyncio.timeout(DENIED_PATIENCE):
                await self._note_denied(problem)
        except Exception as error:  # the caller is refused all the same, and learns nothing of our store
            logger = structlog.get_logger("api")
            logger.warning("refused, and not audited", request_id=self.request_id, code=problem.code, exc_info=error)

    async def _note_denied(self, problem: ProblemError) -> None:
        """Who may not even look is not told by the time of an answer whether something is there: it is not looked for."""
        is_known = problem.code != "permission-missing" or self.caller.may(Permission.INTEGRATION_VIEW)
        done = _refused(problem.code, await self._meant() if is_known else None)
        left_out = self.denials.take(self._who, self.action, done.target, problem.code)
        if left_out is None:
            return
        if left_out:
            done = replace(done, detail={**done.detail, "left_out": left_out})
        line = self._line(rfc3339(self.parts.clock.now()), "refused", problem.status, done)
        await self.parts.database.write(lambda tx: requests.write_audit(tx, line))

    async def _meant(self) -> Entry | None:
        found = resolve(await self.parts.board.current(), self.ref, self.caller) if self.ref else []
        return found[0] if len(found) == 1 else None

    def _line(self, at: str, outcome: Outcome, status: int, done: Done) -> AuditLine:
        return AuditLine(
            at=at,
            workspace=done.workspace or self.caller.workspace,
            caller=self.caller.name,
            identity=self.caller.identity,
            request_id=self.request_id,
            action=self.action,
            outcome=outcome,
            status=status,
            target=done.target,
            revision=done.revision,
            detail=done.detail,
        )

    def refuse_operation(self, operation: Operation) -> None:
        """Raises ProblemError where the daemon's settings reserve it for others."""
        self.parts.admission.operation(self.caller, operation)

    @property
    def _who(self) -> str:
        return self.caller.identity


_IN_PROGRESS = ProblemError(
    409, "in-progress", "a request with this Idempotency-Key is under way; ask again", headers={"retry-after": "2"}
)


def order(tx: Tx, mutation: Mutation, kind: str, integration_id: int | None, params: Mapping[str, Any], /) -> Carried:
    """Carry out an operator's order within the mutation's transaction; raises ProblemError 409 where it is refused."""
    now = mutation.parts.clock.now()
    public_id = journal.ask(tx, kind, integration_id, params, mutation.caller.name, rfc3339(now))
    placed = journal.request(tx, public_id)
    assert placed is not None  # noqa: S101 - it was put there just now
    try:
        return obey(tx, placed, now, is_observing=shown.is_observed(tx))
    except (OrderError, ValueError) as error:
        raise ProblemError(409, "refused", str(error)) from None


def _refused(code: str, entry: Entry | None) -> Done:
    """As the audit tells it."""
    if entry is None:
        return Done(body=None, detail={"code": code})
    return Done(body=None, workspace=entry.workspace, target=entry.public_id, detail={"code": code})


def _answer(done: Done) -> Response:
    if done.body is None:
        return Response(None, done.status, dict(done.headers))
    return Response(to_json({**done.body, **done.once}), done.status, dict(done.headers), "application/json")


def _media(body: str) -> str | None:
    return "application/json" if body else None


def changes(permission: Permission | None) -> Callable[..., AsyncIterator[Mutation]]:
    """A dependency: the mutation that a request of a caller with that permission is; None where the route asks for a grant."""

    async def mutation(
        request: Request,
        idempotency_key: Annotated[
            str | None,
            Header(
                min_length=1,
                max_length=255,
                pattern=r"^[!-~]+$",
                description="The same request with the same key, within a day, is done once.",
            ),
        ] = None,
    ) -> AsyncIterator[Mutation]:
        made = await _asked(request, idempotency_key)
        try:
            if permission is not None:
                demand(made.caller, permission)
            await check_form(request)
            made.fingerprint = await _fingerprint(request)
            yield made
        except ProblemError as problem:
            await made.denied(problem)
            raise

    return mutation


async def _asked(request: Request, key: str | None) -> Mutation:
    """Raises ProblemError, where it is nobody's or too many are."""
    parts = await parts_of(request)
    return Mutation(
        parts=parts,
        denials=request.app.state.denials,
        caller=await parts.admission.enter(request.scope, None),
        action=f"{request.method} {request.scope['route'].path}",
        key=key,
        request_id=request.scope["request_id"],
        ref=request.path_params.get("ref", ""),
    )


async def _fingerprint(request: Request) -> str:
    digest = hashlib.sha256(f"{request.method} {request.url.path}?{request.url.query}\n".encode())
    digest.update(await request.body())
    return digest.hexdigest()


Acts = Annotated[Mutation, Depends(changes(None))]
Creates = Annotated[Mutation, Depends(changes(Permission.INTEGRATION_CREATE))]
Edits = Annotated[Mutation, Depends(changes(Permission.INTEGRATION_EDIT))]
Deletes = Annotated[Mutation, Depends(changes(Permission.INTEGRATION_DELETE))]
Syncs = Annotated[Mutation, Depends(changes(Permission.INTEGRATION_SYNC))]
Publishes = Annotated[Mutation, Depends(changes(Permission.EVENT_PUBLISH))]
Retries = Annotated[Mutation, Depends(changes(Permission.EVENT_RETRY))]
"""No permission: the grant of the integration, which the route asks for, decides."""
