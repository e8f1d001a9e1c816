"""Tokens of a real issuer over real HTTP: which count, whose they are, and what happens as keys come and go."""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from joserfc.errors import SecurityWarning
from joserfc.jwk import ECKey, OKPKey

from reconciler.model.access import Caller, Permission, hash_of
from reconciler.sdk.issuer import KEPT, PAUSE
from reconciler.serve.admission import Terms
from reconciler.serve.oidc import MAX_TOKEN, REMEMBERED, Rule
from reconciler.serve.problem import ProblemError
from reconciler.serve.signature import LEEWAY
from tests.integration.serve.authority import DISCOVERY, KEYS, Authority, Trust, rsa, trusted
from tests.integration.serve.installation import Installation, Wish, want

VIEW, EDIT, ADMIN = Permission.INTEGRATION_VIEW, Permission.INTEGRATION_EDIT, Permission.ADMIN


async def caller(trust: Trust, token: str) -> Caller:
    return await trust.bearers.caller(token, hash_of(token))


async def refusal(trust: Trust, token: str) -> tuple[int, str]:
    with pytest.raises(ProblemError) as raised:
        await caller(trust, token)
    return raised.value.status, raised.value.detail


async def test_a_token_opens_its_workspace(installation: Installation) -> None:
    await installation.change(lambda tx: want(tx, *(Wish("x", workspace=w) for w in ("it", "hr"))))
    async with trusted(installation.clock) as trust:
        installation.terms = Terms(bearers=trust.bearers)
        async with installation.client(token=trust.authority.token()) as client:
            answer = await client.get("/v1/integrations")
            assert [one["workspace"] for one in answer.json()["data"]] == ["it"]
            assert (await client.get("/v1/integrations/hr/x")).status_code == httpx.codes.NOT_FOUND
            client.headers["authorization"] = f"Bearer {installation.token}"
            assert len((await client.get("/v1/integrations")).json()["data"]) == 2
            client.headers["authorization"] = f"Bearer {trust.authority.token(aud='other')}"
            refused = await client.get("/v1/integrations")
            assert (refused.status_code, refused.json()["code"]) == (401, "invalid-token")
            assert 'error="invalid_token"' in refused.headers["www-authenticate"]


async def test_the_caller_bears_issuer_and_subject() -> None:
    async with trusted(name_claim="email", name_prefix="sso:") as trust:
        found = await caller(trust, trust.authority.token(email="ada@example.org", sub="00u1"))
        assert (found.name, found.workspace, found.permissions) == ("sso:ada@example.org", "it", frozenset({VIEW}))
        assert (found.issuer, found.subject) == (trust.authority.url, "00u1")
        assert found.identity == f"oidc:{trust.authority.url}#00u1"


@pytest.mark.parametrize(
    "key", [ECKey.generate_key("P-256", {"kid": "e"}), OKPKey.generate_key("Ed25519", {"kid": "o"})]
)
async def test_other_kinds_of_keys(key: Any) -> None:
    async with trusted() as trust:
        trust.authority.keys = [key]
        assert (await caller(trust, trust.authority.token())).name == "ada"


async def test_the_older_name_of_an_algorithm() -> None:
    async with trusted() as trust:
        trust.authority.keys = [OKPKey.generate_key("Ed25519", {"kid": "o"})]
        with pytest.warns(SecurityWarning):
            token = trust.authority.token(header={"alg": "EdDSA"})
        assert (await caller(trust, token)).name == "ada"


def unsigned(authority: Authority) -> str:
    return f"{part({'alg': 'none', 'typ': 'JWT'})}.{part(authority.claims())}."


