"""A person who allows a connector what it asks for: opens the URL, says yes, comes back; then the code is exchanged.

In: a connector that declares a code flow, and a simulator whose authorization page answers with a redirect. Out: tokens in the
connector's room. Called by `trial`, so that every check can be made with that kind of auth, and by connectors' own tests.
"""

from typing import Any
from urllib.parse import parse_qs, urlsplit

from reconciler.model.secret import Secret
from reconciler.sdk.authorize import Authorizes, authorization_url, redeem
from reconciler.sdk.contract import Connector
from reconciler.sdk.testing.case import CANARY

REDIRECT_URI = "https://reconciler.example/v1/oauth/callback"
STATE, VERIFIER = Secret(f"{CANARY}-state"), Secret(f"{CANARY}-verifier-that-is-long-enough-for-pkce")


async def allow(connector: Connector[Any, Any]) -> str:
    """What a person, and then the engine, do: open the URL, come back with a code, exchange it. Returns what was said of it."""
    import httpx

    flow = connector.code_flow() if isinstance(connector, Authorizes) else None
    assert flow is not None, "nobody has to allow this connector anything"
    verifier = VERIFIER if flow.has_pkce else None
    scopes = flow.separator.join(flow.scopes)
    url = authorization_url(flow.where(), flow.client_id, scopes, REDIRECT_URI, STATE, verifier)
    async with httpx.AsyncClient(trust_env=False) as browser:
        answer = await browser.get(url)
    assert answer.has_redirect_location, f"the authorization page answered {answer.status_code} instead of a redirect"
    assert answer.headers["location"].startswith(REDIRECT_URI)
    came = parse_qs(urlsplit(answer.headers["location"]).query)
    assert came["state"] == [STATE.reveal()], "the state must come back as it was sent"
    return await redeem(connector.room, flow, Secret(came["code"][0]), verifier, REDIRECT_URI)


def needs_consent(connector: Connector[Any, Any]) -> bool:
    return isinstance(connector, Authorizes) and connector.code_flow() is not None
