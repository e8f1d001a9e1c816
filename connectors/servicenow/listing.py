"""How a table is walked: places, and the encoded query of the page at a place. Pure; used by the connector's `read`.

Pages are cut by keyset (change time, sys_id). Each part of a query after ^NQ repeats the conditions, because the instance
takes it for a query of its own.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

import msgspec

from connectors.servicenow.settings import table_entity
from reconciler.model.record import Page, ReadRequest, Scope
from reconciler.sdk.contract import Answer
from reconciler.sdk.paging import next_link, total_of
from reconciler.sdk.rest import RestEntity

AUDIT = table_entity("deletions", "sys_audit", cursor="sys_created_on")
_FIELD = re.compile(r"(?:^|\^)(?:OR)?([a-z][a-z0-9_.]*)(?=[A-Z=!<>])")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a read stands: behind the record (`t`, `id`), and `offset` rows further where rows are hidden from us.

    Stages: records with a change time; then those without (where nothing bounds the read), or deletions (scope delta).
    A listing of keys has one stage, by sys_id: nothing that moves meanwhile changes its place.
    """

    stage: Literal["timed", "untimed", "deleted", "keys"] = "timed"
    t: str = ""
    id: str = ""
    offset: int = 0
    counted: bool = True

    @classmethod
    def at(cls, request: ReadRequest) -> "Place":
        """Where a read begins or goes on."""
        kept = request.resume or {}
        if request.scope is Scope.KEYS:
            return cls(**kept["keys"]) if "keys" in kept else KEYS
        return cls(**kept)

    @property
    def kept(self) -> Mapping[str, Any]:
        """As a position. That of a listing of keys is of another kind: no read of records may go on from there."""
        return {"keys": asdict(self)} if self.stage == "keys" else asdict(self)

    def after(self, answer: Answer, last: tuple[str, str] | None, count: int, size: int) -> "Place | None":
        """The next place of this stage; None at the end, which only a counted answer can tell."""
        moved = replace(self, t=last[0], id=last[1], offset=0) if last else self
        if not self.counted:
            return replace(moved, counted=count < size)
        following = next_link(answer.headers.get("link", ""))
        total = total_of(answer.headers) or 0
        if following is None and total <= self.offset + (count or size):
            return None
        if last:
            return replace(moved, counted=count < size)
        # The instance may cut pages smaller than asked: its own offset skips nothing.
        onward = parse_qs(urlsplit(following or "").query).get("sysparm_offset", [str(self.offset + size)])
        return replace(self, offset=int(onward[0]))

    def next_stage(self, request: ReadRequest, since: datetime | None) -> "Place | None":
        if self.stage != "timed":
            return None
        if since is None:
            return Place("untimed")
        return Place("deleted") if request.scope is Scope.DELTA else None

    def last(self, entity: RestEntity, page: Page) -> tuple[str, str] | None:
        """Change time and sys_id of the page's last record."""
        if not page.keys:
            return None
        column = self.column(entity)
        return str(msgspec.json.decode(page.payloads[-1]).get(column, "")), page.keys[-1]

    def column(self, entity: RestEntity) -> str:
        return str(AUDIT.cursor if self.stage == "deleted" else entity.cursor)

    def query(self, entity: RestEntity, conditions: str, since: datetime | None) -> str:
        """The encoded query of the page here."""
        column = self.column(entity)
        base = deletions_of(entity) if self.stage == "deleted" else conditions
        if self.stage in ("untimed", "keys"):
            untimed = f"{column}ISEMPTY" if self.stage == "untimed" else ""
            return both(base, untimed, f"sys_id>{self.id}" if self.id else "", "ORDERBYsys_id")
        bound = both(base, f"{column}>={stamp(since)}" if since else f"{column}ISNOTEMPTY")
        order = f"ORDERBY{column}^ORDERBYsys_id"
        if not self.t:
            return both(bound, order)
        return f"{bound}^{column}>{self.t}^NQ{bound}^{column}={self.t}^sys_id>{self.id}^{order}"


KEYS = Place("keys")


def deletions_of(entity: RestEntity) -> str:
    """Conditions on sys_audit. A CI's deletion is noted under its class."""
    table = entity.path.rsplit("/", 1)[1]
    return f"fieldname=DELETED^tablename{'STARTSWITH' if table == 'cmdb_ci' else '='}{table}"


def stamp(at: datetime) -> str:
    """A time as conditions hold it."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def both(*conditions: str) -> str:
    return "^".join(c for c in conditions if c)


def columns_in(query: str) -> set[str]:
    """Columns that an encoded query names."""
    return set(_FIELD.findall(query))
