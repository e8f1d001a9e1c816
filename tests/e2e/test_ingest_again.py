"""Pushes that come again, that are refused beside others, or that cannot be taken for now: nothing is lost or undone by them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from reconciler.model.clock import SystemClock
from simulators.custom import signed
from tests.e2e.stage import ENV, Stage
from tests.e2e.test_ingest import SIGNING, Pusher, served, spec

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    made = Stage(tmp_path)
    made.manifest("erp", **spec(schemas={"entities": {"orders": {"properties": {"total": {"type": "string"}}}}}))
    made.commit()
    return made


@pytest.mark.asyncio
async def test_a_snapshot_deletes_none_that_it_names(stage: Stage) -> None:
    """Also a refused one, alone on its page or beside others. An end that is sent again ends nothing more."""
    async with served(stage) as erp:

        async def page(name: str, records: Mapping[str, Any], **more: Any) -> httpx.Response:
            upserts = [{"id": key, "data": {"total": total}} for key, total in records.items()]
            body = {"full_snapshot": True, "snapshot_id": name, "upserts": upserts, **more}
            return await erp.call("POST", "/records/orders:batch", json=body)

        last = {"snapshot_complete": True}
        assert (await page("s1", dict.fromkeys("abcdefgh", "1"), **last)).status_code == 202
        bad = await page("s2", {"a": 1})
        assert (bad.status_code, bad.json()["rejected"][0]["id"]) == (422, "a")
        mixed = await page("s2", {"b": 1, **dict.fromkeys("cdefg", "1")}, **last)
        assert (mixed.status_code, mixed.json()["rejected"][0]["id"]) == (202, "b")
        assert sorted(await erp.records()) == list("abcdefg")
        assert (await page("s2", {"b": 1, **dict.fromkeys("cdefg", "1")}, **last)).status_code == 202
        assert sorted(await erp.records()) == list("abcdefg")
        # The same name once more is another snapshot when pages come before its end, or when it is all on one page.
        await page("s2", dict.fromkeys("ab", "1"))
        await page("s2", dict.fromkeys("cdef", "1"), **last)
        await page("s2", dict.fromkeys("abcde", "1"), **last)
        assert sorted(await erp.records()) == list("abcde")


@pytest.mark.asyncio
async def test_a_record_that_has_to_be_signed(stage: Stage) -> None:
    """A message counts once, also one that changed nothing; a deletion is signed with no body."""
    required = spec()
    stage.manifest("erp", **{**required, "auth": {**required["auth"], "signature": "required"}})
    stage.commit()
    async with served(stage) as erp:

        async def send(method: str, key: str, message: str, body: bytes = b"") -> httpx.Response:
            headers = {"content-type": "application/json", **signed(SIGNING, message, SystemClock().now(), body)}
            return await erp.call(method, f"/records/orders/{key}", content=body, headers=headers)

        one, two = (json.dumps({"data": {"total": n}}).encode() for n in "12")
        assert [(await send("PUT", "1", "m1", one)).status_code for _ in range(2)] == [201, 200]
        elsewhere = await send("PUT", "2", "m1", one)
        assert (elsewhere.status_code, elsewhere.json()["code"]) == (409, "replayed")
        assert (await send("PUT", "1", "m2", one)).json()["changed"] is False
        assert (await send("PUT", "1", "m3", two)).json()["changed"] is True
        assert [(await send("PUT", "1", message, one)).status_code for message in ("m1", "m2")] == [409, 409]
        assert await erp.records() == {"1": {"total": "2"}}
        unsigned = await erp.call("DELETE", "/records/orders/1")
        assert (unsigned.status_code, unsigned.json()["code"]) == (401, "invalid-signature")
        assert await erp.records() == {"1": {"total": "2"}}
        assert [(await send("DELETE", "1", "m4")).status_code for _ in range(2)] == [204, 204]
        assert await erp.records() == {}


@pytest.mark.asyncio
async def test_what_cannot_be_used_for_now_is_asked_for_again(stage: Stage) -> None:
    """Its sender must not take it for disabled, and drop what it has."""
    async with served(stage) as erp:
        pass
    async with stage.daemon(listen="127.0.0.1:0", env=ENV) as running:  # the secret of its signatures is gone
        await running.until_view("erp", "unreadable", lambda v: v.status == "error")
        async with httpx.AsyncClient(base_url=f"http://{running.daemon.window.address}", trust_env=False) as client:
            answer = await Pusher(running, client, erp.key).call("GET", "/ping")
            assert (answer.status_code, answer.json()["code"]) == (503, "not-ready")
