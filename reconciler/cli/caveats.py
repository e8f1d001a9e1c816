"""What a reader of the store must know about what is shown: nobody works on it, or only observes, or its disk is full.

In: where the store is, one snapshot. Out: lines for below a table. Called by `status`.
"""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.cli.store_access import is_led

if TYPE_CHECKING:
    from reconciler.store.database import Tx
    from reconciler.store.location import Location

LITTLE_ROOM = 1 << 20


def caveats(location: "Location", tx: "Tx") -> list[str]:
    """Nothing where all is as it seems."""
    from reconciler.store import shown

    found = []
    if not is_led(location, tx):
        place = location.parent if isinstance(location, Path) else "the database"
        found.append(f"no daemon works on {place}: this is how the last one left it; start one with: reconciler run")
    elif shown.is_observed(tx):
        found.append("the daemon only observes (--observe): it changes, syncs and sends nothing; its log has the plan")
    return [*found, *_room(location.parent)] if isinstance(location, Path) else found


def _room(folder: Path) -> list[str]:
    room = shutil.disk_usage(folder).free
    if room >= LITTLE_ROOM:
        return []
    return [f"{folder} has {room // 1024} kB of room left: what happens cannot be recorded until there is more"]
