"""ServiceNow: tickets, CMDB and people come in; incidents, updates, comments and CIs go out.

Credential: basic (a user), oauth2 (client credentials; with `username` and `password` the password grant, renewed by the
refresh token that it brings), jwt_bearer, or api_key. The user needs read rights on the tables and, for replies, `itil`; its
time zone must be GMT, because the instance reads dates in conditions in the session's zone (`probe` finds out). Lists are
read by keyset (change time, sys_id), so that records that move while we read skip nobody; the end is believed only of a
counted answer, because access rules are applied after the page is cut. Deletions: absence from a listing of sys_ids or a
full run, or the scope `delta`, which reads `sys_audit`.
Limits: set by the instance's admin, per user and hour; its headers are obeyed. ServiceNow has no webhooks that a client
could register. Reference: developer.servicenow.com, REST API: Table, Aggregate, CMDB Instance; OAuth.
"""

import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, cast

import msgspec

from connectors.servicenow.listing import AUDIT, KEYS, Place, both, columns_in, stamp
from connectors.servicenow.settings import (
    ALWAYS,
    ENTITIES,
    AddNote,
    ApiKey,
    BasicAuth,
    Config,
    CreateCi,
    CreateIncident,
    JwtBearer,
    OAuth2,
    UpdateRecord,
    entities_of,
)
from reconciler.model.event import Message, Receipt
from reconciler.model.record import LogLevel, Page, ReadRequest, Scope
from reconciler.model.secret import Secret
from reconciler.sdk.auth import Authenticator, Grant, Granted, Header, basic, oauth_token
from reconciler.sdk.contract import Answer, Channel, Entity, Probe, Repeat, Room
from reconciler.sdk.errors import ConnectorError, ForbiddenError, RejectedError, TransientError, UnauthorizedError
from reconciler.sdk.jwt import rs256
from reconciler.sdk.paging import dig
from reconciler.sdk.rest import Partition, RestChannel, RestConnector, RestEntity, as_keys, skew_of

# Not "refresh...": the instance hands out the same one again, so it may be used more than once.
TOKEN, RENEWAL = "access", "renewal"
CURRENT_USER = "sys_id=javascript:gs.getUserID()"
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
AUDIT_PAGE = 100  # its keys go into one URL
KEYS_PAGE = 10_000  # what instances give at most, unless told otherwise
_START = Place()
_CUT_SHORT = re.compile(rb'"error":\s*\{[^{}]*\},\s*"status":\s*"failure"\s*\}\s*$')


class _TooSlowError(TransientError):
    """A transaction quota cancelled the query: a smaller page may pass."""


def _assertion(auth: JwtBearer, room: Room) -> str:
    now = int(room.clock.now().timestamp())
    claims = {"iss": auth.client_id, "aud": auth.client_id, "sub": auth.username, "iat": now, "exp": now + 300}
    return rs256({**claims, "jti": f"{room.random.getrandbits(128):032x}"}, auth.private_key, auth.key_id)


def _mark(message: Message) -> str:
    return f"reconciler:{message.delivery_id}"


def _incident(connector: "ServiceNow", message: Message) -> dict[str, Any]:
    fields = {k: v for k, v in message.fields.items() if v is not None and k != "values"}
    marked = {"correlation_id": _mark(message), "correlation_display": connector.room.marker}
    return {**message.fields.get("values", {}), **fields, **marked}


def _ci(_: Any, message: Message) -> dict[str, Any]:
    fields = message.fields
    relations = {"outbound_relations": fields["outbound_relations"]} if fields.get("outbound_relations") else {}
    return {"attributes": fields["attributes"], "source": fields.get("source", "ServiceNow"), **relations}


def _note(element: str, title: str) -> RestChannel:
    return RestChannel(
        name="add_comment" if element == "comments" else "add_work_note", title=title, fields=AddNote, text_field="text",
        method="PATCH", path="/api/now/table/{table}/{sys_id}", receipt="result.sys_id", repeat=Repeat.FIND,
        body=lambda _, message: {element: message.fields["text"]}, rights=("write task", "read sys_journal_field"),
    )  # fmt: skip


