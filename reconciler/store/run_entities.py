"""Where an entity of a run stands when no page of it was read: it failed, begins anew, or is read from our own store.

Called by `sync` and `rollback`; pages and ends of what is read at the remote are in `runs`.
"""

import json
from collections.abc import Mapping
from typing import Any

from reconciler.store.database import Tx
from reconciler.store.runs import TOLD, Run


def set_shape(tx: Tx, entity_id: int, shape: str) -> None:
    """What the entity's records look like, as `sync` writes it down."""
    tx.execute("UPDATE entity SET shape = :s WHERE id = :e", {"s": shape, "e": entity_id})


def fail_entity(tx: Tx, run_id: int, entity_id: int, state: str, reason: str, error: str) -> bool:
    """Whether somebody watches."""
    told = tx.value(
        "UPDATE run_entity SET state = :s, reason = :reason, error = :error WHERE run_id = :r AND entity_id = :e"
        f" RETURNING {TOLD}",
        s=state,
        reason=reason,
        error=error,
        r=run_id,
        e=entity_id,
    )
    return told is not None


def keep_place(tx: Tx, run: Run, entity_id: int, position: Mapping[str, Any] | None, records: int) -> bool:
    """Where a run that reads our own store goes on in this entity; None where it is done. Whether somebody watches."""
    told = tx.value(
        "UPDATE run_entity SET state = :state, position = :position, pages = pages + 1, records = records + :n"
        f" WHERE run_id = :r AND entity_id = :e RETURNING {TOLD}",
        state="complete" if position is None else "reading",
        position=None if position is None else json.dumps(dict(position)),
        n=records,
        r=run.id,
        e=entity_id,
    )
    return told is not None


def restart_entity(tx: Tx, run_id: int, entity_id: int) -> None:
    """Forget the position: the next attempt reads the entity from its beginning."""
    tx.execute(
        "UPDATE run_entity SET position = NULL, state = 'pending', watermarks = '{}' WHERE run_id = :r AND entity_id = :e",
        {"r": run_id, "e": entity_id},
    )
