"""Webhooks of remotes against a whole daemon: signed, taken once, read again at once; what is not signed learns nothing."""

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from reconciler.model.clock import SystemClock
from reconciler.model.ids import Ref
from reconciler.store import dataset, integrations, journal, runs
from reconciler.store import events as event_log
from reconciler.store.database import Tx
from tests.e2e.stage import ENV, HOOK_CANARY, PUBLIC_URL, Running, Stage

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(300)]
SIGNING = "canary-slack-signing-secret"
PLACE = "/v1/inbound/it-ops/gh"


def signed(body: bytes, secret: str = HOOK_CANARY) -> str:
    return "sha256=" + hmac.new(secret.encode(), body, "sha256").hexdigest()


def github(body: bytes, delivery: str = "d-1", event: str = "issues", **more: str) -> dict[str, str]:
    headers = {"x-github-event": event, "x-github-delivery": delivery, "content-type": "application/json"}
    return {**headers, "x-hub-signature-256": signed(body), **more}


def slack(body: bytes, at: datetime) -> dict[str, str]:
    stamp = str(int(at.timestamp()))
    mac = hmac.new(SIGNING.encode(), f"v0:{stamp}:".encode() + body, "sha256").hexdigest()
    return {
        "x-slack-request-timestamp": stamp, "x-slack-signature": f"v0={mac}", "content-type": "application/json",
    }  # fmt: skip


def issue(stage: Stage, number: int, action: str = "edited", **more: Any) -> bytes:
    repo = stage.github.repos["acme/app"]
    said = stage.github.put_issue(repo, number, SystemClock().now(), **more)
    return json.dumps({"action": action, "issue": said, "repository": {"full_name": "acme/app"}}).encode()


@asynccontextmanager
async def served(stage: Stage, *names: str, **more: Any) -> AsyncIterator[tuple[Running, httpx.AsyncClient]]:
    env = {**ENV, "ITOPS_SIGNING": SIGNING}
    async with stage.daemon(listen="127.0.0.1:0", public_url=PUBLIC_URL, env=env, **more) as running:
        await running.until_synced(*names)
        url = f"http://{running.daemon.window.address}"
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as client:
            yield running, client


@pytest.fixture
def stage(tmp_path: Path) -> Any:
    made = Stage(tmp_path)
    with made.github, made.slack:
        made.github.put_issue(made.github.repos["acme/app"], 7, SystemClock().now(), title="Old")
        made.manifest("gh", **made.github_spec())
        auth = {
            "type": "bot_token",
            "token": {"from_env": "ITOPS_SLACK"},
            "signing_secret": {"from_env": "ITOPS_SIGNING"},
        }
        made.manifest("chat", **made.slack_spec(auth=auth, synchronizations=[]))
        made.commit()
        yield made


async def row_id(running: Running, name: str = "gh") -> int:
    row = await running.read(lambda tx: integrations.find(tx, Ref("it-ops", name)))
    assert row is not None
    return row.id


def titles(tx: Tx, integration_id: int) -> dict[str, str]:
    """By key, what the newest version of each record says."""
    found = {}
    for version in dataset.log_after(tx, integration_id, 0, 1000):
        found[version.key] = json.loads(version.payload)["title"] if version.payload else ""
    return found


async def until_title(running: Running, title: str) -> None:
    i = await row_id(running)

    async def there() -> bool:
        return title in (await running.read(lambda tx: titles(tx, i))).values()

    await running.until(f"{title!r} is read", there)


async def test_a_change_is_read_again_at_once_and_once(stage: Stage) -> None:
    async with served(stage, "gh", "chat") as (running, client):
        i = await row_id(running)
        before = await running.read(lambda tx: runs.history(tx, i, 100))
        body = issue(stage, 7, title="New")
        answer = await client.post(PLACE, content=body, headers=github(body))
        assert (answer.status_code, answer.json()["status"]) == (202, "accepted")
        started = asyncio.get_running_loop().time()
        await until_title(running, "New")
        assert asyncio.get_running_loop().time() - started < 20
        again = await client.post(PLACE, content=body, headers=github(body))
        replayed = await client.post(PLACE, content=body, headers=github(body, "d-another-id"))
        assert [a.json()["status"] for a in (again, replayed)] == ["duplicate", "duplicate"]
        assert again.json()["receipt_id"] == answer.json()["receipt_id"]
        made = [r for r in await running.read(lambda tx: runs.history(tx, i, 100)) if r not in before]
        made = [r for r in made if r.cause == "inbound"]
        assert len(made) == 1
        view = await running.view("gh")
        assert (view.sync_status, view.row.last_sync_result) == ("healthy", "success")


