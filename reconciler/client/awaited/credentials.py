"""Made by tools/client.py from docs/openapi.json: the calls of `credentials`."""

from reconciler.api.credentials import AuthorizationBegun, AuthorizationState, Credentials, Rotation
from reconciler.client.ask import Ask, new_key, segment
from reconciler.client.awaited.wire import Group


class AsyncCredentialsCalls(Group):
    async def list(self, ref: str) -> Credentials:
        """What it signs in with. Kind, fingerprint, end and scopes. Never a value."""
        return await self._wire.do(
            Ask[Credentials]("GET", f"/v1/integrations/{segment(ref)}/credentials", {200: Credentials})
        )

    async def rotate(self, ref: str, *, idempotency_key: str | None = None) -> Rotation:
        """Obtain credentials anew. Those that were obtained at run time. What stands in the manifest is rotated by a
        change of it.
        """
        return await self._wire.do(
            Ask[Rotation](
                "POST",
                f"/v1/integrations/{segment(ref)}/rotate",
                {202: Rotation},
                headers={"idempotency-key": idempotency_key or new_key()},
            )
        )

    async def begin_authorization(self, ref: str, *, idempotency_key: str | None = None) -> AuthorizationBegun:
        """Begin an authorization. Where a person goes to allow this integration access; good for ten minutes and
        once.
        """
        return await self._wire.do(
            Ask[AuthorizationBegun](
                "GET",
                f"/v1/integrations/{segment(ref)}/authorize",
                {200: AuthorizationBegun},
                headers={"idempotency-key": idempotency_key or new_key()},
            )
        )

    async def get_authorization(self, authorization_id: str) -> AuthorizationState:
        """How an authorization stands. `waiting` until the person came back and what they brought was exchanged."""
        return await self._wire.do(
            Ask[AuthorizationState]("GET", f"/v1/authorizations/{segment(authorization_id)}", {200: AuthorizationState})
        )
