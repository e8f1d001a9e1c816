"""For those who keep a copy of what is shown and tell health: marks of rows, the tree of a spec, a write that proves itself.

Query functions for `Database.read` and, where said, `Database.write`. Called by `serve`.
"""

from typing import Any

from reconciler.model.tree import decode_tree
from reconciler.store.database import Tx

_SHOWN = (
    *("generation", "observed_generation", "type", "revision", "applied_revision", "desired_hash", "labels"),
    *("display_name", "is_connected", "suspended_by", "latency_ms", "probe_at", "error_count", "credential_expires_at"),
    *(
        "freshness_seconds",
        "next_sync_at",
        "last_sync_at",
        "last_sync_result",
        "total_syncs",
        "failed_syncs",
        "drifted",
    ),
)
_MARK = " || '|' || ".join(f"coalesce(CAST({name} AS TEXT), '')" for name in _SHOWN)


def marks(tx: Tx) -> dict[int, str]:
    """id -> a text that differs when what lists and metrics show of the row and its conditions differs.

    For whoever keeps a copy: reading this costs a tenth of reading everything.
    """
    said = (
        "group_concat(type || truth || reason)"
        if tx.dialect == "sqlite"
        else "string_agg(type || truth || reason, ',')"
    )
    rows = tx.execute(f"SELECT id, {_MARK} FROM integration WHERE removed_at IS NULL")
    found: dict[int, str] = {row[0]: row[1] for row in rows}
    for i, conditions_said in tx.execute(f"SELECT integration_id, {said} FROM condition GROUP BY integration_id"):
        if i in found:
            found[i] += conditions_said
    return found


def desired_tree(tx: Tx, integration_id: int) -> dict[str, Any]:
    """The spec as it stands in Git, with `Unresolved` where a secret stands; empty where it was let go."""
    text = tx.value("SELECT desired_tree FROM integration WHERE id = :id", id=integration_id)
    return decode_tree(text) if text else {}


def check_writable(tx: Tx, at: str) -> None:
    """A real write (`Database.write`), so that a full or read-only disk shows; raises what any other write would."""
    _put_meta(tx, "checked_at", at)


def note_observing(tx: Tx, *, is_observing: bool) -> None:
    """Whether the daemon that began to work on this store only observes."""
    _put_meta(tx, "observing", "yes" if is_observing else "")


def is_observed(tx: Tx) -> bool:
    return bool(tx.value("SELECT value FROM meta WHERE key = 'observing'"))


def _put_meta(tx: Tx, key: str, value: str) -> None:
    tx.execute(
        "INSERT INTO meta (key, value) VALUES (:key, :value) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        {"key": key, "value": value},
    )
