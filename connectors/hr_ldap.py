"""People and groups of an LDAP directory: OpenLDAP and its kin, or Active Directory. Read only, no channels.

In: settings and a bind credential. Out: pages of records `{"id", "dn", attribute: [values]}`; `id` is entryUUID or
objectGUID, so a rename moves nothing. The values of an attribute are a set in LDAP, hence sorted; bytes are base64.
Only named attributes are read, so no password hash ever comes along and a record's shape does not depend on rights.
Deletions are absence from a complete full run. Not done: change feeds (syncrepl, DirSync), tombstones, writes.
"""

import base64
import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Literal, Self
from urllib.parse import urlsplit

import msgspec
from pydantic import Field, field_validator, model_validator

from reconciler.model.clock import from_rfc3339, rfc3339
from reconciler.model.record import LogLevel, Page, ReadRequest, Reject, Scope
from reconciler.model.secret import Secret
from reconciler.sdk.contract import AuthSettings, Connector, Entity, NoAuth, Probe, Right, Settings
from reconciler.sdk.errors import ForbiddenError, RejectedError, TransientError, UnsupportedError
from reconciler.sdk.ldap import PAGED_RESULTS, Entry, Server, Session, Values

MAX_PAGE = 1000  # Active Directory gives no more, whatever is asked for
_ROOT = ("supportedControl", "vendorName", "vendorVersion", "currentTime")
_TIME = re.compile(r"\d{14}(?:[.,]\d+)?(Z|[+-]\d{4})")
_BINARY = {"objectsid", "jpegphoto", "thumbnailphoto", "photo", "audio", "usercertificate;binary", "objectguid"}
_PASSWORDS = {"userpassword", "unicodepwd", "dbcspwd", "ntpwdhistory", "lmpwdhistory", "sambantpassword"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Flavour:
    """How one kind of directory names things. `filters` and `attributes` are by entity."""

    key: str
    changed: str
    time_format: str
    filters: Mapping[str, str]
    attributes: Mapping[str, tuple[str, ...]]
    ignores_referrals: bool


_SHARED = ("cn", "sn", "givenName", "displayName", "mail", "title", "telephoneNumber", "mobile", "manager", "l")
_HR = ("employeeNumber", "employeeType")
FLAVOURS: Mapping[str, Flavour] = {
    "openldap": Flavour(
        key="entryUUID",
        changed="modifyTimestamp",
        time_format="%Y%m%d%H%M%SZ",
        filters={"people": "(objectClass=inetOrgPerson)", "groups": "(objectClass=groupOfNames)"},
        attributes={
            "people": (*_SHARED, *_HR, "uid", "departmentNumber", "ou", "modifyTimestamp"),
            "groups": ("cn", "description", "member", "owner", "modifyTimestamp"),
        },
        ignores_referrals=False,
    ),
    # whenChanged is every domain controller's own time: as a value it would change with the controller that answers.
    "active_directory": Flavour(
        key="objectGUID",
        changed="whenChanged",
        time_format="%Y%m%d%H%M%S.0Z",
        filters={"people": "(&(objectCategory=person)(objectClass=user))", "groups": "(objectClass=group)"},
        attributes={
            "people": (
                *(*_SHARED, *_HR, "employeeID", "sAMAccountName", "userPrincipalName", "department", "company"),
                *("physicalDeliveryOfficeName", "userAccountControl", "whenCreated"),
            ),
            "groups": ("cn", "sAMAccountName", "description", "mail", "member", "managedBy", "groupType"),
        },
        ignores_referrals=True,
    ),
}


class Source(Settings):
    """Where one entity is: every field has a default from `base_dn` and `flavour`."""

    base_dn: str = Field("", description="subtree to read; default: the base_dn of the connection")
    filter: str = Field("", pattern=r"^(\(.*\))?$", description="LDAP filter (RFC 4515) in parentheses")
    attributes: tuple[str, ...] = Field((), description="attributes to read, by the names the schema gives them")

    @field_validator("attributes")
    @classmethod
    def _names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not re.fullmatch(r"[A-Za-z][A-Za-z0-9;-]*|\d+(\.\d+)+", name):
                raise ValueError(f"{name} is no attribute name; * and + are not taken, name what you need")
            if name.lower() in _PASSWORDS:
                raise ValueError(f"{name} holds passwords and is never read")
        return names


class Config(Settings):
    url: str = Field(description="ldap://host:389 (upgraded with StartTLS) or ldaps://host:636")
    fallback_urls: tuple[str, ...] = Field((), description="tried in this order when url is unreachable")
    start_tls: bool = Field(True, description="upgrade ldap:// connections before the bind")
    allow_plaintext: bool = Field(False, description="permit ldap:// without StartTLS: password and records in clear")
    base_dn: str = Field(min_length=1)
    flavour: Literal["openldap", "active_directory"] = "openldap"
    people: Source = Source()
    groups: Source = Source()
    single_valued: tuple[str, ...] = Field((), description="attributes given as one value instead of a list")
    binary: tuple[str, ...] = Field((), description="further attributes that hold bytes; given as base64")
    ignore_referrals: bool | None = Field(
        None, description="true: parts of the tree on other servers are left out; default only on active_directory"
    )
    page_size: int = Field(500, ge=1, le=MAX_PAGE)
    timeout_seconds: float = Field(30, gt=0, le=600)

    @field_validator("url", "fallback_urls")
    @classmethod
    def _addresses(cls, given: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for url in (given,) if isinstance(given, str) else given:
            parts = urlsplit(url)
            if parts.scheme not in {"ldap", "ldaps"} or not parts.hostname or parts.path.strip("/") or parts.query:
                raise ValueError(f"{url} must be ldap://host[:port] or ldaps://host[:port] and nothing more")
        return given

    @model_validator(mode="after")
    def _no_clear_text(self) -> Self:
        clear = [u for u in (self.url, *self.fallback_urls) if u.startswith("ldap://")]
        if clear and not self.start_tls and not self.allow_plaintext:
            raise ValueError(
                f"{clear[0]} without start_tls sends the password in clear; set allow_plaintext to permit it"
            )
        return self


class SimpleAuth(AuthSettings):
    """A DN and its password; Active Directory also takes `user@domain`."""

    type: Literal["simple"] = "simple"
    aliases: ClassVar[tuple[str, ...]] = ("basic", "basic_auth", "password")
    bind_dn: str = Field(min_length=1)
    password: Secret


class ExternalAuth(NoAuth):
    """SASL EXTERNAL: who we are is said by the client certificate of the TLS connection."""

    type: Literal["external"] = "external"
    aliases: ClassVar[tuple[str, ...]] = ("client_certificate",)


class HrLdap(Connector[Config, SimpleAuth | ExternalAuth]):
    type = "hr_ldap"
    title = "HR directory (LDAP)"
    docs_url = "https://www.rfc-editor.org/rfc/rfc4510"
    Config = Config
    auth_types = (SimpleAuth, ExternalAuth)
    # The overlap covers replicas that lag and clocks that differ; change times have a resolution of one second.
    entities = tuple(
        Entity(
            name=name, title=title, cursor="modifyTimestamp", overlap=timedelta(minutes=15), page_size=500,
            rights=("search and read the subtree, entryUUID and modifyTimestamp (AD: objectGUID and whenChanged)",),
        )
        for name, title in (("people", "People"), ("groups", "Groups with their members"))
    )  # fmt: skip

    async def probe(self) -> Probe:
        async with self._session() as session:
            root = await session.look("", _ROOT) or {}
            said = {name: [_text(v) for v in values] for name, values in root.items()}
            if PAGED_RESULTS not in said.get("supportedControl", ()):
                raise UnsupportedError(
                    f"{session.host} offers no paged results ({PAGED_RESULTS}); a full read needs them"
                )
            found = {e.name: await self._shown(session, e) for e in self.entities}
            remote_now = _time_of(*said.get("currentTime", [""]))
            return Probe(
                await session.who_am_i(),
                account=session.host,
                rights=tuple(right for rights in found.values() for right in rights or ()),
                entities={name: rights is not None for name, rights in found.items()},
                skew=remote_now - self.room.clock.now() if remote_now else None,
                version=" ".join((*said.get("vendorName", ()), *said.get("vendorVersion", ()))),
                warnings=tuple(f"no entry matches the filter of {n}" for n, rights in found.items() if rights == ()),
            )

    async def _shown(self, session: Session, entity: Entity) -> tuple[Right, ...] | None:
        """What a first entry shows of itself: None where the subtree may not be read, empty where it has no entry."""
        view = self._view(entity)
        names = (view.flavour.key, view.flavour.changed)
        try:
            await session.require_base(view.base_dn)
            async with aclosing(session.pages(view.base_dn, view.filter, names, 1)) as pages:
                async for entries, _ in pages:
                    shown = {name.lower() for entry in entries for name in entry.values}
                    return tuple(Right(f"read {n} of {entity.name}", n.lower() in shown) for n in names if entries)
        except ForbiddenError:
            return None
        return ()

    async def read(self, entity: Entity, request: ReadRequest) -> AsyncIterator[Page]:
        view = self._view(entity)
        since = view.since(request, entity.overlap)
        size = min(request.page_size or self.config.page_size, MAX_PAGE)
        number = 0
        async with self._session() as session:
            # A paging cookie dies with its connection, so a resumed run begins again with the first page.
            await session.require_base(view.base_dn)
            async for entries, is_last in session.pages(view.base_dn, since, view.wire_names, size):
                number += 1
                whole = [Entry(e.dn, await complete(e, session.look)) for e in entries]
                yield view.page(whole, None if is_last else {"page": number})

    def _view(self, entity: Entity) -> "View":
        source: Source = getattr(self.config, entity.name)
        flavour = FLAVOURS[self.config.flavour]
        return View(
            flavour=flavour,
            base_dn=source.base_dn or self.config.base_dn,
            filter=source.filter or flavour.filters[entity.name],
            attributes=source.attributes or flavour.attributes[entity.name],
            single=frozenset(n.lower() for n in self.config.single_valued),
            binary=frozenset(n.lower() for n in self.config.binary) | _BINARY,
        )

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[Session]:
        session = await self._connect()
        try:
            yield session
        finally:
            session.close()

    async def _connect(self) -> Session:
        """The first server that answers; only unreachable ones are passed over."""
        *first, last = (self._server(url) for url in (self.config.url, *self.config.fallback_urls))
        for server in first:
            try:
                return await Session.open(server, self.room.network)
            except TransientError as error:
                self.room.log(LogLevel.WARN, "directory server skipped", url=server.url, error=error.message)
        return await Session.open(last, self.room.network)

    def _server(self, url: str) -> Server:
        ignores = self.config.ignore_referrals
        simple = self.auth if isinstance(self.auth, SimpleAuth) else None
        return Server(
            url=url,
            start_tls=self.config.start_tls,
            bind_dn=simple.bind_dn if simple else "",
            password=simple.password if simple else None,
            ignores_referrals=FLAVOURS[self.config.flavour].ignores_referrals if ignores is None else ignores,
            timeout=timedelta(seconds=self.config.timeout_seconds),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """How one entity is asked for and turned into records. Pure; `single` and `binary` are in lower case."""

    flavour: Flavour
    base_dn: str
    filter: str
    attributes: tuple[str, ...]
    single: frozenset[str]
    binary: frozenset[str]

    @property
    def wire_names(self) -> list[str]:
        """What the server is asked for: the record's attributes, its identity and its change time."""
        return list({n.lower(): n for n in (*self.attributes, self.flavour.key, self.flavour.changed)}.values())

    def since(self, request: ReadRequest, overlap: timedelta) -> str:
        """The filter with its closed lower bound; without one for a full read."""
        stored = request.since.get("")
        if stored is None or request.scope is Scope.FULL:
            return self.filter
        bound = (from_rfc3339(stored) - overlap).strftime(self.flavour.time_format)
        return f"(&{self.filter}({self.flavour.changed}>={bound}))"

    def page(self, entries: Iterable[Entry], position: Mapping[str, Any] | None) -> Page:
        """Raises ForbiddenError where no entry shows its identity: without it a full read would find everybody gone."""
        keys: list[str] = []
        payloads: list[bytes] = []
        rejects: list[Reject] = []
        times: list[datetime] = []
        asked = {name.lower() for name in self.wire_names}
        names = [(name, name.lower()) for name in self.attributes]
        for entry in entries:
            values = _by_lower_name(entry.values, asked)
            key = self._key(values)
            payload = msgspec.json.encode({"id": key, "dn": entry.dn, **self._record(names, values)}, order="sorted")
            if key is None:
                rejects.append(Reject(payload, (f"no {self.flavour.key}: the account may not read it",)))
                continue
            keys.append(key)
            payloads.append(payload)
            times.extend(t for t in map(_time_of, values.get(self.flavour.changed.lower(), ())) if t)
        if rejects and not keys:
            raise ForbiddenError(f"the account may read entries of {self.base_dn} but not their {self.flavour.key}")
        watermark = rfc3339(max(times)) if times else None
        return Page(tuple(keys), tuple(payloads), rejects=tuple(rejects), watermark=watermark, position=position)

    def _key(self, lower: Values) -> str | None:
        values = lower.get(self.flavour.key.lower())
        if not values:
            return None
        if self.flavour.key == "objectGUID":
            return str(uuid.UUID(bytes_le=_bytes(values[0])))
        return _text(values[0]).lower()

    def _record(self, names: Iterable[tuple[str, str]], lower: Values) -> dict[str, Any]:
        """By the names of the manifest, whatever case the server prefers."""
        return {name: self._value(low, lower[low]) for name, low in names if low in lower}

    def _value(self, name: str, values: Sequence[bytes | str]) -> Any:
        shown = sorted(base64.b64encode(_bytes(v)).decode() if name in self.binary else _text(v) for v in values)
        return shown[0] if name in self.single or name == self.flavour.changed.lower() else shown


def _by_lower_name(values: Values, asked: AbstractSet[str]) -> Values:
    """Names with options (`cn;lang-de`) come along uninvited and are left out.

    Another name means that an alias was asked for: leaving it out would silently lose an attribute.
    """
    lower = {name.lower(): found for name, found in values.items() if found}
    if lower.keys() <= asked:
        return lower
    uninvited = sorted(name for name in values if name.lower() not in asked and ";" not in name)
    if uninvited:
        raise RejectedError(
            f"the directory answered with {', '.join(uninvited)}, not asked for by that name; "
            f"write {uninvited[0]} in `attributes` in place of its alias or OID"
        )
    return lower


def _bytes(value: bytes | str) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value)


def _text(value: bytes | str) -> str:
    """UTF-8 as LDAP prescribes; what is not is bytes and becomes base64."""
    if isinstance(value, str):
        return value
    try:
        return bytes(value).decode()
    except UnicodeDecodeError:
        return base64.b64encode(value).decode()


def _time_of(value: bytes | str) -> datetime | None:
    """GeneralizedTime with seconds; None for anything else."""
    text = _text(value)
    found = _TIME.fullmatch(text)
    if not found:
        return None
    try:
        at = datetime.fromisoformat(f"{text[:8]}T{text[8:14]}{found[1]}")
    except ValueError:
        return None
    return at.astimezone(UTC)


Look = Callable[[str, Sequence[str]], Awaitable[Values | None]]


def slice_of(name: str) -> tuple[str, int | None] | None:
    """Active Directory's `member;range=0-1499` as (`member`, 1499); the last slice ends in `*`, here None."""
    found = re.fullmatch(r"([^;]+);range=\d+-(\d+|\*)", name, re.IGNORECASE)
    return (found[1], None if found[2] == "*" else int(found[2])) if found else None


async def complete(entry: Entry, look: Look) -> Values:
    """The entry's values with every sliced attribute read to its end; an empty unsliced one may stand beside it."""
    whole = {name: found for name, found in entry.values.items() if slice_of(name) is None}
    for name, first in entry.values.items():
        at = slice_of(name)
        if at:
            whole[at[0]] = [*first, *await _other_slices(entry.dn, at, look)]
    return whole


async def _other_slices(dn: str, at: tuple[str, int | None], look: Look) -> list[bytes | str]:
    name, last = at
    collected: list[bytes | str] = []
    while last is not None:
        found = await look(dn, [f"{name};range={last + 1}-*"]) or {}
        slices = [(cut[1], values) for n, values in found.items() if (cut := slice_of(n))]
        if not slices or (slices[0][0] is not None and slices[0][0] <= last):
            raise TransientError(f"{name} of {dn} changed while its slices were read")
        last = slices[0][0]
        collected.extend(slices[0][1])
    return collected
