"""Manifests, changed over the API: each change is a commit, so that Git stays the only truth.

In: a manifest, a merge patch, or the wish to be rid of one. Out: the commit or pull request, the plan, and the integration.
What may not be is refused before anything is pushed: see `manifest_change`. How files are edited, secrets sealed and commits
pushed is in `desired.writing`; waiting for what a commit brings about is bounded.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from starlette.responses import Response

from reconciler.api.manifests import (
    ChangeShown,
    ConnectRequest,
    Disconnected,
    DisconnectRequest,
    ManifestGiven,
    ManifestPatch,
    ManifestSentBack,
    Schedule,
)
from reconciler.api.problem import problems
from reconciler.desired.writing.terms import Patch, Put, Remove
from reconciler.model.access import Operation
from reconciler.model.clock import rfc3339
from reconciler.model.ids import Ref
from reconciler.serve.manifest_change import ManifestChange, farewell, is_disabled, is_removed
from reconciler.serve.once import Creates, Deletes, Done, Edits, Mark, Mutation, Order
from reconciler.serve.parts import RefPath, entry_for, until
from reconciler.serve.ports import Committed
from reconciler.serve.problem import ProblemError
from reconciler.store.database import Tx
from reconciler.store.integrations import IntegrationRow

router = APIRouter(prefix="/v1/integrations", tags=["manifests"])
ANSWERS: dict[int | str, dict[str, Any]] = {202: {"model": ChangeShown}, **problems(404, 409, 412, 422)}
PURGE_PATIENCE = timedelta(days=7)
Source = Annotated[str | None, Query(description="Which source a new manifest goes to, where several could hold it.")]
IfMatch = Annotated[str | None, Header(description="The ETag of the manifest that is to be changed.")]
BeyondGuard = Annotated[bool, Query(description="Remove more than the prune guard lets pass; for `admin`.")]
Wait = Annotated[float, Query(ge=0, le=30, description="Seconds to wait for what the commit brings about.")]


@router.post("", summary="Create an integration", status_code=202, responses=ANSWERS, response_class=Response)
async def create_integration(
    mutation: Creates, body: ManifestGiven, source: Source = None, wait: Wait = 5.0
) -> Response:
    """Write a new manifest. Its secrets are encrypted for the recipients that the repository names."""
    return await _create(mutation, body.tree, source, wait)


@router.post("/{type}/connect", summary="Connect a system", status_code=202, responses=ANSWERS, response_class=Response)
async def connect_integration(
    mutation: Creates,
    type: str,  # noqa: A002 - the name of the path's parameter
    body: ConnectRequest,
    source: Source = None,
    wait: Wait = 5.0,
) -> Response:
    """As `POST /v1/integrations`, with the fields of `spec` beside the name."""
    given = body.model_dump(exclude_unset=True)
    metadata = {name: given.pop(name) for name in ("name", "workspace", "labels") if name in given}
    spec = {"type": type, **given}
    tree = ManifestGiven.model_validate({"metadata": metadata, "spec": spec}, strict=False).tree
    return await _create(mutation, tree, source, wait, _flat)


def _flat(pointer: str) -> str:
    """The fields of `spec` and `metadata` stand beside each other in the body."""
    return pointer.removeprefix("/spec").removeprefix("/metadata")


async def _create(
    mutation: Mutation, tree: dict[str, Any], source: str | None, wait: float, pointer: Callable[[str], str] = str
) -> Response:
    ref = Ref(tree["metadata"].get("workspace", "default"), tree["metadata"]["name"])
    if not mutation.caller.sees(ref.workspace):
        raise ProblemError(403, "workspace-not-yours", f"the token is not for the workspace {ref.workspace}")
    mutation.refuse_operation(Operation.CREATE)
    edit = Put(ref, tree, is_new=True)
    return await _committed(
        ManifestChange(
            mutation=mutation,
            ref=ref,
            subject=f"Create {ref}",
            edit=edit,
            source=source,
            wait=wait,
            pointer=pointer,
        )
    )


async def _committed(changing: ManifestChange) -> Response:
    async def do(mark: Mark) -> Done:
        return await changing.answered(await changing.commit(mark))

    return await changing.mutation.elsewhere(do)


@router.put("/{ref}", summary="Replace a manifest", status_code=202, responses=ANSWERS, response_class=Response)
async def replace_integration(
    mutation: Edits, ref: RefPath, body: ManifestSentBack, if_match: IfMatch = None, wait: Wait = 0.0
) -> Response:
    """What `GET` gives may be sent back changed: `********` keeps the secret that is there, byte for byte."""
    meant = await _meant(mutation, ref)
    tree = body.tree
    named = Ref(tree["metadata"].setdefault("workspace", meant.workspace), tree["metadata"]["name"])
    if named != meant:
        message = f"the manifest is that of {named}, and the address that of {meant}: a name cannot be changed"
        raise ProblemError(422, "identity-changed", message)
    return await _changed(mutation, Put(meant, tree), if_match, wait)


@router.patch("/{ref}", summary="Change a manifest", status_code=202, responses=ANSWERS, response_class=Response)
async def change_integration(
    mutation: Edits, ref: RefPath, body: ManifestPatch, if_match: IfMatch = None, wait: Wait = 0.0
) -> Response:
    """A merge patch (RFC 7396) of `metadata` and `spec`."""
    return await _patched(mutation, ref, body.model_dump(exclude_unset=True), if_match, wait)


async def _patched(mutation: Mutation, ref: str, patch: dict[str, Any], if_match: str | None, wait: float) -> Response:
    return await _changed(mutation, Patch(await _meant(mutation, ref), patch), if_match, wait)


async def _changed(mutation: Mutation, edit: Put | Patch, if_match: str | None, wait: float) -> Response:
    mutation.refuse_operation(Operation.EDIT)
    subject, expected = f"Change {edit.ref}", _tag(if_match)
    return await _committed(
        ManifestChange(mutation=mutation, ref=edit.ref, subject=subject, edit=edit, expected=expected, wait=wait)
    )


@router.post("/{ref}/enable", summary="Enable", status_code=202, responses=ANSWERS, response_class=Response)
async def enable_integration(mutation: Edits, ref: RefPath, wait: Wait = 0.0) -> Response:
    """Commit `enabled: true`. For the opposite, see disconnect."""
    return await _patched(mutation, ref, {"spec": {"enabled": True}}, None, wait)


@router.put("/{ref}/schedule", summary="Set the schedule", status_code=202, responses=ANSWERS, response_class=Response)
async def set_schedule(mutation: Edits, ref: RefPath, body: Schedule, wait: Wait = 0.0) -> Response:
    """Commit when it syncs: a cron expression or an interval; neither: only when asked."""
    given = {
        "schedule": body.schedule,
        "every": body.every,
        **({"time_zone": body.time_zone} if body.time_zone else {}),
    }
    return await _patched(mutation, ref, {"spec": {"sync": given}}, None, wait)


@router.delete(
    "/{ref}/disconnect",
    summary="Disconnect",
    responses={200: {"model": Disconnected}, **ANSWERS},
    response_class=Response,
)
async def disconnect_integration(
    mutation: Deletes,
    ref: RefPath,
    body: DisconnectRequest | None = None,
    beyond_guard: BeyondGuard = False,
    wait: Wait = 20.0,
) -> Response:
    """Commit `enabled: false`. Syncs under way are cancelled, remote objects removed, credentials revoked.

    200 when it is disconnected, 202 when it is not yet, or when a pull request has to be merged first.
    """
    entry = await entry_for(mutation.parts, mutation.caller, ref)
    meant, purges = Ref(entry.workspace, entry.name), body is not None and body.purge_data
    mutation.refuse_operation(Operation.DISCONNECT)
    if purges:
        mutation.refuse_operation(Operation.PURGE)
    changing = ManifestChange(
        mutation=mutation,
        ref=meant,
        subject=f"Disconnect {meant}",
        edit=Patch(meant, {"spec": {"enabled": False}}),
        wait=wait,
        goes_beyond=beyond_guard,
    )

    async def do(mark: Mark) -> Done:
        made = await changing.commit(mark)
        wanted = made.foreseen.desired.integrations[meant]
        row = await _once(changing, made, lambda tx: is_disabled(tx, wanted))
        until = rfc3339(mutation.parts.clock.now() + PURGE_PATIENCE)
        orders = (Order("purge", entry.id, {"once_disconnected": until}),) if purges else ()
        return replace(await _gone(changing, made, row, purges=purges), orders=orders)

    return await mutation.elsewhere(do)


@router.delete(
    "/{ref}",
    summary="Remove",
    responses={200: {"model": Disconnected}, **ANSWERS},
    response_class=Response,
)
async def remove_integration(
    mutation: Deletes,
    ref: RefPath,
    if_match: IfMatch = None,
    beyond_guard: BeyondGuard = False,
    wait: Wait = 20.0,
) -> Response:
    """Remove the manifest. What becomes of records and remote objects says its `deletion_policy`."""
    entry = await entry_for(mutation.parts, mutation.caller, ref)
    meant = Ref(entry.workspace, entry.name)
    mutation.refuse_operation(Operation.DELETE)
    changing = ManifestChange(
        mutation=mutation,
        ref=meant,
        subject=f"Remove {meant}",
        edit=Remove(meant),
        expected=_tag(if_match),
        wait=wait,
        goes_beyond=beyond_guard,
    )

    async def do(mark: Mark) -> Done:
        made = await changing.commit(mark)
        row = await _once(changing, made, lambda tx: is_removed(tx, meant))
        return await _gone(changing, made, row, purges=row is not None and row.applied_policy == "purge")

    return await mutation.elsewhere(do)


async def _once(
    changing: ManifestChange, made: Committed, query: Callable[[Tx], IntegrationRow | None]
) -> IntegrationRow | None:
    """The row as soon as it is as wanted; a pull request is nothing to wait for."""
    return await until(changing.mutation.parts, query, changing.wait) if made.mode == "commit" else None


async def _gone(changing: ManifestChange, made: Committed, row: IntegrationRow | None, *, purges: bool) -> Done:
    if row is None:
        return await changing.answered(made)
    parts = changing.mutation.parts
    at = parts.clock.now()
    body = await parts.database.read(lambda tx: farewell(tx, row, made.written.commit, at, purges=purges))
    return replace(changing.done(made, row), body=body)


async def _meant(mutation: Mutation, ref: str) -> Ref:
    entry = await entry_for(mutation.parts, mutation.caller, ref)
    return Ref(entry.workspace, entry.name)


def _tag(if_match: str | None) -> str:
    """`*` stands for any; a weak tag for the same one."""
    tag = (if_match or "").strip().removeprefix("W/").strip('"')
    return "" if tag == "*" else tag
