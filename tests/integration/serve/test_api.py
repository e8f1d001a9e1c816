"""The API over a real store with a real HTTP client: lists, details, errors, health."""

import asyncio
from typing import Any

import httpx
import pytest

from reconciler.api.integrations import IntegrationDetail
from reconciler.model.clock import rfc3339
from reconciler.model.record import RunResult
from reconciler.serve.problem import MAX_BODY
from reconciler.store import integrations
from reconciler.store.database import Tx
from reconciler.store.errors import StoreFullError
from tests.integration.serve.installation import (
    CLEAR_SECRET,
    START,
    Installation,
    Wish,
    break_,
    connect,
    let_go,
    synced,
    want,
)


def fill(tx: Tx) -> dict[str, int]:
    ids = want(
        tx,
        Wish(
            "jira-eng", labels={"team": "desk"}, spec={"objectives": {"freshness": "30m"}, "sync_direction": "inbound"}
        ),
        Wish("slack-ops", "slack"),
        Wish("slack-ops", "slack", "it"),
        Wish("sn", "servicenow", "it"),
    )
    connect(tx, ids["jira-eng"])
    synced(tx, ids["jira-eng"], RunResult.SUCCESS, START)
    synced(tx, ids["jira-eng"], RunResult.FAILED, START, "boom")
    break_(tx, ids["sn"])
    return ids


def problem(answer: httpx.Response) -> dict[str, Any]:
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["status"] == answer.status_code
    assert body["request_id"] == answer.headers["x-request-id"]
    return body


async def test_the_list(installation: Installation) -> None:
    await installation.change(fill)
    async with installation.client() as client:
        answer = await client.get("/v1/integrations", params={"status": "connected"})
    body = answer.json()
    assert (body["has_more"], body["next_cursor"]) == (False, None)
    (jira,) = body["data"]
    assert jira.pop("id").startswith("int_")
    assert jira == {
        "type": "jira",
        "name": "jira-eng",
        "workspace": "default",
        "status": "connected",
        "auth_type": "oauth2",
        "sync_direction": "inbound",
        "last_sync_at": rfc3339(START),
        "health": {"status": "healthy", "latency_ms": 120.5, "error_count": 0},
        "sync_status": "failed",
        "created_at": rfc3339(START),
    }


async def test_pages_follow_each_other_while_rows_come_and_go(installation: Installation) -> None:
    await installation.change(lambda tx: want(tx, *(Wish(f"n{i:02}") for i in range(0, 40, 2))))
    seen: list[str] = []
    cursor = ""
    async with installation.client() as client:
        for turn in range(10):
            found = (await client.get("/v1/integrations", params={"limit": 5, "cursor": cursor})).json()
            seen += [row["name"] for row in found["data"]]
            cursor = found["next_cursor"]
            if not found["has_more"]:
                break

            def change(tx: Tx, turn: int = turn, last: str = seen[-1]) -> None:
                want(tx, Wish(f"n{turn:02}a"), Wish(f"n{39 - turn:02}"))
                gone = next(row for row in integrations.every(tx) if row.name == last)
                let_go(tx, gone.id)

            await installation.change(change)
    assert len(seen) == len(set(seen))
    assert seen == sorted(seen)
    assert {f"n{i:02}" for i in range(0, 40, 2)} <= set(seen)


async def test_the_detail_shows_everything_but_secrets(installation: Installation) -> None:
    await installation.change(fill)
    async with installation.client() as client:
        answer = await client.get("/v1/integrations/jira-eng")
    body = answer.json()
    assert CLEAR_SECRET not in answer.text
    assert "d" * 64 not in answer.text
    assert body["spec"]["auth"] == {"type": "oauth2", "client_id": "abc", "client_secret": "********"}
    assert body["spec"]["config"] == {
        "url": "https://user:********@jira.example",
        "nested": [{"token": "********"}],
        "project": "OPS",
    }
    assert body["source"] == {"file": "jira-eng.yaml", "line": 3}
    assert body["revision"] == "main@sha1:" + "a" * 40
    assert body["created_by"] == "A. Author <author@example.org>"
    assert (body["total_syncs"], body["failed_syncs"], body["last_sync_status"]) == (2, 1, "failed")
    assert body["last_sync_error"] == "boom"
    assert body["uptime_percent"] == 100.0
    assert body["freshness"] == {"objective_seconds": 1800.0, "age_seconds": 0.0, "is_met": True}
    assert [run["result"] for run in body["recent_syncs"]] == ["failed", "success"]
    assert {c["type"]: (c["status"], c["reason"]) for c in body["conditions"]} == {
        "Ready": ("True", "Succeeded"),
        "Connected": ("True", "Succeeded"),
    }
    assert body["metadata"] == {"name": "jira-eng", "workspace": "default", "labels": {"team": "desk"}}
    IntegrationDetail.model_validate(body, strict=False)


