"""REST connectors by declaration: entities with a path and a pager, channels with a path and a body.

`RestConnector` answers `read`, `deliver` and most of `probe` from the declarations. A connector overrides `partitions`
(one listing per repository, project, ...), `classify` (vendor errors) or `deliver` where declarations do not suffice.
Guards against repeated positions and pages, deadlines and page commits are the engine's.
"""

from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import cache, partial
from typing import Any, Generic, Literal, cast
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from reconciler.model.clock import from_rfc3339, rfc3339
from reconciler.model.condition import Reason
from reconciler.model.event import Message, Receipt
from reconciler.model.record import Page, Position, ReadRequest, Reject, Scope
from reconciler.sdk.ahead import Ahead
from reconciler.sdk.answer import HttpAnswer
from reconciler.sdk.auth import Authenticator
from reconciler.sdk.authorize import Authorized, Authorizes
from reconciler.sdk.contract import A, Answer, C, Channel, Connector, Entity
from reconciler.sdk.errors import (
    AmbiguousError,
    ConnectorError,
    ForbiddenError,
    RejectedError,
    TransientError,
    UnauthorizedError,
)
from reconciler.sdk.paging import Cut, Pager, dig, head_getter, total_of

Lane = Literal["sync", "deliver", "probe"]
_KEY_TYPES = frozenset({str, int})
Get = Callable[[str], Any]


def iso(value: Any) -> datetime:
    """A vendor's ISO 8601 time with a zone."""
    return from_rfc3339(value)


def epoch(value: Any) -> datetime:
    """Seconds since 1970."""
    return datetime.fromtimestamp(float(value), tz=UTC)


@dataclass(frozen=True, kw_only=True, eq=False)
class RestEntity(Entity):
    """An entity that is listed by GET.

    `path` may hold `{placeholders}` of a partition. `since` turns a point in time into parameters (None: the remote
    cannot be asked for changes). `at` reads the cursor's value; values must sort as they are. `also` names further dotted
    fields that `keep` and `is_deleted` look at through a getter. `none_at` are statuses that mean an empty listing.
    `key_params` (Deletes.KEYS) make the same listing bring only what is needed of each record: key, cursor and `also`.

    `keyset`: oldest first, and `since` may move: the next page asks from the newest cursor of this one, so that records
    that move while we read skip nobody. `newest_first`: an incremental read ends on the page that reaches its bound.
    `conditional`: the first page of an incremental read carries If-None-Match, and 304 means nothing new.
    `in_flight`: at most so many pages are asked for at once, where the pager can tell where they are.
    """

    # By identity: entities of two connectors may agree in everything that the base class would compare.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    path: str
    records: str
    pager: Pager
    params: Mapping[str, Any] = field(default_factory=dict)
    since: Callable[[datetime], Mapping[str, Any]] | None = None
    at: Callable[[Any], datetime] = iso
    key_params: Mapping[str, Any] = field(default_factory=dict)
    also: tuple[str, ...] = ()
    keep: Callable[[Get], bool] | None = None
    is_deleted: Callable[[Get], bool] | None = None
    none_at: tuple[int, ...] = ()
    keyset: bool = False
    newest_first: bool = False
    conditional: bool = False
    in_flight: int = 4


@dataclass(frozen=True, kw_only=True)
class RestChannel(Channel):
    """A channel that is one request. `receipt` and `link` are dotted paths into the answer; `path` is filled from the fields."""

    path: str
    body: Callable[[Any, Message], Any]
    receipt: str
    link: str = ""
    method: str = "POST"


@dataclass(frozen=True, slots=True)
class Partition:
    """One of several listings that together are the entity. `name` is stored with its watermark: keep it stable.

    `entity` is there where this listing has another shape than the declared one.
    """

    name: str = ""
    fill: Mapping[str, str] = field(default_factory=dict)
    entity: RestEntity | None = None


