"""Until when a rate budget is blocked, shared by all processes on this store."""

from datetime import datetime

from reconciler.model.clock import from_rfc3339, rfc3339
from reconciler.store.database import Tx


def blocked_until(tx: Tx, key: str) -> datetime | None:
    at = tx.value("SELECT blocked_until FROM budget WHERE key = :k", k=key)
    return from_rfc3339(at) if at else None


def block(tx: Tx, key: str, until: datetime) -> None:
    """Never shortens a block that another process learned of."""
    tx.execute(
        "INSERT INTO budget (key, blocked_until) VALUES (:k, :u) ON CONFLICT (key) DO UPDATE SET blocked_until ="
        " CASE WHEN excluded.blocked_until > budget.blocked_until THEN excluded.blocked_until"
        " ELSE budget.blocked_until END",
        {"k": key, "u": rfc3339(until)},
    )
