"""GitHub with a person's consent: an App's tokens that expire, an OAuth App's that do not, scopes, and the end of both."""

from datetime import timedelta
from typing import Any

import pytest

from connectors.github.consent import web_host
from reconciler.model.condition import Reason
from reconciler.sdk.errors import UnauthorizedError
from reconciler.sdk.testing.allowing import allow
from reconciler.sdk.testing.trial import Trial, trial
from tests.contract.test_github import CONSENT, GitHubCase

CASE = GitHubCase()
OAUTH_APP = {**CONSENT, "scopes": ["repo", "public_repo", "admin:repo_hook"]}


def exchanges(t: Trial) -> list[dict[str, str]]:
    """What was asked of the token endpoint."""
    return [call.form for call in t.sim.requests if call.url_path == "/login/oauth/access_token"]


@pytest.mark.parametrize(
    ("base_url", "web"),
    [
        ("https://api.github.com", "https://github.com"),
        ("https://api.acme.ghe.com", "https://acme.ghe.com"),
        ("https://github.example.org/api/v3", "https://github.example.org"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
    ],
)
def test_people_are_sent_to_the_web_host(base_url: str, web: str) -> None:
    assert web_host(base_url) == web


async def test_tokens_of_an_app_are_renewed_before_they_die_and_each_refresh_token_is_used_once() -> None:
    async with trial(CASE, auth=lambda _: CONSENT) as t:
        for _ in range(3):
            await t.connector.probe()
            t.clock.advance(timedelta(hours=7, minutes=56))
        asked = [form.get("refresh_token") for form in exchanges(t)]
        assert len(asked) == 3
        assert asked[1] != asked[2]
        assert not [call for call in t.sim.requests if call.url_path == "/user" and call.faults]


async def test_the_code_is_of_use_only_with_its_verifier() -> None:
    async with trial(CASE, auth=lambda _: CONSENT) as t:
        assert len(exchanges(t)[0]["code_verifier"]) >= 43
        asked = next(call for call in t.sim.requests if call.url_path == "/login/oauth/authorize")
        assert asked.query["code_challenge_method"] == "S256"
        assert "code_verifier" not in asked.query


async def test_a_token_of_an_oauth_app_that_was_revoked_needs_a_person() -> None:
    async with trial(CASE, auth=lambda _: OAUTH_APP, is_allowed=False) as t:
        t.sim.oauth_expires = False
        assert await allow(t.connector) == ""
        await t.connector.probe()
        t.sim.tokens.clear()
        with pytest.raises(UnauthorizedError, match="cannot be renewed; reconciler authorize") as caught:
            await t.connector.probe()
        assert caught.value.why is Reason.AWAITING_AUTHORIZATION


async def test_a_scope_that_was_not_given_is_told_and_one_that_is_included_is_not() -> None:
    async with trial(CASE, auth=lambda _: OAUTH_APP, is_allowed=False) as t:
        t.sim.oauth_expires, t.sim.oauth_scopes = False, "repo"
        assert await allow(t.connector) == "not given: admin:repo_hook"


async def test_a_refused_refresh_is_asked_for_once() -> None:
    async with trial(CASE, auth=lambda _: CONSENT) as t:
        t.sim.oauth_refresh.clear()
        t.clock.advance(timedelta(hours=8))
        for _ in range(3):
            with pytest.raises(
                UnauthorizedError, match="does not renew the token any more: bad_refresh_token"
            ) as caught:
                await t.connector.probe()
            assert caught.value.why is Reason.AWAITING_AUTHORIZATION
        assert len(exchanges(t)) == 2


async def test_a_wrong_client_secret_is_not_a_persons_to_mend() -> None:
    async with trial(CASE, auth=lambda _: CONSENT, is_allowed=False) as t:
        t.sim.oauth_clients["Iv1.example"] = "another"
        with pytest.raises(UnauthorizedError, match="does not know this client") as caught:
            await allow(t.connector)
        assert caught.value.why is Reason.AUTHENTICATION_FAILED


async def test_the_token_is_revoked_and_the_consent_is_left() -> None:
    async with trial(CASE, auth=lambda _: CONSENT) as t:
        await t.connector.revoke()
        (call,) = [call for call in t.sim.requests if call.method == "DELETE"]
        assert call.url_path == "/applications/Iv1.example/token"
        await t.connector.revoke()
        connector: Any = t.connector
        assert connector.room.tokens.kept == {}
