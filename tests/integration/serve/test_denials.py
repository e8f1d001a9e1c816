"""What a caller may not change is told to nobody but the audit: each attempt, and never so many that they fill a disk."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from reconciler.model.access import Operation, Permission
from reconciler.serve import denials, once
from reconciler.serve.admission import Terms
from reconciler.store import requests
from reconciler.store.database import Tx
from reconciler.store.requests import AuditLine
from tests.integration.serve.installation import Installation, Wish, connect, want

P = Permission
SYNC, SUSPEND = "/v1/integrations/{}/sync", "/v1/integrations/{}/suspend"
REASON = {"reason": "x"}


@pytest.fixture
async def ids(either: Installation) -> dict[str, str]:
    """name -> public id."""
    made = await either.change(lambda tx: want(tx, Wish("mine", workspace="it"), Wish("theirs", workspace="hr")))
    await either.change(lambda tx: connect(tx, made["mine"]))
    return {entry.name: entry.public_id for entry in (await either.board.current()).entries}


async def audited(installation: Installation) -> Sequence[AuditLine]:
    """The oldest first."""
    return (await installation.database.read(lambda tx: requests.audit(tx, None, limit=1000)))[::-1]


def told(line: AuditLine) -> tuple[Any, ...]:
    return line.caller, line.workspace, line.target, line.outcome, line.status, dict(line.detail)


async def test_who_lacks_the_permission_is_in_the_audit(either: Installation, ids: dict[str, str]) -> None:
    viewer = await either.issue("viewer", "it", P.INTEGRATION_VIEW)
    async with either.client(token=viewer) as client:
        answer = await client.post(SUSPEND.format("mine"), json=REASON)
        asked = answer.headers["x-request-id"]
    assert (answer.status_code, answer.json()["code"]) == (403, "permission-missing")
    (line,) = await audited(either)
    assert told(line) == ("viewer", "it", ids["mine"], "refused", 403, {"code": "permission-missing"})
    assert (line.action, line.request_id) == ("POST /v1/integrations/{ref}/suspend", asked)
    assert line.identity.startswith("rct_")


async def test_who_may_not_look_is_not_looked_up(either: Installation, ids: dict[str, str]) -> None:
    blind = await either.issue("blind", "it", P.EVENT_VIEW)
    async with either.client(token=blind) as client:
        await client.post(SUSPEND.format("mine"), json=REASON)
    (line,) = await audited(either)
    assert told(line) == ("blind", "it", "", "refused", 403, {"code": "permission-missing"})


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
async def test_so_is_who_has_no_grant(either: Installation, ids: dict[str, str], accept: str) -> None:
    client_of = await either.issue("erp", "it", P.EVENT_VIEW)
    async with either.client(token=client_of) as client:
        answer = await client.post(SYNC.format("mine"), headers={"accept": accept})
    assert "not-granted" in answer.text
    (line,) = await audited(either)
    assert told(line) == ("erp", "it", ids["mine"], "refused", 403, {"code": "not-granted"})


async def test_so_is_what_is_reserved(either: Installation, ids: dict[str, str]) -> None:
    either.terms = Terms(reserved=(str(Operation.EDIT), str(Operation.DISCONNECT)))
    editor = await either.issue("editor", "it", P.INTEGRATION_EDIT, P.INTEGRATION_DELETE)
    async with either.client(token=editor) as client:
        assert (await client.patch("/v1/integrations/mine", json={"spec": {}})).status_code == 403
        assert (await client.delete("/v1/integrations/it.mine/disconnect")).status_code == 403
    found = await audited(either)
    assert [told(line) for line in found] == [
        ("editor", "it", ids["mine"], "refused", 403, {"code": "reserved"}),
    ] * 2
    assert [line.action.split()[0] for line in found] == ["PATCH", "DELETE"]


async def test_so_is_another_workspace_that_is_named(either: Installation, ids: dict[str, str]) -> None:
    """It is the caller's own workspace that is told: the other one knows nothing of it."""
    creator = await either.issue("creator", "it", P.INTEGRATION_CREATE)
    new = {"metadata": {"name": "new", "workspace": "hr"}, "spec": {"type": "jira"}}
    async with either.client(token=creator) as client:
        assert (await client.post("/v1/integrations", json=new)).json()["code"] == "workspace-not-yours"
    (line,) = await audited(either)
    assert told(line) == ("creator", "it", "", "refused", 403, {"code": "workspace-not-yours"})


async def test_what_is_not_there_or_wrong_is_not_audited(either: Installation, ids: dict[str, str]) -> None:
    editor = await either.issue("editor", "it", P.INTEGRATION_EDIT)
    async with either.client(token=editor) as client:
        answers = [
            await client.post(SUSPEND.format(ref), json=body)
            for ref, body in (("theirs", REASON), (ids["theirs"], REASON), ("nothing", REASON), ("mine", {"bad": 1}))
        ]
    assert [answer.status_code for answer in answers] == [404, 404, 404, 422]
    async with either.client(token="rct_guessed") as client:
        assert (await client.post(SUSPEND.format("mine"), json=REASON)).status_code == 401
    assert await audited(either) == []


