"""A connector of a third party, as small as the documentation shows one. Its remote is the tests' authorization server."""

from typing import Literal

from reconciler.sdk.auth import Authenticator
from reconciler.sdk.authorize import AuthorizationCode, Authorized, CodeFlow
from reconciler.sdk.contract import Probe, Settings
from reconciler.sdk.rest import RestConnector


class Config(Settings):
    base_url: str
    vendor: Literal["generic", "github", "slack"] = "generic"


class Consent(AuthorizationCode):
    type: Literal["oauth"] = "oauth"
    scopes: tuple[str, ...] = ("notes:read", "notes:write")


class Notes(RestConnector[Config, Consent]):
    type = "notes"
    title = "Notes"
    Config = Config
    auth_types = (Consent,)

    def base_url(self) -> str:
        return self.config.base_url

    def code_flow(self) -> CodeFlow:
        is_generic = self.config.vendor == "generic"
        return CodeFlow(
            client_id=self.auth.client_id,
            client_secret=self.auth.client_secret,
            authorize_url=f"{self.config.base_url}/authorize",
            token_url=f"{self.config.base_url}/token",
            revoke_url=f"{self.config.base_url}/revoke",
            scopes=self.auth.scopes,
            separator="," if self.config.vendor == "slack" else " ",
            has_pkce=self.config.vendor != "slack",
            client_auth="client_secret_basic" if is_generic else "client_secret_post",
        )

    def authenticator(self) -> Authenticator:
        return Authorized(self.code_flow())

    async def probe(self) -> Probe:
        answer = await self.send("GET", "/me", lane="probe")
        return Probe(identity=answer.json()["login"])
