"""Looks at Git: ask for one, find it again by its token, see what became of revisions and what is wrong in the one in force."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import Response

from reconciler.api.paging import Paging
from reconciler.api.problem import problems
from reconciler.api.reconciles import FindingList, ReconcileProgress, ReconcileRequest, RevisionList
from reconciler.control.triggering import Progress, progress
from reconciler.model.access import Caller, Operation
from reconciler.model.clock import rfc3339
from reconciler.model.finding import Finding
from reconciler.model.ids import new_id
from reconciler.serve.forms import named, to_json
from reconciler.serve.once import Done, Mutation, Syncs, order
from reconciler.serve.paging import answer, cut, decode, number_of
from reconciler.serve.parts import TheParts, Viewer, entry_for
from reconciler.serve.problem import ProblemError
from reconciler.serve.snapshot import Entry
from reconciler.store import journal, reconcile_tokens
from reconciler.store.database import Tx
from reconciler.store.journal import RevisionRow
from reconciler.store.reconcile_tokens import Triggered

router = APIRouter(prefix="/v1", tags=["git"])


@router.post(
    "/reconcile",
    summary="Look at Git now",
    status_code=202,
    responses={202: {"model": ReconcileProgress}, **problems(400, 404, 409, 422)},
    response_class=Response,
)
async def reconcile_now(mutation: Syncs, body: ReconcileRequest | None = None) -> Response:
    """All of it, or one integration with what is known of Git. What becomes of it is at `/v1/reconcile/{token}`."""
    wanted = body or ReconcileRequest()
    mutation.refuse_operation(Operation.RECONCILE)
    entry = await entry_for(mutation.parts, mutation.caller, wanted.integration) if wanted.integration else None
    return await mutation.in_store(lambda tx: _trigger(tx, mutation, entry, wanted.token))


def _trigger(tx: Tx, mutation: Mutation, entry: Entry | None, given: str | None) -> Done:
    scope, integration_id = mutation.caller.workspace or "", entry.id if entry else None
    before = reconcile_tokens.find(tx, scope, given) if given else None
    if before is not None and before.integration_id != integration_id:
        message = f"the token {given} is that of another reconcile; choose one of its own for each"
        raise ProblemError(409, "token-used", message)
    carried = order(tx, mutation, "reconcile", entry.id, {}) if entry and before is None else None
    # One of all is left for whoever leads: only there is a look at Git followed by what it leads to.
    now, by = rfc3339(mutation.parts.clock.now()), mutation.caller.name
    request = "" if entry or before else journal.ask(tx, "reconcile", None, {}, by, now)
    made = before or Triggered(scope, given or new_id("rec"), integration_id, request, now)
    if before is None:
        reconcile_tokens.put(tx, made)
    return Done(
        body=_form(made, progress(tx, made), mutation.caller),
        status=202,
        workspace=entry.workspace if entry else None,
        target=entry.public_id if entry else "",
        detail={"token": made.token},
        carried=carried,
    )


@router.get(
    "/reconcile/{token}",
    summary="What became of a look at Git",
    responses={200: {"model": ReconcileProgress}, **problems(400, 404)},
    response_class=Response,
)
async def get_reconcile(parts: TheParts, caller: Viewer, token: str) -> Response:
    """Whether it was taken up, and which revision it came to."""

    def look(tx: Tx) -> tuple[Triggered, Progress] | None:
        found = reconcile_tokens.find(tx, caller.workspace or "", token)
        return (found, progress(tx, found)) if found else None

    seen = await parts.database.read(look) if "\0" not in token else None
    if seen is None:
        raise ProblemError(404, "reconcile-not-found", f"there is no reconcile with the token {token[:200]!r}")
    return Response(to_json(_form(*seen, caller)), media_type="application/json")


def _form(asked: Triggered, seen: Progress, caller: Caller) -> dict[str, Any]:
    """Of one integration it is applied; of all, read."""
    is_whole, row = caller.workspace is None, seen.integration
    only = seen.sources[0].revision if len(seen.sources) == 1 else None
    revision = row.applied_revision if row is not None else only
    return {
        "token": asked.token,
        "status": seen.stage,
        "requested_at": asked.requested_at,
        "integration": named(row) if row is not None else None,
        "revision": (revision or None) if seen.stage == "done" else None,
        "sources": [
            {
                "name": source.name,
                "revision": source.revision or None,
                # the message names the remote, which is not of a workspace
                "error": (source.error_message if is_whole else source.error_reason) or None,
            }
            for source in seen.sources
        ],
    }


@router.get(
    "/revisions",
    summary="List revisions",
    responses={200: {"model": RevisionList}, **problems(400)},
    response_class=Response,
)
async def list_revisions(parts: TheParts, caller: Viewer, query: Annotated[Paging, Query()]) -> Response:
    """What became of each commit that changed something; kept for 90 days."""
    before = number_of(query.cursor)
    found, sources = await parts.database.read(
        lambda tx: (journal.revisions(tx, before, query.limit + 1), journal.sources(tx))
    )
    listed = cut(found, query.limit, lambda row: (row.id,))
    only = sources[0].name if len(sources) == 1 else None
    return answer([_revision(row, only, caller) for row in listed.rows], listed.place)


def _revision(row: RevisionRow, only: str | None, caller: Caller) -> dict[str, Any]:
    """`only`: the source, where there is but one; its revisions are written without its name."""
    is_whole = caller.workspace is None
    source, at, _ = row.revision.partition("@")
    return {
        "revision": row.revision,
        "source": only if not at else source if " " not in row.revision else None,
        "at": row.at,
        "outcome": row.outcome,
        "plan_digest": (row.plan_digest or None) if is_whole else None,
        "findings": row.findings if is_whole else None,
        "actions": row.actions if is_whole else None,
    }


@router.get(
    "/findings",
    summary="List findings",
    responses={200: {"model": FindingList}, **problems(400)},
    response_class=Response,
)
async def list_findings(parts: TheParts, caller: Viewer, query: Annotated[Paging, Query()]) -> Response:
    """What is wrong in the revision in force, by file and line. A workspace's caller gets those that are its own for certain."""
    after = decode(query.cursor, tuple[str, int, int, str, str]) if query.cursor else None
    found = await parts.database.read(lambda tx: journal.some_findings(tx, caller.workspace, after, query.limit + 1))
    listed = cut(found, query.limit, lambda one: (one.file, one.line, one.column, one.code, one.message))
    return answer([_finding(one) for one in listed.rows], listed.place)


def _finding(one: Finding) -> dict[str, Any]:
    return {
        "file": one.file,
        "line": one.line,
        "column": one.column,
        "severity": one.severity,
        "code": one.code,
        "message": one.message,
        "remedy": one.remedy or None,
        "workspace": one.workspace or None,
    }
