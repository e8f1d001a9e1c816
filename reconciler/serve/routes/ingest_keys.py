"""Keys with which others push to an integration: show them, replace one, end one."""

from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Header
from starlette.responses import Response

from reconciler.api.ingest import IngestKeys, NewIngestKey, RegenerateRequest
from reconciler.api.problem import problems
from reconciler.control import push_keys
from reconciler.control.carried import OrderError
from reconciler.control.push_keys import KeyWish, MadeKey, OtherKeyError, Rotation
from reconciler.model.access import Operation
from reconciler.model.clock import rfc3339
from reconciler.serve.forms import to_json
from reconciler.serve.once import Done, Edits
from reconciler.serve.parts import RefPath, TheParts, ViewedEntry, entry_for, row_of
from reconciler.serve.problem import ProblemError
from reconciler.store import ingest_keys
from reconciler.store.database import Tx
from reconciler.store.ingest_keys import KeyRow

router = APIRouter(prefix="/v1", tags=["keys"])
MOST = 100


@router.post(
    "/integrations/{ref}/regenerate-key",
    summary="Make a new inbound key",
    responses={200: {"model": NewIngestKey}, **problems(404, 409, 412, 422)},
    response_class=Response,
)
async def regenerate_key(
    mutation: Edits,
    ref: RefPath,
    body: RegenerateRequest | None = None,
    if_match: Annotated[
        str | None, Header(description='`"<key_id>"` of the key to be replaced: 412 where it is another one by now.')
    ] = None,
) -> Response:
    """The new key is shown this once. The old one ends at once, or after `grace_seconds`; what was on its way out ends."""
    entry, wanted = await entry_for(mutation.parts, mutation.caller, ref), body or RegenerateRequest()
    mutation.refuse_operation(Operation.REGENERATE_KEY)
    now = mutation.parts.clock.now()
    wish = KeyWish(
        by=mutation.caller.name,
        grace=timedelta(seconds=wanted.grace_seconds) if wanted.grace_seconds is not None else None,
        label=wanted.label,
        expires_at=wanted.expires_at,
        instead_of=if_match.strip().strip('"') if if_match is not None else None,
    )

    def do(tx: Tx) -> Done:
        try:
            made = push_keys.regenerate(tx, row_of(tx, entry), wish, now)
        except OtherKeyError as error:
            raise ProblemError(412, "precondition", str(error)) from None
        except OrderError as error:
            raise ProblemError(409, "refused", str(error)) from None
        return Done(
            body=_made(made),
            once={"key": made.new.clear.reveal()},
            workspace=entry.workspace,
            target=entry.public_id,
            detail={"key_id": made.row.key_id, "previous": made.previous.key_id if made.previous else None},
        )

    return await mutation.in_store(do)


def _made(made: MadeKey) -> dict[str, Any]:
    """Without the key itself, which is shown once."""
    is_retiring = made.valid_until > made.row.created_at
    previous = made.previous and {
        "key_id": made.previous.key_id,
        "state": "retiring" if is_retiring else "revoked",
        "valid_until": made.valid_until,
    }
    return {
        "key": None,
        "key_id": made.row.key_id,
        "label": made.row.label,
        "state": "active",
        "created_at": made.row.created_at,
        "expires_at": made.row.expires_at,
        "previous": previous,
    }


@router.get(
    "/integrations/{ref}/api-keys",
    summary="List inbound keys",
    responses={200: {"model": IngestKeys}, **problems(404, 409)},
    response_class=Response,
)
async def list_keys(parts: TheParts, entry: ViewedEntry) -> Response:
    """The newest first, also those that count no more. No key is ever shown again."""
    found, rotation = await parts.database.read(
        lambda tx: (ingest_keys.of_integration(tx, entry.id), push_keys.rotation_of(tx, entry.id))
    )
    now = parts.clock.now()
    shown = [_key(key, key.state(now), rotation) for key in found[:MOST]]
    return Response(to_json({"data": shown}), media_type="application/json")


def _key(key: KeyRow, state: str, rotation: Rotation) -> dict[str, Any]:
    return {
        "key_id": key.key_id,
        "label": key.label,
        "state": state,
        "hint": key.hint,
        "created_at": key.created_at,
        "created_by": key.created_by,
        "last_used_at": key.last_used_at,
        "expires_at": key.expires_at,
        "valid_until": key.valid_until,
        "rotation_due_at": rotation.due_at(key) if state == "active" else None,
    }


@router.delete(
    "/integrations/{ref}/api-keys/{key_id}",
    summary="Revoke an inbound key",
    status_code=204,
    responses={204: {"description": "It opens nothing any more."}, **problems(404, 409)},
    response_class=Response,
)
async def revoke_key(mutation: Edits, ref: RefPath, key_id: str) -> Response:
    """From the next request on."""
    entry, now = await entry_for(mutation.parts, mutation.caller, ref), mutation.parts.clock.now()
    mutation.refuse_operation(Operation.REGENERATE_KEY)

    def do(tx: Tx) -> Done:
        if not push_keys.revoke(tx, row_of(tx, entry), key_id, mutation.caller.name, now):
            raise ProblemError(404, "not-found", f"no key {key_id[:20]!r} counts; GET .../api-keys lists them")
        detail = {"key_id": key_id, "at": rfc3339(now)}
        return Done(body=None, status=204, workspace=entry.workspace, target=entry.public_id, detail=detail)

    return await mutation.in_store(do)
