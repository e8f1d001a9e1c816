"""Records and events that are pushed to a whole daemon with a generated key: what is taken, once, and never lost."""

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from reconciler.api.ingest import IngestKeys, NewIngestKey, Ping, PushReceipt, ReceiptState, RecordResult
from reconciler.control.push_keys import KeyWish, regenerate
from reconciler.model.access import Permission
from reconciler.model.clock import SystemClock
from reconciler.model.ids import Ref
from reconciler.store import events as event_log
from reconciler.store import integrations
from reconciler.store.database import Tx
from simulators.custom import signed
from tests.e2e.stage import ENV, Running, Stage
from tests.tokens import bearer, issue

pytestmark = pytest.mark.timeout(300)
SIGNING = "whsec_ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8="
FULL_ENV = {**ENV, "ITOPS_SIGNING": SIGNING}


def spec(**config: Any) -> dict[str, Any]:
    auth = {"type": "generated_api_key", "signature": "optional", "signing_secret": {"from_env": "ITOPS_SIGNING"}}
    return {"type": "custom", "auth": auth, "config": config}


class Pusher:
    """The other system, with its key."""

    def __init__(self, running: Running, client: httpx.AsyncClient, key: str, name: str = "it-ops.erp") -> None:
        self.running, self.client, self.key, self.name = running, client, key, name

    async def call(self, method: str, path: str, **more: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.key}", **more.pop("headers", {})}
        return await self.client.request(method, f"/ingest/v1/{self.name}{path}", headers=headers, **more)

    async def put(self, key: str, data: Mapping[str, Any], **more: Any) -> httpx.Response:
        return await self.call("PUT", f"/records/orders/{key}", json={"data": data, **more})

    async def until_done(self) -> None:
        """Everything that was pushed is in the dataset."""

        async def done() -> bool:
            return not await self.running.read(
                lambda tx: tx.value("SELECT count(*) FROM inbox_item WHERE state = 'queued'")
            )

        await self.running.until("the inbox is empty", done)

    async def records(self) -> dict[str, Any]:
        await self.until_done()
        return await self.running.read(records_of)


def records_of(tx: Tx) -> dict[str, Any]:
    rows = tx.all(
        "SELECT h.key, v.payload FROM head h JOIN version v ON v.number = h.version_id WHERE h.deleted = 0 ORDER BY h.key"
    )
    return {key: json.loads(bytes(payload)) for key, payload in rows}


async def token(running: Running, *may: Permission) -> dict[str, str]:
    return bearer(await issue(running.daemon.database, "ada", "it-ops", *may))


@asynccontextmanager
async def served(stage: Stage, *others: str, **more: Any) -> AsyncIterator[Pusher]:
    env = more.pop("env", FULL_ENV)
    async with stage.daemon(listen="127.0.0.1:0", env=env, **more) as running:
        for name in ("erp", *others):
            await running.until_view(name, "connected", lambda v: v.row.is_connected)
        url = f"http://{running.daemon.window.address}"
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as client:
            key = await running.daemon.database.write(lambda tx: key_for(tx, "erp"))
            await running.daemon.window.board.reload()
            yield Pusher(running, client, key)


def key_for(tx: Tx, name: str, workspace: str = "it-ops") -> str:
    row = integrations.find(tx, Ref(workspace, name))
    assert row is not None
    return regenerate(tx, row, KeyWish(by="ada"), SystemClock().now()).new.clear.reveal()


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    made = Stage(tmp_path)
    made.manifest("erp", **spec(schemas={"entities": {"orders": {"properties": {"total": {"type": "string"}}}}}))
    made.commit()
    return made


def event(name: str, **more: Any) -> dict[str, Any]:
    at = SystemClock().now().isoformat()
    return {"id": name, "type": "order.paid", "occurred_at": at, "data": {"total": "1"}, **more}


