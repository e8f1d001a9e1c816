"""Repository webhooks as remote objects: wanted by `config.webhook`, found by our inbound URL, repaired whole.

Called by the engine through `Subscribes` and `Verifies`. GitHub shows a secret as asterisks: that it is there can be
compared, that it is ours only by the fingerprint which the engine kept.
"""

import hmac
from abc import ABC
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, cast

from connectors.github.settings import App, Config, OAuth, Token, Webhook
from reconciler.sdk.contract import RemoteObject
from reconciler.sdk.errors import ForbiddenError, RejectedError, UnauthorizedError
from reconciler.sdk.paging import LinkHeader
from reconciler.sdk.rest import RestConnector

KIND = "webhook"


class Hooks(RestConnector[Config, Token | App | OAuth], ABC):
    """The part of the connector that deals with hooks."""

    def verify(self, headers: Mapping[str, str], body: bytes) -> None:
        if self.config.webhook is None:
            raise UnauthorizedError("config.webhook.secret is not set: deliveries cannot be verified")
        key = self.config.webhook.secret.reveal().encode()
        wanted = "sha256=" + hmac.new(key, body, "sha256").hexdigest()
        given = {k.lower(): v for k, v in headers.items()}.get("x-hub-signature-256", "")
        if not hmac.compare_digest(wanted.encode(), given.encode()):
            raise UnauthorizedError("X-Hub-Signature-256 is missing or does not fit the body and config.webhook.secret")

    def hooked(self) -> tuple[str, ...]:
        """Repositories that are to have a hook of ours."""
        webhook = self.config.webhook
        return () if webhook is None else webhook.repositories or self.config.repositories

    def wanted_objects(self) -> tuple[RemoteObject, ...]:
        if self.room.inbound_url is None:
            return ()
        return tuple(self._wanted(repository) for repository in self.hooked())

    def _wanted(self, repository: str) -> RemoteObject:
        webhook = cast("Webhook", self.config.webhook)
        spec = hook_spec(repository, webhook.events, {"content_type": "json", "insecure_ssl": "0", "secret": "set"})
        return RemoteObject(KIND, self._marker(repository), spec, "", self.room.fingerprint(webhook.secret))

    def _marker(self, repository: str) -> str:
        return f"{repository} {self.room.inbound_url}"

    async def list_objects(self) -> tuple[RemoteObject, ...]:
        if self.room.inbound_url is None:
            return ()
        return tuple([hook for repository in self.hooked() async for hook in self._hooks(repository)])

    async def _hooks(self, repository: str) -> AsyncIterator[RemoteObject]:
        async for found in self.elements(f"/repos/{repository}/hooks", LinkHeader()):
            if found["config"].get("url") == self.room.inbound_url:
                yield self._found(repository, found)

    def _found(self, repository: str, found: Mapping[str, Any], fingerprint: str = "") -> RemoteObject:
        spec = hook_spec(repository, found["events"], found["config"], active=found["active"])
        return RemoteObject(KIND, self._marker(repository), spec, f"{repository}/hooks/{found['id']}", fingerprint)

    def _hook_body(self, wanted: RemoteObject) -> dict[str, Any]:
        # The whole of config: a PATCH without the secret would remove it.
        secret = cast("Webhook", self.config.webhook).secret.reveal()
        settings = {"url": self.room.inbound_url, "content_type": "json", "insecure_ssl": "0", "secret": secret}
        return {"active": True, "events": list(wanted.spec["events"]), "config": settings}

    async def create_object(self, wanted: RemoteObject) -> RemoteObject:
        repository = wanted.spec["repository"]
        try:
            made = await self.send(
                "POST", f"/repos/{repository}/hooks", json={"name": "web", **self._hook_body(wanted)}
            )
        except RejectedError as error:
            if error.status != 422:
                raise
            # The same URL with the same events exists: ours from an earlier try, which gets today's secret.
            async for found in self._hooks(repository):
                return await self.update_object(found.remote_id, wanted)
            raise
        return self._found(repository, made.json(), wanted.secret_fingerprint)

    async def update_object(self, remote_id: str, wanted: RemoteObject) -> RemoteObject:
        made = await self.send("PATCH", f"/repos/{remote_id}", json=self._hook_body(wanted), safe=True)
        return self._found(wanted.spec["repository"], made.json(), wanted.secret_fingerprint)

    async def delete_object(self, found: RemoteObject) -> None:
        try:
            await self.send("DELETE", f"/repos/{found.remote_id}", safe=True)
        except ForbiddenError as error:
            if error.status != 404:
                raise


def hook_spec(
    repository: str, events: Sequence[str], config: Mapping[str, Any], *, active: bool = True
) -> dict[str, Any]:
    """What is compared of a hook; of the secret only whether there is one."""
    return {
        "repository": repository,
        "active": active,
        "events": sorted(events),
        "content_type": config.get("content_type", "form"),
        "insecure_ssl": str(config.get("insecure_ssl", "0")),
        "has_secret": bool(config.get("secret")),
    }
