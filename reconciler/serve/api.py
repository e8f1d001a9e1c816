"""The HTTP side of the daemon, put together: the routes, what errors become, and the envelope around all.

What is under `/v1` wants a token and shows what the token's workspace has; metrics, health and the API's description do not.
Nothing secret is ever shown. CORS is off unless origins are named. Not done here: TLS, which `server` does, and what a
route does, which is in `routes`.
"""

from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from reconciler.model.tree import json_pointer
from reconciler.serve.denials import Denials
from reconciler.serve.gatekeeper import Gatekeeper
from reconciler.serve.openapi import document
from reconciler.serve.parts import Parts
from reconciler.serve.problem import (
    LOOPBACK,
    MAX_BODY,
    PATIENCE,
    UNFORESEEN,
    Envelope,
    ProblemError,
    as_it_is,
    faulty,
    problem_response,
)
from reconciler.serve.routes import (
    access,
    catalogue,
    credentials,
    dataset,
    deliveries,
    events,
    inbound,
    ingest,
    ingest_keys,
    integrations,
    manifests,
    observing,
    plans,
    reconciles,
    service,
    streams,
    suspension,
    synchronizations,
    syncs,
    trials,
)
from reconciler.store.errors import StoreError

# The catalogue comes first: its words under /v1/integrations would be taken for references otherwise.
_ROUTERS = (
    service.router,
    catalogue.router,
    integrations.router,
    manifests.router,
    synchronizations.router,
    observing.router,
    syncs.router,
    streams.router,
    dataset.router,
    trials.router,
    credentials.router,
    events.router,
    deliveries.router,
    suspension.router,
    plans.router,
    reconciles.router,
    access.router,
    ingest_keys.router,
    inbound.router,
    ingest.router,
)


def make_app(
    parts: Parts,
    *,
    hosts: frozenset[str] | None = LOOPBACK,
    patience: timedelta = PATIENCE,
    max_body: int = MAX_BODY,
    origins: Sequence[str] = (),
) -> ASGIApp:
    """The application for `Server`. `origins` of web pages may call it (CORS); the rest is for `Envelope`."""
    app = make_routes()
    app.state.parts = parts
    app.state.gatekeeper = gatekeeper = Gatekeeper(parts)
    app.state.denials = Denials(parts.clock)
    shown = partial(_for_pages, origins=origins) if origins else as_it_is
    return Envelope(_Ahead(app), hosts=hosts, patience=patience, max_body=max_body, said=gatekeeper.said, shown=shown)


def _for_pages(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """Their tokens come in a header, as anybody's: a browser's own credentials are never asked for."""
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=("GET", "POST", "PUT", "PATCH", "DELETE"),
        allow_headers=("authorization", "content-type", "idempotency-key", "if-match", "last-event-id", "x-request-id"),
        expose_headers=(
            "etag", "location", "x-request-id", "retry-after", "idempotent-replayed",
            "ratelimit-limit", "ratelimit-remaining", "ratelimit-reset",
        ),
    )  # fmt: skip


class _Ahead:
    """Answers the one call that must be fast without looking for its route, which takes longer than the answer.

    The route is there all the same, for the document, and says the same.
    """

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] != "/v1/integrations" or scope["method"] != "GET":
            await self._app(scope, receive, send)
            return
        scope["app"] = self._app
        request = Request(scope, receive)
        try:
            response = await integrations.list_integrations(request)
        except StoreError as error:
            response = await _unavailable(request, error)
        except ProblemError as problem:
            response = await _told(request, problem)
        await response(scope, receive, send)


def make_routes() -> FastAPI:
    """Without parts it answers nothing, but it can be described."""
    app = FastAPI(
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.parameters = {}
    for router in _ROUTERS:
        app.include_router(router)
    answers = {
        HTTPException: _refused,
        RequestValidationError: _misunderstood,
        StoreError: _unavailable,
        ProblemError: _told,
        Exception: _unforeseen,
    }
    for kind, answer in answers.items():
        app.add_exception_handler(kind, answer)
    app.openapi = lambda: document(app)  # type: ignore[method-assign]  # as the framework says to
    return app


async def _refused(request: Request, error: Exception) -> Response:
    """What the router says: no such path, no such method."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status == 405:
        allowed = ", ".join(_allowed(request))
        said = f"this address takes {allowed} only"
        problem = ProblemError(405, "method", said, headers={"allow": allowed})
    elif status == 404:
        problem = ProblemError(404, "not-found", "there is nothing at this path; /docs lists what there is")
    else:
        problem = ProblemError(status, "invalid-request", str(getattr(error, "detail", "the request is malformed")))
    return problem_response(problem, request.scope["request_id"])


def _allowed(request: Request) -> list[str]:
    """Several routes may share a path; the framework tells of the first one only."""
    methods = ("GET", "POST", "PUT", "PATCH", "DELETE")
    router: APIRouter = request.app.router
    found = [m for m in methods if any(_fits(route, {**request.scope, "method": m}) for route in router.routes)]
    return [*found, "HEAD"] if "GET" in found else found


def _fits(route: BaseRoute, scope: Scope) -> bool:
    return route.matches(scope)[0] is Match.FULL


async def _misunderstood(request: Request, error: Exception) -> Response:
    """Where the request does not fit the document. Values are not repeated: they may be secret."""
    found = error.errors() if isinstance(error, RequestValidationError) else ()
    is_query = all(one["loc"][0] in {"query", "path"} for one in found)
    is_unknown = any(one["type"] == "extra_forbidden" for one in found)
    code = ("unknown-parameter" if is_unknown else "invalid-parameter") if is_query else "invalid-body"
    problem = faulty(400 if is_query else 422, code, [_fault(one["loc"], one) for one in found])
    return problem_response(problem, request.scope["request_id"])


def _fault(place: Sequence[str | int], one: Any) -> dict[str, str]:
    if one["type"] == "json_invalid":  # its place is a position in the text, and no member
        return {
            "pointer": "",
            "code": one["type"],
            "detail": f"not JSON at character {place[-1]}: {one['ctx']['error']}",
        }
    pointer = json_pointer(place[1:]) if place[0] == "body" else ".".join(map(str, place[1:]))
    said = "is not known here; /docs lists what is" if one["type"] == "extra_forbidden" else one["msg"]
    return {"pointer": pointer, "code": one["type"], "detail": said.removeprefix("Value error, ")}


async def _told(request: Request, error: Exception) -> Response:
    problem = error if isinstance(error, ProblemError) else UNFORESEEN
    return problem_response(problem, request.scope["request_id"])


async def _unforeseen(request: Request, _: Exception) -> Response:
    """The framework raises the exception once more when this is sent: the envelope logs it."""
    return problem_response(UNFORESEEN, request.scope["request_id"])


async def _unavailable(request: Request, error: Exception) -> Response:
    problem = ProblemError(503, "store-unavailable", str(error), headers={"retry-after": "5"})
    return problem_response(problem, request.scope["request_id"])