async def test_references(installation: Installation) -> None:
    await installation.change(fill)
    async with installation.client() as client:
        by_name = await client.get("/v1/integrations/sn")
        by_id = await client.get(f"/v1/integrations/{by_name.json()['id']}")
        qualified = await client.get("/v1/integrations/it.slack-ops")
        elsewhere = await client.get("/v1/integrations/nowhere.sn")
        by_type = await client.get("/v1/integrations/servicenow")
        ambiguous = await client.get("/v1/integrations/slack-ops")
        missing = await client.get("/v1/integrations/nothing%0a%22")
    assert by_id.json() == by_name.json() == by_type.json()
    assert qualified.json()["workspace"] == "it"
    assert elsewhere.status_code == 404
    assert ambiguous.status_code == 409
    found = problem(ambiguous)
    assert found["code"] == "ambiguous-reference"
    assert [c["ref"] for c in found["candidates"]] == ["default.slack-ops", "it.slack-ops"]
    assert missing.status_code == 404
    assert problem(missing)["code"] == "integration-not-found"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/integrations?stauts=error", 400, "unknown-parameter"),
        ("GET", "/v1/integrations?cursor=rubbish", 400, "invalid-cursor"),
        ("GET", "/v1/nothing", 404, "not-found"),
        ("GET", "/v1/integrations/", 404, "not-found"),
        ("PATCH", "/v1/integrations", 405, "method"),
        ("POST", "/v1/integrations/sn", 405, "method"),
        ("OPTIONS", "/metrics", 405, "method"),
    ],
)
async def test_refusals(installation: Installation, method: str, path: str, status: int, code: str) -> None:
    async with installation.client() as client:
        answer = await client.request(method, path, headers={"origin": "https://evil.example"})
    assert (answer.status_code, problem(answer)["code"]) == (status, code)
    assert not any(name.startswith("access-control") for name in answer.headers)
    if status == 405:
        allowed = answer.headers["allow"].split(", ")
        assert {"GET", "HEAD"} <= set(allowed)
        assert method not in allowed


async def test_pages_of_named_origins_may_call_and_no_others(installation: Installation) -> None:
    server = installation.server(origins=("https://portal.example.org",))
    await server.start()
    try:
        bearer = {"authorization": f"Bearer {installation.token}"}
        async with httpx.AsyncClient(base_url=f"http://{server.address}", trust_env=False) as client:
            asked = {
                "access-control-request-method": "PATCH",
                "access-control-request-headers": "authorization,if-match",
            }
            portal, evil = {"origin": "https://portal.example.org"}, {"origin": "https://evil.example"}
            before = await client.options("/v1/integrations/sn", headers={**portal, **asked})
            refused = await client.options("/v1/integrations/sn", headers={**evil, **asked})
            answer = await client.get("/v1/integrations", headers={**portal, **bearer})
            wrong = await client.get("/v1/integrations", headers=portal)
            other = await client.get("/v1/integrations", headers={**evil, **bearer})
            large = await client.post("/v1/integrations/sn/sync", content=b"x" * (MAX_BODY + 1), headers=portal)
    finally:
        await server.stop()
    allowed = "access-control-allow-origin"
    assert (before.status_code, before.headers[allowed]) == (200, "https://portal.example.org")
    assert "PATCH" in before.headers["access-control-allow-methods"]
    assert (answer.status_code, answer.headers[allowed], answer.headers["vary"]) == (200, portal["origin"], "Origin")
    assert "etag" in answer.headers["access-control-expose-headers"].lower()
    assert (wrong.status_code, wrong.headers[allowed]) == (401, portal["origin"])
    assert (large.status_code, large.headers[allowed]) == (413, portal["origin"])
    assert refused.status_code == 400
    assert not any(allowed in one.headers for one in (refused, other))
    for one in (before, refused, answer, wrong, other, large):
        assert one.headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-credentials" not in one.headers


async def test_a_body_that_is_no_json_says_where(installation: Installation) -> None:
    async with installation.client() as client:
        kind = {"content-type": "application/json"}
        answer = await client.post("/v1/events/filter", content=b'{"limit": 1, "types": ["a.b"}', headers=kind)
    (fault,) = problem(answer)["errors"]
    assert (answer.status_code, fault["pointer"], fault["code"]) == (422, "", "json_invalid")
    assert fault["detail"].startswith("not JSON at character 28: ")


