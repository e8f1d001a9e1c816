"""API tokens that workspaces declare in Git become rows, so that every process knows them, also one that reads no Git.

In: desired state. Called by the leader for each one. A workspace whose file is broken keeps the tokens it had.
"""

from collections.abc import Mapping

from reconciler.model.access import PREFIX
from reconciler.model.clock import Clock, from_rfc3339, rfc3339
from reconciler.model.finding import Severity
from reconciler.model.ids import new_id
from reconciler.model.manifest import Token
from reconciler.model.state import DesiredState
from reconciler.store import tokens
from reconciler.store.database import Database
from reconciler.store.tokens import Declared, TokenRow


class Declaring:
    """`take` writes only where something is new."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def take(self, desired: DesiredState) -> None:
        at = rfc3339(self._clock.now())
        is_certain = not any(finding.severity is Severity.ERROR for finding in desired.findings)
        before = {row.sha256: row for row in await self._database.read(tokens.declared)}
        wanted = _wanted(desired, before, at)
        gone = [
            sha256
            for sha256, row in before.items()
            if not _stands(wanted.get(sha256), row) and (is_certain or row.workspace in desired.workspaces)
        ]
        new = [row for sha256, row in wanted.items() if not _stands(before.get(sha256), row)]
        if gone or new:
            await self._database.write(lambda tx: tokens.declare(tx, Declared(tuple(gone), tuple(new))))


def _stands(there: TokenRow | None, row: TokenRow) -> bool:
    return there is not None and there.terms == row.terms


def _wanted(desired: DesiredState, before: Mapping[str, TokenRow], at: str) -> dict[str, TokenRow]:
    """A hash can be read in Git. Who declares that of another workspace does not get its token: it stays where it was."""
    found: dict[str, TokenRow] = {}
    for workspace, manifest in sorted(desired.workspaces.items()):
        for token in manifest.spec.tokens:
            there = before.get(token.sha256)
            if token.sha256 not in found or (there is not None and there.workspace == workspace):
                found[token.sha256] = _row(workspace, token, at)
    return found


def _row(workspace: str, token: Token, at: str) -> TokenRow:
    return TokenRow(
        public_id=new_id(PREFIX),
        workspace=workspace,
        name=token.name,
        sha256=token.sha256,
        permissions=tuple(map(str, token.permissions)),
        origin="git",
        created_at=at,
        created_by="git",
        expires_at=rfc3339(from_rfc3339(token.expires_at)) if token.expires_at else None,
    )
