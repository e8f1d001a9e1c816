"""The code flow without a remote: URLs, scopes, what refusals mean, and what of a remote's words is shown."""

from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

import pytest

from reconciler.model.condition import Reason
from reconciler.model.secret import Secret
from reconciler.sdk.answer import HttpAnswer
from reconciler.sdk.authorize import CodeFlow, _refusal, _scopes, authorization_url, plain
from reconciler.sdk.errors import TransientError, UnauthorizedError

FLOW = CodeFlow(
    client_id="client 1",
    client_secret=Secret("canary"),
    authorize_url="https://remote.example/authorize?tenant=acme",
    token_url="https://remote.example/token",
    scopes=("read", "write"),
)
STATE, VERIFIER = Secret("state"), Secret("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk")


def asked(flow: CodeFlow, verifier: Secret | None = VERIFIER) -> dict[str, list[str]]:
    scopes = flow.separator.join(flow.scopes)
    url = authorization_url(flow.where(), flow.client_id, scopes, "https://own.example/cb?a=b", STATE, verifier)
    assert url.startswith("https://remote.example/authorize?tenant=acme&")
    return parse_qs(urlsplit(url).query)


def test_the_url_of_the_rfcs() -> None:
    assert asked(FLOW) == {
        "tenant": ["acme"],
        "response_type": ["code"],
        "client_id": ["client 1"],
        "redirect_uri": ["https://own.example/cb?a=b"],
        "scope": ["read write"],
        "state": ["state"],
        "code_challenge": ["E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"],  # RFC 7636, appendix B
        "code_challenge_method": ["S256"],
    }


def test_what_is_special_about_a_remote() -> None:
    made = asked(replace(FLOW, separator=",", extra={"access_type": "offline"}, scopes=("a", "b")), None)
    assert (made["scope"], made["access_type"]) == (["a,b"], ["offline"])
    assert "code_challenge" not in made
    assert "scope" not in asked(replace(FLOW, scopes=()))


def test_nothing_shows_the_clients_secret() -> None:
    assert "canary" not in f"{FLOW!r} {FLOW}"


@pytest.mark.parametrize(
    ("granted", "missing"),
    [(None, ()), ((), ("read", "write")), (("write",), ("read",)), (("admin",), ()), (("read", "write", "more"), ())],
)
def test_scopes_that_are_missing(granted: tuple[str, ...] | None, missing: tuple[str, ...]) -> None:
    assert replace(FLOW, implied={"admin": ("read", "write")}).missing(granted) == missing


@pytest.mark.parametrize(
    ("said", "before", "scopes"),
    [
        ({"scope": "a b"}, None, ("a", "b")),
        ({"scope": "a,b"}, ("x",), ("a", "b")),
        ({"scope": ""}, None, ()),
        ({}, None, ("read", "write")),
        ({}, ("read",), ("read",)),
        ({"scope": None}, ("read",), ("read",)),
    ],
)
def test_scopes_of_an_answer(said: dict[str, str], before: tuple[str, ...] | None, scopes: tuple[str, ...]) -> None:
    assert _scopes(said, FLOW, before) == scopes


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        ("invalid_grant", UnauthorizedError, Reason.AUTHENTICATION_FAILED),
        ("invalid_client", UnauthorizedError, Reason.AUTHENTICATION_FAILED),
        ("temporarily_unavailable", TransientError, Reason.REMOTE_UNAVAILABLE),
    ],
)
def test_what_refusals_mean(error: str, kind: type[Exception], reason: Reason) -> None:
    found = _refusal({"error": error, "error_description": "Because."}, HttpAnswer(400, {}, b"", ""))
    assert (type(found) is kind or issubclass(type(found), kind), found.why) == (True, reason)
    assert f"{error}: Because" in found.message


def test_what_a_remote_says_is_one_line() -> None:
    assert plain("a\nb\x1b[31m\u202eé" + "x" * 400) == ("a?b?[31m??" + "x" * 400)[:300]
