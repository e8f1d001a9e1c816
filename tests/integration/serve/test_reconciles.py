"""Looks at Git over HTTP: asked for once by a token, taken up by whoever leads, told by revision; findings; audit; whoami."""

from datetime import timedelta
from functools import partial
from typing import Any

import httpx
import pytest

from reconciler.api.access import AuditPage, Whoami
from reconciler.api.reconciles import FindingList, ReconcileProgress, RevisionList
from reconciler.control.orders import Orders
from reconciler.model.access import Permission
from reconciler.model.clock import rfc3339
from reconciler.model.finding import Code, Finding, Severity
from reconciler.model.job import queue_of
from reconciler.store import jobs, journal, retention
from reconciler.store.database import Tx
from reconciler.store.journal import SourceRow
from tests.integration.serve.installation import START, Installation, Wish, connect, want

PATH = "/v1/reconcile"


async def filled(here: Installation) -> dict[str, int]:
    ids: dict[str, int] = await here.change(
        lambda tx: want(tx, Wish("sn", workspace="it"), Wish("chat", workspace="hr"))
    )
    for one in ids.values():
        await here.change(partial(connect, integration_id=one))
    return ids


async def told(client: httpx.AsyncClient, path: str, **params: Any) -> dict[str, Any]:
    answer = await client.get(path, params=params)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def read(here: Installation, name: str, error: str = "") -> Any:
    """A source was asked now, and what it gave is taken over."""
    at = rfc3339(here.clock.now())
    row = SourceRow(name, "https://git.example", f"{name}@2", f"{name}@2", at, error and "RemoteUnavailable", error)
    return here.change(lambda tx: journal.put_source(tx, row, at))


async def test_all_of_git(either: Installation) -> None:
    await filled(either)
    for name in ("one", "two"):
        await read(either, name)
    either.clock.add(1)
    async with either.client() as client:
        answer = await client.post(PATH, json={"token": "commit-7"})
        assert (answer.status_code, answer.json()["status"]) == (202, "queued")
        ReconcileProgress.model_validate(answer.json(), strict=False)
        assert (await client.post(PATH, json={"token": "commit-7"})).json() == answer.json()
        assert len(await either.database.read(journal.open_requests)) == 1
        (carried,) = await Orders(either.database, either.clock).tick()
        assert carried.is_replan
        assert (await told(client, f"{PATH}/commit-7"))["status"] == "running"
        either.clock.add(1)
        await read(either, "one")
        assert (await told(client, f"{PATH}/commit-7"))["status"] == "running"
        await read(either, "two", "git.example does not answer")
        done = await told(client, f"{PATH}/commit-7")
        assert (done["status"], done["revision"]) == ("done", None)
        assert done["sources"] == [
            {"name": "one", "revision": "one@2", "error": None},
            {"name": "two", "revision": "two@2", "error": "git.example does not answer"},
        ]
    own = await either.issue("own", "it", Permission.INTEGRATION_VIEW, Permission.INTEGRATION_SYNC)
    async with either.client(token=own) as client:
        assert (await client.get(f"{PATH}/commit-7")).status_code == 404
        # the word is free in another workspace, and the remote's name is none of its business
        assert (await client.post(PATH, json={"token": "commit-7"})).json()["status"] == "queued"
        await Orders(either.database, either.clock).tick()
        for name in ("one", "two"):
            await read(either, name, "git.example does not answer")
        errors = {source["error"] for source in (await told(client, f"{PATH}/commit-7"))["sources"]}
        assert errors == {"RemoteUnavailable"}


async def test_one_integration(either: Installation) -> None:
    ids = await filled(either)
    key = str(ids["sn"])
    async with either.client() as client:
        body = (await client.post(PATH, json={"integration": "it.sn"})).json()
        assert (body["status"], body["integration"]["name"], body["revision"]) == ("queued", "sn", None)
        assert body["token"].startswith("rec_")
        other = await client.post(PATH, json={"integration": "hr.chat", "token": body["token"]})
        assert (other.status_code, other.json()["code"]) == (409, "token-used")

        def take(tx: Tx) -> Any:
            (job,) = jobs.take_due(tx, tx.now(), 10, queue_of("reconcile"))
            return jobs.start(tx, job.id, job.attempt, "me", tx.now(), timedelta(seconds=30))

        job, claim = await either.change(take)
        assert job.ref == key
        assert (await told(client, f"{PATH}/{body['token']}"))["status"] == "running"
        await either.change(lambda tx: jobs.finish(tx, claim, either.clock.now() + timedelta(minutes=5)))
        done = await told(client, f"{PATH}/{body['token']}")
        assert (done["status"], done["revision"]) == ("done", "main@sha1:" + "a" * 40)
        assert (await client.post(PATH, json={"integration": "nothing"})).status_code == 404


@pytest.mark.parametrize("body", [{"token": ""}, {"token": "a b"}, {"token": "a/b"}, {"all": True}, []])
async def test_bodies_that_do_not_fit(installation: Installation, body: Any) -> None:
    async with installation.client() as client:
        assert (await client.post(PATH, json=body)).status_code == 422


async def test_old_tokens_go(either: Installation) -> None:
    async with either.client() as client:
        await client.post(PATH, json={"token": "old"})
        await either.change(lambda tx: retention.drop_shared(tx, "2030-01-01T00:00:00Z"))
        answer = await client.get(f"{PATH}/old")
        assert (answer.status_code, answer.json()["code"]) == (404, "reconcile-not-found")


