"""Where in a table that grows in order of time a moment is: found by its primary key, so that no index of times is needed.

Called by reads of history. Rows of several processes, and lines that waited for room on the disk, come a little late: the
place is searched for a while before the moment, and callers compare the times themselves.
"""

from datetime import timedelta
from typing import Literal

from reconciler.model.clock import from_rfc3339, rfc3339
from reconciler.store.database import Tx

LATE = timedelta(hours=1)
Table = Literal["log", "run", "audit", "revision"]
Column = Literal["at", "requested_at"]


def first_since(tx: Tx, table: Table, column: Column, at: str) -> int:
    """No row with a smaller id is from `at` or later, unless it was written more than `LATE` after its time."""
    earlier = rfc3339(from_rfc3339(at) - LATE)
    low, high = int(tx.value(f"SELECT coalesce(min(id), 0) FROM {table}")), _beyond(tx, table)
    while low < high:
        middle = (low + high) // 2
        row = tx.one(f"SELECT id, {column} FROM {table} WHERE id >= :middle ORDER BY id LIMIT 1", middle=middle)
        if row is None or row[1] >= earlier:
            high = middle
        else:
            low = row[0] + 1
    return low


def _beyond(tx: Tx, table: Table) -> int:
    return int(tx.value(f"SELECT coalesce(max(id), 0) FROM {table}")) + 1