class RestConnector(Connector[C, A], Generic[C, A]):
    """`base_url` and `authenticator` are the two things a subclass must say."""

    headers: Mapping[str, str] = {"Accept": "application/json"}

    @abstractmethod
    def base_url(self) -> str:
        """Root of every path, without a trailing slash."""

    @abstractmethod
    def authenticator(self) -> Authenticator:
        """Made once per connector; keeps short-lived tokens in `room.tokens`."""

    def classify(self, answer: Answer) -> ConnectorError | None:
        """The vendor's meaning of an answer; None leaves it to the general rules."""
        return None

    async def revoke(self) -> None:
        """What a person allowed is given back; a connector whose remote has its own way overrides this."""
        signer = self._signer if isinstance(self, Authorizes) and self.code_flow() else None
        if isinstance(signer, Authorized):
            await signer.revoke(self.room)

    async def partitions(self, entity: RestEntity) -> Sequence[Partition]:
        """The listings of an entity, in a stable order."""
        return (Partition(),)

    def entity_params(self, entity: RestEntity, request: ReadRequest, since: datetime | None) -> Mapping[str, Any]:
        """Parameters of the listing besides those of the pager."""
        bound = entity.since(since) if since and entity.since else {}
        return {**entity.params, **bound, **(entity.key_params if request.scope is Scope.KEYS else {})}

    async def send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        form: Mapping[str, Any] | None = None,
        safe: bool | None = None,
        expect: tuple[int, ...] = (),
        lane: Lane = "sync",
    ) -> Answer:
        """One signed request; a refused token is renewed once where the authenticator can."""
        url = path if path.startswith("http") else self.base_url() + path
        signer = self._signer
        for attempt in (1, 2):
            signed = {**self.headers, **(headers or {}), **await signer.headers(self.room, renew=attempt == 2)}
            try:
                return await self.room.http.send(
                    method, url, params=params, headers=signed, json=json, form=form,
                    safe=safe, expect=expect, classify=self.classify, lane=lane,
                )  # fmt: skip
            except UnauthorizedError:
                if attempt == 2 or not signer.renews:
                    raise
        raise AssertionError("unreachable")

    def _refuse_foreign(self, url: str) -> None:
        """A continuation that the remote named may not carry the credential to another host."""
        own, named = urlsplit(self.base_url()), urlsplit(url)
        if named.netloc and (named.scheme, named.netloc.lower()) != (own.scheme, own.netloc.lower()):
            raise RejectedError(
                f"the listing goes on at another host, {named.hostname}: credentials for {own.hostname} do not go there",
                reason=Reason.PROTOCOL_ERROR,
            )

    @property
    def _signer(self) -> Authenticator:
        kept = self.__dict__.get("_kept_signer")
        if kept is None:
            kept = self.__dict__["_kept_signer"] = self.authenticator()
        return cast("Authenticator", kept)

    async def read(self, entity: Entity, request: ReadRequest) -> AsyncIterator[Page]:
        rest = cast("RestEntity", entity)
        partitions = list(await self.partitions(rest))
        names = [p.name for p in partitions]
        resume = request.resume or {}
        first = names.index(resume["partition"]) if resume.get("partition") in names else 0
        refused: list[str] = list(resume.get("refused", ()))
        for index in range(first, len(partitions)):
            at = resume if resume.get("partition") == names[index] else {}
            following = names[index + 1] if index + 1 < len(names) else None
            try:
                shape = partitions[index].entity or rest
                async for page in self._read_partition(shape, request, partitions[index], at, following):
                    yield replace(page, position=_noting(page.position, refused))
            except ForbiddenError as error:
                refused.append(error.message)
        if refused:
            raise _together(refused, len(partitions))

    async def _read_partition(
        self, entity: RestEntity, request: ReadRequest, partition: Partition, place: Position, following: str | None
    ) -> AsyncIterator[Page]:
        since = self.since(entity, request, partition)
        params = dict(self.entity_params(entity, request, since))
        size = place.get("size") or request.page_size or entity.page_size
        most = 1 if entity.keyset or entity.newest_first else entity.in_flight
        at: Position | None = place.get("at")
        fetch = partial(self._ask, entity, request, partition, params)
        async with aclosing(Ahead(fetch, entity.pager, size, most)) as ahead:
            while True:
                at, answer = await ahead.answer(at)
                known = _known(entity, _listing(entity, partition, params, at, ahead.size), at)
                page, at = self._taken(entity, answer, at, partition, since)
                page = as_keys(entity, page) if request.scope is Scope.KEYS else page
                ahead.saw(len(page.keys) + len(page.deleted) + len(page.rejects))
                if known and at is None and "etag" in answer.headers:
                    page = replace(page, validators={known: answer.headers["etag"]})
                yield replace(page, position=self._position(partition, at, ahead.size, following))
                if at is None:
                    return

    async def _ask(
        self,
        entity: RestEntity,
        request: ReadRequest,
        partition: Partition,
        params: Mapping[str, Any],
        at: Position | None,
        size: int,
    ) -> Answer:
        path, asked = _listing(entity, partition, params, at, size)
        self._refuse_foreign(path)
        known = _known(entity, (path, asked), at)
        tag = request.validators.get(known) if request.scope is not Scope.FULL else None
        return await self.send(
            "GET", path, params=asked or None, headers={"If-None-Match": tag} if tag else None,
            expect=(*entity.none_at, 304) if tag else entity.none_at,
        )  # fmt: skip

    def _taken(
        self, entity: RestEntity, answer: Answer, at: Position | None, partition: Partition, since: datetime | None
    ) -> tuple[Page, Position | None]:
        if answer.status == 304 or answer.status in entity.none_at:
            return Page((), (), partition.name), None
        page, following = self.cut(entity, answer, at, partition)
        if entity.newest_first and since:
            return _above(entity, answer.body, page, following, since)
        if entity.keyset and following is not None:
            following = _onward(entity, answer.body, at, following)
        return page, following

    @staticmethod
    def _position(partition: Partition, at: Position | None, size: int, following: str | None) -> Position | None:
        """With the size that `at` counts in: a page of another size would begin elsewhere."""
        if at is not None:
            return {"partition": partition.name, "at": dict(at), "size": size}
        return None if following is None else {"partition": following, "at": None}

    def since(self, entity: RestEntity, request: ReadRequest, partition: Partition) -> datetime | None:
        """The closed lower bound to ask for: the stored watermark less the overlap. None for a full read."""
        stored = request.since.get(partition.name)
        if stored is None or request.scope is Scope.FULL:
            return None
        return from_rfc3339(stored) - entity.overlap

    def cut(
        self, entity: RestEntity, answer: Answer, at: Position | None, partition: Partition
    ) -> tuple[Page, Position | None]:
        """One answer as a page without position, and where its successor is."""
        cut = _cut_of(entity)
        try:
            payloads, heads, meta = cut.records(answer.body)
        except msgspec.DecodeError as error:
            message = f"the answer is not the listing that was expected: {error}"
            raise TransientError(message, reason=Reason.PROTOCOL_ERROR, status=answer.status) from None
        following = entity.pager.after(_of_pager(at), answer, meta, len(payloads))
        page = cut.page(entity, payloads, heads, partition.name)
        return replace(page, total=total_of(answer.headers)), following

    def retake(self, entity: Entity, payload: bytes, key: str, listing: str) -> Page:
        """What has its key is a record already; anything else is cut anew from an answer of that one record."""
        if key:
            return super().retake(entity, payload, key, listing)
        rest = cast("RestEntity", entity)
        body = b"[%b]" % payload
        for step in reversed(rest.records.split(".") if rest.records else ()):
            body = b"{%b:%b}" % (msgspec.json.encode(step), body)
        return self.cut(rest, HttpAnswer(200, {}, body, self.base_url()), None, Partition(listing))[0]

    async def elements(
        self,
        path: str,
        pager: Pager,
        *,
        params: Mapping[str, Any] | None = None,
        records: str = "",
        lane: Lane = "sync",
    ) -> AsyncIterator[Any]:
        """Every element of a listing that is no entity: catalogs, hooks, what `find` looks through."""
        at: Position | None = None
        while True:
            url, paging = pager.request(at, 100)
            self._refuse_foreign(url or "")
            asked = paging if url else {**(params or {}), **paging}
            answer = await self.send("GET", url or path, params=asked or None, lane=lane)
            body = answer.json()
            found = dig(body, records) or ()
            for element in found:
                yield element
            at = pager.after(at, answer, body if isinstance(body, Mapping) else {}, len(found))
            if at is None:
                return

    async def deliver(self, channel: Channel, message: Message) -> Receipt:
        rest = cast("RestChannel", channel)
        path = _filled(rest.path, message.fields)
        answer = await self.send(rest.method, path, json=rest.body(self, message), lane="deliver")
        body, remote_id = taken(answer, rest.receipt)
        return Receipt(remote_id, str(dig(body, rest.link) or "") if rest.link else "")


