"""How long the HTTP client keeps its connections."""

import asyncio
from datetime import timedelta

from reconciler.sdk.http import HttpSettings
from tests.integration.sdk.loopback import Seen, listening, reply, rigged


async def test_connections_are_kept_and_cookies_are_not() -> None:
    async with listening(reply(200, "{}", set_cookie="session=1; Path=/")) as server, rigged() as rig:
        await rig.get(server.url)
        await rig.get(server.url)
        assert server.connections == 1
        assert "cookie" not in server.seen[1].headers


async def test_a_closed_client_opens_again() -> None:
    async with listening(reply()) as server, rigged() as rig:
        await rig.get(server.url)
        await rig.client.close()
        await rig.client.close()
        await rig.get(server.url)
        assert server.connections == 2


async def test_an_idle_client_holds_no_connection() -> None:
    settings = HttpSettings(keep=timedelta(milliseconds=20))
    async with listening(reply()) as server, rigged(settings=settings) as rig:
        for connections in (1, 2):
            await rig.get(server.url)
            await server.ended.wait()
            assert server.connections == connections
            server.ended.clear()


async def test_a_request_that_takes_longer_than_a_connection_is_kept_is_answered() -> None:
    asked, released = asyncio.Event(), asyncio.Event()

    async def late(seen: Seen, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await released.wait()
        await reply()(seen, writer)

    settings = HttpSettings(keep=timedelta(milliseconds=1))
    async with listening(reply(), late) as server, rigged(settings=settings) as rig:
        await rig.get(server.url)
        slow = asyncio.create_task(rig.get(server.url))
        await asked.wait()
        await asyncio.sleep(0.01)  # timers fire in order: the one of the connection has by then
        released.set()
        assert (await slow).status == 200
