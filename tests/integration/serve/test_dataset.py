"""What was synced over HTTP: records now and then, one with its history, versions, differences, a rollback."""

import json
from collections.abc import Mapping
from functools import partial
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from reconciler.api.dataset import DiffPage, RecordDetail, RecordPage, RollbackStarted, VersionList
from reconciler.model.access import Permission
from reconciler.model.clock import rfc3339
from reconciler.model.record import Page, RunResult, Scope
from reconciler.serve import dataset_pages
from reconciler.store import dataset, erasure, retention, runs
from reconciler.store.database import Tx
from reconciler.store.dataset import PageCommit
from reconciler.store.retention import Tenants
from reconciler.store.runs import Lineage, NewRun
from tests.integration.serve.installation import START, Installation, Wish, connect, want

PATH = "/v1/integrations/sn"


def stored(
    tx: Tx, integration_id: int, entity: str, records: Mapping[str, Any], gone: tuple[str, ...] = (), fence: int = 1
) -> None:
    """A run that brought this."""
    run = runs.create(tx, NewRun(integration_id, Scope.INCREMENTAL, "person"), rfc3339(START))
    started = runs.start(tx, run.id, fence, Lineage(1, "main@sha1:abc", "h", "1"), rfc3339(START))
    assert started is not None
    progress = runs.open_entity(tx, started, entity, True)
    commit = PageCommit(run.id, fence, integration_id, progress.entity_id, 1, False, True, rfc3339(START))
    payloads = tuple(r if isinstance(r, bytes) else json.dumps(r).encode() for r in records.values())
    dataset.commit_page(tx, commit, Page(tuple(records), payloads, deleted=gone))
    assert runs.finish(tx, started, RunResult.SUCCESS, "", "", rfc3339(START))


async def filled(here: Installation) -> int:
    """Version 1: incidents 000 to 029; 2: some changed, one gone, one new; 3: people."""
    ids = await here.change(lambda tx: want(tx, Wish("sn", "servicenow", "it"), Wish("chat", "slack", "hr")))

    def fill(tx: Tx) -> None:
        i = ids["sn"]
        connect(tx, i)
        stored(
            tx, i, "incidents", {f"{n:03}": {"id": f"{n:03}", "title": f"Title {n}", "a": {"b": 1}} for n in range(30)}
        )
        changed = {"003": {"id": "003", "title": "Changed", "a": {"b": 2}}, "030": {"id": "030", "title": "New"}}
        stored(tx, i, "incidents", changed, ("005",))
        stored(tx, i, "people", {"uid=a/b,ou=x?": b'{"name": "Zo\\u00eb \\"Z\\" Q"}', "z": {"name": "Ann"}})

    await here.change(fill)
    return int(ids["sn"])


async def got(client: httpx.AsyncClient, path: str, **params: Any) -> dict[str, Any]:
    answer = await client.get(f"{PATH}{path}", params=params)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def pages(client: httpx.AsyncClient, path: str, **params: Any) -> list[dict[str, Any]]:
    """All rows, page by page."""
    rows: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        body = await got(client, path, **params, **cursor)
        rows += body["data"]
        if not body["has_more"]:
            return rows
        cursor = {"cursor": body["next_cursor"]}


async def test_records_page_by_page(either: Installation) -> None:
    await filled(either)
    async with either.client() as client:
        first = await got(client, "/records", limit=7)
        RecordPage.model_validate(first, strict=False)
        assert (first["version"], first["data"][0]["record"]["title"]) == (3, "Title 0")
        rows = await pages(client, "/records", limit=7)
        assert [(r["entity"], r["key"]) for r in rows] == [
            *(("incidents", f"{n:03}") for n in range(31) if n != 5),
            ("people", "uid=a/b,ou=x?"),
            ("people", "z"),
        ]
        assert len(await pages(client, "/records", entity="people", limit=1)) == 2
        old = await pages(client, "/records", version=1, limit=30)
        assert [r["key"] for r in old] == [f"{n:03}" for n in range(30)]
        assert old[3]["record"]["title"] == "Title 3"
        exact = await got(client, "/records", entity="people", limit=2)
        assert (len(exact["data"]), exact["has_more"]) == (2, False)


