"""Processes that authorize: each has a vault, tokens and a connector of its own over one database. HTTP is real, time is not."""

from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

from reconciler.app.authorizations import (
    Authorization,
    Returned,
    begin,
    finish,
    outcome,
    returned_by,
)
from reconciler.app.keeping import StoreTokens
from reconciler.app.lasting import open_vault
from reconciler.app.vault import KEY_BYTES, Vault, VaultError
from reconciler.control.authorize import Exchanger, UnsealError
from reconciler.control.consent import Consent, probed
from reconciler.model.secret import Secret
from reconciler.sdk.contract import Connector, Probe
from reconciler.sdk.live import Live
from reconciler.sdk.testing.room import Bench
from reconciler.store import authorizations
from tests.desk import World, desired
from tests.servers.notes import Notes
from tests.servers.oauth import CLIENT_ID, CLIENT_SECRET, OAuthServer

KEY, OTHER_KEY = b"k" * KEY_BYTES, b"n" * KEY_BYTES
CALLBACK = "https://reconciler.example/v1/oauth/callback"


class Killed(BaseException):
    """The process ends here, whatever it was about to do."""


class Process:
    """One daemon: what it would hand to a connector, and the job that exchanges codes."""

    def __init__(self, world: World, vault: Vault, bench: Bench, server: OAuthServer) -> None:
        self.world, self.vault, self.bench, self.server = world, vault, bench, server
        self.redactor = bench.redactor
        self.integration_id = 0
        self.scopes: tuple[str, ...] = ("notes:read", "notes:write")

    async def start(self) -> None:
        row = await self.world.row()
        self.integration_id = row.id
        self.tokens = StoreTokens(self.world.db, self.vault, self.redactor, self.world.clock, row.id, is_shared=True)
        config = {"base_url": self.server.url, "vendor": self.server.shape}
        auth = {"type": "oauth", "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET, "scopes": self.scopes}
        made = self.bench.connector(Notes, config, auth)
        mark = self.vault.fingerprint_key
        made.room = replace(made.room, tokens=self.tokens, fingerprint=lambda secret: secret.digest(mark))
        self.connector: Connector[Any, Any] = made

    async def live(self, integration_id: int) -> Live:
        row = await self.world.row()
        manifest = desired("desk").manifest
        return Live(integration_id, row.ref, manifest, self.connector, row.desired_hash, "", {}, "r1")

    async def drop(self, integration_id: int) -> None:
        pass

    def _unseal(self, sealed: bytes, place: str) -> Secret:
        try:
            return self.vault.open_transit(sealed, place)
        except VaultError as error:
            raise UnsealError(str(error)) from None

    async def offer(self) -> None:
        row = await self.world.row()
        await Consent(self.world.db, CALLBACK).offer(await self.live(row.id), row.generation)

    async def begin(self) -> Authorization:
        now = self.world.clock.now()
        return await self.world.db.write(lambda tx: begin(tx, self.integration_id, "ada", now))

    async def finish(self, returned: Returned) -> str:
        now = self.world.clock.now()
        return await self.world.db.write(lambda tx: finish(tx, returned, now))

    async def exchange(self) -> None:
        """The job, for everything that is due."""
        exchanger = Exchanger(self.world.db, self, self.world.journal, self.world.clock, self._unseal)
        for attempt_id, integration_id in await self.world.read(authorizations.unfinished):
            async with self.world.claimed("authorize", attempt_id, integration_id) as (job, claim):
                await exchanger.run(job, claim)

    async def allow(self) -> str:
        """All of it; returns the attempt."""
        await self.offer()
        asked = await self.begin()
        attempt = await self.finish(returned_by(self.server.person(asked.url)))
        await self.exchange()
        return attempt

    async def probe(self) -> Probe:
        return await probed(await self.live(self.integration_id))

    async def outcome(self, attempt: str) -> tuple[str, str]:
        found = await self.world.read(lambda tx: outcome(tx, attempt))
        return found.status, found.message


async def process(world: World, server: OAuthServer, ends: AsyncExitStack, *keys: bytes) -> Process:
    vault = await open_vault(world.db, *(keys or (KEY,)))
    bench = await ends.enter_async_context(Bench(clock=world.clock))
    made = Process(world, vault, bench, server)
    await made.start()
    return made
