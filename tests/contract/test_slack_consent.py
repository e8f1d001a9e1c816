"""Slack with a person's consent: apps with and without rotation, PKCE only where it was turned on, and the way back."""

from datetime import timedelta
from typing import Any

import pytest

from reconciler.model.condition import Reason
from reconciler.sdk.errors import UnauthorizedError
from reconciler.sdk.testing.allowing import allow
from reconciler.sdk.testing.trial import Trial, trial
from tests.contract.test_slack import CONSENT, SlackCase

CASE = SlackCase()


def exchanges(t: Trial) -> list[dict[str, str]]:
    return [call.form for call in t.sim.requests if call.url_path == "/api/oauth.v2.access"]


def asked(t: Trial) -> dict[str, str]:
    query: dict[str, str] = next(c for c in t.sim.requests if c.url_path == "/oauth/v2/authorize").query
    return query


async def test_scopes_are_apart_by_commas_and_pkce_is_off() -> None:
    async with trial(CASE, auth=lambda _: CONSENT) as t:
        assert "chat:write,channels:read" in asked(t)["scope"]
        assert "code_challenge" not in asked(t)
        assert "code_verifier" not in exchanges(t)[0]


async def test_pkce_where_it_was_turned_on() -> None:
    async with trial(CASE, auth=lambda _: {**CONSENT, "pkce": True}) as t:
        assert asked(t)["code_challenge_method"] == "S256"
        assert exchanges(t)[0]["code_verifier"]


async def test_rotating_tokens_are_renewed_each_by_a_new_refresh_token() -> None:
    async with trial(CASE, auth=lambda _: CONSENT) as t:
        for _ in range(3):
            await t.connector.probe()
            t.clock.advance(timedelta(hours=12))
        used = [form["refresh_token"] for form in exchanges(t)[1:]]
        assert len(set(used)) == 2


async def test_without_rotation_nothing_expires() -> None:
    async with trial(CASE, auth=lambda _: CONSENT, is_allowed=False) as t:
        t.sim.rotates = False
        await allow(t.connector)
        t.clock.advance(timedelta(days=400))
        await t.connector.probe()
        assert len(exchanges(t)) == 1


async def test_a_dead_refresh_token_needs_a_person() -> None:
    async with trial(CASE, auth=lambda _: CONSENT) as t:
        t.sim.refresh_tokens.clear()
        t.clock.advance(timedelta(hours=12))
        with pytest.raises(UnauthorizedError, match="invalid_refresh_token; reconciler authorize") as caught:
            await t.connector.probe()
        assert caught.value.why is Reason.AWAITING_AUTHORIZATION


async def test_a_scope_that_was_not_given_is_told() -> None:
    async with trial(CASE, auth=lambda _: CONSENT, is_allowed=False) as t:
        t.sim.granted = "chat:write,users:read"
        said = await allow(t.connector)
        assert said.startswith("not given: channels:read")


async def test_what_was_allowed_is_given_back() -> None:
    async with trial(CASE, auth=lambda _: CONSENT) as t:
        before = set(t.sim.tokens)
        await t.connector.revoke()
        assert len(before - set(t.sim.tokens)) == 1
        await t.connector.revoke()
        connector: Any = t.connector
        assert connector.room.tokens.kept == {}