async def test_it_reads_the_same_bytes_as_a_sync(stage: Stage) -> None:
    """Else each webhook would be a change, and the next sync another."""
    async with served(stage, "gh", "chat") as (running, client):
        i = await row_id(running)
        count = len(await running.read(lambda tx: dataset.log_after(tx, i, 0, 1000)))
        body = issue(stage, 7, title="New")
        await client.post(PLACE, content=body, headers=github(body))
        await until_title(running, "New")
        await running.order("sync", "gh", scope="full")

        async def is_synced() -> bool:
            done = await running.read(lambda tx: runs.history(tx, i, 1))
            return done[0].cause == "person" and done[0].state == "done"

        await running.until("a full sync", is_synced)
        assert len(await running.read(lambda tx: dataset.log_after(tx, i, 0, 1000))) == count + 1


async def test_what_is_deleted_there_is_deleted_here(stage: Stage) -> None:
    async with served(stage, "gh", "chat") as (running, client):
        i = await row_id(running)
        body = issue(stage, 7, "deleted")
        del stage.github.repos["acme/app"].issues[7]
        assert (await client.post(PLACE, content=body, headers=github(body))).status_code == 202

        async def gone() -> bool:
            return "" in (await running.read(lambda tx: titles(tx, i))).values()

        await running.until("issue 7 is deleted", gone)


async def test_a_ping_and_an_event_of_another_kind(stage: Stage) -> None:
    async with served(stage, "gh", "chat") as (running, client):
        ping = json.dumps({"zen": "Keep it logically awesome.", "hook_id": 1}).encode()
        assert (await client.post(PLACE, content=ping, headers=github(ping, "p", "ping"))).status_code == 202
        release = json.dumps({"action": "published", "repository": {"full_name": "acme/app"}}).encode()
        await client.post(PLACE, content=release, headers=github(release, "r", "release"))
        events = await running.read(lambda tx: event_log.to_route(tx, 0, 1000))
        (told,) = [e for e in events if e.type.startswith("github.")]
        assert (told.type, told.detail["subject"]) == ("github.release.published", "acme/app")


async def test_who_cannot_sign_learns_nothing(stage: Stage) -> None:
    stage.manifest("off", **stage.github_spec(enabled=False))
    stage.commit()
    async with served(stage, "gh", "chat") as (_, client):
        body = issue(stage, 7)
        good = github(body)
        other = hashlib.sha256(body).hexdigest()
        answers = [
            await client.post(PLACE, content=body + b" ", headers=good),
            await client.post(PLACE, content=body, headers={**good, "x-hub-signature-256": f"sha256={other}"}),
            await client.post(PLACE, content=body),
            await client.post("/v1/inbound/it-ops/off", content=body, headers=good),
            await client.post("/v1/inbound/it-ops/nobody", content=body, headers=good),
            await client.post("/v1/inbound/nowhere/gh", content=body, headers=good),
            await client.post("/v1/inbound/IT_OPS/GH", content=body, headers=good),
            await client.post("/v1/inbound/it-ops/chat", content=body, headers=good),
        ]
        said = [{k: v for k, v in a.json().items() if k != "request_id"} for a in answers]
        assert [a.status_code for a in answers] == [401] * len(answers)
        assert all(one == said[0] for one in said)
        assert len({frozenset(a.headers.keys()) for a in answers}) == 1


