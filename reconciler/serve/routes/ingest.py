"""Where others push records and events to us, with a key of their own. What was answered is stored."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from urllib.parse import unquote_to_bytes

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from reconciler.api.ingest import (
    EventsBody,
    Ping,
    PushReceipt,
    ReceiptState,
    RecordBody,
    RecordResult,
    RecordsBody,
)
from reconciler.api.problem import problems
from reconciler.events.inbound import FullError
from reconciler.events.pushing import (
    Batch,
    Push,
    SnapshotError,
    StaleError,
    Stored,
    note_named,
    push_batch,
    push_events,
    push_record,
)
from reconciler.model.clock import rfc3339
from reconciler.sdk.pushed import (
    ENTITY,
    MOST_EVENTS,
    MOST_RECORDS,
    RECORD_ID,
    NotUnderstoodError,
    Pushed,
    read_events,
    read_record,
    read_version,
    refusal,
    strict,
)
from reconciler.serve.forms import to_json
from reconciler.serve.gatekeeper import Gatekeeper, Sender, body_of, check_signature, idempotency_key
from reconciler.serve.once import REPLAYED
from reconciler.serve.openapi import whole_schema
from reconciler.serve.parts import Parts
from reconciler.serve.problem import LARGE_BODIES, ProblemError
from reconciler.serve.routes.inbound import follow_up, full
from reconciler.store import inbox, pushed, requests
from reconciler.store.database import Tx
from reconciler.store.pushed import Verdict

router = APIRouter(prefix="/ingest/v1/{integration}", tags=["ingest"])
CONTRACT = "1.0"
JSON, LINES = "application/json", "application/x-ndjson"
_REFUSALS = problems(400, 409, 413, 415, 422)


def _body(model: type[Any], *media: str) -> dict[str, Any]:
    """Read by hand, because JSON has to be read more strictly than usual."""
    schema = {"schema": whole_schema(model)}
    return {"requestBody": {"required": True, "content": dict.fromkeys(media or (JSON,), schema)}}


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: Mapping[str, Any] | None
    stored: Stored | None = None


@dataclass(frozen=True, slots=True)
class _Call:
    """One admitted request."""

    request: Request
    parts: Parts
    sender: Sender

    def push(self, digest: str = "") -> Push:
        signed = self.sender.accepts.intake.signature != "off" and "webhook-signature" in self.request.headers
        message = self.request.headers.get("webhook-id", "") if signed else ""
        return Push(
            row=self.sender.row, live=self.sender.live, now=self.parts.clock.now(), message=message, digest=digest
        )

    async def read(self, *media: str) -> tuple[str, bytes]:
        return await body_of(self.request, self.sender, *(media or (JSON,)))


async def _served(request: Request, integration: str, do: Callable[[_Call], Awaitable[Response]]) -> Response:
    gatekeeper: Gatekeeper = request.app.state.gatekeeper
    parts: Parts = request.app.state.parts
    sender = await gatekeeper.admit(request, integration)
    try:
        return await do(_Call(request, parts, sender))
    except NotUnderstoodError as error:
        raise ProblemError(400 if error.code == "invalid-json" else 422, error.code, error.detail) from None


def _by_receipt(_: Tx, __: Push, receipt: str) -> _Answer:
    return _Answer(202, _receipt(receipt))


async def _stored(
    call: _Call,
    body: bytes,
    do: Callable[[Tx, Push], _Answer],
    again: Callable[[Tx, Push, str], _Answer] = _by_receipt,
) -> Response:
    """Once for one Idempotency-Key, and once for one signed message, which `again` answers; durable before it is answered."""
    key = idempotency_key(call.request)
    target = f"{call.request.method} {call.request.url.path}?{call.request.url.query}"
    digest = sha256(f"{target}\n".encode() + body).hexdigest()
    push = call.push(digest)
    who, at = f"ingest/{push.row.id}", rfc3339(push.now)

    def once(tx: Tx) -> _Answer | requests.Kept:
        if key is not None:
            kept, is_new = requests.begin(tx, who, key, digest, at)
            if not is_new:
                return kept
        before = inbox.taken_by(tx, push.row.id, [f"message:{push.message}"]) if push.message else None
        answer = do(tx, push) if before is None else again(tx, push, before)
        if key is not None:
            requests.finish(tx, who, key, answer.status, {}, to_json(answer.body).decode() if answer.body else "")
        return answer

    try:
        answer = await call.parts.database.write(once, durable=True)
    except (StaleError, SnapshotError, FullError) as error:
        raise _problem(error) from None
    if isinstance(answer, requests.Kept):
        return _again(answer, digest)
    if answer.stored is not None:
        await follow_up(call.parts, answer.stored.taken)
    return _response(answer.status, to_json(answer.body) if answer.body is not None else b"")


def _problem(error: StaleError | SnapshotError | FullError) -> ProblemError:
    if isinstance(error, StaleError):
        return ProblemError(409, "stale-version", str(error), {"current_version": error.version})
    return ProblemError(409, "snapshot-too-small", str(error)) if isinstance(error, SnapshotError) else full()


def _again(kept: requests.Kept, digest: str) -> Response:
    if kept.fingerprint != digest:
        raise ProblemError(422, "idempotency-mismatch", "this Idempotency-Key came with another request before")
    return _response(kept.status or 202, kept.body.encode(), REPLAYED)


def _response(status: int, body: bytes, headers: Mapping[str, str] | None = None) -> Response:
    return Response(body or None, status, dict(headers or {}), JSON if body else None)


def _receipt(public_id: str, stored: Stored | None = None) -> dict[str, Any]:
    return {
        "receipt_id": public_id,
        "accepted": stored.accepted if stored else 0,
        "duplicates": stored.duplicates if stored else 0,
        "rejected": list(stored.rejected) if stored else [],
    }


@router.post(
    "/events",
    summary="Push events",
    status_code=202,
    responses={202: {"model": PushReceipt}, **_REFUSALS},
    response_class=Response,
    openapi_extra=_body(EventsBody),
)
async def push_events_in(request: Request, integration: str) -> Response:
    """Each counts once by its `id`, for seven days. Bad ones are listed; where all are bad, 422."""

    async def do(call: _Call) -> Response:
        _, body = await call.read()
        check, now = call.sender.accepts.check_event, call.parts.clock.now()
        found = await call.sender.reception.aside(len(body), lambda: read_events(strict(body), now, check))
        if not found.events:
            raise ProblemError(422, "schema", "no event can be taken", {"rejected": found.rejected})

        def store(tx: Tx, push: Push) -> _Answer:
            stored = push_events(tx, push, found)
            return _Answer(202, _receipt(stored.taken.receipt, stored), stored)

        return await _stored(call, body, store)

    return await _served(request, integration, do)


@router.put(
    "/records/{entity}/{record_id:path}",
    summary="Push a record",
    responses={200: {"model": RecordResult}, 201: {"model": RecordResult}, **_REFUSALS, **problems(404)},
    response_class=Response,
    openapi_extra=_body(RecordBody),
)
async def push_record_in(request: Request, integration: str, entity: str, record_id: str) -> Response:
    """201 for a new one. An older `version` (or `updated_at`) than is known is refused with 409."""

    async def do(call: _Call) -> Response:
        _known(call.request, entity, record_id)
        _, body = await call.read()
        check = call.sender.accepts.check_record
        reading = call.sender.reception.aside(len(body), lambda: read_record(strict(body), entity, check, record_id))
        one = await reading
        return await _record_stored(call, body, entity, one)

    return await _served(request, integration, do)


async def _record_stored(call: _Call, body: bytes, entity: str, one: Pushed) -> Response:
    def again(tx: Tx, push: Push, _: str) -> _Answer:
        verdict = pushed.compared(tx, push.row.id, entity, one)
        if verdict.state != "unchanged":
            raise ProblemError(409, "replayed", "this webhook-id came before, and what it says is not what counts")
        return _said(one, verdict)

    return await _stored(call, body, lambda tx, push: _record(tx, push, entity, one), again)


def _record(tx: Tx, push: Push, entity: str, one: Pushed) -> _Answer:
    stored = push_record(tx, push, entity, one)
    assert stored.verdict is not None  # noqa: S101 - each record gets one
    return _said(one, stored.verdict, stored)


def _said(one: Pushed, verdict: Verdict, stored: Stored | None = None) -> _Answer:
    if one.payload is None:
        return _Answer(204, None, stored)
    said = {"id": one.key, "changed": verdict.state != "unchanged", "version": verdict.version}
    return _Answer(201 if verdict.state == "new" else 200, said, stored)


def _known(request: Request, entity: str, record_id: str = "-") -> None:
    """Raises ProblemError. Bytes that are no text would all become the same sign, and so several records one."""
    try:
        unquote_to_bytes(request.scope["raw_path"]).decode()
    except UnicodeDecodeError:
        raise ProblemError(400, "invalid-parameter", "the path is no UTF-8") from None
    if not ENTITY.fullmatch(entity) or not RECORD_ID.fullmatch(record_id):
        raise ProblemError(404, "not-found", "there is no such entity or record: a-z, 0-9 and _; 1 to 255 characters")


@router.delete(
    "/records/{entity}/{record_id:path}",
    summary="Delete a pushed record",
    status_code=204,
    responses={204: {"description": "It is deleted."}, **_REFUSALS, **problems(404)},
    response_class=Response,
)
async def delete_record_in(request: Request, integration: str, entity: str, record_id: str) -> Response:
    """`?version=` keeps an older deletion from undoing what is newer. Its history stays, as after any sync."""

    async def do(call: _Call) -> Response:
        _known(call.request, entity, record_id)
        check_signature(call.request, call.sender, await call.request.body())
        one = Pushed(record_id, None, read_version(request.query_params.get("version", "")))
        return await _record_stored(call, b"", entity, one)

    return await _served(request, integration, do)


@router.post(
    "/records/{entity}:batch",
    summary="Push many records",
    status_code=202,
    responses={202: {"model": PushReceipt}, **_REFUSALS, **problems(404)},
    response_class=Response,
    openapi_extra=_body(RecordsBody, JSON, LINES),
)
async def push_records_in(request: Request, integration: str, entity: str) -> Response:
    """Up to 1,000, as JSON or a record a line; `{"id": ..., "deleted": true}` deletes. Pages of one `snapshot_id` are a
    full snapshot: with `snapshot_complete` what none of them named is deleted, within the manifest's `max_delete_ratio`.
    """

    async def do(call: _Call) -> Response:
        _known(call.request, entity)
        kind, body = await call.read(JSON, LINES)
        batch = await call.sender.reception.aside(len(body), lambda: _batch(call.sender, entity, kind, body))
        if not batch.records and batch.rejected:
            await call.parts.database.write(lambda tx: note_named(tx, call.push(), batch), durable=True)
            raise ProblemError(422, "schema", "no record can be taken", {"rejected": batch.rejected})

        def store(tx: Tx, push: Push) -> _Answer:
            stored = push_batch(tx, push, batch)
            return _Answer(202, _receipt(stored.taken.receipt, stored), stored)

        return await _stored(call, body, store)

    return await _served(request, integration, do)


def _batch(sender: Sender, entity: str, kind: str, body: bytes) -> Batch:
    """Raises NotUnderstoodError where it is no batch; bad records are in `rejected`."""
    said = {"upserts": [line for line in body.splitlines() if line.strip()]} if kind == LINES else strict(body)
    if not isinstance(said, dict) or not RecordsBody.model_fields.keys() >= said.keys():
        raise NotUnderstoodError(f"expected an object with {', '.join(RecordsBody.model_fields)}")
    upserts, deletes = said.get("upserts", []), said.get("deletes", [])
    snapshot, is_full, is_last = (
        said.get("snapshot_id"),
        said.get("full_snapshot", False),
        said.get("snapshot_complete", False),
    )
    if not isinstance(upserts, list) or not isinstance(deletes, list) or len(upserts) + len(deletes) > MOST_RECORDS:
        raise NotUnderstoodError(f"upserts and deletes: expected lists with at most {MOST_RECORDS} in all")
    if not isinstance(is_full, bool) or not isinstance(is_last, bool):
        raise NotUnderstoodError("full_snapshot and snapshot_complete: expected true or false")
    if is_full != (isinstance(snapshot, str) and 0 < len(snapshot) <= 128) or (is_last and not is_full):
        raise NotUnderstoodError("a full_snapshot has a snapshot_id of 1 to 128 characters, and nothing else has one")
    records, rejected = list[tuple[int, Pushed]](), list[Mapping[str, Any]]()
    for place, one in enumerate([*upserts, *({"id": key, "deleted": True} for key in deletes)]):
        try:
            one = strict(one) if isinstance(one, bytes) else one  # noqa: PLW2901 - a line; the others are not wrong with it
            records.append((place, _one(sender, entity, one)))
        except NotUnderstoodError as error:
            rejected.append(refusal(place, one, RECORD_ID, error))
    return Batch(
        entity=entity,
        records=records,
        rejected=rejected,
        snapshot=snapshot if is_full and isinstance(snapshot, str) else "",
        complete=is_last,
        max_ratio=sender.accepts.intake.max_delete_ratio,
    )


def _one(sender: Sender, entity: str, one: Any) -> Pushed:
    if not isinstance(one, dict) or "deleted" not in one:
        return read_record(one, entity, sender.accepts.check_record)
    key = one.get("id")
    if not {"id", "deleted", "version"} >= one.keys() or one["deleted"] is not True:
        raise NotUnderstoodError("a deletion has id, deleted: true and, if wanted, version")
    if not isinstance(key, str) or not RECORD_ID.fullmatch(key):
        raise NotUnderstoodError("id: expected a text of 1 to 255 characters")
    return Pushed(key, None, read_version(one.get("version", "")))


@router.get(
    "/receipts/{receipt_id}",
    summary="What became of a push",
    responses={200: {"model": ReceiptState}, **problems(400, 404)},
    response_class=Response,
)
async def get_push_receipt(request: Request, integration: str, receipt_id: str) -> Response:
    """Kept for seven days."""

    async def do(call: _Call) -> Response:
        i = call.sender.row.id
        found = await call.parts.database.read(lambda tx: inbox.receipt(tx, i, receipt_id))
        if found is None:
            raise ProblemError(404, "not-found", "there is no such receipt, or no longer")
        said = {
            "receipt_id": found.public_id,
            "state": found.state,
            "accepted": found.accepted,
            "applied": max(0, found.accepted - found.waiting - found.failed),
            "failed": found.failed,
            "errors": list(found.errors),
        }
        return _response(200, to_json(said))

    return await _served(request, integration, do)


@router.get(
    "/ping",
    summary="Does the key open, and how much may be sent",
    responses={200: {"model": Ping}, **problems(400)},
    response_class=Response,
)
async def ping(request: Request, integration: str) -> Response:
    async def do(call: _Call) -> Response:
        limits = {
            "events_per_request": MOST_EVENTS,
            "records_per_request": MOST_RECORDS,
            "bytes": dict(LARGE_BODIES)["/ingest/v1/"],
            "requests_per_minute": call.sender.accepts.intake.requests_per_minute,
        }
        said = {
            "integration": call.sender.row.name,
            "key_id": call.sender.key,
            "server_time": rfc3339(call.parts.clock.now()),
            "contract": CONTRACT,
            "limits": limits,
        }
        return _response(200, to_json(said))

    return await _served(request, integration, do)
