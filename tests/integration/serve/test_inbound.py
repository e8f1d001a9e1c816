"""The doors for others: what a process says that cannot check anything, and bodies of every size."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from reconciler.events.inbound import MOST_HUGE, Reception
from reconciler.model.condition import Reason
from reconciler.sdk.live import Live, NotConnectableError
from reconciler.serve.admission import Terms
from reconciler.serve.limits import FAILURES, Limits
from reconciler.serve.ports import Ports
from reconciler.serve.problem import MAX_BODY
from tests.integration.serve.installation import installed


class Untold:
    def __call__(self, *_: Any, **__: Any) -> None:
        pass

    async def flush(self) -> None:
        pass


class Nobody:
    """Connections of which there are none."""

    async def live(self, integration_id: int) -> Live:
        raise NotConnectableError(Reason.SECRET_MISSING, f"there is no {integration_id}")

    async def drop(self, integration_id: int) -> None:
        pass


@pytest.mark.asyncio
async def test_a_process_that_does_not_follow_git_takes_nothing(tmp_path: Path) -> None:
    async with installed(tmp_path) as found, found.client(token="") as client:
        hook = await client.post("/v1/inbound/it-ops/gh", content=b"{}")
        push = await client.post("/ingest/v1/erp/events", content=b"{}")
        for answer in (hook, push):
            assert (answer.status_code, answer.json()["code"]) == (503, "inbound-not-served")
            assert "controller or worker" in answer.json()["detail"]
            assert int(answer.headers["retry-after"]) > 0


@pytest.mark.asyncio
async def test_before_git_was_read_nobody_is_refused_for_good(tmp_path: Path) -> None:
    async with installed(tmp_path) as found:
        reception = Reception(found.database, Nobody(), Untold(), found.clock, lambda: False)
        found.ports = Ports(reception=reception)
        async with found.client(token="rck_AAAAAAAA_" + "A" * 43) as client:
            answers = [await client.post(path, content=b"{}") for path in ("/v1/inbound/w/n", "/ingest/v1/n/events")]
        reception.close()
    assert [(a.status_code, a.json()["code"], a.headers["retry-after"]) for a in answers] == [
        (503, "not-ready", "10")
    ] * 2


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("path", "size", "status"),
    [
        ("/v1/integrations/x/sync", 200_000, 422),
        ("/v1/integrations/x/sync", MAX_BODY + 1, 413),
        ("/v1/inbound/w/n", 25 * 1024 * 1024, 503),
        ("/v1/inbound/w/n", 25 * 1024 * 1024 + 1, 413),
        ("/ingest/v1/n/events", 5 * 1024 * 1024 + 1, 413),
    ],
)
async def test_each_door_has_its_size(tmp_path: Path, path: str, size: int, status: int) -> None:
    async with installed(tmp_path) as found, found.client() as client:
        answer = await client.post(path, content=b"x" * size, headers={"content-type": "application/json"})
        assert answer.status_code == status


@pytest.mark.asyncio
async def test_guesses_behind_a_proxy_count_by_who_guesses(tmp_path: Path) -> None:
    async with installed(tmp_path) as found:
        found.terms = Terms(limits=Limits(found.clock, proxies=("127.0.0.0/8",)))
        reception = Reception(found.database, Nobody(), Untold(), found.clock)
        found.ports = Ports(reception=reception)
        async with found.client(token="") as client:

            async def guess(source: str) -> httpx.Response:
                return await client.get("/ingest/v1/erp/ping", headers={"x-forwarded-for": source})

            seen = [await guess("6.6.6.6") for _ in range(FAILURES + 1)]
            other = await guess("7.7.7.7")
        reception.close()
    assert [answer.status_code for answer in seen] == [401] * FAILURES + [429]
    assert [answer.headers["ratelimit-remaining"] for answer in seen] == [*map(str, range(FAILURES - 1, -1, -1)), "0"]
    assert int(seen[-1].headers["retry-after"]) > 0
    assert other.status_code == 401


@pytest.mark.asyncio
async def test_a_body_of_unknown_length_counts_as_large(tmp_path: Path) -> None:
    """Or many of them at once would fill the memory, and nobody has signed in yet."""

    async def pieces() -> AsyncIterator[bytes]:
        yield b"{}"

    async with installed(tmp_path) as found:
        reception = Reception(found.database, Nobody(), Untold(), found.clock)
        found.ports = Ports(reception=reception)
        for _ in range(MOST_HUGE):
            await reception.huge.acquire()
        async with found.client(token="") as client:
            chunked = await client.post("/v1/inbound/w/n", content=pieces())
            small = await client.post("/v1/inbound/w/n", content=b"{}")
        reception.close()
    assert (chunked.status_code, chunked.json()["code"]) == (503, "queue-full")
    assert (small.status_code, small.json()["code"]) == (401, "not-verified")


@pytest.mark.asyncio
@pytest.mark.parametrize("path", ["/v1/inbound/w/n", "/v1/integrations/x/resume"])
async def test_who_leaves_in_the_middle_of_a_body_writes_no_log(tmp_path: Path, path: str) -> None:
    async with installed(tmp_path) as found:
        reception = Reception(found.database, Nobody(), Untold(), found.clock)
        found.ports = Ports(reception=reception)
        server = found.server()
        await server.start()
        with capture_logs() as logs:
            host, _, port = server.address.rpartition(":")
            _, writer = await asyncio.open_connection(host, int(port))
            head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {found.token}\r\n"
            writer.write(f"{head}Content-Length: 5\r\n\r\nab".encode())
            await writer.drain()
            writer.close()
            await writer.wait_closed()
            await server.stop()
        reception.close()
    assert logs == []
