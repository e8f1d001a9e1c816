"""Authorizations from the URL to tokens, with Authlib's own server, on both databases, in several processes.

What begins, what takes the callback and what exchanges need not be the same process. Time is virtual, the rest is real.
"""

import asyncio
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from datetime import timedelta

import pytest

from reconciler.app.authorizations import (
    NotAuthorizableError,
    Returned,
    StateRefusedError,
    returned_by,
)
from reconciler.app.vault import VaultError
from reconciler.control.consent import Consent
from reconciler.model.clock import rfc3339
from reconciler.store import authorizations, integrations, shown
from reconciler.store.authorizations import Attempt, Step
from reconciler.store.database import Backend
from tests.desk import World, desired
from tests.integration.app.authorizing import OTHER_KEY, Killed, Process, process
from tests.servers.oauth import OAuthServer, Shape


@pytest.mark.parametrize("shape", ["generic", "github", "slack"])
async def test_from_the_url_to_tokens_over_three_processes(
    shape: Shape, world: World, server: OAuthServer, ends: AsyncExitStack
) -> None:
    server.shape = shape
    with OAuthServer(shape) as shaped:
        first, second, third = [await process(world, shaped, ends) for _ in range(3)]
        await first.offer()
        asked = await first.begin()
        attempt = await second.finish(returned_by(shaped.person(asked.url)))
        assert (await second.outcome(attempt))[0] == "waiting"
        await third.exchange()
        assert await first.outcome(attempt) == ("authorized", "")
        assert (await first.probe()).identity == "ada"
        jobs = await world.jobs_of("reconcile")
        assert jobs == {str(first.integration_id): rfc3339(world.clock.now())}


async def test_pkce_is_enforced_by_the_server(one: Process, server: OAuthServer) -> None:
    await one.offer()
    asked = await one.begin()
    assert "code_challenge_method=S256" in asked.url
    returned = returned_by(server.person(asked.url))
    server.codes[returned.code].code_challenge = "of-somebody-else" * 4
    attempt = await one.finish(returned)
    await one.exchange()
    status, message = await one.outcome(attempt)
    assert status == "failed"
    assert message.startswith("invalid_grant")
    assert message.endswith("begin anew: reconciler authorize it-ops/desk")


async def test_a_state_that_nobody_sent_is_refused(one: Process, server: OAuthServer) -> None:
    await one.offer()
    asked = await one.begin()
    returned = returned_by(server.person(asked.url))
    for state in ("", "x", returned.state + "x", returned.state[:-1]):
        with pytest.raises(StateRefusedError, match="the state is unknown"):
            await one.finish(replace(returned, state=state))
    attempt = await one.finish(returned)
    await one.exchange()
    assert (await one.outcome(attempt))[0] == "authorized"


async def test_a_callback_counts_once(one: Process, two: Process, server: OAuthServer) -> None:
    await one.offer()
    returned = returned_by(server.person((await one.begin()).url))
    came = await asyncio.gather(*(p.finish(returned) for p in (one, two, one)), return_exceptions=True)
    assert [type(c) for c in came].count(StateRefusedError) == 2
    await one.exchange()
    with pytest.raises(StateRefusedError, match="came before"):
        await two.finish(returned)
    assert len(server.exchanges) == 1
    assert (await one.probe()).identity == "ada"


async def test_a_callback_that_comes_late_is_refused(one: Process, server: OAuthServer) -> None:
    await one.offer()
    returned = returned_by(server.person((await one.begin()).url))
    one.world.clock.advance(timedelta(minutes=10))
    with pytest.raises(StateRefusedError, match="too late"):
        await one.finish(returned)
    assert server.exchanges == []


async def test_a_changed_manifest_makes_it_void(one: Process, server: OAuthServer) -> None:
    await one.offer()
    returned = returned_by(server.person((await one.begin()).url))
    await one.world.wish(desired("desk", {"display_name": "another"}))
    attempt = await one.finish(returned)
    await one.exchange()
    assert await one.outcome(attempt) == ("failed", "the manifest has changed meanwhile; begin anew")
    assert server.exchanges == []
    with pytest.raises(NotAuthorizableError, match="has not looked at the newest manifest"):
        await one.begin()


async def test_a_person_who_says_no_is_told_of(one: Process, server: OAuthServer) -> None:
    server.denies = True
    await one.offer()
    asked = await one.begin()
    attempt = await one.finish(returned_by(server.person(asked.url)))
    status, message = await one.outcome(attempt)
    assert status == "denied"
    assert message.startswith("the person, or the remote, did not allow it: access_denied")
    logged = await one.world.read(lambda tx: tx.value("SELECT message FROM log WHERE integration_id = 1"))
    assert logged == message


async def test_what_a_remote_says_is_shown_as_one_short_line(one: Process) -> None:
    await one.offer()
    asked = await one.begin()
    words = "\x1b[31mgo to\r\nhttp://evil.example <script>" + "x" * 5000
    attempt = await one.finish(Returned(asked.state.reveal(), "", "server_error", words))
    status, message = await one.outcome(attempt)
    assert status == "failed"
    assert message.isprintable()
    assert len(message) < 400


