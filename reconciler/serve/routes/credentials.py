"""What an integration signs in with: looked at, obtained anew, and allowed by a person at the remote.

The callback is where a remote sends people back to: it wants no token, because the state is one, and answers as a page. What it
brings is in its query, which is never logged.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from html import escape
from typing import Annotated

from fastapi import APIRouter, Path
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from reconciler.api.credentials import AuthorizationBegun, AuthorizationState, Credentials, Rotation
from reconciler.api.problem import problems
from reconciler.control import credentials
from reconciler.model.access import Operation
from reconciler.model.authorization import AuthorizationOutcome, NotAuthorizableError, Returned, StateRefusedError
from reconciler.model.clock import rfc3339
from reconciler.serve.forms import to_json
from reconciler.serve.once import Done, Edits, Mark, order
from reconciler.serve.parts import RefPath, TheParts, ViewedEntry, Viewer, entry_for
from reconciler.serve.ports import Authorizing
from reconciler.serve.problem import ProblemError
from reconciler.store.database import Tx

router = APIRouter(prefix="/v1", tags=["credentials"])
MOST = 8192
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>reconciler</title></head>
<body><h1>{title}</h1>{told}<p>This page can be closed.</p></body></html>
"""
_TITLES = {
    "authorized": "Allowed",
    "denied": "Not allowed",
    "failed": "Failed",
    "waiting": "Not finished yet",
}
AttemptId = Annotated[str, Path(max_length=64, pattern=r"^aut_[A-Za-z0-9]+$", description="As `authorize` gave it.")]


@router.get(
    "/integrations/{ref}/credentials",
    summary="What it signs in with",
    responses={200: {"model": Credentials}, **problems(400, 404, 409)},
    response_class=Response,
)
async def list_credentials(parts: TheParts, entry: ViewedEntry) -> Response:
    """Kind, fingerprint, end and scopes. Never a value."""
    found = await parts.database.read(lambda tx: credentials.credentials(tx, entry.id))
    return Response(to_json({"data": [asdict(one) for one in found]}), media_type="application/json")


@router.post(
    "/integrations/{ref}/rotate",
    summary="Obtain credentials anew",
    status_code=202,
    responses={202: {"model": Rotation}, **problems(404, 409, 422)},
    response_class=Response,
)
async def rotate_credentials(mutation: Edits, ref: RefPath) -> Response:
    """Those that were obtained at run time. What stands in the manifest is rotated by a change of it."""
    entry = await entry_for(mutation.parts, mutation.caller, ref)
    mutation.refuse_operation(Operation.ROTATE)

    def do(tx: Tx) -> Done:
        names = credentials.renewable(tx, entry.id)
        carried = order(tx, mutation, "renew-credentials", entry.id, {})
        return Done(
            body={"status": "begun", "renewed": names},
            status=202,
            workspace=entry.workspace,
            target=entry.public_id,
            detail={"renewed": names},
            carried=carried,
        )

    return await mutation.in_store(do)


@router.get(
    "/integrations/{ref}/authorize",
    summary="Begin an authorization",
    responses={200: {"model": AuthorizationBegun}, **problems(404, 409, 422)},
    response_class=Response,
)
async def begin_authorization(mutation: Edits, ref: RefPath) -> Response:
    """Where a person goes to allow this integration access; good for ten minutes and once."""
    entry = await entry_for(mutation.parts, mutation.caller, ref)
    mutation.refuse_operation(Operation.AUTHORIZE)
    service = _service(mutation.parts.ports.authorizing)

    async def do(_: Mark) -> Done:
        try:
            begun = await service.begin(entry.id, mutation.caller.name)
        except NotAuthorizableError as error:
            raise ProblemError(409, "not-authorizable", str(error)) from None
        return Done(
            body={
                "id": begun.id,
                "url": None,
                "redirect_uri": begun.redirect_uri,
                "expires_at": rfc3339(begun.expires_at),
            },
            once={"url": begun.url},
            workspace=entry.workspace,
            target=entry.public_id,
            detail={"authorization": begun.id},
        )

    return await mutation.elsewhere(do)


@router.get(
    "/authorizations/{authorization_id}",
    summary="How an authorization stands",
    responses={200: {"model": AuthorizationState}, **problems(404)},
    response_class=Response,
)
async def get_authorization(parts: TheParts, caller: Viewer, authorization_id: AttemptId) -> Response:
    """`waiting` until the person came back and what they brought was exchanged."""
    service = _service(parts.ports.authorizing)
    try:
        found = await service.outcome(authorization_id)
    except LookupError:
        found = None
    if found is None or not caller.sees(found.integration.workspace):
        raise ProblemError(404, "authorization-not-found", f"no authorization has the id {authorization_id!r}")
    body = {"id": authorization_id, "status": found.status, "message": parts.redactor.text(found.message)}
    return Response(to_json(body), media_type="application/json")


@router.get("/oauth/callback", include_in_schema=False)
async def oauth_callback(request: Request, parts: TheParts) -> Response:
    service = _service(parts.ports.authorizing)
    query = {name: value[:MOST] for name, value in request.query_params.items()}
    returned = Returned(
        query.get("state", ""), query.get("code", ""), query.get("error", ""), query.get("error_description", "")
    )
    try:
        found = await service.finish(returned)
    except StateRefusedError as error:
        return _page("Refused", [str(error)], 400)
    return _page(_TITLES[found.status], [parts.redactor.text(one) for one in _told(found)], 200)


def _told(found: AuthorizationOutcome) -> Iterator[str]:
    """The browser need not be that of whoever began it: its person is to see what came of being signed in at the remote."""
    ref = found.integration
    yield f"Integration {ref.name} of workspace {ref.workspace}{f': {found.message}' if found.message else ''}."
    yield f"{found.begun_by} began this on {found.begun_at:%Y-%m-%d at %H:%M} UTC."
    if found.status in {"authorized", "waiting"}:
        yield (
            "It works with the account that was signed in at the remote just now. If you did not mean to allow that,"
            " take the access away there, and tell whoever operates this."
        )


def _page(title: str, told: Iterable[str], status: int) -> Response:
    said = "".join(f"<p>{escape(one)}</p>" for one in told)
    return HTMLResponse(_PAGE.format(title=escape(title), told=said), status)


def _service(found: Authorizing | None) -> Authorizing:
    if found is None:
        raise ProblemError(503, "cannot-authorize", "this process has no part in authorizations")
    return found
