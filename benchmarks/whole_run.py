"""One sync as a process of its own, from its start to its end: `python -m benchmarks.whole_run URL FOLDER full|incremental`.

The folder holds a store in which the integration is connected: it opens that, runs the sync as a job does, and ends.
What a daemon does once for all its syncs (read Git, decrypt, start the job engine) is not part of it.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

from benchmarks.synced import CLOCK, Changing, over
from reconciler.model.manifest import Integration
from reconciler.model.record import Scope
from reconciler.sdk.testing.room import Bench as Room
from reconciler.store import integrations
from reconciler.store.database import Database
from reconciler.store.location import backend


async def main(url: str, folder: Path, scope: Scope) -> None:
    database = Database(backend(folder / "reconciler.db", CLOCK))
    try:
        (row,) = await database.read(integrations.every)
        async with Room() as room:
            manifest = Integration.model_validate(_manifest(row.name, row.workspace))
            await over(database, room, row, manifest, url, Changing)(scope)
    finally:
        database.close()


def _manifest(name: str, workspace: str) -> dict[str, Any]:
    return {
        "apiVersion": "reconciler.dev/v1",
        "kind": "Integration",
        "metadata": {"name": name, "workspace": workspace},
        "spec": {"type": "bench", "auth": {"type": "none"}},
    }


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), Scope(sys.argv[3])))
