"""Made by tools/client.py from docs/openapi.json: the calls of `connectors`."""

from collections.abc import AsyncGenerator

from reconciler.api.catalogue import (
    AvailableConnector,
    AvailableList,
    Connector,
    ConnectorList,
    FoundConnector,
    FoundList,
)
from reconciler.client.ask import Ask, segment
from reconciler.client.awaited.wire import Group


class AsyncConnectorsCalls(Group):
    async def list(self, *, limit: int | None = None, cursor: str | None = None, q: str | None = None) -> ConnectorList:
        """List connectors. Everything about each, by type."""
        return await self._wire.do(
            Ask[ConnectorList](
                "GET", "/v1/connectors", {200: ConnectorList}, query={"limit": limit, "cursor": cursor, "q": q}
            )
        )

    async def all(self, *, limit: int | None = None, q: str | None = None) -> AsyncGenerator[Connector, None]:
        """List connectors. Every one, page after page."""
        cursor: str | None = None
        while True:
            page = await self.list(limit=limit, q=q, cursor=cursor)
            for one in page.data:
                yield one
            if (cursor := page.next_cursor) is None:
                return

    async def get(self, type: str) -> Connector:
        """Everything about a connector. Its settings as JSON Schema, what it reads, which events that makes, how it
        sends, and which limits are kept.
        """
        return await self._wire.do(Ask[Connector]("GET", f"/v1/connectors/{segment(type)}", {200: Connector}))

    async def list_available(
        self, *, limit: int | None = None, cursor: str | None = None, q: str | None = None
    ) -> AvailableList:
        """What can be integrated. Connectors in short, with whether the caller's workspace may use them, and how
        many integrations of each there are.
        """
        return await self._wire.do(
            Ask[AvailableList](
                "GET",
                "/v1/integrations/available",
                {200: AvailableList},
                query={"limit": limit, "cursor": cursor, "q": q},
            )
        )

    async def all_available(
        self, *, limit: int | None = None, q: str | None = None
    ) -> AsyncGenerator[AvailableConnector, None]:
        """What can be integrated. Every one, page after page."""
        cursor: str | None = None
        while True:
            page = await self.list_available(limit=limit, q=q, cursor=cursor)
            for one in page.data:
                yield one
            if (cursor := page.next_cursor) is None:
                return

    async def search(self, *, limit: int | None = None, cursor: str | None = None, q: str) -> FoundList:
        """Search the catalogue. By type, title, capability, entity, event and channel; each with where the words of
        the query stand.
        """
        return await self._wire.do(
            Ask[FoundList](
                "GET", "/v1/integrations/search", {200: FoundList}, query={"limit": limit, "cursor": cursor, "q": q}
            )
        )

    async def all_search(self, *, limit: int | None = None, q: str) -> AsyncGenerator[FoundConnector, None]:
        """Search the catalogue. Every one, page after page."""
        cursor: str | None = None
        while True:
            page = await self.search(limit=limit, q=q, cursor=cursor)
            for one in page.data:
                yield one
            if (cursor := page.next_cursor) is None:
                return
