"""Runs, logs and status over HTTP: pages that hold still while rows come and go, filters, one run's progress, its end."""

from datetime import timedelta
from functools import partial
from typing import Any

import httpx
import pytest

from reconciler.api.integrations import IntegrationStatus
from reconciler.api.observing import LogPage
from reconciler.api.suspension import SuspensionState
from reconciler.api.syncs import SyncCancelled, SyncDetail, SyncList
from reconciler.model.access import Permission
from reconciler.model.clock import rfc3339
from reconciler.model.record import Page, RunResult, Scope
from reconciler.store import journal, requests, run_entities, runs
from reconciler.store.database import Tx
from reconciler.store.journal import LogLine
from reconciler.store.runs import Lineage, NewRun, Run
from tests.integration.serve.installation import START, Installation, Wish, connect, synced, want

SYNCS = "/v1/integrations/sn/syncs"
LOGS = "/v1/integrations/sn/logs"


async def filled(here: Installation) -> int:
    ids = await here.change(lambda tx: want(tx, Wish("sn", "servicenow", "it"), Wish("chat", "slack", "hr")))
    for one in ids.values():
        await here.change(partial(connect, integration_id=one))
    return int(ids["sn"])


def at(hours: float) -> Any:
    return START + timedelta(hours=hours)


async def listed(client: httpx.AsyncClient, path: str, **params: Any) -> dict[str, Any]:
    answer = await client.get(path, params=params)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def begun(tx: Tx, integration_id: int, scope: Scope = Scope.FULL) -> Run:
    run = runs.create(tx, NewRun(integration_id, scope, "person"), rfc3339(START))
    started = runs.start(tx, run.id, 1, Lineage(1, "main@sha1:abc", "h", "1"), rfc3339(START))
    assert started is not None
    return started


async def test_pages_of_syncs_while_others_end(either: Installation) -> None:
    integration_id = await filled(either)

    def fill(tx: Tx) -> None:
        for hour in range(30):
            synced(tx, integration_id, RunResult.FAILED if hour % 5 == 0 else RunResult.SUCCESS, at(hour), "why")

    await either.change(fill)
    seen: list[str] = []
    async with either.client() as client:
        first = before = await listed(client, SYNCS, limit=7)
        SyncList.model_validate(before, strict=False)
        while True:
            seen += [run["id"] for run in before["data"]]
            if not before["has_more"]:
                break
            await either.change(lambda tx: synced(tx, integration_id, RunResult.SUCCESS, at(40)))
            before = await listed(client, SYNCS, limit=7, cursor=before["next_cursor"])
        assert len(seen) == len(set(seen)) == 30
        failed = await listed(client, SYNCS, status="failed", limit=4)
        assert [run["result"] for run in failed["data"]] == ["failed"] * 4
        rest = await listed(client, SYNCS, status="failed", limit=4, cursor=failed["next_cursor"])
        assert (len(rest["data"]), rest["has_more"]) == (2, False)
        some = await listed(client, SYNCS, status=["failed", "success"], since="2026-03-02T15:00:00Z", limit=100)
        # of the thirty the last three, and the four that came meanwhile
        assert len(some["data"]) == 7
        assert first["data"][0]["id"] == seen[0]
        assert (await listed(client, SYNCS, scope="full"))["data"] == []


async def test_filters_by_what_is_under_way(either: Installation) -> None:
    integration_id = await filled(either)

    def fill(tx: Tx) -> None:
        synced(tx, integration_id, RunResult.PARTIAL, START)
        begun(tx, integration_id)
        runs.create(tx, NewRun(integration_id, Scope.KEYS, "schedule"), rfc3339(START))

    await either.change(fill)
    async with either.client() as client:
        found = {
            status: [run["scope"] for run in (await listed(client, SYNCS, status=status))["data"]]
            for status in ("queued", "running", "partial", "cancelled")
        }
        mixed = (await listed(client, SYNCS, status=["queued", "partial"]))["data"]
    assert found == {"queued": ["keys"], "running": ["full"], "partial": ["incremental"], "cancelled": []}
    assert [run["status"] for run in mixed] == ["queued", "partial"]


async def test_a_run_with_its_progress(either: Installation) -> None:
    integration_id = await filled(either)

    def fill(tx: Tx) -> Run:
        run = begun(tx, integration_id)
        progress = runs.open_entity(tx, run, "incidents", True)
        page = Page(("a", "b"), (b"{}", b"{}"), position={"after": "b"}, total=10)
        runs.advance_entity(tx, run, progress, page, {}, False)
        broken = runs.open_entity(tx, run, "changes", True)
        run_entities.fail_entity(tx, run.id, broken.entity_id, "failed", "PermissionDenied", "403 for changes")
        return run

    run = await either.change(fill)
    either.clock.add(12.5)
    async with either.client() as client:
        body = await listed(client, f"/v1/syncs/{run.public_id}")
    SyncDetail.model_validate(body, strict=False)
    assert body["integration"] | {"id": ""} == {"id": "", "workspace": "it", "name": "sn", "type": "servicenow"}
    assert (body["status"], body["duration_seconds"], body["revision"]) == ("running", 12.5, "main@sha1:abc")
    assert {e["entity"]: (e["state"], e["records"], e["total"], e["reason"]) for e in body["entities"]} == {
        "incidents": ("reading", 2, 10, None),
        "changes": ("failed", 0, None, "PermissionDenied"),
    }


