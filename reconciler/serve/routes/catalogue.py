"""The catalogue: every connector that is installed, which of them a workspace may use, and a search."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from starlette.responses import Response

from reconciler.api.catalogue import (
    AvailableList,
    CatalogueQuery,
    Connector,
    ConnectorList,
    FoundList,
    SearchQuery,
)
from reconciler.api.paging import Paging
from reconciler.api.problem import problems
from reconciler.model.access import Caller
from reconciler.serve.catalogue import Offer
from reconciler.serve.listing import seen
from reconciler.serve.paging import answer, cut, decode
from reconciler.serve.parts import Parts, TheParts, Viewer
from reconciler.serve.problem import ProblemError

router = APIRouter(prefix="/v1", tags=["catalogue"])
TypePath = Annotated[str, Path(description="`spec.type` of a manifest.")]


@router.get(
    "/connectors",
    summary="List connectors",
    responses={200: {"model": ConnectorList}, **problems(400)},
    response_class=Response,
)
async def list_connectors(parts: TheParts, caller: Viewer, query: Annotated[CatalogueQuery, Query()]) -> Response:  # noqa: ARG001
    """Everything about each, by type."""
    return _page([(offer, offer.whole) for offer in await parts.catalogue.offers() if offer.fits(query.q)], query)


@router.get(
    "/connectors/{type}",
    summary="Everything about a connector",
    responses={200: {"model": Connector}, **problems(400, 404)},
    response_class=Response,
)
async def get_connector(parts: TheParts, caller: Viewer, type: TypePath) -> Response:  # noqa: A002, ARG001
    """Its settings as JSON Schema, what it reads, which events that makes, how it sends, and which limits are kept."""
    for offer in await parts.catalogue.offers():
        if offer.type == type:
            return Response(bytes(offer.whole), media_type="application/json")
    raise ProblemError(404, "connector-not-found", f"there is no connector {type[:100]!r}; /v1/connectors lists them")


@router.get(
    "/integrations/available",
    summary="What can be integrated",
    responses={200: {"model": AvailableList}, **problems(400)},
    response_class=Response,
)
async def list_available(parts: TheParts, caller: Viewer, query: Annotated[CatalogueQuery, Query()]) -> Response:
    """Connectors in short, with whether the caller's workspace may use them, and how many integrations of each there are."""
    counts = await _counts(parts, caller)
    offers = [offer for offer in await parts.catalogue.offers() if offer.fits(query.q)]
    return _page([(offer, _available(parts, caller, offer, counts)) for offer in offers], query)


@router.get(
    "/integrations/search",
    summary="Search the catalogue",
    responses={200: {"model": FoundList}, **problems(400)},
    response_class=Response,
)
async def search_available(parts: TheParts, caller: Viewer, query: Annotated[SearchQuery, Query()]) -> Response:
    """By type, title, capability, entity, event and channel; each with where the words of the query stand."""
    counts = await _counts(parts, caller)
    pairs = [(offer, offer.matches(query.q)) for offer in await parts.catalogue.offers()]
    found = [
        (offer, {**_available(parts, caller, offer, counts), "matches": matches})
        for offer, matches in pairs
        if matches is not None
    ]
    return _page(found, query)


async def _counts(parts: Parts, caller: Caller) -> Mapping[str, int]:
    return Counter(entry.type for entry in seen(await parts.board.current(), caller))


def _available(parts: Parts, caller: Caller, offer: Offer, counts: Mapping[str, int]) -> Mapping[str, Any]:
    is_permitted = parts.ports.policy.permits_type(caller.workspace, offer.type)
    return {**offer.short, "is_permitted": is_permitted, "integrations": counts[offer.type]}


def _page(found: Sequence[tuple[Offer, Any]], query: Paging) -> Response:
    """By type, which is also the place of a cursor."""
    after = decode(query.cursor, str) if query.cursor else ""
    start = bisect_right(found, after, key=lambda pair: pair[0].type)
    listed = cut(found[start : start + query.limit + 1], query.limit, lambda pair: pair[0].type)
    return answer([shown for _, shown in listed.rows], listed.place)
