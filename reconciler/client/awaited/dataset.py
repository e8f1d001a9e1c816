"""Made by tools/client.py from docs/openapi.json: the calls of `dataset`."""

from collections.abc import AsyncGenerator, Mapping
from typing import Any

from reconciler.api.dataset import (
    DatasetVersion,
    DiffPage,
    Record,
    RecordDetail,
    RecordDifference,
    RecordPage,
    RollbackRequest,
    RollbackStarted,
    VersionList,
)
from reconciler.client.ask import Ask, new_key, segment
from reconciler.client.awaited.wire import Group


class AsyncDatasetCalls(Group):
    async def list_records(
        self,
        ref: str,
        *,
        limit: int | None = None,
        cursor: str | None = None,
        entity: str | None = None,
        version: int | None = None,
        q: str | None = None,
    ) -> RecordPage:
        """List records. As they are now or as a version has them. Pages that follow each other show one moment,
        while syncs go on.
        """
        return await self._wire.do(
            Ask[RecordPage](
                "GET",
                f"/v1/integrations/{segment(ref)}/records",
                {200: RecordPage},
                query={"limit": limit, "cursor": cursor, "entity": entity, "version": version, "q": q},
            )
        )

    async def all_records(
        self,
        ref: str,
        *,
        limit: int | None = None,
        entity: str | None = None,
        version: int | None = None,
        q: str | None = None,
    ) -> AsyncGenerator[Record, None]:
        """List records. Every one, page after page."""
        cursor: str | None = None
        while True:
            page = await self.list_records(ref, limit=limit, entity=entity, version=version, q=q, cursor=cursor)
            for one in page.data:
                yield one
            if (cursor := page.next_cursor) is None:
                return

    async def get_record(self, ref: str, entity: str, key: str, *, version: int | None = None) -> RecordDetail:
        """One record and its history. Whole, with the runs that made each of its versions."""
        return await self._wire.do(
            Ask[RecordDetail](
                "GET",
                f"/v1/integrations/{segment(ref)}/records/{segment(entity)}/{segment(key)}",
                {200: RecordDetail},
                query={"version": version},
            )
        )

    async def list_versions(self, ref: str, *, limit: int | None = None, cursor: str | None = None) -> VersionList:
        """List dataset versions. Every run that changed something made one."""
        return await self._wire.do(
            Ask[VersionList](
                "GET",
                f"/v1/integrations/{segment(ref)}/dataset/versions",
                {200: VersionList},
                query={"limit": limit, "cursor": cursor},
            )
        )

    async def all_versions(self, ref: str, *, limit: int | None = None) -> AsyncGenerator[DatasetVersion, None]:
        """List dataset versions. Every one, page after page."""
        cursor: str | None = None
        while True:
            page = await self.list_versions(ref, limit=limit, cursor=cursor)
            for one in page.data:
                yield one
            if (cursor := page.next_cursor) is None:
                return

    async def diff_versions(
        self,
        ref: str,
        version: int,
        *,
        limit: int | None = None,
        cursor: str | None = None,
        against: int | None = None,
        entity: str | None = None,
    ) -> DiffPage:
        """What a dataset version changed. Against the version before, or any other: records that came, changed and
        went, field by field.
        """
        return await self._wire.do(
            Ask[DiffPage](
                "GET",
                f"/v1/integrations/{segment(ref)}/dataset/versions/{segment(version)}/diff",
                {200: DiffPage},
                query={"limit": limit, "cursor": cursor, "against": against, "entity": entity},
            )
        )

    async def all_diff_versions(
        self, ref: str, version: int, *, limit: int | None = None, against: int | None = None, entity: str | None = None
    ) -> AsyncGenerator[RecordDifference, None]:
        """What a dataset version changed. Every one, page after page."""
        cursor: str | None = None
        while True:
            page = await self.diff_versions(ref, version, limit=limit, against=against, entity=entity, cursor=cursor)
            for one in page.data:
                yield one
            if (cursor := page.next_cursor) is None:
                return

    async def roll_back(
        self, ref: str, body: RollbackRequest | Mapping[str, Any], *, idempotency_key: str | None = None
    ) -> RollbackStarted:
        """Bring a dataset version back. A run of its own, that makes a new version; syncs under way end. The remote
        is not changed.
        """
        return await self._wire.do(
            Ask[RollbackStarted](
                "POST",
                f"/v1/integrations/{segment(ref)}/dataset/rollback",
                {202: RollbackStarted},
                headers={"idempotency-key": idempotency_key or new_key()},
                body=body,
            )
        )
