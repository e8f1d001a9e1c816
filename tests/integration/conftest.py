"""A world of real rooms on real SQLite for tests of the store, the control loop, syncs and events."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.desk import World, opened


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with opened(tmp_path) as made:
        yield made
