"""Tokens that a person allowed: renewed, refused, revoked, by several processes at once, and killed in between.

With Authlib's own server, on both databases. Time is virtual, the rest is real.
"""

import asyncio
from contextlib import AsyncExitStack, suppress
from datetime import timedelta
from typing import Any

import pytest

from reconciler.app.authorizations import returned_by
from reconciler.app.vault import Vault
from reconciler.control.credentials import credentials, renewable
from reconciler.model.condition import Reason
from reconciler.sdk.errors import ConnectorError, TransientError, UnauthorizedError
from reconciler.store import inventory
from tests.desk import World
from tests.integration.app.authorizing import KEY, OTHER_KEY, Killed, Process, process
from tests.servers.notes import Notes
from tests.servers.oauth import OAuthServer, Shape


@pytest.mark.parametrize("shape", ["generic", "github", "slack"])
@pytest.mark.parametrize("rotates", [True, False])
async def test_tokens_are_renewed_before_they_die(
    shape: Shape, rotates: bool, world: World, ends: AsyncExitStack
) -> None:
    with OAuthServer(shape, rotates=rotates) as shaped:
        made = await process(world, shaped, ends)
        await made.allow()
        for _ in range(3):
            world.clock.advance(timedelta(minutes=59, seconds=30))
            assert (await made.probe()).identity == "ada"
        used = [asked["refresh_token"] for asked in shaped.exchanges if asked["grant_type"] == "refresh_token"]
        assert (len(used), len(set(used))) == (3, 3 if rotates else 1)
        assert not [token for token in shaped.seen if token not in shaped.tokens], "no request with a dead token"


async def test_a_token_without_an_end_is_used_until_it_is_refused(one: Process, server: OAuthServer) -> None:
    server.tells_expiry = False
    await one.allow()
    one.world.clock.advance(timedelta(days=90))
    await one.probe()
    assert len(server.exchanges) == 1
    server.expire()
    assert (await one.probe()).identity == "ada"
    assert [asked["grant_type"] for asked in server.exchanges] == ["authorization_code", "refresh_token"]


async def test_what_cannot_be_renewed_and_was_revoked_needs_a_person(world: World, ends: AsyncExitStack) -> None:
    with OAuthServer(gives_refresh=False, tells_expiry=False) as server:
        made = await process(world, server, ends)
        await made.allow()
        server.expire()
        for _ in range(2):
            with pytest.raises(UnauthorizedError, match="cannot be renewed; reconciler authorize") as caught:
                await made.probe()
            assert caught.value.why is Reason.AWAITING_AUTHORIZATION
        assert len(server.exchanges) == 1


async def test_a_refresh_that_is_refused_is_not_asked_for_again(one: Process, server: OAuthServer) -> None:
    await one.allow()
    server.refresh_tokens.clear()
    server.expire()
    for _ in range(5):
        with pytest.raises(UnauthorizedError, match="does not renew the token any more: invalid_grant"):
            await one.probe()
    assert len(server.exchanges) == 2
    await one.allow()
    assert (await one.probe()).identity == "ada", "a new consent mends it, in the same connector"


async def test_two_processes_renew_a_token_once(one: Process, two: Process, server: OAuthServer) -> None:
    await one.allow()
    for number in range(4):
        one.world.clock.advance(timedelta(hours=1))
        found = await asyncio.gather(*(p.probe() for p in (one, two, one, two)))
        assert {probe.identity for probe in found} == {"ada"}
        assert len(server.exchanges) == 2 + number


async def test_killed_in_a_renewal_before_it_was_stored(one: Process, two: Process, server: OAuthServer) -> None:
    """A server that lets a refresh token be used once then takes the second use for a theft: only a person can go on."""
    await one.allow()
    server.expire()

    async def killed(*_: object) -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(one.tokens, "put_all", killed)
        with suppress(Killed):
            await one.probe()
    for _ in range(3):
        with pytest.raises(UnauthorizedError) as caught:
            await two.probe()
        assert caught.value.why is Reason.AWAITING_AUTHORIZATION
    assert len(server.exchanges) == 3