@pytest.mark.asyncio
async def test_records_become_versions_and_say_what_they_are(stage: Stage) -> None:
    async with served(stage) as erp:
        first = await erp.put("1001", {"total": "19.90"}, version="17")
        same = await erp.put("1001", {"total": "19.90"}, version="17")
        newer = await erp.put("1001", {"total": "20.00"}, version="18")
        older = await erp.put("1001", {"total": "1"}, version="9")
        assert [a.status_code for a in (first, same, newer, older)] == [201, 200, 200, 409]
        assert [RecordResult.model_validate(a.json()).changed for a in (first, same, newer)] == [True, False, True]
        assert (older.json()["code"], older.json()["current_version"]) == ("stale-version", "18")
        assert await erp.records() == {"1001": {"total": "20.00"}}
        assert (await erp.call("DELETE", "/records/orders/1001?version=17")).status_code == 409
        assert (await erp.call("DELETE", "/records/orders/1001?version=19")).status_code == 204
        assert (await erp.put("1001", {"total": "1"}, version="18")).status_code == 409
        assert await erp.records() == {}
        view = await erp.running.until_view("erp", "is at rest", lambda v: v.status == "connected")
        assert (view.sync_status, view.row.last_sync_result) == ("healthy", "success")


@pytest.mark.asyncio
async def test_a_pushed_record_is_an_event_for_others(stage: Stage) -> None:
    with stage.slack:
        told = {
            "name": "orders",
            "event_type": "order.created",
            "action": "post_message",
            "template": "{{ event.key }}",
        }
        paid = {
            "name": "paid",
            "event_type": "order.paid",
            "action": "post_message",
            "template": "{{ event.detail.id }}",
        }
        channel = {"map": {"channel": "C0000000OPS"}}
        stage.manifest("chat", **stage.slack_spec(synchronizations=[told | channel, paid | channel]))
        stage.commit()
        async with served(stage, "chat") as erp:
            await erp.put("1001", {"total": "1"})
            await erp.call("POST", "/events", json=event("evt_1"))
            await erp.running.until_delivered(2)
    assert {m["text"] for c in stage.slack.messages.values() for m in c.values()} == {"1001", "evt_1"}


@pytest.mark.asyncio
async def test_events_count_once_and_bad_ones_are_listed(stage: Stage) -> None:
    async with served(stage) as erp:
        bad = event("evt_3", occurred_at="soon")
        answer = await erp.call(
            "POST", "/events", json={"events": [event("evt_1"), event("evt_2"), bad, event("evt_1")]}
        )
        found = PushReceipt.model_validate(answer.json(), strict=False)
        assert (answer.status_code, found.accepted, found.duplicates) == (202, 2, 1)
        assert [(r.index, r.id) for r in found.rejected] == [(2, "evt_3")]
        again = (await erp.call("POST", "/events", json=event("evt_2"))).json()
        assert (again["accepted"], again["duplicates"]) == (0, 1)
        assert (await erp.call("POST", "/events", json=bad)).status_code == 422
        state = await erp.call("GET", f"/receipts/{found.receipt_id}")
        assert ReceiptState.model_validate(state.json(), strict=False).state == "processed"
        assert (await erp.call("GET", "/receipts/rcp_nobody")).status_code == 404
        kept = await erp.running.read(lambda tx: event_log.to_route(tx, 0, 1000))
        assert sorted(e.detail["id"] for e in kept if e.type == "order.paid") == ["evt_1", "evt_2"]


@pytest.mark.asyncio
async def test_the_same_request_with_one_key_is_done_once(stage: Stage) -> None:
    async with served(stage) as erp:
        once = {"headers": {"idempotency-key": "k-1"}}
        body = {"data": {"total": "1"}, "version": "1"}
        first = await erp.call("PUT", "/records/orders/1", json=body, **once)
        again = await erp.call("PUT", "/records/orders/1", json=body, **once)
        other = await erp.call("PUT", "/records/orders/1", json={**body, "version": "2"}, **once)
        assert (first.status_code, again.status_code, other.status_code) == (201, 201, 422)
        assert again.headers["idempotent-replayed"] == "true"
        assert again.json() == first.json()
        assert other.json()["code"] == "idempotency-mismatch"


