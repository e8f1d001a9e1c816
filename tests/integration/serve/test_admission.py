"""Tokens over a real store with a real HTTP client: who gets in, and what they see."""

import httpx
import pytest

from reconciler.model.access import Permission
from reconciler.model.clock import rfc3339
from reconciler.store import tokens
from tests.integration.serve.installation import START, Installation, Wish, want

VIEW = Permission.INTEGRATION_VIEW


async def names(client: httpx.AsyncClient) -> list[str]:
    answer = await client.get("/v1/integrations")
    assert answer.status_code == httpx.codes.OK, answer.text
    return [f"{one['workspace']}/{one['name']}" for one in answer.json()["data"]]


async def refused(client: httpx.AsyncClient, path: str = "/v1/integrations") -> tuple[int, str]:
    answer = await client.get(path)
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["code"]


async def test_without_a_token_only_health_and_metrics(installation: Installation) -> None:
    async with installation.client(token="") as client:
        answer = await client.get("/v1/integrations")
        assert (answer.status_code, answer.json()["code"]) == (401, "token-missing")
        assert answer.headers["www-authenticate"] == 'Bearer realm="reconciler"'
        assert "reconciler token create" in answer.json()["detail"]
        for path in ("/", "/healthz", "/metrics"):
            assert (await client.get(path)).status_code == httpx.codes.OK


@pytest.mark.parametrize("header", ["Basic YWRhOmFkYQ==", "Bearer", "Bearer rct_nobody_knows", "rct_x_y"])
async def test_what_is_no_token(installation: Installation, header: str) -> None:
    async with installation.client(token="") as client:
        client.headers["authorization"] = header
        assert await refused(client) == (401, "invalid-token")


async def test_a_workspaces_token_sees_that_workspace_only(installation: Installation) -> None:
    await installation.change(lambda tx: want(tx, *(Wish("x", workspace=w) for w in ("it", "it-ops", "i"))))
    own = await installation.issue("own", "it", VIEW)
    async with installation.client() as everything, installation.client(token=own) as client:
        assert await names(everything) == ["i/x", "it/x", "it-ops/x"]
        assert await names(client) == ["it/x"]
        ids = {f"{e['workspace']}": e["id"] for e in (await everything.get("/v1/integrations")).json()["data"]}
        assert (await client.get("/v1/integrations/x")).json()["id"] == ids["it"]
        for ref in ("it-ops.x", "i.x", ids["it-ops"]):
            assert await refused(client, f"/v1/integrations/{ref}") == (404, "integration-not-found")
        hidden, nothing = [(await client.get(f"/v1/integrations/{ref}")).json() for ref in ("i.x", "i.y")]
        assert hidden["detail"].replace("i.x", "") == nothing["detail"].replace("i.y", "")


async def test_a_token_may_do_what_it_says(installation: Installation) -> None:
    poor = await installation.issue("poor", None, Permission.PLAN_VIEW)
    async with installation.client(token=poor) as client:
        assert await refused(client) == (403, "permission-missing")


async def test_new_ones_open_at_once_and_revoked_ones_close_within_a_second(installation: Installation) -> None:
    async with installation.client() as client:
        assert await names(client) == []
        installation.clock.add(0.1)
        fresh = await installation.issue("fresh", "it", VIEW)
        client.headers["authorization"] = f"bearer {fresh}"
        assert await names(client) == []
        public_id = fresh.rsplit("_", 1)[0][:16]
        await installation.database.write(lambda tx: tokens.revoke(tx, public_id, rfc3339(START)))
        installation.clock.add(1)
        assert await refused(client) == (401, "invalid-token")


async def test_a_token_expires(installation: Installation) -> None:
    installation.clock.add(0.5)
    brief = await installation.issue("brief", "it", VIEW, expires_at=rfc3339(installation.clock.now()))
    installation.clock.add(-0.1)
    async with installation.client(token=brief) as client:
        assert await names(client) == []
        installation.clock.add(0.1)
        assert await refused(client) == (401, "invalid-token")
