"""Fixtures of end-to-end tests."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import structlog

from reconciler.model.secret import Secret
from tests.e2e.site import Site
from tests.e2e.stage import Stage


@pytest.fixture
def quiet_logging() -> Iterator[None]:
    """A command sets the logging of its process up; here it is put back, so that no later test writes to a closed stream."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


@pytest.fixture
def site(tmp_path: Path, postgres_url: Secret) -> Iterator[Site]:
    """ServiceNow with old incidents, Slack, which is told of urgent ones, and an empty database; no daemon yet."""
    stage = Stage(tmp_path)
    with stage.servicenow, stage.slack, ExitStack() as processes:
        for number in range(60):
            stage.servicenow.put("incident", {"short_description": f"Old {number}", "priority": str(number % 5 + 1)})
        stage.manifest("sn", **stage.servicenow_spec())
        stage.manifest("chat", **stage.slack_spec())
        stage.commit()
        yield Site(stage, postgres_url, processes)
