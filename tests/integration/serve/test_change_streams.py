"""State changes as they happen, and what streams must not do: hold up others, the stop, or what a token may no longer see."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import httpx
import pytest

from reconciler.model.access import Permission
from reconciler.model.clock import rfc3339
from reconciler.model.record import RunResult, Scope
from reconciler.serve.server import Patience
from reconciler.serve.state_changes import Measures
from reconciler.serve.streaming import Beat
from reconciler.store import runs
from reconciler.store.database import Tx
from reconciler.store.runs import Lineage, NewRun
from tests.integration.serve.installation import (
    START,
    Installation,
    Wish,
    break_,
    connect,
    let_go,
    synced,
    want,
)
from tests.integration.serve.listening import PATIENCE, Event, heard, listening, next_of, raw, until

QUICK = Measures(every=0.02, linger=5)
LONG_STOP = Patience(stop=timedelta(seconds=30))


@pytest.fixture
async def quick(installation: Installation) -> Installation:
    installation.measures, installation.beat = QUICK, Beat(look=0.1)
    return installation


async def filled(installation: Installation, *wishes: Wish) -> dict[str, int]:
    ids: dict[str, int] = await installation.change(lambda tx: want(tx, *wishes))
    for i in ids.values():
        await installation.change(partial(connect, integration_id=i))
    return ids


def names(event: Event) -> list[str]:
    return [one["name"] for one in event.body["integrations"]]


async def test_what_changes_is_told(quick: Installation) -> None:
    ids = await filled(quick, Wish("sn", "servicenow"), Wish("chat", "slack"))
    async with quick.client() as client, listening(client, "/v1/stream") as events:
        listed = {one["name"]: one for one in (await client.get("/v1/integrations")).json()["data"]}
        await quick.change(lambda tx: break_(tx, ids["sn"]))
        broken = await next_of(events, "integration")
        assert broken.body == {**listed["sn"], **broken.body}
        assert (broken.body["name"], broken.body["status"]) == ("sn", "error")
        await quick.change(lambda tx: want(tx, Wish("new")))
        assert (await next_of(events, "integration")).body["name"] == "new"
        await quick.change(lambda tx: let_go(tx, ids["chat"]))
        gone = (await next_of(events, "removed")).body
        assert gone == {"id": listed["chat"]["id"], "workspace": "default", "name": "chat", "type": "slack"}


async def test_syncs_are_told_as_they_begin_and_end(quick: Installation) -> None:
    ids = await filled(quick, Wish("sn", "servicenow"))
    at = rfc3339(START)

    def begin(tx: Tx) -> Any:
        run = runs.create(tx, NewRun(ids["sn"], Scope.FULL, "person"), at)
        return runs.start(tx, run.id, 1, Lineage(1, "r", "h", "1"), at)

    async with quick.client() as client, listening(client, "/v1/stream") as events:
        run = await quick.change(begin)
        began = (await next_of(events, "sync")).body
        assert (began["id"], began["status"], began["integration"]["name"]) == (run.public_id, "running", "sn")
        await quick.change(lambda tx: runs.finish(tx, run, RunResult.SUCCESS, "", "", at))
        ended = (await next_of(events, "sync")).body
        assert (ended["id"], ended["status"]) == (run.public_id, "success")
        await quick.change(lambda tx: synced(tx, ids["sn"], RunResult.FAILED, START, "boom"))
        brief = (await next_of(events, "sync")).body
        assert (brief["status"], brief["error"]) == ("failed", "boom")


async def test_a_caller_hears_of_its_workspace_only(quick: Installation) -> None:
    ids = await filled(quick, Wish("a", workspace="it"), Wish("b"), Wish("c", "slack"))
    token = await quick.issue("it", "it", Permission.INTEGRATION_VIEW)
    async with (
        quick.client(token=token) as mine,
        quick.client() as client,
        listening(mine, "/v1/stream", params={"snapshot": True}) as own,
        listening(client, "/v1/stream", params={"snapshot": True, "workspace": "default", "type": "slack"}) as slack,
    ):
        assert names(await next_of(own, "snapshot")) == ["a"]
        assert names(await next_of(slack, "snapshot")) == ["c"]
        for name in ("b", "c", "a"):
            await quick.change(partial(break_, integration_id=ids[name]))
        assert (await next_of(own)).body["name"] == "a"
        assert (await next_of(slack)).body["name"] == "c"


async def test_a_snapshot_of_many_comes_in_parts(quick: Installation) -> None:
    await quick.change(lambda tx: want(tx, *(Wish(f"n{i:03}") for i in range(250))))
    async with quick.client() as client, listening(client, "/v1/stream?snapshot=1") as events:
        parts = [await next_of(events) for _ in range(3)]
    assert [name for part in parts for name in names(part)] == [f"n{i:03}" for i in range(250)]
    assert [part.body["has_more"] for part in parts] == [True, True, False]
    assert [bool(part.id) for part in parts] == [False, False, True]


async def test_nothing_is_missed_between_two_connections(quick: Installation) -> None:
    ids = await filled(quick, Wish("a"), Wish("b"))
    async with quick.client() as client:
        async with listening(client, "/v1/stream") as events:
            await quick.change(lambda tx: break_(tx, ids["a"]))
            last = (await next_of(events)).id
        await quick.change(lambda tx: break_(tx, ids["b"]))
        await quick.change(lambda tx: want(tx, Wish("c")))
        async with listening(client, "/v1/stream", last=last) as events:
            assert [(await next_of(events)).body["name"] for _ in range(2)] == ["b", "c"]
        for unknown in ("rubbish", "00000000:1", f"{last}0000"):
            async with listening(client, "/v1/stream", last=unknown) as events:
                assert (await next_of(events)).kind == "resync"
            async with listening(client, "/v1/stream?snapshot=1", last=unknown) as events:
                assert names(await next_of(events)) == ["a", "b", "c"]


async def test_who_is_too_slow_is_told_to_begin_anew(quick: Installation) -> None:
    quick.measures = Measures(every=0.02, queue=5, ring=10)
    await quick.change(lambda tx: want(tx, Wish("a")))
    async with quick.client() as client, listening(client, "/v1/stream") as events:
        await quick.change(lambda tx: want(tx, *(Wish(f"n{i}") for i in range(30))))
        late = await next_of(events)
        assert late.kind == "resync"
        await quick.change(lambda tx: want(tx, Wish("z")))
        assert (await next_of(events)).body["name"] == "z"
        async with listening(client, "/v1/stream", last=late.id) as again:
            assert (await next_of(again)).body["name"] == "z"


async def test_a_silent_stream_shows_that_it_lives(quick: Installation) -> None:
    quick.beat = Beat(look=0.05, ping=0.05)
    async with quick.client() as client, client.stream("GET", "/v1/stream") as answer:
        async with asyncio.timeout(PATIENCE):
            async for line in answer.aiter_lines():
                if line.startswith(": ping"):
                    break


async def test_a_revoked_token_ends_the_stream(quick: Installation) -> None:
    ids = await filled(quick, Wish("a"))
    token = await quick.issue("leaver", None, Permission.INTEGRATION_VIEW)
    async with quick.client(token=token) as client, listening(client, "/v1/stream") as events:
        await quick.change(lambda tx: break_(tx, ids["a"]))
        assert (await next_of(events)).kind == "integration"
        await quick.database.write(lambda tx: revoke(tx, "leaver"))
        quick.clock.add(2)
        async with asyncio.timeout(PATIENCE):
            rest = [event async for event in events]
    assert [(event.kind, event.body["code"]) for event in rest] == [("error", "invalid-token")]


def revoke(tx: Tx, name: str) -> None:
    tx.execute("UPDATE api_token SET revoked_at = :at WHERE name = :n", {"at": rfc3339(START), "n": name})


async def test_requests_that_do_not_fit(quick: Installation) -> None:
    token = await quick.issue("publisher", None, Permission.EVENT_PUBLISH)
    async with quick.client() as client, quick.client(token=token) as other:
        odd = await client.get("/v1/stream?stauts=error")
        assert (odd.status_code, odd.json()["code"]) == (400, "unknown-parameter")
        assert (await other.get("/v1/stream")).status_code == 403
        async with asyncio.timeout(PATIENCE):
            head = await client.head("/v1/stream")
        assert (head.status_code, head.content) == (200, b"")


async def test_there_is_room_for_others(quick: Installation) -> None:
    quick.beat = Beat(most=2)
    async with quick.client() as client, listening(client, "/v1/stream"), listening(client, "/v1/stream"):
        full = await client.get("/v1/stream")
        assert (full.status_code, full.json()["code"], full.headers["retry-after"]) == (503, "too-many-streams", "10")
        assert (await client.get("/v1/integrations")).status_code == 200


async def test_with_nobody_there_nothing_is_compared(quick: Installation) -> None:
    quick.measures = Measures(every=0.02, linger=0.1)
    await filled(quick, Wish("a"))
    server = quick.server()
    await server.start()
    changes: Any = server._app._app._app.state.parts.streams.changes  # type: ignore[attr-defined]
    try:
        async with httpx.AsyncClient(
            base_url=f"http://{server.address}", headers=quick.bearer, trust_env=False
        ) as client:
            assert not changes._comparing
            async with listening(client, "/v1/stream?snapshot=1") as events:
                await next_of(events)
                assert not changes._comparing.done()
            async with asyncio.timeout(PATIENCE):
                await changes._comparing
        assert not changes.entries
    finally:
        await server.stop()


@asynccontextmanager
async def deaf(address: str, token: str) -> AsyncIterator[socket.socket]:
    """Asks for everything and reads nothing."""
    host, _, port = address.rpartition(":")
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, (host, int(port)))
    head = f"GET /v1/stream?snapshot=1 HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\r\n"
    await loop.sock_sendall(client, head.encode())
    try:
        yield client
    finally:
        client.close()


@pytest.mark.parametrize("way", ["cut off", "stopped"])
async def test_clients_that_never_read_hold_nothing_up(quick: Installation, way: str) -> None:
    """`cut off`: after the time that a piece may take. `stopped`: long before, when the server ends."""
    quick.beat = Beat(look=0.1, taken=1 if way == "cut off" else 600)
    await quick.change(lambda tx: want(tx, *(Wish(f"n{i:05}", labels={"l": "x" * 60}) for i in range(20_000))))
    server = quick.server(LONG_STOP)
    await server.start()
    streams = server._app._app._app.state.parts.streams  # type: ignore[attr-defined]
    try:
        async with (
            deaf(server.address, quick.token),
            deaf(server.address, quick.token),
            httpx.AsyncClient(
                base_url=f"http://{server.address}", headers=quick.bearer, trust_env=False, timeout=PATIENCE
            ) as client,
        ):
            async with asyncio.timeout(PATIENCE):
                await until(lambda: len(streams.open) >= 2)
            async with listening(client, "/v1/stream") as events:
                await quick.change(lambda tx: want(tx, Wish("another")))
                assert (await next_of(events)).body["name"] == "another"
            assert (await client.get("/v1/integrations")).status_code == 200
            if way == "cut off":
                async with asyncio.timeout(PATIENCE):
                    await until(lambda: not streams.open)
                assert (await client.get("/v1/integrations")).status_code == 200
            else:
                assert len(streams.open) >= 2
            async with asyncio.timeout(15):  # less than the 30 s that answers under way are given
                await server.stop()
            assert not streams.open
    finally:
        await server.stop()


async def test_the_stop_ends_streams_at_once(quick: Installation) -> None:
    await filled(quick, Wish("a"))
    server = quick.server(LONG_STOP)
    await server.start()
    async with httpx.AsyncClient(
        base_url=f"http://{server.address}", headers=quick.bearer, trust_env=False, timeout=PATIENCE
    ) as client:
        listeners = [asyncio.create_task(heard(client, "/v1/stream")) for _ in range(50)]
        streams = server._app._app._app.state.parts.streams  # type: ignore[attr-defined]
        await until(lambda: len(streams.open) >= 50)
        async with asyncio.timeout(15):
            await server.stop()
            assert await asyncio.gather(*listeners) == [[]] * 50


async def test_five_hundred_dashboards(quick: Installation) -> None:
    ids = await filled(quick, Wish("a"), Wish("b"))
    server = quick.server()
    await server.start()
    streams = server._app._app._app.state.parts.streams  # type: ignore[attr-defined]
    try:
        async with httpx.AsyncClient(
            base_url=f"http://{server.address}", headers=quick.bearer, trust_env=False, timeout=PATIENCE
        ) as client:
            waiting = [asyncio.create_task(raw(client, "/v1/stream", b'"created_at"')) for _ in range(500)]
            async with asyncio.timeout(PATIENCE):
                await until(lambda: len(streams.open) >= 500)
                await quick.change(lambda tx: break_(tx, ids["a"]))
                told = await asyncio.gather(*waiting)
        assert all(one == told[0] for one in told)
        assert b'"name":"a"' in told[0]
    finally:
        await server.stop()
