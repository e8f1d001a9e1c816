"""One world per test; the engine is a singleton, so each test must leave none behind."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.integration.work.world import World

ON_POSTGRESQL = pytest.param("postgresql", marks=pytest.mark.needs("initdb"))


@pytest_asyncio.fixture(params=["sqlite", ON_POSTGRESQL])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    """Alone on its files, or sharing a server."""
    url = request.getfixturevalue("postgres_url").reveal() if request.param == "postgresql" else ""
    made = World(tmp_path, url)
    await made.open()
    yield made
    made.db.close()
