"""Tokens of the API, put into a database as the command would."""

from typing import Any

from reconciler.model.access import Permission, new_token
from reconciler.model.clock import SystemClock, rfc3339
from reconciler.store import tokens
from reconciler.store.database import Database
from reconciler.store.tokens import TokenRow


async def issue(database: Database, name: str, workspace: str | None, *permissions: Permission, **more: Any) -> str:
    """The token in clear; `workspace` None: for all of them."""
    made = new_token()
    row = TokenRow(
        public_id=made.public_id,
        workspace=workspace,
        name=name,
        sha256=made.sha256,
        permissions=tuple(map(str, permissions)),
        origin="command",
        created_at=more.pop("created_at", rfc3339(SystemClock().now())),
        created_by="ada",
        **more,
    )
    await database.write(lambda tx: tokens.put(tx, row))
    return made.clear.reveal()


def bearer(clear: str) -> dict[str, str]:
    return {"authorization": f"Bearer {clear}"}
