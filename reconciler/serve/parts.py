"""What the routes work with, and how a request gets hold of it: the parts of the daemon, the caller, the integration meant.

`app` makes `Parts` once; `api` hangs it on the application. Everything a route declares in its signature comes from here.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Annotated, TypeVar

from fastapi import Depends, Path
from starlette.requests import Request

from reconciler.model.access import Caller, Grant, Permission
from reconciler.model.clock import Clock
from reconciler.sdk import registry
from reconciler.sdk.redact import Redactor
from reconciler.serve.admission import Admission
from reconciler.serve.catalogue import Catalogue
from reconciler.serve.health import Health
from reconciler.serve.listing import resolve
from reconciler.serve.ports import Ports
from reconciler.serve.problem import ProblemError
from reconciler.serve.scrape import Scrape
from reconciler.serve.snapshot import Board, Entry
from reconciler.serve.streams import Streams
from reconciler.serve.wellformed import check_form
from reconciler.store import integrations
from reconciler.store.database import Database, Tx
from reconciler.store.integrations import IntegrationRow

MOST_CANDIDATES = 20
LOOK_SECONDS = 0.05
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Parts:
    """What the routes need of the daemon."""

    database: Database
    clock: Clock
    board: Board
    scrape: Scrape
    health: Health
    redactor: Redactor
    admission: Admission
    ports: Ports = Ports()
    streams: Streams = field(kw_only=True)
    catalogue: Catalogue = field(default_factory=lambda: Catalogue(registry))


async def parts_of(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts


async def admitted(request: Request, permission: Permission | None) -> Caller:
    """`None`: the call asks for a grant instead. Raises ProblemError: 401, 403 or 429, else what is wrong with the form."""
    parts = await parts_of(request)
    caller = await parts.admission.enter(request.scope, permission)
    await check_form(request)
    return caller


def needs(permission: Permission | None) -> Callable[[Request], Awaitable[Caller]]:
    """A dependency: the caller, who has that permission; with None any caller."""

    async def caller(request: Request) -> Caller:
        return await admitted(request, permission)

    return caller


async def entry_for(parts: Parts, caller: Caller, ref: str) -> Entry:
    """The one integration that `ref` means to this caller; raises ProblemError: 404, or 409 with the candidates."""
    found = resolve(await parts.board.current(), ref, caller) or resolve(await parts.board.newer(), ref, caller)
    if not found:
        raise no_such_integration(ref)
    if len(found) > 1:
        candidates = [{"id": e.public_id, "ref": f"{e.workspace}.{e.name}", "type": e.type} for e in found]
        raise ProblemError(
            409,
            "ambiguous-reference",
            f"{ref[:200]!r} fits {len(found)} integrations; use workspace.name or the id",
            {"candidates": candidates[:MOST_CANDIDATES]},
        )
    return found[0]


def no_such_integration(ref: str) -> ProblemError:
    message = f"no integration has the id, name or type {ref[:200]!r}; /v1/integrations lists them"
    return ProblemError(404, "integration-not-found", message)


def no_such_sync(sync_id: str) -> ProblemError:
    message = f"there is no sync {sync_id[:100]!r}; those of an integration are at /v1/integrations/{{ref}}/syncs"
    return ProblemError(404, "sync-not-found", message)


def row_of(tx: Tx, entry: Entry) -> IntegrationRow:
    """Raises ProblemError (404) where it went since the board was made."""
    row = integrations.get(tx, entry.id)
    if row is None or row.removed_at is not None:
        raise no_such_integration(entry.public_id)
    return row


async def until(parts: Parts, query: Callable[[Tx], T | None], seconds: float) -> T | None:
    """What the store says once it does, looked for at least once; None when that time is over."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while True:
        found = await parts.database.read(query)
        if found is not None or loop.time() >= deadline:
            return found
        await asyncio.sleep(LOOK_SECONDS)


TheParts = Annotated[Parts, Depends(parts_of)]
Viewer = Annotated[Caller, Depends(needs(Permission.INTEGRATION_VIEW))]
EventViewer = Annotated[Caller, Depends(needs(Permission.EVENT_VIEW))]
PlanViewer = Annotated[Caller, Depends(needs(Permission.PLAN_VIEW))]
Syncer = Annotated[Caller, Depends(needs(Permission.INTEGRATION_SYNC))]
AnyCaller = Annotated[Caller, Depends(needs(None))]
Administrator = Annotated[Caller, Depends(needs(Permission.ADMIN))]
RefPath = Annotated[str, Path(description="Id, workspace.name, a bare name, or a type if only one integration has it.")]


async def viewed_entry(parts: TheParts, caller: Viewer, ref: RefPath) -> Entry:
    return await entry_for(parts, caller, ref)


ViewedEntry = Annotated[Entry, Depends(viewed_entry)]


async def readable_entry(parts: TheParts, caller: AnyCaller, ref: RefPath) -> Entry:
    """Raises ProblemError 403 where it is there, but its records are not for this caller."""
    entry = await entry_for(parts, caller, ref)
    parts.admission.granted(caller, entry, Grant.READ)
    return entry


ReadableEntry = Annotated[Entry, Depends(readable_entry)]
