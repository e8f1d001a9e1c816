"""Real mail servers for tests, with an HTTP token endpoint beside them for OAuth."""

import tempfile
from pathlib import Path
from typing import Any, Self

from reconciler.sdk.testing.simulator import Call, Reply, Simulator, route
from simulators.email import MailServer


class TokenIssuer(Simulator):
    """Client credentials in, a new token for the mail server out."""

    def __init__(self, client_secret: str, tokens: set[str]) -> None:
        super().__init__()
        self._client_secret = client_secret
        self._tokens = tokens
        self.prefix = client_secret

    @route("POST", "/token", body="form", fields=("grant_type", "client_id", "client_secret", "scope"), is_open=True)
    def token(self, call: Call) -> Reply:
        if call.form.get("client_secret") != self._client_secret or call.form["grant_type"] != "client_credentials":
            return Reply(status=401, json={"error": "invalid_client"})
        token = f"{self.prefix}-token-{len(self.requests)}"
        self._tokens.add(token)
        return Reply(json={"access_token": token, "token_type": "Bearer", "expires_in": 3600})


class MailWithTokens(MailServer):
    """A mail server in a folder of its own and an issuer whose tokens it takes."""

    def __init__(self, client_secret: str, **more: Any) -> None:
        self._kept = tempfile.TemporaryDirectory(prefix="mail-")
        super().__init__(folder=Path(self._kept.name), mechanisms=("PLAIN", "LOGIN", "XOAUTH2"), **more)
        self.issuer = TokenIssuer(client_secret, self.tokens)

    @property
    def violations(self) -> list[str]:
        return self.issuer.violations

    def __enter__(self) -> Self:
        self.issuer.start()
        return super().__enter__()

    def __exit__(self, *exc: object) -> None:
        super().__exit__(*exc)
        self.issuer.stop()
        self._kept.cleanup()