def by_the_public_key(authority: Authority) -> str:
    """HS256 with what everybody knows as the secret."""
    secret = authority.keys[0].as_pem(private=False)
    signed = f"{part({'alg': 'HS256', 'kid': 'one'})}.{part(authority.claims())}"
    mac = hmac.new(secret, signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


def altered(authority: Authority) -> str:
    header, _, signature = authority.token().split(".")
    return f"{header}.{part(authority.claims(sub='root'))}.{signature}"


def part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def deep(authority: Authority) -> str:
    nested = base64.urlsafe_b64encode(b"[" * 5000).decode().rstrip("=")
    return f"{part({'alg': 'RS256'})}.{nested}."


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (unsigned, "only signatures of these kinds count"),
        (by_the_public_key, "only signatures of these kinds count"),
        (altered, "its signature is not that of its issuer"),
        (deep, "no JSON Web Token"),
        (lambda a: a.token(aud="other"), "another audience"),
        (lambda a: a.token(aud=None), "another audience"),
        (lambda a: a.token(iss="https://evil.example"), "no issuer"),
        (lambda a: a.token(iss=[a.url]), "no issuer"),
        (lambda a: a.token(exp=None), "its claim exp is missing or wrong"),
        (lambda a: a.token(exp=True), "its claim exp is missing or wrong"),
        (lambda a: a.token(exp="tomorrow"), "its claim exp is missing or wrong"),
        (lambda a: a.token(exp=a.claims()["iat"] - LEEWAY), "it has expired"),
        (lambda a: a.token(nbf=a.claims()["iat"] + LEEWAY + 1), "its claim nbf is missing or wrong"),
        (lambda a: a.token(iat=a.claims()["iat"] + LEEWAY + 1), "its claim iat is missing or wrong"),
        (lambda a: a.token(sub=None), "its claim sub"),
        (lambda a: a.token(sub="a\nb"), "its claim sub"),
        (lambda a: a.token(sub="x" * 300), "its claim sub"),
        (lambda a: a.token(more="x" * MAX_TOKEN), "longer than"),
        (lambda a: a.token(header={"typ": "logout+jwt"}), "for something else"),
        (lambda a: a.token(rsa("one")), "its signature is not that of its issuer"),
        (lambda a: a.token(rsa("other")), "no key that it could be signed with"),
        (lambda a: a.token(header={"kid": "two"}), "no key that it could be signed with"),
        (lambda a: f"{part({'alg': 'RS256', 'crit': ['x'], 'x': 1})}.{part(a.claims())}.AAAA", "not understood"),
        (lambda a: f"{part({'alg': 'RS256', 'kid': 7})}.{part(a.claims())}.AAAA", "kid that is no text"),
        (lambda a: f"{part({'alg': 'RS256'})}.{part([1])}.AAAA", "no JSON Web Token"),
        (lambda a: "eyJ.é.x", "no JSON Web Token"),
    ],
)
async def test_what_does_not_count(made: Callable[[Authority], str], said: str) -> None:
    async with trusted() as trust:
        status, detail = await refusal(trust, made(trust.authority))
        assert status == 401
        assert said in detail


async def test_clocks_may_differ_a_little() -> None:
    async with trusted() as trust:
        now = int(trust.authority.clock.now().timestamp())
        for off in (-LEEWAY + 1, LEEWAY):
            later: dict[str, Any] = {"iat": now + off, "nbf": now + off, "exp": now + max(off, 1 - LEEWAY)}
            assert (await caller(trust, trust.authority.token(**later))).name == "ada"


async def test_an_unknown_header_is_no_obstacle_and_a_token_without_key_id_fits_the_only_key() -> None:
    async with trusted() as trust:
        assert (await caller(trust, trust.authority.token(header={"x-note": "n" * 600, "kid": None}))).name == "ada"
        trust.authority.keys.append(rsa("two"))
        trust.authority.clock.add(601)
        assert "no key" in (await refusal(trust, trust.authority.token(header={"kid": None})))[1]


async def test_keys_that_are_none_are_left_out() -> None:
    async with trusted() as trust:
        with pytest.warns(SecurityWarning):
            weak = rsa("weak", 1024)
        secret = {"kty": "oct", "k": "c2VjcmV0", "kid": "s"}
        private = rsa("private").as_dict(private=True)
        odd: list[Any] = [secret, private, {"kty": "AKP", "kid": "new"}, {"kty": "RSA", "n": "!"}, 7]
        trust.authority.keys.append(weak)
        trust.authority.more_keys = [*odd, {**trust.authority.keys[0].as_dict(private=False), "kid": "e", "use": "enc"}]
        assert (await caller(trust, trust.authority.token())).name == "ada"
        assert [key.kid for key in await trust.keys.find(None)] == ["one"]


async def test_keys_are_asked_for_once_however_many_wait() -> None:
    async with trusted() as trust:
        authority = trust.authority
        authority.state = "slow"
        waiting = [asyncio.create_task(caller(trust, authority.token(jti=str(n)))) for n in range(500)]
        await authority.arrived.wait()
        waiting[0].cancel()
        authority.answering.set()
        found = await asyncio.gather(*waiting, return_exceptions=True)
        assert [one.name for one in found if isinstance(one, Caller)] == ["ada"] * 499
        assert authority.asked == {DISCOVERY: 1, KEYS: 1}


async def test_rotation_is_noticed_at_once_and_guessed_key_ids_cause_no_stampede() -> None:
    async with trusted() as trust:
        authority = trust.authority
        old = authority.token()
        await caller(trust, old)
        authority.keys.insert(0, rsa("two"))
        authority.clock.add(PAUSE)
        assert (await caller(trust, authority.token())).name == "ada"
        assert authority.asked[KEYS] == 2
        guesses = [refusal(trust, authority.token(header={"kid": f"guess-{n}"})) for n in range(50)]
        assert {status for status, _ in await asyncio.gather(*guesses)} == {401}
        assert authority.asked[KEYS] == 2
        authority.clock.add(PAUSE)
        await asyncio.gather(*[refusal(trust, authority.token(header={"kid": f"guess-{n}"})) for n in range(50)])
        assert authority.asked[KEYS] == 3


async def test_a_key_that_was_withdrawn_opens_nothing_when_it_is_looked_for_again() -> None:
    async with trusted() as trust:
        authority = trust.authority
        old = authority.token()
        await caller(trust, old)
        authority.keys = [rsa("two")]
        authority.clock.add(REMEMBERED - 1)
        assert (await caller(trust, old)).name == "ada"
        authority.clock.add(400)
        assert (await refusal(trust, old))[0] == 401