async def test_headers_request_ids_and_head(installation: Installation) -> None:
    async with installation.client() as client:
        answer = await client.head("/v1/integrations", headers={"x-request-id": "trace-1"})
        odd = await client.get("/", headers={"x-request-id": "a b{}"})
    assert answer.status_code == 200
    assert answer.content == b""
    assert int(answer.headers["content-length"]) > 0
    assert answer.headers["x-request-id"] == "trace-1"
    assert odd.headers["x-request-id"].startswith("req-")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    assert "server" not in answer.headers
    assert "/v1/integrations" in odd.text


async def test_a_rebound_host_name_is_refused(installation: Installation) -> None:
    async with installation.client() as client:
        rebound = await client.get("/v1/integrations", headers={"host": "evil.example:8750"})
        local = [await client.get("/", headers={"host": host}) for host in ("localhost:1", "LocalHost", "[::1]:8750")]
    assert rebound.status_code == 421
    assert problem(rebound)["code"] == "host-not-served"
    assert [answer.status_code for answer in local] == [200, 200, 200]


async def test_requests_with_a_body_are_bounded(installation: Installation) -> None:
    async def endless() -> Any:
        while True:
            yield b"x" * 100_000
            await asyncio.sleep(0)

    async def status(client: httpx.AsyncClient, content: Any) -> int:
        """A connection that is closed while the client still sends is a refusal, too."""
        try:
            return (await client.request("GET", "/", content=content)).status_code
        except httpx.TransportError:
            return 413

    async with installation.client() as client:
        assert await status(client, b"x" * (MAX_BODY + 1)) == 413
        assert await status(client, b"x" * 10) == 200
        assert await status(client, endless()) == 413


async def test_what_nobody_foresaw_tells_nothing(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def broken() -> None:
        raise ZeroDivisionError("the inner workings")

    monkeypatch.setattr(installation.board, "current", broken)
    async with installation.client() as client:
        answer = await client.get("/v1/integrations")
    assert answer.status_code == 500
    assert problem(answer)["code"] == "internal"
    assert "inner workings" not in answer.text
    assert answer.headers["x-request-id"] in capsys.readouterr().out


async def test_a_store_out_of_order_is_503(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(_: object) -> None:
        raise StoreFullError("no room left")

    monkeypatch.setattr(installation.database, "read", full)
    async with installation.client() as client:
        answer = await client.get("/v1/integrations")
    assert answer.status_code == 503
    assert problem(answer)["code"] == "store-unavailable"
    assert answer.headers["retry-after"] == "5"


async def test_health_and_readiness(installation: Installation) -> None:
    async with installation.client() as client:
        assert (await client.get("/healthz")).json() == {"status": "ok", "checks": {"writer": "ok"}}
        assert (await client.get("/readyz")).json() == {"status": "ok", "checks": {"store": "ok"}}
        reasons: list[str | None] = ["no revision was read yet", None]
        installation.checks["desired_state"] = lambda: reasons[0]
        waiting = await client.get("/readyz")
        reasons.pop(0)
        ready = await client.get("/readyz")
    assert waiting.status_code == 503
    assert waiting.json() == {
        "status": "unavailable",
        "checks": {"store": "ok", "desired_state": "no revision was read yet"},
    }
    assert ready.status_code == 200


async def test_a_store_that_takes_no_write_is_not_ready_but_alive(installation: Installation) -> None:
    refusing = "CREATE TRIGGER refuse BEFORE INSERT ON meta BEGIN SELECT RAISE(ABORT, 'no room left'); END"
    await installation.database.write(lambda tx: tx.execute(refusing))
    async with installation.client() as client:
        ready, live = await client.get("/readyz"), await client.get("/healthz")
    assert live.status_code == 200
    assert ready.status_code == 503
    assert "no room left" in ready.json()["checks"]["store"]


async def test_a_long_transaction_is_no_death_until_it_never_ends(installation: Installation) -> None:
    gate = asyncio.Event()
    loop = asyncio.get_running_loop()
    writing = asyncio.create_task(
        installation.database.write(lambda _: asyncio.run_coroutine_threadsafe(gate.wait(), loop).result(120))
    )
    try:
        async with installation.client() as client:
            assert (await client.get("/healthz")).status_code == 200
            installation.clock.add(31)
            stuck = await client.get("/healthz")
            assert stuck.status_code == 503
            assert "no write has been possible for 31 s" in stuck.text
            gate.set()
            await writing
            await client.get("/healthz")
            assert (await client.get("/healthz")).status_code == 200
    finally:
        gate.set()
        await writing