@pytest.mark.asyncio
async def test_batches_and_snapshots(stage: Stage) -> None:
    async with served(stage) as erp:
        lines = "\n".join(json.dumps({"id": str(n), "data": {"n": n}}) for n in range(10))
        answer = await erp.call(
            "POST", "/records/orders:batch", content=lines, headers={"content-type": "application/x-ndjson"}
        )
        assert (answer.status_code, answer.json()["accepted"]) == (202, 10)
        assert len(await erp.records()) == 10
        state = (await erp.call("GET", f"/receipts/{answer.json()['receipt_id']}")).json()
        assert (state["state"], state["applied"]) == ("processed", 10)
        torn = '{"id": "0", "data": {"n": 0}}\n{"id": "1", "da\n{"id": "2", "data": 2}\n'
        answer = await erp.call(
            "POST", "/records/orders:batch", content=torn, headers={"content-type": "application/x-ndjson"}
        )
        told = [(one["index"], one.get("id"), one["code"]) for one in answer.json()["rejected"]]
        assert (answer.status_code, told) == (202, [(1, None, "invalid-json"), (2, "2", "schema")])
        mixed = {"upserts": [{"id": "0", "data": {"n": 100}}, {"id": "", "data": {}}], "deletes": ["9"]}
        assert (await erp.call("POST", "/records/orders:batch", json=mixed)).json()["rejected"][0]["index"] == 1
        assert len(await erp.records()) == 9
        page = {"full_snapshot": True, "snapshot_id": "s1"}
        some = [{"id": str(n), "data": {"n": n}} for n in range(4)]
        await erp.call("POST", "/records/orders:batch", json={**page, "upserts": some})
        small = await erp.call("POST", "/records/orders:batch", json={**page, "snapshot_complete": True})
        assert (small.status_code, small.json()["code"]) == (409, "snapshot-too-small")
        assert len(await erp.records()) == 9
        more = [{"id": str(n), "data": {"n": n}} for n in range(4, 8)]
        done = await erp.call(
            "POST", "/records/orders:batch", json={**page, "upserts": more, "snapshot_complete": True}
        )
        assert done.status_code == 202
        assert sorted(await erp.records()) == [str(n) for n in range(8)]
        again = await erp.call(
            "POST", "/records/orders:batch", json={**page, "upserts": more, "snapshot_complete": True}
        )
        assert (again.status_code, again.json()["duplicates"]) == (202, 4)
        assert sorted(await erp.records()) == [str(n) for n in range(8)]
        many = {"deletes": [str(n) for n in range(1001)]}
        assert (await erp.call("POST", "/records/orders:batch", json=many)).status_code == 422