async def test_what_is_too_large_is_not_even_read(stage: Stage) -> None:
    async with served(stage, "gh", "chat") as (running, client):
        host, port = running.daemon.window.address.rsplit(":", 1)
        reader, writer = await asyncio.open_connection(host, int(port))
        head = f"POST {PLACE} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {26 * 1024 * 1024}\r\n\r\n"
        writer.write(head.encode())
        assert b" 413 " in await reader.readline()
        writer.close()
        large = json.dumps({"action": "x", "pad": "a" * 2_000_000, "repository": {"full_name": "acme/app"}}).encode()
        taken = await client.post(PLACE, content=large, headers=github(large))
        assert taken.status_code == 202  # signed, but no issue in it: kept as failed


async def test_a_poisoned_body_is_told_of_and_holds_up_nobody(stage: Stage) -> None:
    async with served(stage, "gh", "chat") as (running, client):
        for number, body in enumerate((b"{", b"[]", b'{"issue": {"number": "x", "id": 1, "updated_at": 3}}', b"\xff")):
            answer = await client.post(PLACE, content=body, headers=github(body, f"bad-{number}"))
            assert answer.status_code == 202
        body = issue(stage, 7, title="After")
        await client.post(PLACE, content=body, headers=github(body))
        await until_title(running, "After")
        await running.daemon.journal.flush()
        lines = await running.read(lambda tx: journal.logs(tx, 1, level="warn")) + await running.read(
            lambda tx: journal.logs(tx, 2, level="warn")
        )
        assert sum("not understood" in line.message for line in lines) >= 3


async def test_slack_gets_its_challenge_and_its_silence(stage: Stage) -> None:
    place, now = "/v1/inbound/it-ops/chat", SystemClock().now()
    async with served(stage, "gh", "chat") as (running, client):
        challenge = json.dumps({"type": "url_verification", "challenge": "abc123", "token": "t"}).encode()
        answer = await client.post(place, content=challenge, headers=slack(challenge, now))
        assert (answer.status_code, answer.text) == (200, "abc123")
        event = {"type": "app_mention", "user": "U1", "channel": "C1", "text": "hi", "response_url": "https://secret"}
        body = json.dumps(
            {
                "type": "event_callback",
                "event_id": "Ev1",
                "event_time": 1515449522,
                "token": "old-token",
                "event": event,
            }
        ).encode()
        for retry in range(3):
            more = {"x-slack-retry-num": str(retry)} if retry else {}
            answer = await client.post(place, content=body, headers={**slack(body, now), **more})
            assert (answer.status_code, answer.content) == (200, b"")
        events = await running.read(lambda tx: event_log.to_route(tx, 0, 1000))
        (told,) = [e for e in events if e.type == "slack.app_mention"]
        assert told.detail["data"]["text"] == "hi"
        assert "old-token" not in str(told)
        assert "response_url" not in str(told)
        old = await client.post(place, content=body, headers=slack(body, datetime.fromtimestamp(1e9, now.tzinfo)))
        assert old.status_code == 401


async def test_no_secret_comes_out(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    async with served(stage, "gh", "chat") as (running, client):
        body = issue(stage, 7)
        await client.post(PLACE, content=body, headers=github(body))
        await client.post(PLACE, content=body, headers=github(body, **{"x-hub-signature-256": signed(body, "wrong")}))
        metrics = (await client.get("/metrics")).text
        await running.daemon.journal.flush()
    kept = b"".join(stage.kept().values())
    out = capsys.readouterr()
    for secret in (HOOK_CANARY, SIGNING):
        assert secret.encode() not in kept
        assert secret not in metrics + out.out + out.err


def _same(answers: list[httpx.Response]) -> Mapping[str, int]:
    counted: dict[str, int] = {}
    for answer in answers:
        status = answer.json()["status"]
        counted[status] = counted.get(status, 0) + 1
    return counted


async def test_many_at_once_with_one_id_are_one(stage: Stage) -> None:
    async with served(stage, "gh", "chat") as (running, client):
        body = issue(stage, 7, title="Once")
        answers = await asyncio.gather(*(client.post(PLACE, content=body, headers=github(body)) for _ in range(20)))
        assert _same(list(answers)) == {"accepted": 1, "duplicate": 19}
        await until_title(running, "Once")
