"""What a delivery of a webhook means: which records GitHub says have changed; what is no record becomes an event.

Records are read again from the listing that a sync reads, because the answer for a single record has other fields. Nothing
in a delivery's headers is signed: they choose only what is looked at again. Called by the engine through `Verifies` and
`Rereads`.
"""

from abc import ABC
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, timedelta
from typing import Any, cast

from connectors.github.hooks import Hooks
from reconciler.model.clock import from_rfc3339, rfc3339
from reconciler.model.record import Page, ReadRequest, Scope
from reconciler.sdk.contract import Entity
from reconciler.sdk.errors import ForbiddenError, RejectedError
from reconciler.sdk.inbound import EVENT_BYTES, Inbound, Told, Touched, json_object
from reconciler.sdk.rest import Partition, RestEntity

GONE = frozenset({"deleted", "transferred"})
SINGLE = {
    "issues": "/repos/{repository}/issues/{number}",
    "pulls": "/repos/{repository}/pulls/{number}",
    "issue_comments": "/repos/{repository}/issues/comments/{number}",
    "deployments": "/repos/{repository}/deployments/{number}",
}
MARGIN = timedelta(seconds=1)


class Arrivals(Hooks, ABC):
    """The part of the connector that takes deliveries."""

    tells = ("github",)
    max_inbound = 25 * 1024 * 1024

    def receive(self, headers: Mapping[str, str], body: bytes) -> Inbound:
        given = {name.lower(): value for name, value in headers.items()}
        event, delivery = given.get("x-github-event", ""), given.get("x-github-delivery", "")
        said = _decoded(body, given.get("content-type", ""))
        if not event or not delivery:
            raise RejectedError("X-GitHub-Event and X-GitHub-Delivery are needed to know what this is")
        if event == "ping":
            return Inbound(delivery_id=delivery)
        repository = str(_dig(said, "repository", "full_name") or "")
        if event in _RECORDS:
            touched = tuple(_touched(event, said, repository)) if self._covers(repository) else ()
            return Inbound(delivery_id=delivery, touched=touched)
        return Inbound(delivery_id=delivery, events=(self._told(event, delivery, said, len(body)),))

    def _covers(self, repository: str) -> bool:
        """Whether a sync reads it. GitHub does not tell capitals from small letters."""
        config, name = self.config, repository.lower()
        named = {r.lower() for r in config.repositories}
        owners = {o.lower() for o in config.organizations}
        return name in named or name.partition("/")[0] in owners or not (named or owners)

    def _told(self, event: str, delivery: str, said: Mapping[str, Any], size: int) -> Told:
        if size > EVENT_BYTES:
            raise RejectedError(f"{event} has {size} bytes, an event at most {EVENT_BYTES}")
        name = "".join(c if c.isalnum() or c == "_" else "_" for c in event.lower())
        action = said.get("action")
        kind = f"github.{name}.{action}" if isinstance(action, str) and action.isidentifier() else f"github.{name}"
        subject = str(_dig(said, "repository", "full_name") or "")
        return Told(id=delivery, type=kind, at=self.room.clock.now(), subject=subject, data=said)

    async def reread(self, entity: Entity, touched: Sequence[Touched]) -> AsyncGenerator[Page, None]:
        """All of one repository: its listing from the earliest change on, and those that are said to be gone one by one."""
        rest = cast("RestEntity", entity)
        repository = self._spelled(touched[0].listing)
        gone = [one for one in touched if one.place.get("gone")]
        changed = [from_rfc3339(one.place["at"]) for one in touched if not one.place.get("gone")]
        for one in gone:
            if await self._is_gone(rest, repository, one):
                yield Page((), (), repository, deleted=(one.key,))
        if changed:
            # What the listing asks for is this less the overlap; the moment itself is known here.
            since = rfc3339(min(changed) + rest.overlap - MARGIN)
            request = ReadRequest(Scope.INCREMENTAL, rfc3339(self.room.clock.now()), since={repository: since})
            partition = Partition(repository, {"repository": repository})
            async with aclosing(self._pages(rest, request, partition)) as pages:
                async for page in pages:
                    yield page

    async def _pages(
        self, entity: RestEntity, request: ReadRequest, partition: Partition
    ) -> AsyncGenerator[Page, None]:
        async for page in self._read_partition(entity, request, partition, {}, None):
            yield page

    def _spelled(self, repository: str) -> str:
        return next((r for r in self.config.repositories if r.lower() == repository.lower()), repository)

    async def _is_gone(self, entity: RestEntity, repository: str, one: Touched) -> bool:
        """404 may also mean that we may not see it: only where the repository itself is visible."""
        path = SINGLE[entity.name].format(repository=repository, number=one.place["number"])
        try:
            answer = await self.send("GET", path, expect=(404, 410))
            if answer.status == 404:
                await self.send("GET", f"/repos/{repository}")
        except ForbiddenError:
            return False
        # A transferred issue is found at its new place, under another id.
        return answer.status in (404, 410) or str(answer.json().get("id")) != one.key


def _decoded(body: bytes, media: str) -> dict[str, Any]:
    if media.partition(";")[0].strip().lower() == "application/x-www-form-urlencoded":
        raise RejectedError("the hook sends forms; set its content type to application/json")
    return json_object(body)


def _dig(said: Any, *steps: str) -> Any:
    for step in steps:
        said = said.get(step) if isinstance(said, Mapping) else None
    return said


def _touched(event: str, said: Mapping[str, Any], repository: str) -> Iterator[Touched]:
    if event == "push":
        yield from _pushed(said, repository)
        return
    is_gone = said.get("action") in GONE
    for entity, member in _RECORDS[event]:
        found = said.get(member)
        is_pull = entity == "issues" and isinstance(found, Mapping) and "pull_request" in found
        if isinstance(found, Mapping):
            # A comment that is deleted leaves its issue where it is.
            gone = is_gone and (event, entity) != ("issue_comment", "issues")
            yield _one("pulls" if is_pull else entity, found, repository, is_gone=gone)


def _one(entity: str, found: Mapping[str, Any], repository: str, *, is_gone: bool) -> Touched:
    number = found.get("number") if entity in ("issues", "pulls") else found.get("id")
    at = found.get("created_at" if entity == "deployments" else "updated_at")
    if not isinstance(found.get("id"), int) or not isinstance(number, int) or not isinstance(at, str):
        raise RejectedError(f"the {entity} of the delivery names no id, number or time")
    place = {"number": number, "at": _time(at), **({"gone": True} if is_gone else {})}
    return Touched(entity, str(found["id"]), place, repository)


def _pushed(said: Mapping[str, Any], repository: str) -> Iterator[Touched]:
    """One stretch of the listing for all commits of a push."""
    commits = said.get("commits")
    times = [c["timestamp"] for c in commits if isinstance(_dig(c, "timestamp"), str)] if commits else []
    if times and str(said.get("ref", "")).startswith("refs/heads/"):
        at = min(_time(time) for time in times)
        yield Touched("commits", str(said.get("after") or ""), {"at": at}, repository)


def _time(text: str) -> str:
    try:
        return rfc3339(from_rfc3339(text).astimezone(UTC))
    except ValueError:
        raise RejectedError("a time of the delivery cannot be read") from None


_RECORDS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "issues": (("issues", "issue"),),
    "issue_comment": (("issue_comments", "comment"), ("issues", "issue")),
    "pull_request": (("pulls", "pull_request"),),
    "pull_request_review": (("pulls", "pull_request"),),
    "deployment": (("deployments", "deployment"),),
    "deployment_status": (("deployments", "deployment"),),
    "push": (),
}