async def test_pages_show_one_moment_while_records_come_and_go(either: Installation) -> None:
    integration_id = await filled(either)
    cursor: dict[str, str] = {}
    seen: list[tuple[str, str]] = []
    async with either.client() as client:
        for turn in range(20):
            body = await got(client, "/records", entity="incidents", limit=4, **cursor)
            seen += [(r["key"], r["record"]["title"]) for r in body["data"]]
            if not body["has_more"]:
                break
            cursor = {"cursor": body["next_cursor"]}
            new = {f"{n:03}x": {"title": "later"} for n in range(turn, 30, 3)} | {"020": {"title": f"later {turn}"}}
            gone = (f"{29 - turn:03}",)
            more = partial(stored, integration_id=integration_id, entity="incidents")
            await either.change(partial(more, records=new, gone=gone, fence=turn + 2))
    titles = {f"{n:03}": f"Title {n}" for n in range(30) if n != 5} | {"003": "Changed", "030": "New"}
    assert seen == sorted(titles.items())


@pytest.mark.parametrize(
    ("wanted", "keys"),
    [
        ('title 2"', ["002"]),
        ("TITLE 2", ["002", *(f"{n:03}" for n in range(20, 30))]),
        ("zoë", ["uid=a/b,ou=x?"]),
        ('"z"', ["uid=a/b,ou=x?"]),
        ("no such text", []),
    ],
)
async def test_search(installation: Installation, wanted: str, keys: list[str]) -> None:
    await filled(installation)
    async with installation.client() as client:
        assert [r["key"] for r in await pages(client, "/records", q=wanted, limit=3)] == keys


