"""A test: one probe of an integration, now, with the spec in force."""

from fastapi import APIRouter
from starlette.responses import Response

from reconciler.api.problem import problems
from reconciler.api.trials import TestResult
from reconciler.model.access import Operation
from reconciler.model.clock import rfc3339
from reconciler.serve.once import Done, Mark, Syncs
from reconciler.serve.parts import RefPath, entry_for
from reconciler.serve.problem import ProblemError

router = APIRouter(prefix="/v1/integrations", tags=["integrations"])


@router.post(
    "/{ref}/test",
    summary="Test the connection",
    responses={200: {"model": TestResult}, **problems(400, 404, 409, 422)},
    response_class=Response,
)
async def test_integration(mutation: Syncs, ref: RefPath) -> Response:
    """Signs in and tells who we are there, what we may do, and what can be read. A remote that refuses, or is not there, is a
    result (`ok` false). Nothing of it is stored but that it was asked for."""
    entry, parts = await entry_for(mutation.parts, mutation.caller, ref), mutation.parts
    mutation.refuse_operation(Operation.TEST)
    if parts.ports.probing is None:
        raise ProblemError(
            503, "cannot-probe", "this process has no connectors; ask one with role all, controller or worker"
        )
    probing = parts.ports.probing

    async def do(_: Mark) -> Done:
        found = await probing(entry.id)
        body = {**found, "tested_at": rfc3339(parts.clock.now())}
        detail = {"ok": found["ok"], "reason": found["reason"]}
        return Done(body=body, workspace=entry.workspace, target=entry.public_id, detail=detail)

    return await mutation.elsewhere(do)
