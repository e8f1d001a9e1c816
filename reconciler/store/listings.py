"""Listings of keys beside the syncs of an integration: when the next one is, when the last one was, and what a bad one said.

Query functions for `Database.read` and `Database.write`. Called by `control`, for the schedule, and by `sync`.
"""

from reconciler.store.database import Tx

_READS = "integration_id = :i AND state = 'done' AND entities IS NULL AND restores IS NULL AND cause <> 'replay'"


def set_next(tx: Tx, integration_id: int, at: str | None) -> None:
    """When keys are listed next."""
    tx.execute("UPDATE integration SET next_keys_at = :at WHERE id = :id", {"at": at, "id": integration_id})


def last(tx: Tx, integration_id: int) -> str | None:
    """When a run that looks at all keys ended last, however it ended; else when the integration's first run was asked for."""
    at: str | None = tx.value(
        f"SELECT finished_at FROM run WHERE {_READS} AND scope = 'full' AND result <> 'cancelled' ORDER BY id DESC LIMIT 1",
        i=integration_id,
    )
    first = "SELECT requested_at FROM run WHERE integration_id = :i ORDER BY id LIMIT 1"
    return at or tx.value(first, i=integration_id)


def take_back(tx: Tx, integration_id: int) -> bool:
    """After a good listing: whether only an earlier bad one spoke against the integration. Its last sync counts again."""
    result = tx.value(
        f"SELECT result FROM run WHERE {_READS} AND keys_only = 0 AND result <> 'cancelled' ORDER BY id DESC LIMIT 1",
        i=integration_id,
    )
    return result == "success" and bool(
        tx.rowcount(
            "UPDATE integration SET last_sync_result = 'success', last_sync_reason = 'Succeeded', last_sync_error = ''"
            " WHERE id = :id AND last_sync_result <> 'success'",
            id=integration_id,
        )
    )
