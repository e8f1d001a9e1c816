"""Who is asking, and may they: the bearer token of a request becomes a caller, or the request is refused.

Routes call `enter` first, then `granted` for an integration's data, `change` and `operation` for what the settings reserve.
In: the store's tokens, looked at again at most once a second, and soon after one that is not known: a revoked token opens
nothing within a second, a new one does at once. When a token was last used is noted by the minute. Tokens of other issuers are
read by `oidc`. Not done here: what a caller may see; the routes ask `Caller` themselves.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.types import Scope

from reconciler.model.access import PREFIX, Caller, Grant, Operation, Permission, hash_of
from reconciler.model.clock import Clock, from_rfc3339, rfc3339
from reconciler.serve.limits import Limits
from reconciler.serve.oidc import Bearers
from reconciler.serve.problem import ProblemError
from reconciler.serve.reserved import refuse_change, refuse_operation
from reconciler.serve.snapshot import Entry
from reconciler.store import tokens
from reconciler.store.database import Database
from reconciler.store.tokens import USED_EVERY, TokenRow

FRESH_SECONDS = 1.0
ASK_AGAIN_SECONDS = 0.05
_REALM = {"www-authenticate": 'Bearer realm="reconciler"'}


@dataclass(frozen=True, slots=True)
class Terms:
    """What the daemon's settings say about callers; by default none but our own tokens, no limits, nothing reserved."""

    bearers: Bearers | None = None
    limits: Limits | None = None
    reserved: tuple[str, ...] = ()


class Admission:
    """`enter` for each request; `note` now and then writes down which tokens were used."""

    def __init__(self, database: Database, clock: Clock, terms: Terms | None = None) -> None:
        self._database = database
        self._clock = clock
        self._terms = terms or Terms()
        self._limits = self._terms.limits or Limits(clock)
        self._known: Mapping[str, TokenRow] = {}
        self._looked_at = float("-inf")
        self._looking = asyncio.Lock()
        self._used: set[str] = set()

    async def enter(self, scope: Scope, permission: Permission | None) -> Caller:
        """Raises ProblemError: 401 without a token that counts, 403 for one that may not do this, 429 for too many requests.

        `permission` None: the call asks for a grant instead. What the answer is to say of the limit is left in the scope.
        """
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        source = self.source(scope) if self._terms.limits else ""
        caller = await self._admitted(_bearer(given.decode("latin-1")), source)
        self._limits.request(scope, caller.identity)
        if permission is not None:
            demand(caller, permission)
        return caller

    def source(self, scope: Scope) -> str:
        """The address that counts as the asker's, whoever stands between."""
        return self._limits.source(scope)

    async def stands(self, authorization: str | None, permission: Permission | None) -> Caller:
        """Whether a caller that was let in still may, for an answer that lasts: asked again and again, it is one request."""
        clear = _bearer(authorization)
        caller = await self._caller(clear, hash_of(clear))
        if permission is not None:
            demand(caller, permission)
        return caller

    async def admit(self, authorization: str | None, permission: Permission) -> Caller:
        """`enter` where there is only the header: nothing is limited."""
        caller = await self._admitted(_bearer(authorization), "")
        demand(caller, permission)
        return caller

    def has_grant(self, caller: Caller, entry: Entry | None, grant: Grant) -> bool:
        """Of an integration that is gone nobody but `admin` has any."""
        if caller.may(Permission.ADMIN) or (grant is Grant.SYNC and caller.may(Permission.INTEGRATION_SYNC)):
            return True
        return entry is not None and grant in entry.facts.grants.get(caller.name, ())

    def granted(self, caller: Caller, entry: Entry, grant: Grant) -> None:
        """Raises ProblemError (403) where the manifest does not let the caller do this with the integration."""
        if self.has_grant(caller, entry, grant):
            return
        message = (
            f"{entry.workspace}/{entry.name} does not let {caller.name} {grant} anything; its manifest would have to say:"
            f" spec.access: [{{client: {caller.name}, allow: [{grant}]}}]"
        )
        raise ProblemError(403, "not-granted", message, {"grant": str(grant)})

    def change(self, caller: Caller, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        """Raises ProblemError (403) where the change of a manifest touches what is reserved."""
        refuse_change(self._terms.reserved, caller, before, after)

    def operation(self, caller: Caller, operation: Operation) -> None:
        """Raises ProblemError (403) where it is reserved."""
        refuse_operation(self._terms.reserved, caller, operation)

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

    async def _admitted(self, clear: str, source: str) -> Caller:
        sha256 = hash_of(clear)
        self._limits.attempt(source, sha256)
        try:
            caller = await self._caller(clear, sha256)
        except ProblemError as problem:
            if problem.status != 503:
                self._limits.wrong(source, sha256)
            raise
        self._limits.right(source, sha256)
        return caller

    async def _caller(self, clear: str, sha256: str) -> Caller:
        """By the form of the token; one whose hash a workspace declared may have any form but that of an issuer's."""
        bearers = self._terms.bearers
        if bearers is not None and not clear.startswith(f"{PREFIX}_") and bearers.is_one(clear):
            return await bearers.caller(clear, sha256)
        token = await self._token(sha256)
        if token is None:
            raise ProblemError(401, "invalid-token", "the token is unknown, expired or revoked", headers=_REALM)
        self._used.add(token.public_id)
        return token.caller

    async def _token(self, sha256: str) -> TokenRow | None:
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


def demand(caller: Caller, permission: Permission) -> None:
    """Raises ProblemError (403)."""
    if not caller.may(permission):
        raise ProblemError(403, "permission-missing", f"token {caller.name} lacks the permission {permission}")


def _bearer(authorization: str | None) -> str:
    scheme, _, clear = (authorization or "").partition(" ")
    if not authorization:
        message = "this needs a token: Authorization: Bearer ...; make one with: reconciler token create"
        raise ProblemError(401, "token-missing", message, headers=_REALM)
    if scheme.lower() != "bearer" or not clear.strip():
        raise ProblemError(401, "invalid-token", "only Authorization: Bearer TOKEN is understood", headers=_REALM)
    return clear.strip()
