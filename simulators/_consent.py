"""What vendors' authorization pages and token endpoints have in common. Called by the simulators of those that have them."""

import base64
import hashlib
from urllib.parse import urlencode

from reconciler.sdk.testing.simulator import Reply

CONSENT = ("client_id", "scope", "redirect_uri", "state", "response_type", "code_challenge*")
EXCHANGE = ("grant_type", "refresh_token", "client_id", "client_secret", "code", "redirect_uri", "code_verifier")


def back(redirect_uri: str, **values: str) -> Reply:
    """The person's browser is sent back."""
    joint = "&" if "?" in redirect_uri else "?"
    return Reply(status=302, headers={"Location": f"{redirect_uri}{joint}{urlencode(values)}"})


def proves(challenge: str | None, verifier: str | None) -> bool:
    """RFC 7636, S256: who exchanges the code is who asked for it. Nothing to prove where nobody was challenged."""
    if challenge is None:
        return verifier is None
    hashed = base64.urlsafe_b64encode(hashlib.sha256((verifier or "").encode()).digest())
    return hashed.decode().rstrip("=") == challenge


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
