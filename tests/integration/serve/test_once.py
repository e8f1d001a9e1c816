"""Mutations: once for one key, also after a crash, and all of them audited."""

import asyncio
from collections.abc import Sequence

import httpx

from reconciler.model.access import Permission
from reconciler.model.clock import from_rfc3339, rfc3339
from reconciler.serve.once import LEASE
from reconciler.store import requests, runs
from reconciler.store.database import Tx
from reconciler.store.requests import AuditLine
from tests.integration.serve.installation import Installation, Wish, connect, want

SYNC = "/v1/integrations/sn/sync"


async def filled(installation: Installation) -> int:
    ids = await installation.change(lambda tx: want(tx, Wish("sn", "servicenow")))
    await installation.change(lambda tx: connect(tx, ids["sn"]))
    return int(ids["sn"])


async def audited(installation: Installation) -> Sequence[AuditLine]:
    return await installation.database.read(lambda tx: requests.audit(tx, None))


async def run_count(installation: Installation, integration_id: int) -> int:
    return len(await installation.database.read(lambda tx: runs.history(tx, integration_id)))


async def test_a_sync_is_queued(installation: Installation) -> None:
    await filled(installation)
    async with installation.client() as client:
        answer = await client.post(SYNC, json={"scope": "full", "entities": ["incidents"]})
    body = answer.json()
    assert (answer.status_code, body["status"]) == (202, "queued")
    run = await installation.database.read(lambda tx: runs.find(tx, body["sync_job_id"]))
    assert run is not None
    assert (run.scope, run.entities, run.cause) == ("full", ("incidents",), "person")
    (line,) = await audited(installation)
    assert (line.caller, line.action, line.outcome, line.status) == (
        "everything",
        "POST /v1/integrations/{ref}/sync",
        "done",
        202,
    )
    assert line.detail["sync_job_id"] == body["sync_job_id"]


async def test_the_same_key_does_it_once(installation: Installation) -> None:
    integration_id, key = await filled(installation), {"idempotency-key": "k-1"}
    other = await installation.issue("other", None, Permission.ADMIN)
    async with installation.client() as client, installation.client(token=other) as stranger:
        answers = await asyncio.gather(*(client.post(SYNC, headers=key) for _ in range(10)))
        assert {answer.status_code for answer in answers} == {202}
        assert len({answer.content for answer in answers}) == 1
        assert sum("idempotent-replayed" in answer.headers for answer in answers) == 9
        assert await run_count(installation, integration_id) == 1
        changed = await client.post(SYNC, headers=key, json={"scope": "full"})
        assert (changed.status_code, changed.json()["code"]) == (422, "idempotency-mismatch")
        assert (await stranger.post(SYNC, headers=key)).json() != answers[0].json()
        installation.clock.add(24 * 3600 + 1)
        assert "idempotent-replayed" not in (await client.post(SYNC, headers=key)).headers


async def test_what_was_refused_may_be_tried_again_with_the_same_key(installation: Installation) -> None:
    integration_id, key = await filled(installation), {"idempotency-key": "k-2"}
    async with installation.client() as client:
        refused = await client.post("/v1/integrations/nothing/sync", headers=key)
        assert refused.status_code == 404
        held = await client.post(SYNC, headers=key, json={"since": "2026-01-01T00:00:00Z", "scope": "full"})
        assert held.status_code == 422
        assert (await client.post(SYNC, headers=key)).status_code == 202
    assert await run_count(installation, integration_id) == 1


async def test_a_refused_order_is_a_conflict_and_audited(installation: Installation) -> None:
    await filled(installation)
    await installation.change(lambda tx: tx.execute("UPDATE integration SET is_connected = 0, is_desired = 0"))
    async with installation.client() as client:
        answer = await client.post(SYNC)
    assert (answer.status_code, answer.json()["code"]) == (409, "refused")
    (line,) = await audited(installation)
    assert (line.outcome, line.status, line.detail) == ("refused", 409, {"code": "refused"})


async def test_bodies_that_do_not_fit_say_where(installation: Installation) -> None:
    await filled(installation)

    async def refused(client: httpx.AsyncClient, **request: object) -> tuple[int, list[str]]:
        answer = await client.post(SYNC, **request)  # type: ignore[arg-type]
        assert answer.headers["content-type"] == "application/problem+json"
        return answer.status_code, [one["pointer"] for one in answer.json()["errors"]]

    async with installation.client() as client:
        assert await refused(client, json={"scope": "sideways"}) == (422, ["/scope"])
        assert await refused(client, json={"entities": ["a", 1]}) == (422, ["/entities/1"])
        assert await refused(client, json={"surprise": 1}) == (422, ["/surprise"])
        assert (await refused(client, content=b"{", headers={"content-type": "application/json"}))[0] == 422
        assert (await refused(client, headers={"idempotency-key": "no spaces"}))[0] == 422


async def test_a_key_whose_process_died_is_taken_over(installation: Installation) -> None:
    """Between the row and its effect a process may end: the row stands alone, and nobody works on it."""
    clock = installation.clock
    begun = await installation.database.write(
        lambda tx: requests.begin(tx, "*/everything", "k-3", "f", clock.now().isoformat())
    )
    assert begun[1]
    assert LEASE.total_seconds() > 0
    first = begun[0]
    at = clock.now().isoformat()
    clock.add(LEASE.total_seconds() + 1)
    later = clock.now().isoformat()
    taken = [
        await installation.database.write(lambda tx: requests.take_over(tx, "*/everything", "k-3", at, later))
        for _ in range(2)
    ]
    assert taken == [True, False]
    again = await installation.database.write(lambda tx: requests.begin(tx, "*/everything", "k-3", "f", later))
    assert (again[0].marker, again[1]) == (first.marker, False)


async def test_what_failed_goes_on_at_once_and_with_the_same_mark(installation: Installation) -> None:
    clock = installation.clock

    def at() -> str:
        return rfc3339(clock.now())

    first, _ = await installation.database.write(lambda tx: requests.begin(tx, "*/everything", "k-4", "f", at()))
    await installation.database.write(lambda tx: requests.release(tx, "*/everything", "k-4"))
    again, is_new = await installation.database.write(lambda tx: requests.begin(tx, "*/everything", "k-4", "f", at()))
    assert (again.marker, is_new) == (first.marker, False)
    assert from_rfc3339(again.started_at) + LEASE <= clock.now()


async def test_what_a_person_does_in_a_shell_is_audited_beside_it(installation: Installation) -> None:
    theirs = await installation.issue("theirs", "hr", Permission.ADMIN)
    own = await installation.issue("own", "it", Permission.ADMIN)

    def act(tx: Tx) -> None:
        at, detail = rfc3339(installation.clock.now()), {"key_id": "k1"}
        requests.write_act(tx, "alice", "reconciler key revoke", at, workspace="it", target="int_1", detail=detail)

    await installation.change(act)
    async with installation.client(token=own) as client, installation.client(token=theirs) as stranger:
        (line,) = (await client.get("/v1/audit")).json()["data"]
        assert (await stranger.get("/v1/audit")).json()["data"] == []
    told = [line[name] for name in ("caller", "action", "target", "outcome", "detail")]
    assert told == ["alice", "reconciler key revoke", "int_1", "done", {"key_id": "k1"}]
    assert [one.identity for one in await audited(installation)] == ["os:alice"]