@pytest.mark.asyncio
async def test_who_has_no_right_key(stage: Stage) -> None:
    stage.manifest("other", **spec())
    stage.commit()
    async with served(stage, "other") as erp:
        other = await erp.running.daemon.database.write(lambda tx: key_for(tx, "other"))
        wrong = erp.key[:-4] + ("AAAA" if not erp.key.endswith("AAAA") else "BBBB")
        unknown = "rck_AAAAAAAA_" + "A" * 43
        said = []
        for key in (wrong, unknown, "", "rck_x", "ü"):
            answer = await erp.client.get("/ingest/v1/erp/ping", headers=[(b"x-api-key", key.encode())])
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == 'Bearer realm="ingest"'
            assert answer.json()["title"] == "Invalid API key"
            said.append({k: v for k, v in answer.json().items() if k != "request_id"})
        assert all(one == said[0] for one in said)
        nobody = await Pusher(erp.running, erp.client, unknown, "nobody").call("GET", "/ping")
        assert nobody.status_code == 401
        for name in ("it-ops.erp", "erp", "nobody", "other-ws.other"):
            there = await Pusher(erp.running, erp.client, other, name).call("GET", "/ping")
            assert (there.status_code, there.json()["code"]) == (403, "wrong-integration")
        good = await Pusher(erp.running, erp.client, other, "other").call("GET", "/ping")
        assert Ping.model_validate(good.json(), strict=False).integration == "other"
        query = await erp.client.get(f"/ingest/v1/erp/ping?api_key={erp.key}")
        assert (query.status_code, query.json()["code"]) == (400, "key-in-query")
        assert erp.key not in query.text
        two = {"authorization": f"Bearer {erp.key}", "x-api-key": other}
        assert (await erp.client.get("/ingest/v1/erp/ping", headers=two)).status_code == 400
        for name, before in (("authorization", "Bearer "), ("x-api-key", "")):
            twice = [(name, before + key) for key in (erp.key, other)]
            assert (await erp.client.get("/ingest/v1/erp/ping", headers=twice)).json()["code"] == "two-keys"
        hidden = await erp.call("GET", "/ping?of=rck%5F" + erp.key[4:])
        assert (hidden.status_code, hidden.json()["code"]) == (400, "key-in-query")


@pytest.mark.asyncio
async def test_guessing_is_slowed_down_and_hurts_nobody_else(stage: Stage) -> None:
    async with served(stage) as erp:
        guess = Pusher(erp.running, erp.client, "rck_AAAAAAAA_" + "A" * 43)
        seen = [await guess.call("GET", "/ping") for _ in range(15)]
        assert [a.status_code for a in seen].count(429) >= 4
        assert int(seen[-1].headers["retry-after"]) >= 1
        assert (await erp.call("GET", "/ping")).status_code == 200


@pytest.mark.asyncio
async def test_a_sender_has_its_limit(stage: Stage) -> None:
    stage.manifest("erp", **spec(requests_per_minute=60, burst=3))
    stage.commit()
    async with served(stage) as erp:
        seen = [await erp.call("GET", "/ping") for _ in range(6)]
        assert {a.status_code for a in seen} == {200, 429}
        assert all(a.headers["ratelimit-limit"] == "3" for a in seen)
        assert seen[0].headers["ratelimit-remaining"] == "2"
        assert int(next(a for a in seen if a.status_code == 429).headers["retry-after"]) >= 1


