"""Sources of a process that follows none: read when somebody asks what Git says, and not again for a few seconds.

Called through `Foresight` in a process with role `api`. Nothing is decrypted and nothing put in force here.
"""

import asyncio
from collections.abc import Mapping

from reconciler.app.book import SourceBook
from reconciler.desired.policy import TenantPolicy
from reconciler.desired.resolve import Resolver
from reconciler.desired.sops.cache import DecryptionCache
from reconciler.desired.sops.keys import Keyring
from reconciler.desired.source import Source
from reconciler.desired.validate import Inputs
from reconciler.model.clock import Clock
from reconciler.sdk import registry
from reconciler.sdk.redact import Redactor

FRESH_SECONDS = 5.0


async def nothing_to_do() -> None:
    """For a process whose sources are followed anyway."""


class Asking:
    """`look` raises SourceError."""

    def __init__(
        self,
        sources: Mapping[str, Source],
        inputs: Mapping[str, Inputs],
        policy: TenantPolicy,
        redactor: Redactor,
        clock: Clock,
    ) -> None:
        self.sources = sources
        self.book = SourceBook(inputs, _without_keys(policy), redactor)
        self._clock = clock
        self._looked_at = float("-inf")
        self._looking = asyncio.Lock()

    async def look(self) -> None:
        async with self._looking:
            if self._clock.monotonic() < self._looked_at + FRESH_SECONDS:
                return
            started = self._clock.monotonic()
            for name, source in self.sources.items():
                await self.book.take(name, await source.fetch())
            self._looked_at = started

    def close(self) -> None:
        self.book.close()


def _without_keys(policy: TenantPolicy) -> Resolver:
    return Resolver(keyring=Keyring(), env={}, policy=policy, hash_key=b"", registry=registry, cache=DecryptionCache())
