"""Run-time tokens for a probe outside the daemon, taken from its store without ever writing there.

In: what the store holds of one integration, sealed. Out: clear tokens, and new ones in memory for as long as the probe
lasts. A token that the remote accepts once is not handed out: to use it here would lock the daemon out.
"""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from datetime import datetime

from reconciler.app.vault import Vault
from reconciler.model.clock import from_rfc3339
from reconciler.model.secret import Secret
from reconciler.sdk.contract import KeptToken
from reconciler.sdk.errors import UnsupportedError
from reconciler.sdk.redact import Redactor
from reconciler.store.inventory import Sealed

SINGLE_USE = "refresh"


class BorrowedTokens:
    """Implements `Tokens`. `stored_id` is the integration's id in the store that `sealed` comes from."""

    def __init__(self, sealed: Mapping[str, Sealed], stored_id: int, vault: Vault, redactor: Redactor) -> None:
        self._sealed = sealed
        self._id = stored_id
        self._vault = vault
        self._redactor = redactor
        self._fresh: dict[str, tuple[Secret, datetime | None]] = {}

    async def get(self, name: str) -> tuple[Secret, datetime | None] | None:
        """Raises UnsupportedError for a token that may be used once."""
        if name in self._fresh:
            return self._fresh[name]
        if name.startswith(SINGLE_USE):
            raise UnsupportedError(
                "the token has to be renewed, which the remote allows once, so only a daemon may do it; "
                "ask it: reconciler reconcile NAME --wait"
            )
        sealed = self._sealed.get(name)
        if sealed is None or not self._vault.opens(sealed.key_id):
            return None
        value = self._vault.open(sealed.ciphertext, f"{self._id}/{name}", sealed.key_id)
        self._redactor.add("tokens", value)
        return value, from_rfc3339(sealed.expires_at) if sealed.expires_at else None

    async def put(self, name: str, value: Secret, expires_at: datetime | None) -> None:
        self._redactor.add("tokens", value)
        self._fresh[name] = (value, expires_at)

    async def put_all(self, *tokens: KeptToken) -> None:
        for token in tokens:
            await self.put(token.name, token.value, token.expires_at)

    async def scopes(self, name: str) -> tuple[str, ...] | None:
        sealed = self._sealed.get(name)
        return sealed.scopes if sealed else None

    async def drop(self, name: str) -> None:
        self._fresh.pop(name, None)

    def hold(self, name: str) -> AbstractAsyncContextManager[None]:
        """What is renewed here stays here."""
        return nullcontext()
