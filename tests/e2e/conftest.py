"""Fixtures of end-to-end tests."""

import logging
from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture
def quiet_logging() -> Iterator[None]:
    """A command sets the logging of its process up; here it is put back, so that no later test writes to a closed stream."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()
