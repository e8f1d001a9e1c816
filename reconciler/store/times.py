"""Times that lie ahead, moved together: after the wall clock was set back, what was due in a minute is due in a minute."""

from datetime import timedelta

from reconciler.model.clock import from_rfc3339, rfc3339
from reconciler.store.database import Tx

_AHEAD = (
    ("integration", "next_sync_at"),
    ("integration", "next_keys_at"),
    ("integration", "next_probe_at"),
    ("integration", "next_attempt_at"),
    ("delivery", "next_at"),
    ("job", "due_at"),
    ("job", "again_at"),
)


def bring_forward(tx: Tx, after: str, by: timedelta) -> int:
    """Every due time behind `after` comes `by` earlier; how many there were."""
    moved = 0
    for table, column in _AHEAD:
        rows = tx.all(f"SELECT id, {column} FROM {table} WHERE {column} > :after", after=after)
        earlier = [{"at": rfc3339(from_rfc3339(at) - by), "id": i} for i, at in rows]
        tx.executemany(f"UPDATE {table} SET {column} = :at WHERE id = :id", earlier)
        moved += len(earlier)
    return moved
