"""What an operator does not permit the writers of manifests stays undone, and is said where they wrote it."""

from pathlib import Path
from typing import Any

from reconciler.model.finding import Code
from reconciler.store import journal
from tests.e2e.stage import Running, Stage


async def test_a_source_speaks_for_its_own_workspaces_only(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    with stage.servicenow:
        stage.manifest("sn", **stage.servicenow_spec())
        stage.commit()
        permitted: dict[str, Any] = {"source.workspaces": ("lab-*",)}
        async with stage.daemon(**permitted) as running:
            await running.until("the manifest is refused", lambda: _is_refused(running))
            assert "sn" not in await running.views()
            assert not stage.servicenow.requests


async def _is_refused(running: Running) -> bool:
    return [f.code for f in await running.read(journal.findings)] == [Code.NOT_PERMITTED]