async def test_revisions(either: Installation) -> None:
    def fill(tx: Tx) -> None:
        for number in range(25):
            at = rfc3339(START + timedelta(hours=number))
            journal.record_revision(tx, f"main@sha1:{number}", "applied", "digest", {"connect": number}, 2, at)
        journal.record_revision(tx, "a@sha1:1 b@sha1:2", "blocked", "digest", {}, 0, rfc3339(START))

        journal.record_revision(tx, "69fc0b2d", "applied", "digest", {}, 0, rfc3339(START))

    await either.change(fill)
    await read(either, "main")
    own = await either.issue("own", "it", Permission.INTEGRATION_VIEW)
    async with either.client() as client, either.client(token=own) as tenant:
        (plain,) = (await told(client, "/v1/revisions", limit=1))["data"]
        assert (plain["revision"], plain["source"]) == ("69fc0b2d", "main")
        first = await told(client, "/v1/revisions", cursor="WzI3XQ")
        RevisionList.model_validate(first, strict=False)
        assert (first["data"][0]["source"], first["data"][0]["outcome"]) == (None, "blocked")
        assert first["data"][1] == {
            "revision": "main@sha1:24",
            "source": "main",
            "at": rfc3339(START + timedelta(hours=24)),
            "outcome": "applied",
            "plan_digest": "digest",
            "findings": 2,
            "actions": {"connect": 24},
        }
        rest = await told(client, "/v1/revisions", cursor=first["next_cursor"])
        assert (len(rest["data"]), rest["has_more"]) == (6, False)
        shown = (await told(tenant, "/v1/revisions"))["data"][2]
        assert (shown["revision"], shown["findings"], shown["actions"], shown["plan_digest"]) == (
            "main@sha1:24",
            None,
            None,
            None,
        )


def finding(number: int, workspace: str) -> Finding:
    message = f"wrong {number}"
    return Finding("a.yaml", number, 1, Code.INVALID_VALUE, message, "mend it", Severity.ERROR, workspace)


async def test_findings_of_ones_own_workspace(either: Installation) -> None:
    found = [finding(n, ("it", "hr", "")[n % 3]) for n in range(60)]
    await either.change(lambda tx: journal.replace_findings(tx, found))
    assert await either.database.read(journal.findings) == found
    own = await either.issue("own", "it", Permission.INTEGRATION_VIEW)
    async with either.client() as client, either.client(token=own) as tenant:
        first = await told(client, "/v1/findings", limit=50)
        FindingList.model_validate(first, strict=False)
        await either.change(lambda tx: journal.replace_findings(tx, [*found, finding(60, "it")]))
        rest = await told(client, "/v1/findings", limit=50, cursor=first["next_cursor"])
        assert [one["line"] for one in (*first["data"], *rest["data"])] == list(range(61))
        assert {one["workspace"] for one in first["data"]} == {"it", "hr", None}
        mine = await told(tenant, "/v1/findings", limit=100)
        assert [one["line"] for one in mine["data"]] == list(range(0, 61, 3))


async def test_audit_of_ones_own_workspace(either: Installation) -> None:
    await filled(either)
    tokens = {w: await either.issue(f"admin-{w}", w, Permission.ADMIN) for w in ("it", "hr")}
    viewer = await either.issue("viewer", "it", Permission.INTEGRATION_VIEW)
    async with either.client() as client:
        for ref in ("it.sn", "hr.chat"):
            assert (await client.post(f"/v1/integrations/{ref}/suspend", json={"reason": "x"})).status_code == 200
        either.clock.add(7200)
        for _ in range(3):
            await client.post("/v1/integrations/it.sn/resume")
        everything = await told(client, "/v1/audit")
        AuditPage.model_validate(everything, strict=False)
        assert len(everything["data"]) == 5
        recent = await told(client, "/v1/audit", since=rfc3339(START + timedelta(hours=1)))
        assert len(recent["data"]) == 3
    async with either.client(token=tokens["it"]) as client:
        first = await told(client, "/v1/audit", limit=1)
        second = await told(client, "/v1/audit", limit=3, cursor=first["next_cursor"])
        lines = [*first["data"], *second["data"]]
        assert [(line["action"], line["caller"], line["outcome"]) for line in lines] == [
            ("POST /v1/integrations/{ref}/resume", "everything", "refused"),
            ("POST /v1/integrations/{ref}/resume", "everything", "refused"),
            ("POST /v1/integrations/{ref}/resume", "everything", "done"),
            ("POST /v1/integrations/{ref}/suspend", "everything", "done"),
        ]
        assert not second["has_more"]
        assert len({line["target"] for line in lines}) == 1
    async with either.client(token=tokens["hr"]) as client:
        assert [line["action"] for line in (await told(client, "/v1/audit"))["data"]] == [
            "POST /v1/integrations/{ref}/suspend"
        ]
    async with either.client(token=viewer) as client:
        assert (await client.get("/v1/audit")).status_code == 403


async def test_whoami(either: Installation) -> None:
    own = await either.issue("own", "it", Permission.PLAN_VIEW, Permission.EVENT_VIEW)
    async with either.client(token=own) as client:
        body = await told(client, "/v1/whoami")
        Whoami.model_validate(body, strict=False)
        assert body == {"name": "own", "workspace": "it", "permissions": ["event.view", "plan.view"]}
        assert (await client.get("/v1/whoami?x=1")).json()["code"] == "unknown-parameter"
    async with either.client(token="") as client:
        assert (await client.get("/v1/whoami")).status_code == 401