@pytest.mark.parametrize(("said", "seconds"), [("max-age=1", 300), ("no-store", 3600), ("max-age=99999999", 86_400)])
async def test_what_cache_control_says_is_kept_within_bounds(said: str, seconds: float) -> None:
    async with trusted() as trust:
        trust.authority.cache_control = said
        await trust.keys.find("one")
        trust.authority.clock.add(seconds - 1)
        await trust.keys.find("one")
        assert trust.authority.asked[KEYS] == 1
        trust.authority.clock.add(1)
        await trust.keys.find("one")
        assert trust.authority.asked[KEYS] == 2


@pytest.mark.parametrize("state", ["down", "failing", "broken"])
async def test_an_issuer_that_is_away_takes_nobodys_access_for_a_day(state: str) -> None:
    async with trusted() as trust:
        authority = trust.authority
        await caller(trust, authority.token())
        authority.state = state
        authority.clock.add(700)
        assert (await caller(trust, authority.token())).name == "ada"
        assert "those known stay good" in authority.log.lines[-1][1]
        authority.clock.add(KEPT)
        assert (await refusal(trust, authority.token()))[0] == 503
        authority.state = "up"
        authority.clock.add(PAUSE)
        assert (await caller(trust, authority.token())).name == "ada"


async def test_an_issuer_that_never_answered_is_503_and_not_asked_by_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reconciler.sdk.issuer.PATIENCE", 1.0)
    async with trusted() as trust:
        trust.authority.state = "silent"
        found = await asyncio.gather(*[refusal(trust, trust.authority.token(jti=str(n))) for n in range(20)])
        assert {status for status, _ in found} == {503}
        assert trust.authority.asked.total() <= 1  # none where the machine is too busy to connect in time
        assert "no answer within" in trust.authority.log.lines[-1][1]


async def test_a_discovery_document_of_another_issuer_counts_for_nothing() -> None:
    async with trusted() as trust:
        trust.authority.says_it_is = "https://evil.example"
        assert (await refusal(trust, trust.authority.token()))[0] == 503
        assert trust.authority.asked == {DISCOVERY: 1}


async def test_keys_over_http_are_refused_unless_permitted() -> None:
    async with trusted(place={"allow_http": False}) as trust:
        assert (await refusal(trust, trust.authority.token()))[0] == 503
        assert "names no https:// address" in trust.authority.log.lines[-1][1]


async def test_a_token_that_was_verified_is_not_verified_again_until_it_ends() -> None:
    async with trusted() as trust:
        authority = trust.authority
        token = authority.token(exp=authority.claims()["iat"] + 60)
        first = await caller(trust, token)
        assert await caller(trust, token) is first
        authority.clock.add(60 + LEEWAY)
        assert (await refusal(trust, token)) == (401, "the token does not count: it has expired")


RULES = (
    Rule("realm_access.roles", "desk", frozenset({VIEW}), "it"),
    Rule("scope", "edit", frozenset({EDIT})),
    Rule("https://x.example/roles", "root", frozenset({ADMIN}), "*"),
    Rule("email_verified", "true", frozenset({VIEW})),
)


@pytest.mark.parametrize(
    ("claims", "workspace", "permissions"),
    [
        ({"realm_access": {"roles": ["a", "desk"]}}, "it", {VIEW}),
        ({"realm_access": {"roles": "desk"}, "scope": "openid edit", "ws": "hr"}, "it", {VIEW}),
        ({"realm_access": {"roles": ["desk"]}, "scope": "edit", "ws": "it"}, "it", {VIEW, EDIT}),
        ({"scope": "openid edit", "ws": ["hr"]}, "hr", {EDIT}),
        ({"https://x.example/roles": ["root"]}, None, {ADMIN}),
        ({"email_verified": True, "ws": "hr"}, "hr", {VIEW}),
    ],
)
async def test_claims_become_permissions(
    claims: dict[str, Any], workspace: str | None, permissions: set[Permission]
) -> None:
    async with trusted(rules=RULES, workspace="", workspace_claim="ws") as trust:
        found = await caller(trust, trust.authority.token(**claims))
        assert (found.workspace, set(found.permissions)) == (workspace, permissions)


@pytest.mark.parametrize(
    ("claims", "said"),
    [
        ({}, "no rule of the daemon's settings fits this token's claims (looked at: realm_access.roles, scope"),
        ({"realm_access": {"roles": ["de", "desk desk2"]}}, "no rule"),
        ({"realm_access": ["desk"], "scope": {"edit": 1}}, "no rule"),
        ({"scope": "edit"}, "the claim ws must name the one workspace"),
        ({"scope": "edit", "ws": "*"}, "the claim ws must name the one workspace"),
        ({"scope": "edit", "ws": ["it", "hr"]}, "the claim ws must name the one workspace"),
    ],
)
async def test_claims_that_give_nothing_are_403(claims: dict[str, Any], said: str) -> None:
    async with trusted(rules=RULES, workspace="", workspace_claim="ws") as trust:
        status, detail = await refusal(trust, trust.authority.token(**claims))
        assert status == 403
        assert said in detail
