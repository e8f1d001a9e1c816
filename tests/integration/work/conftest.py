"""One world per test; the engine is a singleton, so each test must leave none behind."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.integration.work.world import World


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    await made.open()
    yield made
    made.db.close()