async def test_scopes_that_were_not_given_are_missing(one: Process, server: OAuthServer) -> None:
    server.grants_scopes = "notes:read"
    attempt = await one.allow()
    assert await one.outcome(attempt) == ("authorized", "not given: notes:write")
    assert (await one.probe()).missing == ("notes:write",)
    server.expire()
    assert (await one.probe()).missing == ("notes:write",), "a renewal does not forget it"


async def test_killed_between_receiving_and_storing(one: Process, two: Process, server: OAuthServer) -> None:
    """The code is spent: it is never sent again, and a person is told to begin anew."""
    await one.offer()
    attempt = await one.finish(returned_by(server.person((await one.begin()).url)))

    async def killed(*_: object) -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(one.tokens, "put_all", killed)
        with suppress(Killed):
            await one.exchange()
    assert (await one.outcome(attempt))[0] == "waiting"
    await two.exchange()
    status, message = await two.outcome(attempt)
    assert status == "failed"
    assert "ended before it had kept the answer" in message
    assert len(server.exchanges) == 1
    await two.allow()
    assert (await one.probe()).identity == "ada"


async def test_killed_after_storing(one: Process, two: Process, server: OAuthServer) -> None:
    await one.offer()
    attempt = await one.finish(returned_by(server.person((await one.begin()).url)))

    def killed(*_: object) -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(authorizations, "end", killed)
        with suppress(Killed):
            await one.exchange()
    await two.exchange()
    assert await two.outcome(attempt) == ("authorized", "")
    assert (await two.probe()).identity == "ada"
    assert len(server.exchanges) == 1


async def test_nothing_of_it_is_in_the_database_in_clear(one: Process, server: OAuthServer, backend: Backend) -> None:
    await one.offer()
    asked = await one.begin()
    returned = returned_by(server.person(asked.url))
    await one.finish(returned)
    hidden = {*server.secrets(), asked.state.reveal()}
    assert await _found(one.world, hidden) == []
    await one.exchange()
    verifier = server.exchanges[0]["code_verifier"]
    server.expire()
    await one.probe()
    assert await _found(one.world, {*server.secrets(), asked.state.reveal(), verifier}) == []
    attempt = await one.world.read(lambda tx: authorizations.get(tx, 1))
    assert attempt is not None
    assert (attempt.code, attempt.verifier) == (None, None), "wiped when used"


async def _found(world: World, hidden: set[str]) -> list[str]:
    tables = ("credential", "authorization_attempt", "authorization_offer", "sealed_key", "log", "job", "condition")
    held = await world.read(lambda tx: [tuple(row) for name in tables for row in tx.all(f"SELECT * FROM {name}")])
    text = repr(held)
    return [secret for secret in hidden if secret in text]


async def test_who_lacks_the_master_key_says_so(
    one: Process, world: World, server: OAuthServer, ends: AsyncExitStack
) -> None:
    other = await process(world, server, ends, OTHER_KEY)
    await one.offer()
    attempt = await one.finish(returned_by(server.person((await one.begin()).url)))
    await other.exchange()
    status, message = await one.outcome(attempt)
    assert status == "failed"
    assert "its master key is not known" in message
    assert server.exchanges == []


async def test_what_is_sealed_for_one_attempt_does_not_open_for_another(one: Process) -> None:
    await one.offer()
    await one.begin()
    await one.begin()
    first, second = [await _attempt(one.world, number) for number in (1, 2)]
    assert first.verifier is not None
    opened = one.vault.open_transit(first.verifier, f"attempt/{first.public_id}/verifier")
    assert len(opened.reveal()) >= 43
    with pytest.raises(VaultError):
        one.vault.open_transit(first.verifier, f"attempt/{second.public_id}/verifier")


async def _attempt(world: World, number: int) -> Attempt:
    found = await world.read(lambda tx: authorizations.get(tx, number))
    assert found is not None
    assert found.step is Step.ASKED
    return found


async def test_attempts_of_days_ago_go(one: Process) -> None:
    await one.offer()
    await one.begin()
    one.world.clock.advance(timedelta(days=2))
    await one.begin()
    assert await one.world.read(lambda tx: tx.value("SELECT count(*) FROM authorization_attempt")) == 1


async def test_an_integration_that_nobody_has_to_allow_says_so(one: Process) -> None:
    with pytest.raises(NotAuthorizableError, match="nobody has to allow it-ops/desk anything"):
        await one.begin()


async def test_where_the_daemon_only_observes_nobody_is_sent(one: Process) -> None:
    await one.offer()
    await one.world.db.write(lambda tx: shown.note_observing(tx, is_observing=True))
    with pytest.raises(NotAuthorizableError, match="only observes"):
        await one.begin()


async def test_a_suspended_one_is_left_alone(one: Process) -> None:
    await one.offer()
    await one.world.db.write(lambda tx: integrations.suspend(tx, one.integration_id, "ada", "", None))
    with pytest.raises(NotAuthorizableError, match="reconciler resume it-ops/desk"):
        await one.begin()


async def test_without_a_url_to_come_back_to_nobody_is_sent(one: Process) -> None:
    row = await one.world.row()
    await Consent(one.world.db, "").offer(await one.live(row.id), row.generation)
    with pytest.raises(NotAuthorizableError, match="set public_url"):
        await one.begin()
