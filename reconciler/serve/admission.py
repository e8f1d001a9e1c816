"""Who is asking: the bearer token of a request becomes a caller, or the request is refused.

In: the store's tokens, looked at again at most once a second, and soon after one that is not known: a revoked token opens
nothing within a second, a new one does at once. When a token was last used is noted by the minute. Not done here: what a caller
may see; the routes ask `Caller` themselves.
"""

import asyncio
from collections.abc import Mapping

from reconciler.model.access import Caller, Permission, hash_of
from reconciler.model.clock import Clock, from_rfc3339, rfc3339
from reconciler.serve.problem import ProblemError
from reconciler.store import tokens
from reconciler.store.database import Database
from reconciler.store.tokens import USED_EVERY, TokenRow

FRESH_SECONDS = 1.0
ASK_AGAIN_SECONDS = 0.05
_REALM = {"www-authenticate": 'Bearer realm="reconciler"'}


class Admission:
    """`admit` for each request; `note` now and then writes down which tokens were used."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._known: Mapping[str, TokenRow] = {}
        self._looked_at = float("-inf")
        self._looking = asyncio.Lock()
        self._used: set[str] = set()

    async def admit(self, authorization: str | None, permission: Permission) -> Caller:
        """Raises ProblemError: 401 without a token that counts, 403 for one that may not do this."""
        token = await self._token(_bearer(authorization))
        if token is None:
            raise ProblemError(401, "invalid-token", "the token is unknown, expired or revoked", headers=_REALM)
        self._used.add(token.public_id)
        caller = token.caller
        if not caller.may(permission):
            raise ProblemError(403, "permission-missing", f"token {caller.name} lacks the permission {permission}")
        return caller

    async def note(self) -> None:
        """At most one write, and none for tokens whose last use was noted within the minute."""
        used, self._used = self._used, set()
        now = self._clock.now()
        due = [
            t.public_id
            for t in self._known.values()
            if t.public_id in used and (t.last_used_at is None or from_rfc3339(t.last_used_at) + USED_EVERY <= now)
        ]
        if due:
            await self._database.write(lambda tx: tokens.note_used(tx, due, rfc3339(now)))

    async def _token(self, clear: str) -> TokenRow | None:
        sha256 = hash_of(clear)
        await self._look(FRESH_SECONDS)
        if sha256 not in self._known:
            await self._look(ASK_AGAIN_SECONDS)
        found = self._known.get(sha256)
        return found if found is not None and found.state(self._clock.now()) == "active" else None

    async def _look(self, fresh: float) -> None:
        async with self._looking:
            if self._clock.monotonic() - self._looked_at < fresh:
                return
            looked_at, now = self._clock.monotonic(), self._clock.now()
            found = await self._database.read(lambda tx: tokens.standing(tx, now))
            self._known = {token.sha256: token for token in found}
            self._looked_at = looked_at


def _bearer(authorization: str | None) -> str:
    scheme, _, clear = (authorization or "").partition(" ")
    if not authorization:
        message = "this needs a token: Authorization: Bearer ...; make one with: reconciler token create"
        raise ProblemError(401, "token-missing", message, headers=_REALM)
    if scheme.lower() != "bearer" or not clear.strip():
        raise ProblemError(401, "invalid-token", "only Authorization: Bearer TOKEN is understood", headers=_REALM)
    return clear.strip()
