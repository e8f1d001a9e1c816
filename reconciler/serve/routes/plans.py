"""Plans: what is pending, and what a revision or submitted files would change. A caller sees the part of its workspace."""

from collections.abc import Awaitable
from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import Response

from reconciler.api.plans import PlanRequest, PlanShown
from reconciler.api.problem import problems
from reconciler.model.access import Caller
from reconciler.plan.render import plan_form
from reconciler.serve.foreseen import demanded, not_readable, seen_by
from reconciler.serve.forms import to_json
from reconciler.serve.parts import PlanViewer, TheParts
from reconciler.serve.ports import Foreseen, NotReadableError, Planner, SubmittedFile

router = APIRouter(prefix="/v1/plan", tags=["plan"])


async def planner_of(parts: TheParts) -> Planner:
    return demanded(parts.ports.planner)


ThePlanner = Annotated[Planner, Depends(planner_of)]


@router.get("", summary="What is pending", responses={200: {"model": PlanShown}, **problems()}, response_class=Response)
async def get_plan(caller: PlanViewer, planner: ThePlanner) -> Response:
    """What Git asks for and is not applied yet."""
    return await _shown(planner.pending(), caller)


@router.post(
    "", summary="Plan a change", responses={200: {"model": PlanShown}, **problems(422)}, response_class=Response
)
async def make_plan(caller: PlanViewer, planner: ThePlanner, body: PlanRequest) -> Response:
    """Of a Git revision, or of files as they would be. Nothing is changed, and no secret is decrypted."""
    if body.revision is not None:
        return await _shown(planner.of_revision(body.revision, body.source), caller)
    files = tuple(SubmittedFile(one.path, one.content) for one in body.files or ())
    return await _shown(planner.of_files(files, body.source), caller, frozenset(one.path for one in files))


async def _shown(asked: Awaitable[Foreseen], caller: Caller, known: frozenset[str] = frozenset()) -> Response:
    try:
        found = await asked
    except NotReadableError as error:
        raise not_readable(error) from None
    return Response(to_json(plan_form(seen_by(caller, found, known))), media_type="application/json")
