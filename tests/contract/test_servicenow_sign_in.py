"""ServiceNow: how we sign in, stay signed in, and find out as whom."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any

import pytest

from connectors.servicenow import ServiceNow
from reconciler.sdk.errors import RejectedError, TransientError
from reconciler.sdk.testing.case import CANARY
from reconciler.sdk.testing.faults import status
from reconciler.sdk.testing.simulator import Call
from reconciler.sdk.testing.trial import Trial, trial
from simulators.servicenow import ServiceNow as Instance
from tests.contract.test_servicenow import ServiceNowCase

CASE = ServiceNowCase()


async def _identity(t: Trial) -> str:
    t.seed(t.entity("incidents"), 1)
    return (await t.connector.probe()).identity


@pytest.mark.parametrize("index", range(5), ids=["basic", "api_key", "client_credentials", "password", "jwt_bearer"])
async def test_the_probe_says_who_the_instance_takes_us_for(index: int) -> None:
    async with trial(CASE, auth=lambda sim: CASE.auths(sim)[index]) as t:
        for name in ("admin", "svc", "zoe"):
            t.sim.put("sys_user", {"user_name": name})
        assert await _identity(t) == "svc"


@pytest.mark.parametrize(("index", "said"), [(0, "svc"), (1, "API key"), (2, "app"), (3, "svc"), (4, "svc")])
@pytest.mark.parametrize("how", ["hidden", "denied", "refused"])
async def test_where_users_are_not_shown_the_manifest_says_who_we_are(index: int, said: str, how: str) -> None:
    async with trial(CASE, auth=lambda sim: CASE.auths(sim)[index]) as t:
        t.sim.put("sys_user", {"user_name": "admin"})
        row = t.sim.put("sys_user", {"user_name": "svc"})
        if how == "hidden":
            t.sim.hidden.add(row["sys_id"])
        elif how == "denied":
            t.sim.denied.add("sys_user")
        else:  # an access policy that lets the credential at some tables only
            t.sim.faults.add(status(401), path="*/sys_user", times=None)
        assert await _identity(t) == said


async def test_an_outage_while_asking_who_we_are_fails_the_probe() -> None:
    async with trial(CASE) as t:
        t.sim.faults.add(status(503), path="*/sys_user", times=None)
        with pytest.raises(TransientError):
            await _identity(t)


class Unscripted(Instance):
    """Ignores a condition with a script in it, as the instance does with those on unknown fields."""

    def _asked_for(self, call: Call) -> list[dict[str, str]]:
        script = "javascript:" in call.query.get("sysparm_query", "")
        return self.select(call.path["table"], "") if script else super()._asked_for(call)


class UnscriptedCase(ServiceNowCase):
    instance = Unscripted


async def test_the_first_user_of_all_is_not_taken_for_ours() -> None:
    async with trial(UnscriptedCase()) as t:
        for name in ("admin", "svc"):
            t.sim.put("sys_user", {"user_name": name})
        assert await _identity(t) == "svc"


class ByPassword(ServiceNowCase):
    def renewable_auth(self, sim: Any) -> Mapping[str, Any]:
        return self.auths(sim)[3]


def _grants(t: Trial) -> list[str]:
    return [r.form["grant_type"] for r in t.sim.requests if r.url_path == "/oauth_token.do"]


def _by_password() -> AbstractAsyncContextManager[Trial]:
    case = ByPassword()
    return trial(case, auth=case.renewable_auth)


async def test_a_token_of_the_password_grant_is_renewed_without_the_password() -> None:
    async with _by_password() as t:
        for minutes in (0, 28, 2, 0, 30):
            t.clock.advance(timedelta(minutes=minutes))
            await t.connector.probe()
        assert _grants(t) == ["password", "refresh_token", "refresh_token"]
        assert len(t.sim.access) == 3
        assert len(t.sim.refresh) == 1


async def test_a_token_that_is_revoked_in_the_middle_is_renewed_without_the_password() -> None:
    async with _by_password() as t:
        of = t.entity("incidents")
        keys = t.seed(of)
        read = await t.read(of, between=lambda n: t.sim.access.clear() if n == 1 else None)
        assert read.keys == set(keys)
        assert _grants(t) == ["password", "refresh_token"]


async def test_a_current_token_that_is_about_to_die_is_renewed_at_once() -> None:
    async with _by_password() as other, _by_password() as t:
        await other.connector.probe()
        t.sim.access, t.sim.refresh = other.sim.access, other.sim.refresh
        t.clock.advance(timedelta(seconds=1745))
        await t.connector.probe()
        await t.connector.probe()
        assert _grants(t) == ["password", "refresh_token"], "the instance hands out what dies in 55 s"


@pytest.mark.parametrize("how", ["revoked", "expired"])
async def test_a_refresh_token_that_is_refused_is_replaced_by_the_password(how: str) -> None:
    async with _by_password() as t:
        await t.connector.probe()
        first = dict(t.sim.refresh)
        if how == "revoked":
            t.sim.refresh.clear()
        t.clock.advance(timedelta(hours=1) if how == "revoked" else timedelta(days=100))
        await t.connector.probe()
        assert _grants(t) == ["password", "refresh_token", "password"]
        assert [line.detail["why"] for line in t.bench.log if "refresh token" in line.message] == [
            "the token endpoint refused: invalid_grant access_denied"
        ]
        t.clock.advance(timedelta(hours=1))
        await t.connector.probe()
        assert _grants(t)[3:] == ["refresh_token"]
        assert set(t.sim.refresh) - set(first), "the new one is kept"


async def test_an_outage_of_the_token_endpoint_keeps_the_refresh_token() -> None:
    async with _by_password() as t:
        await t.connector.probe()
        t.clock.advance(timedelta(hours=1))
        outage = t.sim.faults.add(status(503), path="/oauth_token.do", times=None)
        with pytest.raises(TransientError):
            await t.connector.probe()
        assert outage.struck
        t.sim.faults.clear()
        t.clock.advance(timedelta(hours=1))
        await t.connector.probe()
        assert "password" not in _grants(t)[1:]


async def test_both_tokens_are_given_back() -> None:
    async with _by_password() as t:
        await t.connector.probe()
        assert len(t.bench.tokens.kept) == 2
        await t.connector.revoke()
        assert (t.sim.access, t.sim.refresh, t.bench.tokens.kept) == ({}, {}, {})


async def test_tokens_of_another_credential_are_not_used() -> None:
    async with _by_password() as t:
        await t.connector.probe()
        t.sim.users["next"] = f"{CANARY}-next"
        for name in ("svc", "next"):
            t.sim.put("sys_user", {"user_name": name})
        auth = {**ByPassword().renewable_auth(t.sim), "username": "next", "password": f"{CANARY}-next"}
        changed = t.bench.connector(ServiceNow, ByPassword().config(t.sim), auth)
        assert (await changed.probe()).identity == "next"


async def test_the_simulator_takes_a_refresh_token_of_its_client_and_as_a_form_only() -> None:
    async with _by_password() as t:
        await t.connector.probe()
        (token,) = t.sim.refresh
        t.sim.clients["other"] = f"{CANARY}-other"
        ours = {"client_id": "app", "client_secret": f"{CANARY}-client", "grant_type": "refresh_token"}
        other = {**ours, "client_id": "other", "client_secret": f"{CANARY}-other"}
        asked = (
            {**ours, "refresh_token": "unknown"},
            {**other, "refresh_token": token},
            {**ours, "refresh_token": token},
        )
        url, send = f"{t.sim.url}/oauth_token.do", t.bench.room(ServiceNow).http.send
        answers = [await send("POST", url, form=form, expect=(401,)) for form in asked]
        assert [a.status for a in answers] == [401, 401, 200]
        assert answers[0].json() == {"error": "invalid_grant", "error_description": "access_denied"}
        assert answers[2].json()["refresh_token"] == token
        with pytest.raises(RejectedError, match="SIMULATOR REFUSES"):
            await send("POST", url, json=asked[2])
        t.sim.violations.clear()