async def test_a_run_is_cancelled_once(either: Installation) -> None:
    integration_id = await filled(either)
    run = await either.change(lambda tx: begun(tx, integration_id))
    path = f"/v1/syncs/{run.public_id}/cancel"
    async with either.client() as client:
        answer = await client.post(path)
        assert (answer.status_code, answer.json()["status"]) == (202, "cancelling")
        SyncCancelled.model_validate(answer.json(), strict=False)
        await either.change(lambda tx: runs.close_cancelled(tx, [run.id], rfc3339(START)))
        late = await client.post(path)
        assert (late.status_code, late.json()["code"]) == (409, "refused")
        assert (await listed(client, f"/v1/syncs/{run.public_id}"))["result"] == "cancelled"
    lines = await either.database.read(lambda tx: requests.audit(tx, "it"))
    assert [(line.action, line.outcome) for line in lines] == [("POST /v1/syncs/{id}/cancel", "done")]
    (refused,) = await either.database.read(lambda tx: requests.audit(tx, None, limit=1))
    assert refused.outcome == "refused"


async def test_another_workspaces_runs_do_not_exist(either: Installation) -> None:
    integration_id = await filled(either)
    run = await either.change(lambda tx: begun(tx, integration_id))
    stranger = await either.issue("stranger", "hr", Permission.ADMIN)
    async with either.client(token=stranger) as client:
        answers = [
            await client.get(f"/v1/syncs/{run.public_id}"),
            await client.post(f"/v1/syncs/{run.public_id}/cancel"),
            await client.get("/v1/syncs/run_nothing"),
            await client.get("/v1/syncs/run_%00"),
            await client.get(SYNCS),
            await client.get(LOGS),
            await client.get("/v1/integrations/it.sn/status"),
            await client.post("/v1/integrations/it.sn/suspend", json={"reason": "x"}),
            await client.post("/v1/integrations/it.sn/test"),
        ]
    assert {answer.status_code for answer in answers} == {404}
    there, gone = (answers[0].json()["detail"], answers[2].json()["detail"])
    assert there.replace(run.public_id, "") == gone.replace("run_nothing", "")
    found = await either.database.read(lambda tx: runs.get(tx, run.id))
    assert found is not None
    assert not found.is_cancelling


async def test_who_may_only_look_cancels_nothing(either: Installation) -> None:
    await filled(either)
    viewer = await either.issue("viewer", "it", Permission.INTEGRATION_VIEW)
    async with either.client(token=viewer) as client:
        assert (await client.post("/v1/syncs/run_x/cancel")).status_code == 403
        assert (await client.post("/v1/integrations/sn/suspend", json={"reason": "x"})).status_code == 403


def lines(integration_id: int, run_id: int | None) -> list[LogLine]:
    """A quarter of an hour apart: mostly debug, some told, few bad."""
    every = []
    for number in range(60):
        level = "error" if number % 20 == 0 else "warn" if number % 10 == 0 else "info" if number % 3 == 0 else "debug"
        detail: dict[str, Any] = {"n": number}
        if number == 20:
            detail["reason"] = "AuthenticationFailed"
        if number == 40:
            detail["delivery"] = "dlv_1"
        own = run_id if number in {5, 6, 10} else None
        every.append(LogLine(integration_id, rfc3339(at(number / 4)), level, f"line {number}", detail, own))
    return every


async def test_logs_by_level_run_and_time(either: Installation) -> None:
    integration_id = await filled(either)
    run = await either.change(lambda tx: begun(tx, integration_id))
    await either.change(lambda tx: journal.write_logs(tx, lines(integration_id, run.id)))
    async with either.client() as client:

        async def numbers(**params: Any) -> list[int]:
            body = await listed(client, LOGS, limit=200, **params)
            LogPage.model_validate(body, strict=False)
            return [line["detail"]["n"] for line in body["data"]]

        assert await numbers() == list(range(59, -1, -1))
        assert await numbers(level="warn") == [50, 40, 30, 20, 10, 0]
        assert await numbers(level="error") == [40, 20, 0]
        assert await numbers(level="info") == [n for n in range(59, -1, -1) if n % 3 == 0 or n % 10 == 0]
        assert await numbers(sync_job_id=run.public_id) == [10, 6, 5]
        assert await numbers(sync_job_id=run.public_id, level="warn") == [10]
        assert await numbers(since=rfc3339(at(13))) == list(range(59, 51, -1))
        assert await numbers(since=rfc3339(at(13)), level="error") == []
        assert await numbers(since="9000-01-01T00:00:00Z") == []
        bad = (await listed(client, LOGS, level="error"))["data"]
        assert [line["kind"] for line in bad] == ["delivery", "auth", "lifecycle"]
        (of_run, *_) = (await listed(client, LOGS, sync_job_id=run.public_id))["data"]
        assert (of_run["kind"], of_run["sync_job_id"]) == ("sync", run.public_id)
        assert len((await listed(client, LOGS))["data"]) == 50


