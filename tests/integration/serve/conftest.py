"""Fixtures for the tests of `reconciler.serve`."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.serve.installation import Installation, installed


@pytest.fixture
async def installation(tmp_path: Path) -> AsyncIterator[Installation]:
    async with installed(tmp_path) as found:
        yield found
