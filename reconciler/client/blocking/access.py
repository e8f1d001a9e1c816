"""Made by tools/client.py from docs/openapi.json: the calls of `access`."""

from collections.abc import Generator
from datetime import datetime

from reconciler.api.access import AuditLine, AuditPage, Whoami
from reconciler.client.ask import Ask
from reconciler.client.blocking.wire import Group


class AccessCalls(Group):
    def whoami(self) -> Whoami:
        """Who is asking. What the token opens. Any token may ask."""
        return self._wire.do(Ask[Whoami]("GET", "/v1/whoami", {200: Whoami}))

    def list_audit(
        self, *, limit: int | None = None, cursor: str | None = None, since: datetime | str | None = None
    ) -> AuditPage:
        """Who changed what. Every change that was asked for in the caller's workspace, also those that were refused,
        and orders of commands.
        """
        return self._wire.do(
            Ask[AuditPage](
                "GET", "/v1/audit", {200: AuditPage}, query={"limit": limit, "cursor": cursor, "since": since}
            )
        )

    def all_audit(
        self, *, limit: int | None = None, since: datetime | str | None = None
    ) -> Generator[AuditLine, None, None]:
        """Who changed what. Every one, page after page."""
        cursor: str | None = None
        while True:
            page = self.list_audit(limit=limit, since=since, cursor=cursor)
            yield from page.data
            if (cursor := page.next_cursor) is None:
                return
