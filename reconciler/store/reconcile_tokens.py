"""Reconciles that were asked for with a word by which the one who asked finds them again. Called by `control.triggering`.

A word belongs to its workspace; the same word again finds the first request and asks for nothing more.
"""

from dataclasses import dataclass

from reconciler.store.database import Row, Tx


@dataclass(frozen=True, slots=True)
class Triggered:
    """`workspace` is that of who asked, empty for the whole installation; `request` is the order that was left."""

    workspace: str
    token: str
    integration_id: int | None
    request: str
    requested_at: str


def find(tx: Tx, workspace: str, token: str) -> Triggered | None:
    row = tx.one("SELECT * FROM reconcile_token WHERE workspace = :w AND token = :t", w=workspace, t=token)
    return _triggered(row) if row else None


def put(tx: Tx, made: Triggered) -> bool:
    """False where another request took the word meanwhile."""
    return bool(
        tx.rowcount(
            "INSERT INTO reconcile_token (workspace, token, integration_id, request, requested_at)"
            " VALUES (:w, :t, :i, :r, :at) ON CONFLICT (workspace, token) DO NOTHING",
            w=made.workspace,
            t=made.token,
            i=made.integration_id,
            r=made.request,
            at=made.requested_at,
        )
    )


def _triggered(row: Row) -> Triggered:
    return Triggered(
        workspace=row["workspace"],
        token=row["token"],
        integration_id=row["integration_id"],
        request=row["request"],
        requested_at=row["requested_at"],
    )
