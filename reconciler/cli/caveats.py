"""What a reader of the store must know about what is shown: nobody works on it, or only observes, or its disk is full.

In: the state directory, one snapshot. Out: lines for below a table. Called by `status`.
"""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.cli.store_access import daemon_runs

if TYPE_CHECKING:
    from reconciler.store.database import Tx

LITTLE_ROOM = 1 << 20


def caveats(folder: Path, tx: "Tx") -> list[str]:
    """Nothing where all is as it seems."""
    from reconciler.store import shown

    found = []
    if not daemon_runs(folder):
        found.append(f"no daemon works on {folder}: this is how the last one left it; start one with: reconciler run")
    elif shown.is_observed(tx):
        found.append("the daemon only observes (--observe): it changes, syncs and sends nothing; its log has the plan")
    room = shutil.disk_usage(folder).free
    if room < LITTLE_ROOM:
        found.append(
            f"{folder} has {room // 1024} kB of room left: what happens cannot be recorded until there is more"
        )
    return found
