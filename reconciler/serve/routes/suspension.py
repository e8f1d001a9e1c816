"""Suspend an integration, and resume it: a person's order, apart from `spec.suspend` in Git."""

from fastapi import APIRouter
from starlette.responses import Response

from reconciler.api.problem import problems
from reconciler.api.suspension import SuspendRequest, SuspensionState
from reconciler.model.access import Operation
from reconciler.serve.forms import suspension_form
from reconciler.serve.once import Done, Edits, Mutation, order
from reconciler.serve.paging import as_text
from reconciler.serve.parts import RefPath, entry_for, row_of
from reconciler.serve.problem import ProblemError
from reconciler.serve.snapshot import Entry
from reconciler.store.database import Tx

router = APIRouter(prefix="/v1/integrations", tags=["integrations"])
_ANSWERS = {200: {"model": SuspensionState}, **problems(400, 404, 409, 422)}


@router.post("/{ref}/suspend", summary="Suspend", responses=_ANSWERS, response_class=Response)
async def suspend_integration(mutation: Edits, ref: RefPath, body: SuspendRequest) -> Response:
    """Nothing is changed, synced or delivered until it is resumed; syncs under way end."""
    entry = await entry_for(mutation.parts, mutation.caller, ref)
    mutation.refuse_operation(Operation.EDIT)
    params = {"reason": body.reason, "until": as_text(body.until)}
    return await mutation.in_store(lambda tx: _ordered(tx, mutation, entry, "suspend", params))


@router.post("/{ref}/resume", summary="Resume", responses=_ANSWERS, response_class=Response)
async def resume_integration(mutation: Edits, ref: RefPath) -> Response:
    """Ends a suspension that a person ordered; one of the manifest is ended in Git."""
    entry = await entry_for(mutation.parts, mutation.caller, ref)
    mutation.refuse_operation(Operation.EDIT)

    def do(tx: Tx) -> Done:
        if not row_of(tx, entry).is_suspended:
            raise ProblemError(409, "refused", f"{entry.workspace}/{entry.name} is not suspended")
        return _ordered(tx, mutation, entry, "resume", {})

    return await mutation.in_store(do)


def _ordered(tx: Tx, mutation: Mutation, entry: Entry, kind: str, params: dict[str, str | None]) -> Done:
    carried = order(tx, mutation, kind, entry.id, params)
    return Done(
        body={"id": entry.public_id, "suspended": suspension_form(row_of(tx, entry))},
        workspace=entry.workspace,
        target=entry.public_id,
        detail={name: value for name, value in params.items() if value},
        carried=carried,
    )