@pytest.mark.parametrize("permissions", [[P.EVENT_VIEW], [P.INTEGRATION_VIEW], [P.INTEGRATION_EDIT]])
async def test_the_store_does_the_same_for_theirs_and_for_nothing(
    installation: Installation, permissions: list[Permission], monkeypatch: pytest.MonkeyPatch
) -> None:
    await installation.change(lambda tx: want(tx, Wish("theirs", workspace="hr")))
    own = await installation.issue("own", "it", *permissions)
    asked: list[str] = []
    execute = Tx.execute

    def counted(tx: Tx, sql: str, *more: Any) -> Any:
        asked.append(sql)
        return execute(tx, sql, *more)

    async with installation.client(token=own) as client:
        await client.get("/v1/whoami")
        found = []
        for ref in ("theirs", "nobody"):
            installation.clock.add(61)
            await client.get("/v1/integrations")
            with monkeypatch.context() as patch:
                patch.setattr(Tx, "execute", counted)
                answer = await client.post(SUSPEND.format(ref), json=REASON)
            found.append((answer.status_code, answer.json()["code"], tuple(asked)))
            asked.clear()
    assert found[0] == found[1]


async def test_the_same_again_within_a_minute_is_counted(either: Installation, ids: dict[str, str]) -> None:
    viewer = await either.issue("viewer", "it", P.INTEGRATION_VIEW)
    async with either.client(token=viewer) as client:
        for _ in range(20):
            assert (await client.post(SUSPEND.format("mine"), json=REASON)).status_code == 403
        assert len(await audited(either)) == 1
        await client.post("/v1/integrations/mine/resume")
        either.clock.add(61)
        await client.post(SUSPEND.format("mine"), json=REASON)
    assert [(line.action.rsplit("/")[-1], line.detail.get("left_out")) for line in await audited(either)] == [
        ("suspend", None),
        ("resume", 19),
        ("suspend", None),
    ]


async def test_no_caller_fills_the_disk(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where each attempt is at something else. Others are told as before."""
    wishes = [Wish(f"n{n}", workspace="it") for n in range(denials.OF_ONE.burst + 10)]
    await installation.change(lambda tx: want(tx, *wishes))
    viewer, other = [await installation.issue(name, "it", P.INTEGRATION_VIEW) for name in ("viewer", "other")]
    async with installation.client(token=viewer) as client:
        for wish in wishes:
            await client.post(SUSPEND.format(wish.name), json=REASON)
        assert len(await audited(installation)) == denials.OF_ONE.burst
        installation.clock.add(61)
        await client.post("/v1/integrations/n0/resume")
        await client.post("/v1/integrations/n1/resume")
    async with installation.client(token=other) as client:
        await client.post(SUSPEND.format("n0"), json=REASON)
    *_, last, others = await audited(installation)
    assert (last.detail, others.caller) == ({"code": "permission-missing", "left_out": 10}, "other")
    assert len(await audited(installation)) == denials.OF_ONE.burst + 2


async def test_a_key_stands_for_nothing_that_was_denied(either: Installation, ids: dict[str, str]) -> None:
    key = {"idempotency-key": "k-1"}
    either.terms = Terms(reserved=(str(Operation.SYNC),))
    syncer = await either.issue("syncer", "it", P.INTEGRATION_SYNC)
    async with either.client(token=syncer) as client:
        assert (await client.post(SYNC.format("mine"), headers=key)).status_code == 403
    either.terms = Terms()
    async with either.client(token=syncer) as client:
        queued = await client.post(SYNC.format("mine"), headers=key)
        assert (queued.status_code, "idempotent-replayed" in queued.headers) == (202, False)
    assert [line.outcome for line in await audited(either)] == ["refused", "done"]


async def test_an_audit_that_cannot_be_written_changes_no_answer(
    installation: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process holds the database; then the table is gone."""
    monkeypatch.setattr(once, "DENIED_PATIENCE", 0.05)
    await installation.change(lambda tx: want(tx, Wish("mine", workspace="it")))
    viewer = await installation.issue("viewer", "it", P.INTEGRATION_VIEW)
    async with installation.client(token=viewer) as client:
        await client.get("/v1/integrations")
        with closing(sqlite3.connect(tmp_path / "reconciler.db", isolation_level=None)) as holder:
            holder.execute("BEGIN IMMEDIATE")
            held = await client.post(SUSPEND.format("mine"), json=REASON)
            holder.execute("ROLLBACK")
        await installation.database.write(lambda tx: tx.execute("ALTER TABLE audit RENAME TO elsewhere"))
        gone = await client.post("/v1/integrations/mine/resume")
    assert [(answer.status_code, answer.json()["code"]) for answer in (held, gone)] == [
        (403, "permission-missing"),
    ] * 2
