"""The read-only HTTP side of the daemon: `/metrics`, `/healthz`, `/readyz`, and integrations as JSON under `/v1`.

What is under `/v1` wants a token and shows what is in the token's workspace; metrics and health do not. Nothing secret is ever
shown, nothing can be changed. Lists come from the board in memory; only the detail of one integration reads the store. CORS
is off. Not done here: TLS, writing, the web page.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from reconciler import __version__
from reconciler.control.view import views
from reconciler.model.access import Caller, Permission
from reconciler.model.clock import Clock
from reconciler.sdk.redact import Redactor
from reconciler.serve.admission import Admission
from reconciler.serve.forms import Detail, detail, to_json
from reconciler.serve.health import Health, Verdict
from reconciler.serve.listing import QueryError, page, parse_query, resolve
from reconciler.serve.problem import UNFORESEEN, Envelope, ProblemError, problem_response
from reconciler.serve.scrape import CONTENT_TYPE, Scrape
from reconciler.serve.snapshot import Board, Entry
from reconciler.store import deliveries, runs, shown
from reconciler.store.database import Database, Tx
from reconciler.store.errors import StoreError

RECENT_RUNS = 10
MOST_CANDIDATES = 20
_METHODS = ("GET", "HEAD")
_INDEX = f"""reconciler {__version__}

/v1/integrations          what is connected, and how it fares
/v1/integrations/{{ref}}    one of them: id, workspace/name, name or type
/metrics                  Prometheus metrics
/healthz                  is the process alive
/readyz                   is it ready, and if not, why
"""


@dataclass(frozen=True, slots=True)
class Parts:
    """What the handlers need of the daemon."""

    database: Database
    clock: Clock
    board: Board
    scrape: Scrape
    health: Health
    redactor: Redactor
    admission: Admission


def make_app(parts: Parts, *, is_local: bool = True) -> ASGIApp:
    """The application for `Server`. `is_local`: it listens on loopback, so only requests for localhost are answered."""
    api = _Api(parts)
    routes = [
        Route("/", api.index, methods=_METHODS),
        Route("/healthz", api.healthz, methods=_METHODS),
        Route("/readyz", api.readyz, methods=_METHODS),
        Route("/metrics", api.metrics, methods=_METHODS),
        Route("/v1/integrations", api.integrations, methods=_METHODS),
        Route("/v1/integrations/{ref}", api.integration, methods=_METHODS),
        Route("/v1/integrations/{workspace}/{name}", api.integration, methods=_METHODS),
    ]
    answers = {HTTPException: _refused, StoreError: _unavailable, ProblemError: _told, Exception: _unforeseen}
    app = Starlette(routes=routes, exception_handlers=answers)
    app.router.redirect_slashes = False
    return Envelope(app, is_local=is_local)


class _Api:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def index(self, _: Request) -> Response:
        return PlainTextResponse(_INDEX)

    async def healthz(self, _: Request) -> Response:
        return _verdict(await self._parts.health.live())

    async def readyz(self, _: Request) -> Response:
        return _verdict(await self._parts.health.ready())

    async def metrics(self, request: Request) -> Response:
        found = await self._parts.scrape.page(accepts_gzip=_accepts_gzip(request.headers.get("accept-encoding", "")))
        headers = {"vary": "Accept-Encoding", "content-type": CONTENT_TYPE, "content-length": str(found.size)}
        if found.is_gzip:
            headers["content-encoding"] = "gzip"
        return StreamingResponse(_each(found.pieces), headers=headers)

    async def integrations(self, request: Request) -> Response:
        caller = await self._admit(request, Permission.INTEGRATION_VIEW)
        try:
            query = parse_query(request.query_params.multi_items())
        except QueryError as error:
            raise ProblemError(400, error.code, str(error)) from None
        found = page(await self._parts.board.current(), query, caller)
        body = b'{"data":[%b],"has_more":%b,"next_cursor":%b}' % (
            b",".join([entry.json for entry in found.entries]),
            b"true" if found.next_cursor else b"false",
            to_json(found.next_cursor),
        )
        return Response(body, media_type="application/json")

    async def integration(self, request: Request) -> Response:
        caller = await self._admit(request, Permission.INTEGRATION_VIEW)
        ref = "/".join(request.path_params.values())
        entry = _only(ref, resolve(await self._parts.board.current(), ref, caller))
        now = self._parts.clock.now()
        found = await self._parts.database.read(lambda tx: _detail(tx, entry.id, now))
        if found is None:
            raise _not_found(ref)
        return Response(to_json(detail(found, self._parts.redactor)), media_type="application/json")

    async def _admit(self, request: Request, permission: Permission) -> Caller:
        return await self._parts.admission.admit(request.headers.get("authorization"), permission)


def _only(ref: str, found: Sequence[Entry]) -> Entry:
    if not found:
        raise _not_found(ref)
    if len(found) > 1:
        candidates = [{"id": e.public_id, "ref": f"{e.workspace}/{e.name}", "type": e.type} for e in found]
        raise ProblemError(
            409,
            "ambiguous-reference",
            f"{ref!r} fits {len(found)} integrations; use workspace/name or the id",
            {"candidates": candidates[:MOST_CANDIDATES]},
        )
    return found[0]


def _not_found(ref: str) -> ProblemError:
    message = f"no integration has the id, name or type {ref[:200]!r}; /v1/integrations lists them"
    return ProblemError(404, "integration-not-found", message)


def _detail(tx: Tx, integration_id: int, now: datetime) -> Detail | None:
    counts = {integration_id: deliveries.counts_of(tx, integration_id)}
    view = next(views(tx, now, [integration_id], counts), None)
    if view is None:
        return None
    tree = shown.desired_tree(tx, integration_id)
    return Detail(now, view, tree, runs.history(tx, integration_id, RECENT_RUNS))


async def _each(pieces: Sequence[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def _accepts_gzip(header: str) -> bool:
    """Named without a quality of zero."""
    for part in header.lower().split(","):
        coding, _, quality = part.partition(";")
        if coding.strip() == "gzip":
            return quality.replace(" ", "") not in {"q=0", "q=0.0", "q=0.00", "q=0.000"}
    return False


def _verdict(verdict: Verdict) -> Response:
    body = {
        "status": "ok" if verdict.is_good else "unavailable",
        "checks": {name: reason or "ok" for name, reason in verdict.checks.items()},
    }
    return Response(to_json(body), 200 if verdict.is_good else 503, media_type="application/json")


async def _refused(request: Request, error: Exception) -> Response:
    """What the router says: no such path, no such method."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status == 405:
        problem = ProblemError(
            405, "method-not-allowed", "this address can only be read", headers={"allow": ", ".join(_METHODS)}
        )
    else:
        problem = ProblemError(status, "not-found", "there is nothing at this path; / lists what there is")
    return problem_response(problem, request.scope["request_id"])


async def _told(request: Request, error: Exception) -> Response:
    problem = error if isinstance(error, ProblemError) else UNFORESEEN
    return problem_response(problem, request.scope["request_id"])


async def _unforeseen(request: Request, _: Exception) -> Response:
    """The framework raises the exception once more when this is sent: the envelope logs it."""
    return problem_response(UNFORESEEN, request.scope["request_id"])


async def _unavailable(request: Request, error: Exception) -> Response:
    problem = ProblemError(503, "store-unavailable", str(error))
    return problem_response(problem, request.scope["request_id"])