async def test_pages_of_logs_while_lines_come(either: Installation) -> None:
    integration_id = await filled(either)
    await either.change(lambda tx: journal.write_logs(tx, lines(integration_id, None)))
    seen: list[int] = []
    async with either.client() as client:
        for level in ("debug", "info"):
            cursor: dict[str, str] = {}
            seen = []
            while True:
                body = await listed(client, LOGS, limit=7, level=level, **cursor)
                seen += [line["detail"]["n"] for line in body["data"]]
                if not body["has_more"]:
                    break
                cursor = {"cursor": body["next_cursor"]}
                new = LogLine(integration_id, rfc3339(at(99)), "info", "new", {"n": 1000})
                await either.change(partial(journal.write_logs, lines=[new]))
            old = [n for n in seen if n < 1000]
            assert len(old) == len(set(old)) == (60 if level == "debug" else 24)
            assert old == sorted(old, reverse=True)


async def test_status_says_how_it_fares(either: Installation) -> None:
    wish = Wish("desk", spec={"objectives": {"freshness": "30m"}})
    ids = await either.change(lambda tx: want(tx, wish))

    def fill(tx: Tx) -> None:
        connect(tx, ids["desk"])
        synced(tx, ids["desk"], RunResult.SUCCESS, START)
        synced(tx, ids["desk"], RunResult.FAILED, START, "boom")

    await either.change(fill)
    either.clock.add(3600)
    async with either.client() as client:
        body = await listed(client, "/v1/integrations/desk/status")
        (row,) = (await listed(client, "/v1/integrations"))["data"]
    IntegrationStatus.model_validate(body, strict=False)
    assert row == {name: body[name] for name in row}
    assert (body["total_syncs"], body["failed_syncs"], body["last_sync_error"]) == (2, 1, "boom")
    assert body["freshness"] == {"objective_seconds": 1800.0, "age_seconds": 3600.0, "is_met": False}
    assert body["uptime_percent"] == 100.0
    assert "spec" not in body


async def test_suspended_and_resumed(either: Installation) -> None:
    integration_id = await filled(either)
    run = await either.change(lambda tx: begun(tx, integration_id))
    path = "/v1/integrations/sn"
    async with either.client() as client:
        premature = await client.post(f"{path}/resume")
        assert (premature.status_code, premature.json()["code"]) == (409, "refused")
        answer = await client.post(f"{path}/suspend", json={"reason": "upgrade", "until": "2026-03-01T13:00:00Z"})
        body = answer.json()
        SuspensionState.model_validate(body, strict=False)
        assert body["suspended"] == {
            "by": "everything",
            "reason": "upgrade",
            "until": "2026-03-01T13:00:00.000000Z",
        }
        stopped = await either.database.read(lambda tx: runs.get(tx, run.id))
        assert stopped is not None
        assert stopped.is_cancelling
        assert (await client.post(f"{path}/resume")).json()["suspended"] is None
        for wrong in ({}, {"reason": "  "}, {"reason": "x", "until": "yesterday"}, {"reason": "x", "by": "me"}):
            assert (await client.post(f"{path}/suspend", json=wrong)).status_code == 422
        past = await client.post(f"{path}/suspend", json={"reason": "x", "until": "2020-01-01T00:00:00Z"})
        assert past.status_code == 409


@pytest.mark.parametrize(
    ("path", "code"),
    [
        (f"{SYNCS}?status=done", "invalid-parameter"),
        (f"{SYNCS}?result=failed", "unknown-parameter"),
        (f"{SYNCS}?since=yesterday", "invalid-parameter"),
        (f"{SYNCS}?since=2026-01-01T00:00:00", "invalid-parameter"),
        (f"{SYNCS}?since=0001-01-01T00:00:00%2B14:00", "invalid-parameter"),
        (f"{SYNCS}?limit=101", "invalid-parameter"),
        (f"{SYNCS}?cursor=WzFd{'A' * 5000}", "invalid-parameter"),
        (f"{SYNCS}?cursor=Wy0xXQ", "invalid-cursor"),
        (f"{SYNCS}?cursor=WzEwMDAwMDAwMDAwMDAwMDAwMDAwMF0", "invalid-cursor"),
        (f"{LOGS}?limit=201", "invalid-parameter"),
        (f"{LOGS}?level=bad", "invalid-parameter"),
        (f"{LOGS}?sync_job_id=run_x", "invalid-parameter"),
        (f"{LOGS}?sync_job_id=run_%00", "invalid-parameter"),
        ("/v1/integrations/sn/status?x=1", "unknown-parameter"),
        ("/v1/syncs/run_x?x=1", "unknown-parameter"),
    ],
)
async def test_bad_parameters(either: Installation, path: str, code: str) -> None:
    await filled(either)
    async with either.client() as client:
        answer = await client.get(path)
    assert (answer.status_code, answer.json()["code"]) == (400, code), answer.text
