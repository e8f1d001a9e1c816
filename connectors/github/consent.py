"""A person's consent at GitHub: where it is given, and how it is given back. Pure but for `give_back`; called by the connector.

Both kinds of app have the same endpoints on the web host, not on that of the API. Tokens of an OAuth App live until they are
revoked; those of a GitHub App eight hours, and their refresh tokens, of use once, six months.
"""

from collections.abc import Mapping
from urllib.parse import urlsplit

from connectors.github.settings import OAuth
from reconciler.model.secret import Secret
from reconciler.sdk.auth import basic
from reconciler.sdk.authorize import Authorized, CodeFlow
from reconciler.sdk.contract import Room

# GitHub leaves out of a grant what another scope of it includes.
IMPLIED = {
    "repo": ("public_repo", "repo:status", "repo_deployment", "repo:invite", "security_events"),
    "admin:repo_hook": ("write:repo_hook", "read:repo_hook"),
    "write:repo_hook": ("read:repo_hook",),
    "admin:org": ("write:org", "read:org"),
    "write:org": ("read:org",),
    "user": ("read:user", "user:email", "user:follow"),
}


def web_host(base_url: str) -> str:
    """Of `https://api.github.com` and `https://api.acme.ghe.com` without `api.`, of an Enterprise Server the same host."""
    parts = urlsplit(base_url)
    return f"{parts.scheme}://{parts.netloc.removeprefix('api.')}"


def code_flow(auth: OAuth, base_url: str) -> CodeFlow:
    web = web_host(base_url)
    return CodeFlow(
        client_id=auth.client_id,
        client_secret=auth.client_secret,
        authorize_url=f"{web}/login/oauth/authorize",
        token_url=f"{web}/login/oauth/access_token",
        scopes=auth.scopes,
        client_auth="client_secret_post",
        implied=IMPLIED,
    )


async def give_back(room: Room, flow: CodeFlow, base_url: str, headers: Mapping[str, str]) -> None:
    """One token, not the person's consent to the app: others may use it as well. One that is dead already is no error."""
    signer = Authorized(flow)
    kept = await room.tokens.get(signer.names(room)[0])
    if kept is not None:
        signed = await basic(flow.client_id, flow.client_secret or Secret("")).headers(room)
        url = f"{base_url}/applications/{flow.client_id}/token"
        token = {"access_token": kept[0].reveal()}
        await room.http.send("DELETE", url, json=token, headers={**headers, **signed}, safe=True, expect=(404, 422))
    await signer.forget(room)