def as_keys(entity: RestEntity, page: Page) -> Page:
    """A page of a listing of keys: with the change times that came along; raises RejectedError for what has no key."""
    if page.rejects:
        raise RejectedError(f"nobody can tell which of {entity.name} are gone: {page.rejects[0].violations[0]}")
    with _expecting_times(entity):
        seen = [dig(msgspec.json.decode(p), entity.cursor) for p in page.payloads] if entity.cursor else []
        times = tuple(rfc3339(entity.at(at)) if at else "" for at in seen)
    return replace(page, watermark=None, changed_at=times)


class _EntityCut:
    """Compiled decoders of one entity, and the columns of its pages."""

    def __init__(self, entity: RestEntity) -> None:
        heads = tuple(dict.fromkeys(h for h in (entity.key, entity.cursor, *entity.also) if h))
        self.records = Cut(entity.records, entity.pager.envelope, heads)
        self._getters = {h: head_getter(heads, h) for h in heads}
        self._key = self._getters[entity.key]
        self._cursor = self._getters[entity.cursor] if entity.cursor else None

    def page(self, entity: RestEntity, payloads: list[bytes], heads: list[Any], partition: str) -> Page:
        if entity.keep:
            kept = [i for i, h in enumerate(heads) if entity.keep(self._getter(h))]
            payloads, heads = [payloads[i] for i in kept], [heads[i] for i in kept]
        keys = [self._key(h) for h in heads]
        rejects: tuple[Reject, ...] = ()
        if not _KEY_TYPES.issuperset(map(type, keys)) or "" in keys:
            rejects = tuple(_keyless(entity.key, p, k) for p, k in zip(payloads, keys, strict=True) if not _is_key(k))
            keys = [k if _is_key(k) else None for k in keys]
            whole = [i for i, k in enumerate(keys) if k is not None]
            payloads, heads, keys = [payloads[i] for i in whole], [heads[i] for i in whole], [keys[i] for i in whole]
        watermark = self._watermark(entity, heads)
        deleted: tuple[str, ...] = ()
        if entity.is_deleted:
            gone = [entity.is_deleted(self._getter(h)) for h in heads]
            deleted = tuple(str(k) for k, g in zip(keys, gone, strict=True) if g)
            payloads = [p for p, g in zip(payloads, gone, strict=True) if not g]
            keys = [k for k, g in zip(keys, gone, strict=True) if not g]
        return Page(tuple(map(str, keys)), tuple(payloads), partition, deleted, rejects, watermark)

    def _getter(self, head: Any) -> Get:
        return lambda name: self._getters[name](head)

    def cursors(self, entity: RestEntity, body: bytes) -> list[datetime]:
        """Cursors of an answer, as they stand."""
        if self._cursor is None:
            return []
        with _expecting_times(entity):
            return [entity.at(v) for v in map(self._cursor, self.records(body)[1]) if v]

    def _watermark(self, entity: RestEntity, heads: list[Any]) -> str | None:
        if self._cursor is None:
            return None
        seen = [v for v in map(self._cursor, heads) if v]
        with _expecting_times(entity):
            return rfc3339(entity.at(max(seen))) if seen else None


