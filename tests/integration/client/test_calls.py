"""Both clients against our real server: answers in their shapes, pages, errors by kind, and one key that does one thing."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from reconciler.api.integrations import IntegrationDetail, IntegrationList
from reconciler.client import ConflictError, ForbiddenError, InvalidError, NotFoundError, UnauthorizedError
from reconciler.model.access import Permission
from reconciler.model.condition import Status
from reconciler.store import runs
from tests.integration.client.scripted import EITHER, Either
from tests.integration.serve.installation import Installation, Wish, connect, installed, want


@pytest.fixture
async def installation(tmp_path: Path) -> AsyncIterator[Installation]:
    async with installed(tmp_path) as found:
        yield found


@asynccontextmanager
async def client_of(either: Either, installation: Installation, token: str | None = None) -> AsyncIterator[Any]:
    server = installation.server()
    await server.start()
    try:
        async with either.client(f"http://{server.address}", installation.token if token is None else token) as client:
            yield client
    finally:
        await server.stop()


@EITHER
async def test_answers_have_their_shapes(either: Either, installation: Installation) -> None:
    ids = await installation.change(lambda tx: want(tx, Wish("sn"), Wish("chat", "slack")))
    await installation.change(lambda tx: connect(tx, ids["sn"]))
    async with client_of(either, installation) as client:
        found = await either.call(lambda: client.integrations.list(status=["connected"]))
        assert isinstance(found, IntegrationList)
        assert [(one.name, one.status) for one in found.data] == [("sn", Status.CONNECTED)]
        one = await either.call(lambda: client.integrations.get(found.data[0].id))
        assert isinstance(one, IntegrationDetail)
        assert str(one.etag).startswith('"')
        assert "etag" not in one.model_dump()


@EITHER
async def test_every_page_is_read(either: Either, installation: Installation) -> None:
    await installation.change(lambda tx: want(tx, *(Wish(f"n{i}") for i in range(7))))
    async with client_of(either, installation) as client:
        found = await either.every(lambda: client.integrations.all(limit=3))
        assert [one.name for one in found] == [f"n{i}" for i in range(7)]


@EITHER
async def test_errors_have_kinds(either: Either, installation: Installation) -> None:
    await installation.change(lambda tx: want(tx, Wish("a"), Wish("b"), Wish("a", workspace="other")))
    weak = await installation.issue("weak", "default", Permission.INTEGRATION_VIEW)
    async with client_of(either, installation) as client:
        with pytest.raises(NotFoundError) as missing:
            await either.call(lambda: client.integrations.get("nothing"))
        assert (missing.value.status, missing.value.code) == (404, "integration-not-found")
        assert missing.value.request_id
        with pytest.raises(ConflictError) as several:
            await either.call(lambda: client.integrations.get("a"))
        assert len(several.value.more["candidates"]) == 2
        with pytest.raises(InvalidError) as wrong:
            await either.call(lambda: client.integrations.list(limit=1000))
        assert wrong.value.status == 400
        with pytest.raises(InvalidError) as body:
            await either.call(lambda: client.integrations.sync("b", {"scope": "nonsense"}))
        assert body.value.errors[0].pointer == "/scope"
    async with client_of(either, installation, weak) as client:
        with pytest.raises(ForbiddenError):
            await either.call(lambda: client.integrations.sync("b"))
    async with client_of(either, installation, "rt_wrong") as client:
        with pytest.raises(UnauthorizedError) as unknown:
            await either.call(client.integrations.list)
        assert "rt_wrong" not in str(unknown.value)


@EITHER
async def test_one_key_does_one_thing(either: Either, installation: Installation) -> None:
    ids = await installation.change(lambda tx: want(tx, Wish("sn")))
    await installation.change(lambda tx: connect(tx, ids["sn"]))
    async with client_of(either, installation) as client:
        first = await either.call(lambda: client.integrations.sync("sn", idempotency_key="one"))
        again = await either.call(lambda: client.integrations.sync("sn", idempotency_key="one"))
        assert first == again
    history = await installation.database.read(lambda tx: runs.history(tx, ids["sn"], 10))
    assert [run.public_id for run in history] == [first.sync_job_id]


@EITHER
async def test_any_call(either: Either, installation: Installation) -> None:
    await installation.change(lambda tx: want(tx, Wish("sn"), Wish("chat")))
    async with client_of(either, installation) as client:
        reply = await either.call(lambda: client.request("GET", "/v1/integrations", query={"limit": 1}))
        assert IntegrationList.model_validate_json(reply.content).has_more
        reply = await either.call(lambda: client.request("GET", "/v1/integrations?q=ch", query={"limit": 1}))
        assert [one.name for one in IntegrationList.model_validate_json(reply.content).data] == ["chat"]
        with pytest.raises(ValueError, match="expected a path"):
            await either.call(lambda: client.request("GET", "https://elsewhere.example"))
        with pytest.raises(ValueError, match="cannot be part of an address"):
            await either.call(lambda: client.integrations.get(""))