async def test_a_search_is_bounded(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it did not get to is told of, and found by going on."""
    monkeypatch.setattr(dataset_pages, "STRETCH", 4)
    monkeypatch.setattr(dataset_pages, "MOST_LOOKED_AT", 8)
    await filled(installation)
    async with installation.client() as client:
        first = await got(client, "/records", q="ann")
        assert (first["data"], first["has_more"]) == ([], True)
        assert [r["key"] for r in await pages(client, "/records", q="ann")] == ["z"]
        monkeypatch.setattr(dataset_pages, "MOST_BYTES", 100)
        assert len(await pages(client, "/records", limit=50)) == 32


async def test_one_record_and_where_it_comes_from(either: Installation) -> None:
    await filled(either)
    async with either.client() as client:
        body = await got(client, "/records/incidents/003")
        RecordDetail.model_validate(body, strict=False)
        assert body["record"]["title"] == "Changed"
        assert [(step["version"], step["change"]) for step in body["history"]] == [(2, "update"), (1, "create")]
        assert body["history"][0]["sync_job_id"].startswith("run_")
        assert (await got(client, "/records/incidents/003", version=1))["record"]["title"] == "Title 3"
        gone = await got(client, "/records/incidents/005")
        assert (gone["record"], gone["history"][0]["change"]) == (None, "delete")
        odd = await got(client, f"/records/people/{quote('uid=a/b,ou=x?', safe='')}")
        assert odd["record"]["name"] == 'Zoë "Z" Q'
        for path in ("/records/incidents/nothing", "/records/nothing/003"):
            answer = await client.get(f"{PATH}{path}")
            assert (answer.status_code, answer.json()["code"]) == (404, "record-not-found")
        assert (await client.get(f"{PATH}/records/incidents/%00")).status_code == 404


async def test_versions_and_differences(either: Installation) -> None:
    await filled(either)
    async with either.client() as client:
        body = await got(client, "/dataset/versions", limit=2)
        VersionList.model_validate(body, strict=False)
        assert [(v["version"], v["added"], v["updated"], v["deleted"]) for v in body["data"]] == [
            (3, 2, 0, 0),
            (2, 1, 1, 1),
        ]
        rest = await got(client, "/dataset/versions", limit=2, cursor=body["next_cursor"])
        assert [v["version"] for v in rest["data"]] == [1]
        diff = await got(client, "/dataset/versions/2/diff")
        DiffPage.model_validate(diff, strict=False)
        assert (diff["before"], diff["after"]) == (1, 2)
        assert [(d["key"], d["change"]) for d in diff["data"]] == [
            ("003", "updated"),
            ("005", "deleted"),
            ("030", "added"),
        ]
        assert diff["data"][0]["fields"] == [
            {"path": "a.b", "before": 1, "after": 2, "is_added": False, "is_removed": False},
            {"path": "title", "before": "Title 3", "after": "Changed", "is_added": False, "is_removed": False},
        ]
        assert len(await pages(client, "/dataset/versions/1/diff", limit=7)) == 30
        back = await pages(client, "/dataset/versions/1/diff", against=3, entity="people", limit=1)
        assert [d["change"] for d in back] == ["deleted", "deleted"]
        foreign = (await got(client, "/dataset/versions/1/diff", limit=7))["next_cursor"]
        wrong = await client.get(f"{PATH}/dataset/versions/2/diff", params={"cursor": foreign})
        assert (wrong.status_code, wrong.json()["code"]) == (400, "invalid-cursor")


async def test_what_is_not_kept_is_said(either: Installation) -> None:
    integration_id = await filled(either)
    cut = await either.database.read(lambda tx: retention.surplus(tx, Tenants(), 2, None))
    await either.change(lambda tx: tx.execute("UPDATE integration SET routed_seq = seq"))
    for one in cut:
        await either.change(partial(retention.cut_versions, one=one))
    async with either.client() as client:
        for path in (
            "/records?version=1",
            "/records?version=9",
            "/dataset/versions/2/diff",
            "/dataset/versions/9/diff",
        ):
            answer = await client.get(f"{PATH}{path}")
            assert (answer.status_code, answer.json()["code"]) == (404, "not-kept"), path
        refused = await client.post(f"{PATH}/dataset/rollback", json={"version": 1})
        assert (refused.status_code, refused.json()["code"]) == (409, "refused")
        await either.change(lambda tx: erasure.purge(tx, integration_id, rfc3339(START)))
        assert (await got(client, "/records"))["data"] == []


async def test_a_rollback_is_a_run(either: Installation) -> None:
    integration_id = await filled(either)
    async with either.client() as client:
        answer = await client.post(f"{PATH}/dataset/rollback", json={"version": 1, "suspend": True})
        assert answer.status_code == 202, answer.text
        body = answer.json()
        RollbackStarted.model_validate(body, strict=False)
        assert (body["run"]["restores"], body["run"]["status"]) == (1, "queued")
        assert (await got(client, "/status"))["suspended"]["reason"] == "rolled back to version 1"
        for wrong in ({}, {"version": 0}, {"version": "1"}, {"version": 1, "by": "x"}):
            assert (await client.post(f"{PATH}/dataset/rollback", json=wrong)).status_code == 422
    run = await either.database.read(lambda tx: runs.find(tx, body["sync_job_id"]))
    assert run is not None
    assert (run.integration_id, run.restores) == (integration_id, 1)


async def test_data_is_for_those_who_are_let(either: Installation) -> None:
    """A permission in the workspace shows that there are records, and no record."""
    await filled(either)
    reader = await either.issue("reader", "it", *(p for p in Permission if p is not Permission.ADMIN))
    admin = await either.issue("admin", "it", Permission.ADMIN)
    stranger = await either.issue("stranger", "hr", Permission.ADMIN)
    paths = ("/records", "/records/incidents/003", "/dataset/versions/2/diff")
    async with either.client(token=reader) as client:
        for path in paths:
            answer = await client.get(f"{PATH}{path}")
            assert (answer.status_code, answer.json()["code"]) == (403, "not-granted")
            assert (await client.get(f"/v1/integrations/chat{path}")).status_code == 404
        assert (await client.get(f"{PATH}/dataset/versions")).status_code == 200
    async with either.client(token=admin) as client:
        assert {(await client.get(f"{PATH}{path}")).status_code for path in paths} == {200}
    async with either.client(token=stranger) as client:
        for path in (*paths, "/dataset/versions"):
            assert (await client.get(f"{PATH}{path}")).status_code == 404
        assert (await client.post(f"{PATH}/dataset/rollback", json={"version": 1})).status_code == 404


async def test_before_the_first_sync_there_is_nothing(installation: Installation) -> None:
    await installation.change(lambda tx: want(tx, Wish("sn", "servicenow", "it")))
    async with installation.client() as client:
        for params in ({}, {"entity": "incidents"}):
            body = await got(client, "/records", **params)
            assert (body["data"], body["version"]) == ([], None)
        assert (await got(client, "/dataset/versions"))["data"] == []


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/records?entity=nothing", "invalid-parameter"),
        ("/records?version=0", "invalid-parameter"),
        ("/records?version=99999999999999999999", "invalid-parameter"),
        ("/records?limit=1000", "invalid-parameter"),
        ("/records?cursor=WzEsMSwiYSIsImIiXQ", "invalid-cursor"),
        ("/records?cursor=W10", "invalid-cursor"),
        ("/records?at=now", "unknown-parameter"),
        ("/records/incidents/003?at=now", "unknown-parameter"),
        ("/dataset/versions?x=1", "unknown-parameter"),
        ("/dataset/versions/0/diff", "invalid-parameter"),
        ("/dataset/versions/one/diff", "invalid-parameter"),
        ("/dataset/versions/2/diff?against=-1", "invalid-parameter"),
    ],
)
async def test_bad_parameters(installation: Installation, path: str, code: str) -> None:
    await filled(installation)
    async with installation.client() as client:
        answer = await client.get(f"{PATH}{path}")
    assert (answer.status_code, answer.json()["code"]) == (400, code), answer.text
