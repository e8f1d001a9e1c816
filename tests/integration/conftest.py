"""A world of real rooms on both databases for tests of the store, the control loop, syncs and events."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from reconciler.sdk.testing.room import VirtualClock
from reconciler.store.database import Backend
from reconciler.store.postgres import Postgres
from reconciler.store.sqlite import Sqlite
from tests.desk import World, opened


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.needs("initdb"))])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    clock = VirtualClock()
    async with opened(_backend(request, tmp_path, clock), clock) as made:
        yield made


def _backend(request: pytest.FixtureRequest, folder: Path, clock: VirtualClock) -> Backend:
    if request.param == "sqlite":
        return Sqlite(folder / "reconciler.db", clock)
    return Postgres(request.getfixturevalue("postgres_url"), clock.now)