async def test_both_tokens_of_an_answer_are_kept_or_none(one: Process, server: OAuthServer) -> None:
    """In one transaction, so that the new refresh token is there before anything of the answer is used."""
    await one.allow()
    server.expire()
    put, order = inventory.put_credential, []

    def counted(tx: Any, integration_id: int, name: str, sealed: Any, at: str) -> None:
        order.append(name.rpartition("-")[0])
        if len(order) == 2:
            raise Killed
        put(tx, integration_id, name, sealed, at)

    before = await one.world.read(lambda tx: inventory.credentials(tx, one.integration_id))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inventory, "put_credential", counted)
        with suppress(Killed):
            await one.probe()
    assert order == ["refresh-oauth", "oauth"]
    assert await one.world.read(lambda tx: inventory.credentials(tx, one.integration_id)) == before


async def test_another_client_does_not_use_what_this_one_was_given(one: Process, server: OAuthServer) -> None:
    await one.allow()
    other = one.connector.auth.model_copy(update={"client_id": "client-2"})
    made: Any = Notes(one.connector.config, other, one.connector.room)
    with pytest.raises(UnauthorizedError, match="nobody has yet"):
        await made.probe()


async def test_what_is_shown_of_credentials(one: Process, server: OAuthServer) -> None:
    await one.allow()
    shown = await one.world.read(lambda tx: credentials(tx, one.integration_id))
    assert [c.kind for c in shown] == ["access_token", "refresh_token"]
    access, _ = shown
    assert access.scopes == ("notes:read", "notes:write")
    assert access.expires_at is not None
    assert len(access.fingerprint) == 4
    assert not [s for s in server.secrets() if s in repr(shown)]
    assert await one.world.read(lambda tx: renewable(tx, one.integration_id)) == [access.name]


async def test_given_back_means_revoked_at_the_server(one: Process, server: OAuthServer) -> None:
    await one.allow()
    await one.connector.revoke()
    assert len(server.revoked) == 2
    assert await one.world.read(lambda tx: inventory.credentials(tx, one.integration_id)) == {}
    await one.connector.revoke()


async def test_an_error_says_nothing_secret(one: Process, server: OAuthServer) -> None:
    """The remote echoes the bearer that it refuses."""
    await one.allow()
    server.expire()
    server.refresh_tokens.clear()
    said: list[str] = []
    try:
        await one.probe()
    except ConnectorError as error:
        said = [error.message, repr(error.detail), str(error)]
    said += [repr(line) for line in (*one.world.journal.lines, *one.bench.log)]
    assert not [s for s in server.secrets() if any(s in text for text in said)]


async def test_a_token_sealed_with_a_key_that_is_not_here_is_not_taken_for_none(
    one: Process, world: World, server: OAuthServer, ends: AsyncExitStack
) -> None:
    """Else the integration would wait for a person while another process has the key."""
    await one.allow()
    other = await process(world, server, ends, OTHER_KEY)
    other.vault = Vault(OTHER_KEY, lasting=one.vault._lasting)
    await other.start()
    with pytest.raises(TransientError, match=one.vault.key_id) as caught:
        await other.probe()
    assert caught.value.why is Reason.KEY_MISSING
    both = await process(world, server, ends, OTHER_KEY, KEY)
    assert (await both.probe()).identity == "ada"


@pytest.mark.parametrize("shape", ["generic", "github"])
async def test_what_a_server_repeats_in_a_refusal_is_not_shown(
    shape: Shape, world: World, ends: AsyncExitStack
) -> None:
    with OAuthServer(shape, echoes=True) as server:
        made = await process(world, server, ends)
        await made.allow()
        server.expire()
        spent = set(server.refresh_tokens)
        server.refresh_tokens.clear()
        with pytest.raises(UnauthorizedError) as caught:
            await made.probe()
        await made.offer()
        returned = returned_by(server.person((await made.begin()).url))
        server.codes.clear()
        attempt = await made.finish(returned)
        await made.exchange()
        said = (caught.value.message, (await made.outcome(attempt))[1], *map(repr, world.journal.lines))
        assert "invalid_grant" in said[0] + said[1]
        verifiers = {asked["code_verifier"] for asked in server.exchanges if "code_verifier" in asked}
        hidden = {*server.secrets(), *spent, *verifiers}
        assert [secret for secret in hidden if any(secret in text for text in said)] == []
