"""A world with one integration, an authorization server, and processes, for tests of authorizations."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from reconciler.store.database import Backend, Database
from reconciler.store.migrations import migrate
from tests.desk import World, desired
from tests.integration.app.authorizing import Process, process
from tests.servers.oauth import OAuthServer


@pytest.fixture
def server() -> Iterator[OAuthServer]:
    with OAuthServer() as made:
        yield made


@pytest_asyncio.fixture
async def world(backend: Backend) -> AsyncIterator[World]:
    from reconciler.sdk.testing.room import VirtualClock

    database = Database(backend)
    await migrate(database)
    made = World(database, VirtualClock())
    await made.wish(desired("desk"))
    yield made
    database.close()


@pytest_asyncio.fixture
async def ends() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest_asyncio.fixture
async def one(world: World, server: OAuthServer, ends: AsyncExitStack) -> Process:
    return await process(world, server, ends)


@pytest_asyncio.fixture
async def two(world: World, server: OAuthServer, ends: AsyncExitStack) -> Process:
    return await process(world, server, ends)
