"""What pushing answers, judged by the description it was made after: statuses, headers and shapes of a daemon's answers."""

import gzip
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from reconciler.model.access import Permission
from reconciler.sdk.testing.openapi import Description
from tests.e2e.stage import Stage
from tests.e2e.test_ingest import Pusher, event, key_for, served, spec, token

pytestmark = pytest.mark.timeout(300)
BATCH = "/records/orders:batch"
KEYS = "/v1/integrations/erp/api-keys"


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    made = Stage(tmp_path)
    made.manifest("erp", **spec(schemas={"entities": {"orders": {"properties": {"total": {"type": "string"}}}}}))
    made.manifest("other", **spec())
    made.commit()
    return made


@pytest.fixture
def judge(shared: Path) -> Description:
    return Description.load(shared / "vendor" / "custom" / "openapi.json")


class Judged:
    """Calls whose requests are good where they are answered as good, and whose answers are as described."""

    def __init__(self, judge: Description) -> None:
        self.judge = judge
        self.seen = set[tuple[str, int]]()

    def look(self, answer: httpx.Response, path: str) -> None:
        asked, kind = answer.request, answer.headers.get("content-type", "")
        operation = self.judge.operation(asked.method, path)
        assert operation is not None, path
        assert str(answer.status_code) in operation.content["responses"], (operation.name, answer.status_code)
        # Of what is optional in the description, ours says null where there is none.
        said = {name: value for name, value in answer.json().items() if value is not None} if answer.content else None
        body = json.dumps(said).encode() if said is not None else b""
        assert self.judge.answer(asked.method, path, answer.status_code, kind, body)[1] == []
        if answer.is_success and asked.content and "content-encoding" not in asked.headers:
            assert self.judge.request(asked.method, path, [], dict(asked.headers), asked.content)[1] == []
        assert answer.headers["x-request-id"]
        self.seen.add((operation.name.partition("}")[2] or operation.name, answer.status_code))

    async def push(self, call: Callable[..., Awaitable[httpx.Response]], method: str, path: str, **more: Any) -> Any:
        answer = await call(method, path, **more)
        self.look(answer, f"/ingest/v1/erp{path.partition('?')[0]}")
        assert {"ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"} <= answer.headers.keys()
        if answer.status_code == 401:
            assert answer.headers["www-authenticate"] == 'Bearer realm="ingest"'
        return answer.json() if answer.content else None


@pytest.mark.asyncio
async def test_pushing_answers_as_described(stage: Stage, judge: Description) -> None:
    judged = Judged(judge)
    async with served(stage, "other") as erp:
        other = await erp.running.daemon.database.write(lambda tx: key_for(tx, "other"))
        guess = Pusher(erp.running, erp.client, "rck_AAAAAAAA_" + "A" * 43, "erp")
        wrong = Pusher(erp.running, erp.client, other, "erp")
        json_type, once = {"content-type": "application/json"}, {"idempotency-key": "k"}
        record = {"version": "2", "updated_at": "2026-11-20T12:00:00Z", "data": {"total": "1"}}
        for method, path in (
            ("GET", "/ping"),
            ("POST", "/events"),
            ("PUT", "/records/orders/1"),
            ("DELETE", "/records/orders/1"),
            ("POST", BATCH),
            ("GET", "/receipts/rcp_x"),
        ):
            await judged.push(guess.call, method, path)
            await judged.push(wrong.call, method, path)
        await judged.push(erp.call, "GET", "/ping")
        mixed = {"events": [event("e1", subject="order/1"), event("e1"), event("e2", occurred_at="soon")]}
        taken = await judged.push(erp.call, "POST", "/events", json=mixed)
        assert (taken["accepted"], taken["duplicates"], taken["rejected"][0]["index"]) == (1, 1, 2)
        assert set(await judged.push(erp.call, "GET", f"/receipts/{taken['receipt_id']}")) >= {"state", "applied"}
        await judged.push(erp.call, "GET", "/receipts/rcp_x")
        packed = {**json_type, "content-encoding": "gzip"}
        await judged.push(
            erp.call, "POST", "/events", content=gzip.compress(json.dumps(event("e3")).encode()), headers=packed
        )
        for _ in range(2):
            await judged.push(erp.call, "POST", "/events", json=mixed, headers=once)
        for body, headers in (
            (b'{"a":NaN}', json_type),
            (b"{}", json_type),
            (b"{}", once),
            (b"x" * 5_242_881, json_type),
        ):
            await judged.push(erp.call, "POST", "/events", content=body, headers={"content-type": "x/y", **headers})
        for version in ("2", "3", "1"):
            await judged.push(erp.call, "PUT", "/records/orders/1", json={**record, "version": version})
        await judged.push(erp.call, "PUT", "/records/orders/1", json={"data": {"total": 1}})
        for version in ("1", "4"):
            await judged.push(erp.call, "DELETE", f"/records/orders/1?version={version}")
        upserts = [{"id": str(n), **record} for n in range(4)] + [{"id": "5", "data": {"total": "x"}}]
        await judged.push(erp.call, "POST", BATCH, json={"upserts": upserts, "deletes": ["1"], "snapshot_id": None})
        page = {"full_snapshot": True, "snapshot_id": "s", "snapshot_complete": True}
        small = await judged.push(erp.call, "POST", BATCH, json={**page, "upserts": upserts[:1]})
        assert small["code"] == "snapshot-too-small"
        await judged.push(erp.call, "POST", BATCH, json={"upserts": [{"id": "1"}]})
    described = {(path, status) for path, status in judged.seen if status < 300}
    assert described == {
        ("/ping", 200), ("/events", 202), ("/receipts/{receipt_id}", 200), ("/records/{entity}:batch", 202),
        ("/records/{entity}/{record_id}", 200), ("/records/{entity}/{record_id}", 201), ("/records/{entity}/{record_id}", 204),
    }  # fmt: skip


@pytest.mark.asyncio
async def test_keys_are_answered_as_described(stage: Stage, judge: Description) -> None:
    """Where they are and how a list is wrapped is the management API's own."""
    judged = Judged(judge)
    async with served(stage) as erp:
        edits = await token(erp.running, Permission.INTEGRATION_EDIT, Permission.INTEGRATION_VIEW)
        place = "/api/v1/integrations/erp/api-keys"
        made = await erp.client.post(KEYS, headers=edits, json={"label": "shop"})
        third = await erp.client.post(KEYS, headers=edits, json={})
        for answer in (made, third):
            judged.look(answer, place)
        for status, wanted in ((200, made.json()["key_id"]), (412, "nobody00")):
            headers = {**edits, "if-match": f'"{wanted}"'}
            new = await erp.client.post(
                "/v1/integrations/erp/regenerate-key", headers=headers, json={"grace_seconds": 0}
            )
            judged.look(new, f"{place}/regenerate")
            assert new.status_code == status
        listed = (await erp.client.get(KEYS, headers=edits)).json()["data"]
        items = json.dumps({"items": listed}).encode()
        assert judge.answer("GET", place, 200, "application/json", items)[1] == []
        for status in (204, 404):
            gone = await erp.client.delete(f"{KEYS}/{listed[0]['key_id']}", headers=edits)
            judged.look(gone, f"{place}/x")
            assert gone.status_code == status
