"""What is not under `/v1` and wants no token: the index, health, metrics, and the API's own description."""

from collections.abc import AsyncIterator, Sequence
from functools import cache
from pathlib import Path

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, PlainTextResponse, Response, StreamingResponse

from reconciler import __version__
from reconciler.serve.forms import to_json
from reconciler.serve.health import Verdict
from reconciler.serve.parts import TheParts
from reconciler.serve.scrape import CONTENT_TYPE

router = APIRouter(include_in_schema=False)
_INDEX = f"""reconciler {__version__}

/v1/integrations          what is connected, and how it fares
/docs                     the whole API, described; /openapi.json for programs
/metrics                  Prometheus metrics
/healthz                  is the process alive
/readyz                   is it ready, and if not, why
"""
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>reconciler API</title>
<meta name="viewport" content="width=device-width, initial-scale=1"></head>
<body style="margin:0"><redoc spec-url="openapi.json"></redoc><script src="docs/redoc.js"></script></body></html>
"""
# What the page's script does: it fetches the document, searches in a worker, and sets styles.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; img-src 'self' data:; connect-src 'self';"
    " worker-src blob:; frame-ancestors 'none'"
)


@router.get("/")
async def index() -> PlainTextResponse:
    return PlainTextResponse(_INDEX)


@router.get("/docs")
async def docs() -> HTMLResponse:
    return HTMLResponse(_PAGE, headers={"content-security-policy": PAGE_POLICY})


@router.get("/docs/redoc.js")
async def docs_script() -> FileResponse:
    return FileResponse(_redoc(), media_type="text/javascript")


@cache
def _redoc() -> Path:
    import fastapi_offline

    return Path(fastapi_offline.__file__).parent / "static" / "redoc.standalone.js"


@router.get("/openapi.json")
async def openapi(request: Request) -> Response:
    return Response(to_json(request.app.openapi()), media_type="application/json")


@router.get("/healthz")
async def healthz(parts: TheParts) -> Response:
    return _verdict(await parts.health.live())


@router.get("/readyz")
async def readyz(parts: TheParts) -> Response:
    return _verdict(await parts.health.ready())


@router.get("/metrics")
async def metrics(request: Request, parts: TheParts) -> StreamingResponse:
    found = await parts.scrape.page(accepts_gzip=_accepts_gzip(request.headers.get("accept-encoding", "")))
    headers = {"vary": "Accept-Encoding", "content-type": CONTENT_TYPE, "content-length": str(found.size)}
    if found.is_gzip:
        headers["content-encoding"] = "gzip"
    return StreamingResponse(_each(found.pieces), headers=headers)


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