@pytest.mark.asyncio
async def test_a_new_key_takes_the_place_of_the_old(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    async with served(stage) as erp:
        edits = await token(erp.running, Permission.INTEGRATION_EDIT, Permission.INTEGRATION_VIEW)
        place = "/v1/integrations/erp"
        old = erp.key
        answer = await erp.client.post(
            f"{place}/regenerate-key", headers=edits, json={"grace_seconds": 3600, "label": "x"}
        )
        made = NewIngestKey.model_validate(answer.json(), strict=False)
        assert made.key is not None
        assert made.previous is not None
        assert (answer.status_code, made.previous.state) == (200, "retiring")
        for key in (old, made.key):
            assert (await Pusher(erp.running, erp.client, key).call("GET", "/ping")).status_code == 200
        wrong = await erp.client.post(f"{place}/regenerate-key", headers=edits, json={"grace_seconds": True})
        assert wrong.status_code == 422
        whichever = await erp.client.post(f"{place}/regenerate-key", headers={**edits, "if-match": "*"})
        made = NewIngestKey.model_validate(whichever.json(), strict=False)
        assert made.key is not None
        assert whichever.status_code == 200
        guarded = {**edits, "if-match": f'"{made.key_id}"'}
        two = await asyncio.gather(*(erp.client.post(f"{place}/regenerate-key", headers=guarded) for _ in range(2)))
        assert sorted(a.status_code for a in two) == [200, 412]
        newest = next(a for a in two if a.status_code == 200).json()
        for key in (old, made.key):
            assert (await Pusher(erp.running, erp.client, key).call("GET", "/ping")).status_code == 401
        assert (await Pusher(erp.running, erp.client, newest["key"]).call("GET", "/ping")).status_code == 200
        once = {**edits, "idempotency-key": "r-1"}
        shown = await erp.client.post(f"{place}/regenerate-key", headers=once)
        again = await erp.client.post(f"{place}/regenerate-key", headers=once)
        assert shown.json()["key"].startswith("rck_")
        assert again.json()["key"] is None
        assert again.json()["key_id"] == shown.json()["key_id"]
        listed = await erp.client.get(f"{place}/api-keys", headers=edits)
        keys = IngestKeys.model_validate(listed.json(), strict=False).data
        assert keys[0].state == "active"
        assert keys[0].hint.endswith(shown.json()["key"][-3:])
        gone = await erp.client.delete(f"{place}/api-keys/{keys[0].key_id}", headers=edits)
        assert gone.status_code == 204
        last = Pusher(erp.running, erp.client, shown.json()["key"])
        assert (await last.call("GET", "/ping")).status_code == 401
        assert (await erp.client.delete(f"{place}/api-keys/{keys[0].key_id}", headers=edits)).status_code == 404
        none = await erp.client.post(f"{place}/regenerate-key", headers={**edits, "if-match": "*"})
        assert none.status_code == 412
        metrics = (await erp.client.get("/metrics")).text
        every = [old, made.key, newest["key"], shown.json()["key"]]
        assert not [key for key in every if key in listed.text + metrics]
    kept = b"".join(stage.kept().values())
    out = capsys.readouterr()
    assert not [key for key in every if key.encode() in kept or key in out.out + out.err]
    assert SIGNING.encode() not in kept


@pytest.mark.asyncio
async def test_two_senders_have_a_key_each(stage: Stage) -> None:
    async with served(stage) as erp:
        edits = await token(erp.running, Permission.INTEGRATION_EDIT, Permission.INTEGRATION_VIEW)
        admin, keys = await token(erp.running, Permission.ADMIN), "/v1/integrations/erp/api-keys"
        until = (SystemClock().now() + timedelta(days=1)).isoformat()
        wanted = {**edits, "idempotency-key": "shop"}
        made = await erp.client.post(keys, headers=wanted, json={"label": "shop", "expires_at": until})
        shop = NewIngestKey.model_validate(made.json(), strict=False)
        assert (made.status_code, shop.label, shop.state, shop.previous) == (201, "shop", "active", None)
        assert shop.key is not None
        again = await erp.client.post(keys, headers=wanted, json={"label": "shop", "expires_at": until})
        assert (again.status_code, again.json()["key"], again.json()["key_id"]) == (201, None, shop.key_id)
        for key in (erp.key, shop.key):
            assert (await Pusher(erp.running, erp.client, key).call("GET", "/ping")).status_code == 200
        third = await erp.client.post(keys, headers=edits)
        assert (third.status_code, third.json()["code"]) == (409, "key-limit")
        over = await erp.client.post(keys, headers=edits, json={"expires_at": "2020-01-01T00:00:00Z"})
        assert over.status_code == 409
        first = (await erp.client.get(f"{keys}?limit=1", headers=edits)).json()
        rest = (await erp.client.get(f"{keys}?cursor={first['next_cursor']}", headers=edits)).json()
        assert [key["label"] for key in first["data"] + rest["data"]] == ["shop", ""]
        assert (first["has_more"], rest["has_more"], rest["next_cursor"]) == (True, False, None)
        regenerate = "/v1/integrations/erp/regenerate-key"
        unnamed = await erp.client.post(regenerate, headers=edits)
        assert (unnamed.status_code, shop.key_id in unnamed.json()["detail"]) == (409, True)
        named = await erp.client.post(regenerate, headers={**edits, "if-match": f'"{shop.key_id}"'})
        assert (named.status_code, named.json()["previous"]["key_id"], named.json()["label"]) == (
            200,
            shop.key_id,
            "shop",
        )
        assert (await erp.call("GET", "/ping")).status_code == 200
        assert (await erp.client.delete(f"{keys}/{named.json()['key_id']}", headers=edits)).status_code == 204
        await erp.running.daemon.window.board.reload()
        metrics = (await erp.client.get("/metrics")).text
        operations = "reconciler_api_key_operations_total"
        for op, count in (("create", 1), ("regenerate", 2), ("revoke", 1)):
            assert f'{operations}{{workspace="it-ops",integration="erp",op="{op}"}} {count}\n' in metrics
        audit = (await erp.client.get("/v1/audit", headers=admin)).json()["data"]
        told = [line["detail"]["key_id"] for line in audit if "key_id" in line["detail"] and line["outcome"] == "done"]
        assert told == [named.json()["key_id"], named.json()["key_id"], shop.key_id]


@pytest.mark.asyncio
async def test_a_viewer_makes_no_keys_and_others_have_none(stage: Stage) -> None:
    with stage.slack:
        stage.manifest("chat", **stage.slack_spec(synchronizations=[]))
        stage.commit()
        async with served(stage, "chat") as erp:
            views, admin = (
                await token(erp.running, Permission.INTEGRATION_VIEW),
                await token(erp.running, Permission.ADMIN),
            )
            assert (await erp.client.post("/v1/integrations/erp/regenerate-key", headers=views)).status_code == 403
            assert (await erp.client.post("/v1/integrations/chat/regenerate-key", headers=admin)).status_code == 409
            assert (await erp.client.post("/v1/integrations/nobody/regenerate-key", headers=admin)).status_code == 404


@pytest.mark.asyncio
async def test_bodies_that_are_not_taken(stage: Stage) -> None:
    async with served(stage) as erp:
        json_type = {"content-type": "application/json"}
        packed = {**json_type, "content-encoding": "gzip"}
        body = json.dumps(event("evt_z")).encode()
        assert (await erp.call("POST", "/events", content=gzip.compress(body), headers=packed)).status_code == 202
        bomb = gzip.compress(b" " * (30 * 1024 * 1024))
        assert len(bomb) < 100_000
        answers = {
            "bomb": await erp.call("POST", "/events", content=bomb, headers=packed),
            "no gzip": await erp.call("POST", "/events", content=zlib.compress(body), headers=packed),
            "cut": await erp.call("POST", "/events", content=gzip.compress(body)[:-6], headers=packed),
            "NaN": await erp.call("POST", "/events", content=b'{"id":NaN}', headers=json_type),
            "twice": await erp.call("POST", "/events", content=b'{"id":"a","id":"b"}', headers=json_type),
            "form": await erp.call("POST", "/events", data={"a": "b"}),
            "large": await erp.call("POST", "/events", content=b"x" * (5 * 1024 * 1024 + 1), headers=json_type),
            "entity": await erp.call("PUT", "/records/Orders/1", json={"data": {}}),
            "shape": await erp.call("PUT", "/records/orders/1", json={"data": {"total": 471147114711}}),
            "method": await erp.call("PATCH", "/records/orders/1", json={}),
        }
        assert {name: a.status_code for name, a in answers.items()} == {
            "bomb": 413, "no gzip": 400, "cut": 400, "NaN": 400, "twice": 400, "form": 415, "large": 413, "entity": 404,
            "shape": 422, "method": 405,
        }  # fmt: skip
        assert "471147114711" not in answers["shape"].text
        for a in (*answers.values(), await erp.call("GET", "/nothing")):
            assert a.headers["content-type"] == "application/problem+json"
            assert a.json()["type"] == f"https://reconciler.invalid/problems/{a.json()['code']}"
            assert {"ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"} <= a.headers.keys()
        codes = {name: answers[name].json()["code"] for name in ("bomb", "large", "method", "form", "shape")}
        assert codes == {
            "bomb": "too-large", "large": "too-large", "method": "method", "form": "unsupported-media-type", "shape": "schema",
        }  # fmt: skip
        for no_text in ("%FF", "%ED%A0%80"):
            answer = await erp.put(no_text, {"total": "1"})
            assert (answer.status_code, answer.json()["code"]) == (400, "invalid-parameter")
        assert (await erp.put("a/b c ü", {"total": "1"})).status_code == 201
        assert list(await erp.records()) == ["a/b c ü"]


@pytest.mark.asyncio
async def test_signed_bodies(stage: Stage) -> None:
    now = SystemClock().now()
    async with served(stage) as erp:
        body = json.dumps(event("evt_s")).encode()
        kind = {"content-type": "application/json"}
        good = {**kind, **signed(SIGNING, "msg_1", now, body)}
        first = await erp.call("POST", "/events", content=body, headers=good)
        replay = await erp.call("POST", "/events", content=body, headers=good)
        assert (first.status_code, replay.status_code) == (202, 202)
        assert (first.json()["accepted"], replay.json()["accepted"]) == (1, 0)
        assert replay.json()["receipt_id"] == first.json()["receipt_id"]
        bad = await erp.call("POST", "/events", content=body + b" ", headers=good)
        old = {**kind, **signed(SIGNING, "msg_2", now - timedelta(seconds=400), body)}
        late = await erp.call("POST", "/events", content=body, headers=old)
        assert [(a.status_code, a.json()["code"]) for a in (bad, late)] == [(401, "invalid-signature")] * 2
        hook = json.dumps(event("evt_hook")).encode()
        headers = {**kind, **signed(SIGNING, "msg_3", now, hook)}
        told = await erp.client.post("/v1/inbound/it-ops/erp", content=hook, headers=headers)
        assert told.status_code == 202
        kept = await erp.running.read(lambda tx: event_log.to_route(tx, 0, 1000))
        assert [e.detail["id"] for e in kept if e.type == "order.paid"] == ["evt_s", "evt_hook"]


@pytest.mark.asyncio
async def test_disabled_takes_nothing_and_removed_forgets_its_keys(stage: Stage) -> None:
    async with served(stage) as erp:
        stage.manifest("erp", **spec(), enabled=False)
        stage.commit()
        await erp.running.order("reconcile")
        await erp.running.until_view("erp", "disabled", lambda v: not v.row.is_connected)
        answer = await erp.call("GET", "/ping")
        assert (answer.status_code, answer.json()["code"]) == (403, "integration-disabled")


@pytest.mark.asyncio
async def test_a_suspended_integration_is_done_when_it_goes_on(stage: Stage) -> None:
    async with served(stage) as erp:
        await erp.running.order("suspend", "erp", reason="audit")
        await erp.running.until_view("erp", "suspended", lambda v: v.row.is_suspended)
        assert (await erp.put("1", {"total": "1"})).status_code == 201
        assert await erp.running.read(records_of) == {}
        await erp.running.order("resume", "erp")
        assert await erp.records() == {"1": {"total": "1"}}


@pytest.mark.asyncio
async def test_erased_is_erased_and_may_come_again(stage: Stage) -> None:
    async with served(stage) as erp:
        await erp.put("canary-person-1", {"name": "canary-content"}, version="5")
        await erp.records()
        await erp.running.order("erase", "erp", keys=["canary-person-1"])

        async def gone() -> bool:
            return not await erp.running.read(lambda tx: tx.value("SELECT count(*) FROM pushed"))

        await erp.running.until("erased", gone)
        assert await erp.records() == {}
        assert (await erp.put("canary-person-1", {"name": "x"}, version="1")).status_code == 201
        assert await erp.records() == {"canary-person-1": {"name": "x"}}