@contextmanager
def _expecting_times(entity: RestEntity) -> Iterator[None]:
    try:
        yield
    except (TypeError, ValueError, OverflowError, OSError) as error:
        message = f"{entity.name}: {entity.cursor} is not a time: {error}"
        raise TransientError(message, reason=Reason.PROTOCOL_ERROR) from None


def _is_key(value: Any) -> bool:
    return type(value) in _KEY_TYPES and value != ""


_JSON_TYPES = {type(None): "null", bool: "boolean", float: "number", list: "array", dict: "object", str: "empty string"}


def _keyless(field_name: str, payload: bytes, value: Any) -> Reject:
    received = _JSON_TYPES.get(type(value), type(value).__name__)
    said = (f"{field_name}: expected a string or an integer, received {received}",)
    return Reject(payload, said, field=field_name, expected_type="string or integer", received_type=received)


@cache
def _cut_of(entity: RestEntity) -> _EntityCut:
    return _EntityCut(entity)


def _listing(
    entity: RestEntity, partition: Partition, params: Mapping[str, Any], at: Position | None, size: int
) -> tuple[str, dict[str, Any]]:
    """Path and parameters of the page at `at`."""
    since = entity.since(from_rfc3339(at["since"])) if entity.since and at and "since" in at else None
    url, paging = entity.pager.request(_of_pager(at), size)
    if url:
        return url, paging
    return entity.path.format(**partition.fill), {**params, **(since or {}), **paging}


