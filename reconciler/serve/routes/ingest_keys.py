"""Keys with which others push to an integration: make one, show them, replace one, end one."""

from collections.abc import Callable
from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from starlette.responses import Response

from reconciler.api.ingest import IngestKeys, NewIngestKey, NewKeyRequest, RegenerateRequest
from reconciler.api.paging import Paging
from reconciler.api.problem import problems
from reconciler.control import push_keys
from reconciler.control.carried import OrderError
from reconciler.control.push_keys import KeyLimitError, KeyWish, MadeKey, OtherKeyError
from reconciler.model.access import Operation
from reconciler.model.clock import from_rfc3339, rfc3339
from reconciler.model.ingest_key import Rotation
from reconciler.serve.once import Done, Edits, Mutation
from reconciler.serve.paging import answer, cut, number_of
from reconciler.serve.parts import RefPath, TheParts, ViewedEntry, entry_for, row_of
from reconciler.serve.problem import ProblemError
from reconciler.serve.snapshot import Entry
from reconciler.store import ingest_keys
from reconciler.store.database import Tx
from reconciler.store.ingest_keys import KeyRow

router = APIRouter(prefix="/v1", tags=["keys"])


@router.post(
    "/integrations/{ref}/api-keys",
    summary="Make one more inbound key",
    status_code=201,
    responses={201: {"model": NewIngestKey}, **problems(404, 409, 422)},
    response_class=Response,
)
async def create_key(mutation: Edits, ref: RefPath, body: NewKeyRequest | None = None) -> Response:
    """It is shown this once. Two may open at most: 409 `key-limit` where there are two already."""
    entry, wish = await entry_for(mutation.parts, mutation.caller, ref), _wish(mutation, body or NewKeyRequest())
    mutation.refuse_operation(Operation.REGENERATE_KEY)
    now = mutation.parts.clock.now()
    return await _shown_once(mutation, entry, 201, lambda tx: push_keys.create(tx, row_of(tx, entry), wish, now))


@router.post(
    "/integrations/{ref}/regenerate-key",
    summary="Replace an inbound key",
    responses={200: {"model": NewIngestKey}, **problems(404, 409, 412, 422)},
    response_class=Response,
)
async def regenerate_key(
    mutation: Edits,
    ref: RefPath,
    body: RegenerateRequest | None = None,
    if_match: Annotated[
        str | None,
        Header(
            description='`"<key_id>"` of the key to be replaced: 412 where it is active no more. Needed where two are active.'
        ),
    ] = None,
) -> Response:
    """The new key is shown this once. The old one ends at once, or after `grace_seconds`; what was on its way out ends."""
    entry, wanted = await entry_for(mutation.parts, mutation.caller, ref), body or RegenerateRequest()
    mutation.refuse_operation(Operation.REGENERATE_KEY)
    now, wish = mutation.parts.clock.now(), _wish(mutation, wanted)
    grace = timedelta(seconds=wanted.grace_seconds) if wanted.grace_seconds is not None else None
    instead_of = if_match.strip().strip('"') if if_match is not None else None

    def make(tx: Tx) -> MadeKey:
        return push_keys.regenerate(tx, row_of(tx, entry), wish, now, grace=grace, instead_of=instead_of)

    return await _shown_once(mutation, entry, 200, make)


def _wish(mutation: Mutation, wanted: NewKeyRequest) -> KeyWish:
    return KeyWish(by=mutation.caller.name, label=wanted.label, expires_at=wanted.expires_at)


async def _shown_once(mutation: Mutation, entry: Entry, status: int, make: Callable[[Tx], MadeKey]) -> Response:
    def do(tx: Tx) -> Done:
        try:
            made = make(tx)
        except OtherKeyError as error:
            raise ProblemError(412, "precondition", str(error)) from None
        except KeyLimitError as error:
            raise ProblemError(409, "key-limit", str(error)) from None
        except OrderError as error:
            raise ProblemError(409, "refused", str(error)) from None
        return Done(
            body=_made(made),
            status=status,
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
    responses={200: {"model": IngestKeys}, **problems(400, 404, 409)},
    response_class=Response,
)
async def list_keys(parts: TheParts, entry: ViewedEntry, query: Annotated[Paging, Query()]) -> Response:
    """The newest first, also those that count no more. No key is ever shown again."""
    before, most = number_of(query.cursor), query.limit + 1
    found, rotation = await parts.database.read(
        lambda tx: (ingest_keys.page(tx, entry.id, before, most), push_keys.rotation_of(tx, entry.id))
    )
    listed, now = cut(found, query.limit, lambda row: (row[0],)), parts.clock.now()
    return answer([_key(key, key.state(now), rotation) for _, key in listed.rows], listed.place)


def _key(key: KeyRow, state: str, rotation: Rotation) -> dict[str, Any]:
    due_at = rotation.due_at(from_rfc3339(key.created_at)) if state == "active" else None
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
        "revoked_at": key.revoked_at,
        "rotation_due_at": rfc3339(due_at) if due_at else None,
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