CHANNELS = (
    RestChannel(
        name="create_incident", title="Create an incident", fields=CreateIncident, text_field="short_description",
        path="/api/now/table/incident", body=_incident, receipt="result.sys_id", repeat=Repeat.FIND, rights=("create incident",),
    ),
    RestChannel(
        name="update_record", title="Set columns of a record", fields=UpdateRecord, method="PATCH", repeat=Repeat.SAFE,
        path="/api/now/table/{table}/{sys_id}", body=lambda _, message: message.fields["values"], receipt="result.sys_id",
    ),
    _note("comments", "Comment, visible to the caller"),
    _note("work_notes", "Work note, internal"),
    RestChannel(
        name="create_ci", title="Create or update a CI by identification", fields=CreateCi, repeat=Repeat.SAFE,
        path="/api/now/cmdb/instance/{class_name}", body=_ci, receipt="result.attributes.sys_id", rights=("itil",),
    ),
)  # fmt: skip


class ServiceNow(RestConnector[Config, BasicAuth | OAuth2 | JwtBearer | ApiKey]):
    type = "servicenow"
    title = "ServiceNow"
    docs_url = "https://www.servicenow.com/docs/"
    Config = Config
    auth_types = (BasicAuth, OAuth2, JwtBearer, ApiKey)
    entities = ENTITIES
    channels = CHANNELS

    @classmethod
    def entities_of(cls, config: Any) -> tuple[Entity, ...]:
        return entities_of(config)

    def base_url(self) -> str:
        return self.config.instance_url.rstrip("/")

    def authenticator(self) -> Authenticator:
        match self.auth:
            case BasicAuth(username=name, password=password):
                return basic(name, password)
            case ApiKey(api_key=key):
                return Header("x-sn-apikey", key)
        if isinstance(self.auth, OAuth2) and self.auth.password:
            return Granted(self._own(TOKEN), self._renewed)
        # The instance hands out its current token until that is dead, so asking early would bring the same one.
        return Granted(self._own(TOKEN), self._grant, early=timedelta(seconds=10))

    def _own(self, token: str) -> str:
        """The name under which a token is kept: one that another credential brought is none of ours."""
        said = (v.reveal() if isinstance(v, Secret) else str(v) for v in vars(self.auth).values())
        return f"{token}-{self.room.fingerprint(Secret(chr(0).join(said)))}"

    async def _renewed(self, room: Room) -> Grant:
        """By the refresh token as long as the instance takes it; then the password brings another."""
        kept = await room.tokens.get(self._own(RENEWAL))
        if kept is not None:
            try:
                return await self._asked(room, {"grant_type": "refresh_token", "refresh_token": kept[0].reveal()})
            except UnauthorizedError as error:
                room.log(LogLevel.INFO, "the refresh token is no longer taken: the password is used", why=error.message)
                await room.tokens.drop(self._own(RENEWAL))
        return await self._grant(room)

    async def _grant(self, room: Room) -> Grant:
        auth = cast("OAuth2 | JwtBearer", self.auth)
        if isinstance(auth, JwtBearer):
            return await self._asked(room, {"grant_type": JWT_BEARER, "assertion": _assertion(auth, room)})
        if auth.username and auth.password:
            user = {"username": auth.username, "password": auth.password.reveal()}
            return await self._asked(room, {"grant_type": "password", **user})
        return await self._asked(room, {"grant_type": "client_credentials"})

    async def _asked(self, room: Room, form: Mapping[str, str]) -> Grant:
        auth = cast("OAuth2 | JwtBearer", self.auth)
        client = {"client_id": auth.client_id, "client_secret": auth.client_secret.reveal()}
        grant, said = await oauth_token(room, f"{self.base_url()}/oauth_token.do", {**client, **form})
        if isinstance(auth, OAuth2) and said.get("refresh_token"):
            await room.tokens.put(self._own(RENEWAL), Secret(str(said["refresh_token"])), None)
        return grant

    async def revoke(self) -> None:
        for name in (self._own(RENEWAL), self._own(TOKEN)):
            kept = await self.room.tokens.get(name)
            if kept is None:
                continue
            url = f"{self.base_url()}/oauth_revoke_token.do"
            await self.room.http.send("GET", url, params={"token": kept[0].reveal()}, expect=(400, 401, 404))
            await self.room.tokens.drop(name)

    def classify(self, answer: Answer) -> ConnectorError | None:
        status = answer.status
        if status < 400 and "html" in answer.headers.get("content-type", ""):
            return TransientError(
                "the instance answered a web page instead of JSON: it hibernates (wake it in the developer portal), is "
                "being restored, or a single sign-on page stands before its API"
            )
        # A query that is cancelled while its answer is written ends a 200 with an error behind the records so far.
        is_cut = status < 400 and _CUT_SHORT.search(answer.body, max(0, len(answer.body) - 2000))
        if is_cut or (status == 500 and b"maximum execution time" in answer.body):
            return _TooSlowError("the instance cancelled the query: it took too long", status=status)
        return None

    async def read(self, entity: Entity, request: ReadRequest) -> AsyncIterator[Page]:
        rest = cast("RestEntity", entity)
        since = self.since(rest, request, Partition())
        place: Place | None = Place.at(request)
        size = request.page_size or (KEYS_PAGE if request.scope is Scope.KEYS else entity.page_size)
        while place is not None:
            try:
                page, following = await self._page(rest, since, place, size)
            except _TooSlowError:
                if size == 1:
                    raise
                size //= 2
                continue
            place = following or place.next_stage(request, since)
            yield replace(page, position=place.kept if place else None)

    async def _page(
        self, entity: RestEntity, since: datetime | None, place: Place, size: int
    ) -> tuple[Page, Place | None]:
        """The page at `place`, and the next place of its stage."""
        listed = AUDIT if place.stage == "deleted" else entity
        size = min(size, AUDIT_PAGE) if place.stage == "deleted" else size
        only = entity.key_params if place.stage == "keys" else {}
        query = place.query(entity, self._conditions(entity), since)
        answer = await self._rows(listed.path, query, size, place, params=only)
        page, _ = self.cut(listed, answer, None, Partition())
        following = place.after(answer, place.last(entity, page), len(page.keys), size)
        if place.stage == "deleted":
            return await self._deletions(entity, page), following
        page = as_keys(entity, page) if place.stage == "keys" else page
        return replace(page, total=page.total if place in (_START, KEYS) else None), following

    async def _rows(self, path: str, query: str, size: int, place: Place = _START, **more: Any) -> Answer:
        params = {
            "sysparm_query": query or None,
            "sysparm_limit": size,
            "sysparm_offset": place.offset or None,
            "sysparm_no_count": None if place.counted else "true",
            "sysparm_display_value": "false",
            "sysparm_exclude_reference_link": "true",
            **more.pop("params", {}),
        }
        return await self.send("GET", path, params=params, **more)

    def _conditions(self, entity: Entity) -> str:
        return both(ALWAYS.get(entity.name, ""), self.config.query.get(entity.name, ""))

    async def _deletions(self, entity: RestEntity, audit: Page) -> Page:
        """Keys that the audit calls deleted and that are not there (again)."""
        gone = [str(msgspec.json.decode(p)["documentkey"]) for p in audit.payloads]
        there: set[str] = set()
        if gone:
            answer = await self._rows(
                entity.path, f"sys_idIN{','.join(gone)}", len(gone), params={"sysparm_fields": "sys_id"}
            )
            there = {row["sys_id"] for row in answer.json()["result"]}
        return Page((), (), deleted=tuple(dict.fromkeys(k for k in gone if k not in there)))

    async def count(self, entity: Entity, request: ReadRequest) -> int | None:
        rest = cast("RestEntity", entity)
        since = self.since(rest, request, Partition())
        bound = f"{rest.cursor}>={stamp(since)}" if since else ""
        path = rest.path.replace("/table/", "/stats/")
        params = {"sysparm_count": "true", "sysparm_query": both(self._conditions(entity), bound)}
        return int(dig((await self.send("GET", path, params=params)).json(), "result.stats.count"))

    async def probe(self) -> Probe:
        entities: dict[str, bool] = {}
        skew, is_zone_known = None, False
        for entity in (e for e in entities_of(self.config) if e.by_default):
            try:
                answer = await self._sample(entity)
            except ForbiddenError:
                entities[entity.name] = False
                continue
            rows = answer.json()["result"]
            skew = skew_of(answer, self.room.clock.now())
            entities[entity.name] = bool(rows) or answer.headers.get("x-total-count", "0") == "0"
            if rows:
                self._check_fields(entity, rows[0])
                is_zone_known = is_zone_known or await self._check_zone(entity, rows[0])
        return Probe(identity=await self._identity(), account=self.base_url(), entities=entities, skew=skew)

    async def _identity(self) -> str:
        """The user that the instance takes us for; where it does not show its users, what the manifest says."""
        fields = {"sysparm_fields": "sys_id,user_name"}
        try:
            answer = await self._rows("/api/now/table/sys_user", CURRENT_USER, 1, params=fields, lane="probe")
        except (ForbiddenError, RejectedError, UnauthorizedError):
            answer = None  # the tables were read before, so the credential is good
        # More than one: the condition was not understood, and the first user is anybody.
        rows = answer.json()["result"] if answer and answer.headers.get("x-total-count", "1") == "1" else []
        said = rows[0].get("user_name") if rows else None
        return str(said or getattr(self.auth, "username", None) or getattr(self.auth, "client_id", "API key"))

    def _wanted(self, entity: Entity) -> set[str]:
        return {"sys_id", str(entity.cursor)} | columns_in(self.config.query.get(entity.name, ""))

    async def _sample(self, entity: RestEntity, query: str = "") -> Answer:
        fields = {"sysparm_fields": ",".join(sorted(self._wanted(entity)))}
        return await self._rows(entity.path, query, 1, params=fields, lane="probe")

    def _check_fields(self, entity: RestEntity, row: Mapping[str, Any]) -> None:
        """The instance ignores conditions on fields that it does not know and returns everything."""
        if missing := sorted(self._wanted(entity) - row.keys()):
            raise RejectedError(
                f"{entity.name}: {', '.join(missing)} does not exist in {entity.path.rsplit('/', 1)[1]} or may not be read; "
                f"the instance would ignore the condition and return every record: correct config.query.{entity.name}"
            )

    async def _check_zone(self, entity: RestEntity, row: Mapping[str, Any]) -> bool:
        """Whether dates in conditions mean UTC: a record is asked for by its own change time."""
        column, same = str(entity.cursor), f"sys_id={row['sys_id']}"
        if (await self._sample(entity, f"{same}^{column}={row[column]}")).json()["result"]:
            return bool(row[column])
        again = (await self._sample(entity, same)).json()["result"]
        if not again or again[0] != row:
            return False  # it changed between the two questions: another table tells
        raise RejectedError(
            "the instance reads dates in conditions in another time zone than UTC, so changes would be missed by hours: "
            "set the time zone of the integration's user to GMT (sys_user.time_zone)"
        )

    async def deliver(self, channel: Channel, message: Message) -> Receipt:
        fields = channel.fields.model_validate(message.fields).model_dump(mode="json", exclude_none=True)
        receipt = await super().deliver(channel, replace(message, fields=fields))
        return self._linked(fields.get("table") or fields.get("class_name") or "incident", receipt.remote_id)

    def _linked(self, table: str, sys_id: str) -> Receipt:
        return Receipt(sys_id, f"{self.base_url()}/nav_to.do?uri={table}.do%3Fsys_id={sys_id}")

    async def find(self, channel: Channel, message: Message) -> Receipt | None:
        if channel.name == "create_incident":
            rows = (await self._found("incident", f"correlation_id={_mark(message)}")).json()["result"]
            return self._linked("incident", rows[0]["sys_id"]) if rows else None
        sys_id, table = message.fields["sys_id"], message.fields.get("table", "incident")
        element = "comments" if channel.name == "add_comment" else "work_notes"
        since = (message.first_attempt_at or self.room.clock.now() - timedelta(days=1)) - timedelta(minutes=1)
        asked = f"element_id={sys_id}^element={element}^sys_created_on>={stamp(since)}"
        rows = (await self._found("sys_journal_field", asked)).json()["result"]
        text = _plain(message.fields["text"])
        return self._linked(table, sys_id) if any(_plain(row["value"]) == text for row in rows) else None

    async def _found(self, table: str, query: str) -> Answer:
        return await self._rows(f"/api/now/table/{table}", query, 100, lane="deliver")


def _plain(text: str) -> str:
    """Text as the journal may have kept it: other line ends, no blanks at the borders."""
    return "\n".join(text.split("\r\n")).strip()
