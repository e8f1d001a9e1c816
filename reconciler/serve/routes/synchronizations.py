"""The synchronizations of one integration, one by one: which events it is told of. Each change is a commit.

A list cannot be merge-patched in part, so it is read, changed and put back under the condition that nobody changed the
manifest meanwhile; where somebody did, again.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Path
from starlette.responses import Response

from reconciler.api.manifests import SynchronizationGiven, Synchronizations
from reconciler.api.problem import problems
from reconciler.desired.writing.terms import Patch
from reconciler.model.access import Operation
from reconciler.model.ids import Ref
from reconciler.model.manifest import Name
from reconciler.serve.forms import to_json
from reconciler.serve.manifest_change import ManifestChange
from reconciler.serve.once import Done, Edits, Mark, Mutation
from reconciler.serve.parts import RefPath, TheParts, ViewedEntry, entry_for
from reconciler.serve.problem import ProblemError
from reconciler.serve.routes.manifests import ANSWERS, Wait
from reconciler.store import shown

router = APIRouter(prefix="/v1/integrations/{ref}/synchronizations", tags=["manifests"])
TRIES = 5
Items = Sequence[dict[str, Any]]
OneName = Annotated[Name, Path(description="The name of the synchronization.")]


@router.get(
    "",
    summary="List synchronizations",
    responses={200: {"model": Synchronizations}, **problems(404, 409)},
    response_class=Response,
)
async def list_synchronizations(parts: TheParts, entry: ViewedEntry) -> Response:
    """As they stand in the manifest."""
    tree = await parts.database.read(lambda tx: shown.desired_tree(tx, entry.id))
    found = parts.redactor.value(list(tree.get("synchronizations") or ()))
    return Response(to_json({"data": found}), media_type="application/json")


@router.put("/{name}", summary="Set one", status_code=202, responses=ANSWERS, response_class=Response)
async def put_synchronization(
    mutation: Edits, ref: RefPath, name: OneName, body: SynchronizationGiven, wait: Wait = 0.0
) -> Response:
    """Replace the one of that name, or add it."""
    given = {"name": name, **body.model_dump(by_alias=True, exclude_unset=True)}

    def with_it(items: Items) -> Items:
        if any(one.get("name") == name for one in items):
            return [given if one.get("name") == name else one for one in items]
        return [*items, given]

    return await _changed(mutation, ref, f"Set synchronization {name} of", with_it, wait)


@router.delete("/{name}", summary="Remove one", status_code=202, responses=ANSWERS, response_class=Response)
async def remove_synchronization(mutation: Edits, ref: RefPath, name: OneName, wait: Wait = 0.0) -> Response:
    """It is told nothing more under this name; deliveries that were made stay."""

    def without_it(items: Items) -> Items:
        left = [one for one in items if one.get("name") != name]
        if len(left) == len(items):
            raise ProblemError(404, "synchronization-not-found", f"there is no synchronization {name}")
        return left

    return await _changed(mutation, ref, f"Remove synchronization {name} of", without_it, wait)


async def _changed(mutation: Mutation, ref: str, what: str, change: Callable[[Items], Items], wait: float) -> Response:
    entry = await entry_for(mutation.parts, mutation.caller, ref)
    mutation.refuse_operation(Operation.EDIT)
    meant = Ref(entry.workspace, entry.name)
    changing = ManifestChange(mutation=mutation, ref=meant, subject=f"{what} {meant}", edit=Patch(meant, {}), wait=wait)

    async def do(mark: Mark) -> Done:
        for left in reversed(range(TRIES)):
            tag, manifest = await changing.standing()
            items = manifest.get("spec", {}).get("synchronizations") or []
            edit = Patch(meant, {"spec": {"synchronizations": list(change(items))}}, expected=tag)
            try:
                return await changing.answered(await replace(changing, edit=edit).commit(mark))
            except ProblemError as problem:
                if problem.status != 412 or not left:
                    raise
        raise AssertionError  # the last try returns or raises

    return await mutation.elsewhere(do)
