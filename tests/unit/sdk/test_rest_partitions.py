"""A partition that is refused stays refused over a resume: the run must not end as complete."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import pytest

from reconciler.model.clock import rfc3339
from reconciler.model.record import ReadRequest, Scope
from reconciler.model.secret import Secret
from reconciler.sdk.auth import Authenticator, bearer
from reconciler.sdk.contract import AuthSettings, Entity, Probe, Settings
from reconciler.sdk.errors import ForbiddenError
from reconciler.sdk.paging import PageNumber
from reconciler.sdk.rest import Partition, RestConnector, RestEntity
from reconciler.sdk.testing.room import START, Bench
from reconciler.sdk.testing.simulator import Call, Reply, Simulator, route


class _Config(Settings):
    url: str


class _Auth(AuthSettings):
    type: Literal["token"] = "token"
    token: Secret


class _Vendor(RestConnector[_Config, _Auth]):
    type: ClassVar[str] = "vendor"
    title: ClassVar[str] = "Vendor"
    Config = _Config
    auth_types = (_Auth,)
    entities = (RestEntity(name="things", path="/{place}", records="", pager=PageNumber()),)

    def base_url(self) -> str:
        return self.config.url

    def authenticator(self) -> Authenticator:
        return bearer(self.auth.token)

    async def partitions(self, entity: RestEntity) -> Sequence[Partition]:
        return tuple(Partition(name, {"place": name}) for name in ("closed", "open"))

    async def probe(self) -> Probe:
        return Probe("me")


class _Sim(Simulator):
    @route("GET", "/{place}", query=("page", "per_page"))
    def things(self, call: Call) -> Reply:
        if call.path["place"] == "closed":
            return Reply(status=403, json={"error": "no"})
        number = int(call.query["page"])
        return Reply(json=[{"id": number}] if number < 3 else [])


async def _pages(connector: Any, resume: Any) -> tuple[list[Any], str]:
    entity: Entity = connector.entities[0]
    positions: list[Any] = []
    try:
        async for page in connector.read(entity, ReadRequest(Scope.FULL, rfc3339(START), resume=resume)):
            positions.append(page.position)  # noqa: PERF401 - what came before the error counts
    except ForbiddenError as error:
        return positions, error.message
    return positions, ""


@pytest.mark.parametrize("stop_after", [1, 2])
async def test_refusal_survives_a_resume(stop_after: int) -> None:
    with _Sim() as sim:
        async with Bench() as bench:
            connector = bench.connector(_Vendor, {"url": sim.url}, {"type": "token", "token": "t" * 12})
            positions, said = await _pages(connector, None)
            assert "403" in said
            _, again = await _pages(connector, positions[stop_after - 1])
            assert again == said


class _Odd(_Sim):
    @route("GET", "/{place}", query=("page", "per_page"))
    def things(self, call: Call) -> Reply:
        return Reply(json=[{"id": 1}, {"id": None}, {"id": {"a": 1}}] if call.query["page"] == "1" else [])


async def test_a_record_without_a_usable_key_says_what_was_expected() -> None:
    with _Odd() as sim:
        async with Bench() as bench:
            connector = bench.connector(_Vendor, {"url": sim.url}, {"type": "token", "token": "t" * 12})
            request = ReadRequest(Scope.FULL, rfc3339(START))
            pages = [page async for page in connector.read(connector.entities[0], request)]
    rejects = [(r.field, r.expected_type, r.received_type) for r in pages[0].rejects]
    assert rejects == [("id", "string or integer", "null"), ("id", "string or integer", "object")]
    assert pages[0].keys == ("1",)
