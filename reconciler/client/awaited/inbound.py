"""Made by tools/client.py from docs/openapi.json: the calls of `inbound`."""

from reconciler.api.inbound import InboundTaken
from reconciler.client.ask import Ask, segment
from reconciler.client.awaited.wire import Group


class AsyncInboundCalls(Group):
    async def take_webhook(self, workspace: str, name: str, body: bytes) -> InboundTaken | None:
        """Take a webhook of a remote. No token: the signature decides, of the body as it was sent. Stored before it
        is answered, then done.
        """
        return await self._wire.do(
            Ask[InboundTaken | None](
                "POST", f"/v1/inbound/{segment(workspace)}/{segment(name)}", {200: None, 202: InboundTaken}, body=body
            )
        )
