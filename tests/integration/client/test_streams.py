"""Streams, read by both clients: taken up again where they were cut, ended where nothing comes, refused with the reason."""

import json
from typing import Any

import pytest

from reconciler.api.stream_events import IntegrationRemoved, Resync, SyncComplete, SyncFailed, SyncProgress
from reconciler.client import AnswerError, ConflictError, UnavailableError, UnreachableError
from reconciler.client.listening import EventReader
from reconciler.client.streams import OF_CHANGES, OF_SYNC
from tests.integration.client.scripted import EITHER, HURRIED, Either, answer, problem, scripted, stream

AT = "2026-01-01T00:00:00Z"
NAMED = {"id": "int_1", "workspace": "it-ops", "name": "sn", "type": "servicenow"}
ENDED = {
    "sync_job_id": "run_1",
    "at": AT,
    "integration": NAMED,
    "result": "success",
    "reason": None,
    "message": "success",
    "stats": {"added": 1, "updated": 0, "deleted": 0, "rejected": 0, "total": 1},
    "last_synced": AT,
    "dataset_version": 1,
}
COMPLETE = f"event: complete\r\nid: run_1:9\r\ndata: {json.dumps(ENDED)}\r\n\r\n"
PATH = "/v1/integrations/sn/sync"


def progress(number: int, message: str = "read") -> str:
    body = {"sync_job_id": "run_1", "at": AT, "entity": "incidents", "batch": number, "totalBatches": None}
    body |= {"ids": ["a\u2028b"], "deleted": [], "message": message}
    return f"event: progress\r\nid: run_1:{number}\r\ndata: {json.dumps(body, ensure_ascii=False)}\r\n\r\n"


async def heard(either: Either, client: Any, method: str = "POST", path: str = PATH, kinds: Any = OF_SYNC) -> list[Any]:
    return [*await either.every(lambda: client.listen(method, path, kinds, body={} if method == "POST" else None))]


@EITHER
async def test_it_is_taken_up_where_it_was_cut(either: Either) -> None:
    cut = progress(3).encode()[:60]
    answers = [
        stream(": ping\r\n\r\n", progress(1), progress(2), cut),
        b"",
        problem(503, "stopping", retry_after="0"),
        stream(progress(3)),
        stream(COMPLETE, progress(10)),
    ]
    async with scripted(*answers) as server, either.client(server.url) as client:
        *told, last = await heard(either, client)
    assert [(one.batch, one.event_id) for one in told] == [(1, "run_1:1"), (2, "run_1:2"), (3, "run_1:3")]
    assert all(type(one) is SyncProgress for one in told)
    assert told[0].ids == ["a\u2028b"]
    assert type(last) is SyncComplete
    assert [one.headers.get("last-event-id") for one in server.asked] == [None, *["run_1:2"] * 3, "run_1:3"]
    assert len({one.headers["idempotency-key"] for one in server.asked}) == 1
    assert {one.headers["accept"] for one in server.asked} == {"text/event-stream"}


@EITHER
async def test_how_a_sync_may_fail(either: Either) -> None:
    failed = ENDED | {"result": "failed", "code": "fetch-failed", "detail": "no route"}
    told = stream(f"event: error\nid: run_1:2\ndata: {json.dumps(failed)}\n\n")
    async with scripted(told) as server, either.client(server.url) as client:
        (only,) = await heard(either, client)
    assert isinstance(only, SyncFailed)
    assert (only.code, only.detail) == ("fetch-failed", "no route")


@EITHER
async def test_refusals(either: Either) -> None:
    told = 'event: error\r\ndata: {"status": 409, "code": "suspended", "detail": "by ada"}\r\n\r\n'
    answers = [stream(told), problem(409, "suspended"), answer(202, {"sync_job_id": "run_1"})]
    async with scripted(*answers) as server, either.client(server.url) as client:
        for _ in range(2):
            with pytest.raises(ConflictError) as refused:
                await heard(either, client)
            assert refused.value.code == "suspended"
        with pytest.raises(AnswerError, match="does not stream"):
            await heard(either, client)
        assert len(server.asked) == 3


@EITHER
async def test_it_gives_up_and_it_ends(either: Either) -> None:
    async with scripted(stream(progress(1)), *[b""] * 9) as server, either.client(server.url) as client:
        with pytest.raises(UnreachableError):
            await heard(either, client)
        assert len(server.asked) == 1 + HURRIED.retries
    busy = problem(503, "too-many-streams", retry_after="3600")
    async with scripted(busy) as server, either.client(server.url) as client:
        with pytest.raises(UnavailableError):
            await heard(either, client)
    async with scripted(stream(progress(1)), answer(204)) as server, either.client(server.url) as client:
        assert len(await heard(either, client)) == 1


@EITHER
async def test_changes(either: Either) -> None:
    removed = f"event: removed\r\nid: e:1\r\ndata: {json.dumps(NAMED)}\r\n\r\n"
    later = "event: of-a-later-release\r\nid: e:2\r\ndata: {}\r\n\r\n: ping\r\nid: e:3\r\n\r\n"
    resync = 'event: resync\r\nid: e:9\r\ndata: {"detail": "late"}\r\n\r\n'
    async with (
        scripted(stream(removed, later), stream(resync), answer(204)) as server,
        either.client(server.url) as client,
    ):
        told = await heard(either, client, "GET", "/v1/stream", OF_CHANGES)
    assert [type(one) for one in told] == [IntegrationRemoved, Resync]
    assert [one.headers.get("last-event-id") for one in server.asked] == [None, "e:3", "e:9"]


def test_bytes_may_come_in_any_pieces() -> None:
    text = ("\ufeff: hello\nid: 1\nevent: a\ndata: x\ndata: y\n\n" + "data:z\r\rid: 2\r\n\r\n" + progress(4)).encode()
    whole = [(e.kind, e.id, e.body) for e in EventReader().feed(text)]
    for size in (1, 2, 3, 7):
        reader = EventReader()
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        assert [(e.kind, e.id, e.body) for piece in pieces for e in reader.feed(piece)] == whole
    assert whole[:2] == [("a", "1", "x\ny"), ("message", "1", "z")]
    assert whole[2][1] == "run_1:4"
    with pytest.raises(AnswerError):
        EventReader().feed(b"data: " + b"x" * 17_000_000)
