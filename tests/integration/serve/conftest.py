"""Fixtures for the tests of `reconciler.serve`."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.serve.installation import Installation, installed


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.needs("initdb"))])
async def either(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Installation]:
    """The same on each kind of database."""
    url = request.getfixturevalue("postgres_url") if request.param == "postgresql" else None
    async with installed(tmp_path, url) as found:
        yield found


@pytest.fixture
async def installation(tmp_path: Path) -> AsyncIterator[Installation]:
    async with installed(tmp_path) as found:
        yield found
