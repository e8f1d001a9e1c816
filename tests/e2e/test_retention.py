"""A daemon keeps dataset versions as the manifest of the workspace says, and what is left is what it was."""

from pathlib import Path

from reconciler.store import history, runs
from reconciler.store.database import Tx
from tests.e2e.stage import HurriedClock, Running, Stage, two_of_them

WORKSPACE = """
apiVersion: reconciler.dev/v1
kind: Workspace
metadata: {name: it-ops}
spec:
  retention: {versions: {keep: 2}}
"""


def _versions(tx: Tx, integration_id: int) -> list[int]:
    return [v.number for v in reversed(history.versions(tx, integration_id, 10))]


def _export(tx: Tx, integration_id: int, number: int) -> list[tuple[str, bytes]]:
    (incidents,) = history.entities(tx, integration_id)
    found, _ = history.records(tx, history.at_version(tx, integration_id, number), incidents.id)
    return [(e.key, e.payload) for e in found]


async def _three_versions(stage: Stage, up: Running) -> int:
    view = await up.until_view("sn", "synced", lambda v: v.row.last_sync_at)
    for number in (2, 3):
        row = stage.servicenow.put("incident", {"short_description": f"New {number}"})
        stage.servicenow.put("incident", {"sys_id": row["sys_id"], "short_description": f"Newer {number}"})
        await up.order("sync", "sn")

        async def is_made(number: int = number) -> bool:
            return (await up.read(lambda tx: _versions(tx, view.row.id)))[-1] == number

        await up.until(f"version {number}", is_made)
    return view.row.id


async def test_old_versions_go_as_the_workspace_says(tmp_path: Path) -> None:
    with two_of_them(tmp_path, 12) as stage:
        async with stage.daemon() as up:
            i = await _three_versions(stage, up)
            assert await up.read(lambda tx: _versions(tx, i)) == [1, 2, 3]
            before = await up.read(lambda tx: [_export(tx, i, n) for n in (2, 3)])
        async with stage.daemon(clock=HurriedClock()) as up:
            (stage.repo / "workspace.yaml").write_text(WORKSPACE)
            stage.commit()

            async def are_two_left() -> bool:
                return await up.read(lambda tx: _versions(tx, i)) == [2, 3]

            await up.until("two versions left", are_two_left)
            assert await up.read(lambda tx: [_export(tx, i, n) for n in (2, 3)]) == before
            assert len(await up.read(lambda tx: runs.history(tx, i))) == 3