def _known(entity: RestEntity, listing: tuple[str, Mapping[str, Any]], at: Position | None) -> str:
    """Under which name the validator of a first page is kept."""
    return f"{listing[0]}?{urlencode(listing[1])}" if entity.conditional and at is None else ""


def _of_pager(at: Position | None) -> Position | None:
    """The pager's part of a position; `since` is that of a keyset."""
    return {k: v for k, v in at.items() if k != "since"} or None if at else None


def _onward(entity: RestEntity, body: bytes, at: Position | None, following: Position) -> Position:
    """Where a listing sorted by change goes on: from the newest cursor seen, unless the whole page is one instant."""
    seen = _cut_of(entity).cursors(entity, body)
    if seen and seen[-1] > seen[0]:
        return {"since": rfc3339(seen[-1])}
    return {**following, "since": at["since"]} if at and "since" in at else following


def _above(
    entity: RestEntity, body: bytes, page: Page, following: Position | None, since: datetime
) -> tuple[Page, Position | None]:
    """The part of a page that is not older than asked for; the page that reaches the bound is the last."""
    seen = _cut_of(entity).cursors(entity, body)
    kept = sum(at >= since for at in seen)
    if kept == len(seen):
        return page, following
    if len(page.keys) == len(seen):
        page = replace(page, keys=page.keys[:kept], payloads=page.payloads[:kept])
    return page, None


def taken(answer: Answer, receipt: str) -> tuple[Any, str]:
    """What the remote said when it took a message, and the value at `receipt`; where that is missing nobody knows."""
    try:
        body = answer.json()
    except TransientError as error:
        raise AmbiguousError(error.message, reason=error.why, status=error.status, detail=error.detail) from None
    remote_id = dig(body, receipt)
    if remote_id is None:
        message = f"the message was answered {answer.status}, but the answer names no {receipt}: it may have arrived"
        raise AmbiguousError(message, reason=Reason.PROTOCOL_ERROR, status=answer.status)
    return body, str(remote_id)


def _filled(path: str, fields: Mapping[str, Any]) -> str:
    """`path` with fields of a message in its placeholders; no value leaves its place in the path."""
    try:
        filled = path.format(**{name: quote(str(value), safe="/") for name, value in fields.items()})
    except KeyError as error:
        raise RejectedError(f"the message has no field {error.args[0]}, which the path {path} needs") from None
    if not {".", ".."}.isdisjoint(filled.split("/")):
        raise RejectedError("a field that stands in the URL's path may not hold `.` or `..`")
    return filled


def _noting(position: Position | None, refused: Sequence[str]) -> Position | None:
    """The position with what was refused so far: a run that is resumed behind it may not end as complete."""
    return {**position, "refused": list(refused)} if position is not None and refused else position


def _together(refused: Sequence[str], partitions: int) -> ForbiddenError:
    """What several partitions were refused for, as one error."""
    if len(refused) == 1:
        return ForbiddenError(refused[0], status=403)
    return ForbiddenError(f"{len(refused)} of {partitions} listings were refused: {'; '.join(refused[:3])}", status=403)


def skew_of(answer: Answer, now: datetime) -> timedelta | None:
    """Remote clock minus ours from the Date header; None where there is none."""
    text = answer.headers.get("date", "")
    try:
        return parsedate_to_datetime(text) - now if text else None
    except (TypeError, ValueError):
        return None
