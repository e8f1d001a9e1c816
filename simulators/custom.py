"""A system of somebody's own: pushes records and events to us with a generated key, and takes ours, signed, at `/hook`.

In: requests of the connector. Out: `received`, each event once by its id, and refusals of what is not signed as it should be.
`signed` makes the headers of what such a system sends itself. Used by the connector's tests and by people who try it out.
"""

import base64
import hmac
from collections.abc import Callable
from datetime import datetime
from typing import Any

from reconciler.sdk.testing.simulator import Call, Reply, Simulator, route


def standard_signature(secret: str, name: str, stamp: str, body: bytes) -> str:
    """As Standard Webhooks has it, written down a second time: what checks must not be what makes."""
    key = base64.b64decode(secret[6:]) if secret.startswith("whsec_") else secret.encode()
    mac = hmac.new(key, b".".join([name.encode(), stamp.encode(), body]), "sha256")
    return f"v1,{base64.b64encode(mac.digest()).decode()}"


def signed(secret: str, name: str, at: datetime, body: bytes) -> dict[str, str]:
    """Headers of a signed request."""
    stamp = str(int(at.timestamp()))
    return {
        "webhook-id": name,
        "webhook-timestamp": stamp,
        "webhook-signature": standard_signature(secret, name, stamp, body),
    }


class CustomSystem(Simulator):
    """The receiving side."""

    def __init__(self, secret: str, *, now: Callable[[], datetime] | None = None, port: int = 0) -> None:
        super().__init__(now=now, port=port)
        self.secret = secret
        self.received: dict[str, dict[str, Any]] = {}

    @route("HEAD", "/hook", is_open=True)
    def look(self, call: Call) -> Reply:
        return Reply(status=405)

    @route("POST", "/hook", body="json", headers={"webhook-id": "?*", "user-agent": "reconciler/*"})
    def take(self, call: Call) -> Reply:
        name = call.headers["webhook-id"]
        self.received.setdefault(name, call.json)
        return Reply(status=204)

    def admit(self, call: Call) -> Reply | None:
        given = call.headers.get
        wanted = standard_signature(self.secret, given("webhook-id", ""), given("webhook-timestamp", ""), call.body)
        is_late = abs(self.now().timestamp() - int(given("webhook-timestamp", "0"))) > 300
        if is_late or not hmac.compare_digest(wanted, given("webhook-signature", "")):
            return Reply(status=401, json={"message": "signature"})
        return None
