"""The contract of a connector: what it declares, what the engine may ask, and what is handed to it.

A connector is one module `connectors/<type>.py` with one subclass of `Connector`. REST services subclass
`reconciler.sdk.rest.RestConnector`, which answers everything from declarations; LDAP and SMTP implement `Connector`
itself. Optional capabilities are separate protocols, asked for with isinstance. A connector holds no state that must
survive: watermarks, positions, inventory and tokens are the engine's.
"""

import ssl
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from random import Random
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar, runtime_checkable

import msgspec

from reconciler.model.clock import Clock
from reconciler.model.event import Message, Receipt
from reconciler.model.record import LogLevel, Page, ReadRequest, Reject
from reconciler.model.secret import Secret
from reconciler.model.written import Written
from reconciler.sdk.errors import ConnectorError
from reconciler.sdk.inbound import Inbound


class Settings(Written):
    """Base of every `Config`, `Auth` and channel model, and of the models within: closed, frozen, nothing is converted."""


class AuthSettings(Settings):
    """Base of an auth model. The subclass has a `type: Literal["..."]` field; `aliases` are other accepted spellings."""

    aliases: ClassVar[tuple[str, ...]] = ()


class NoAuth(AuthSettings):
    """For remotes that ask for no credential."""


class Deletes(StrEnum):
    """How this entity's deletions become known."""

    FULL_RUN = "full_run"  # absence from a complete full run
    KEYS = "keys"  # absence from a complete listing of keys alone, which the reader answers to scope `keys`, or from a full run
    FLAG = "flag"  # the record says so itself; the reader fills Page.deleted
    FEED = "feed"  # the delta scope or a deletions endpoint tells


class Repeat(StrEnum):
    """What happens when a message is sent twice."""

    SAFE = "safe"  # the remote drops the repeat: sent again after a crash
    FIND = "find"  # `Finds.find` says whether the first one arrived: asked before it is sent again
    UNSAFE = "unsafe"  # nobody can know: an interrupted attempt ends as `unknown`


@dataclass(frozen=True, kw_only=True)
class Entity:
    """One kind of remote record.

    `cursor` is the dotted field with the record's change time (None: every run reads everything). `ordered`: the remote
    sorts by it, so every page may move the watermark; otherwise only the end of the entity does. `overlap` is how far
    below the stored watermark an incremental read starts. `rights` are what the credential needs, for probe and docs.
    """

    name: str
    title: str = ""
    key: str = "id"
    cursor: str | None = None
    ordered: bool = False
    overlap: timedelta = timedelta(minutes=5)
    deletes: Deletes = Deletes.FULL_RUN
    has_delta: bool = False
    by_default: bool = True
    page_size: int = 100
    rights: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Retries:
    """When a delivery that failed is tried again: after each of `pauses`, more or less by `jitter`; after the last it is dead.

    What the remote asks to wait makes a pause longer; where `is_overruled`, it takes its place.
    """

    pauses: tuple[timedelta, ...]
    jitter: float = 0.1
    is_overruled: bool = False


RETRIES = Retries(
    pauses=tuple(timedelta(seconds=s) for s in (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400))
)
"""The schedule of Standard Webhooks (spec v1.0.0)."""


@dataclass(frozen=True, kw_only=True)
class Channel:
    """One way to hand an event to the remote.

    `fields` is the model of what `map` may set; `text_field` is the field that `template` fills. In `html_fields` what a
    template puts in is escaped. `repeat` decides what a crash between sending and recording means. `deadline` bounds one
    attempt: giving up early makes doubt.

    `defaults` stand below every `map`, `plain` is the map of a synchronization that has neither template nor map.
    `events_at` is the dotted place in `config` of a list of event types that go out here without a synchronization.
    """

    name: str
    title: str = ""
    fields: type[Settings]
    text_field: str = ""
    html_fields: tuple[str, ...] = ()
    repeat: Repeat = Repeat.UNSAFE
    rights: tuple[str, ...] = ()
    deadline: timedelta = timedelta(seconds=30)
    retries: Retries = RETRIES
    defaults: Mapping[str, Any] = field(default_factory=dict, hash=False)
    plain: Mapping[str, Any] = field(default_factory=dict, hash=False)
    events_at: str = ""


@dataclass(frozen=True, kw_only=True)
class Limit:
    """A published limit of the remote: at most `requests` in `window`, per `scope` (`account`, `user`, `method`, ...).

    `path` is a shell pattern of the paths whose requests count. `points` says by HTTP method how much one takes of
    `requests`, `*` stands for the methods not named: 1 without it, and 0 does not count. `is_serial`: what counts goes one
    after another, and the window of each begins when it is answered.
    """

    requests: int
    window: timedelta
    scope: str = "account"
    path: str = "*"
    points: Mapping[str, int] = field(default_factory=dict, hash=False)
    is_serial: bool = False
    source: str = ""


@dataclass(frozen=True, slots=True)
class Right:
    """One right of the credential: None where the remote does not say."""

    name: str
    is_granted: bool | None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Probe:
    """Who we are at the remote and what is missing. `skew` is remote clock minus ours; latency is the engine's to measure."""

    identity: str
    account: str = ""
    rights: tuple[Right, ...] = ()
    entities: Mapping[str, bool] = field(default_factory=dict)
    skew: timedelta | None = None
    version: str = ""
    credential_expires_at: datetime | None = None
    warnings: tuple[str, ...] = ()

    @property
    def missing(self) -> tuple[str, ...]:
        """Rights and entities that were found wanting."""
        rights = tuple(r.name for r in self.rights if r.is_granted is False)
        return rights + tuple(f"read {name}" for name, ok in self.entities.items() if not ok)


@dataclass(frozen=True, slots=True)
class RemoteObject:
    """An object that we want at the remote, or found there. `marker` is unique to this integration and survives our memory.

    `spec` is what can be read back and compared; `secret_fingerprint` stands for what cannot.
    """

    kind: str
    marker: str
    spec: Mapping[str, Any]
    remote_id: str = ""
    secret_fingerprint: str = ""


class RunLog(Protocol):
    """Log lines of a run or probe, kept with it; `detail` is JSON. Redaction happens at the sink."""

    def __call__(self, level: LogLevel, message: str, **detail: Any) -> None: ...


@dataclass(frozen=True, slots=True)
class KeptToken:
    """A credential obtained at run time, as it is to be kept. `scopes`: what it may do; None where nobody said."""

    name: str
    value: Secret
    expires_at: datetime | None = None
    scopes: tuple[str, ...] | None = None


class Tokens(Protocol):
    """Credentials obtained at run time, encrypted at rest. `name` tells several of one integration apart."""

    async def get(self, name: str) -> tuple[Secret, datetime | None] | None: ...

    async def put(self, name: str, value: Secret, expires_at: datetime | None) -> None: ...

    async def put_all(self, *tokens: KeptToken) -> None:
        """All of them or none, safe from a power cut: what came in one answer must not be kept in part."""
        ...

    async def scopes(self, name: str) -> tuple[str, ...] | None: ...

    async def drop(self, name: str) -> None: ...

    def hold(self, name: str) -> AbstractAsyncContextManager[None]:
        """The right to renew it, one at a time over all processes: a refresh token that is used twice may be revoked."""
        ...


class Network(Protocol):
    """How to reach hosts: for connectors that do not speak HTTP. The HTTP client applies the same rules itself."""

    def tls(self) -> ssl.SSLContext:
        """A client context with the private CA and client certificate of this integration."""
        ...

    @property
    def ca_file(self) -> str | None: ...

    @property
    def client_cert(self) -> tuple[str, str] | None: ...

    async def permit(self, host: str, port: int) -> None:
        """Raises RejectedError (HOST_NOT_PERMITTED) for link-local, metadata, loopback and forbidden hosts."""
        ...


class Answer(Protocol):
    """An HTTP answer, fully read. Header names are case-insensitive."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    @property
    def body(self) -> bytes: ...

    @property
    def url(self) -> str: ...

    def json(self) -> Any:
        """The decoded body; raises TransientError for HTML, truncated or otherwise broken JSON."""
        ...


Classify = Callable[[Answer], ConnectorError | None]
"""Looks at an answer of any status: the error to raise, or None to let the general rules decide."""


class Http(Protocol):
    """The HTTP client: budget, retry of safe requests, redaction, proxy, TLS and host guard are inside.

    Answers of 400 and above are raised as errors of `reconciler.sdk.errors` unless `expect` names the status or `classify`
    says otherwise. A request that is not `safe` is sent once: a lost answer is an AmbiguousError. GET, HEAD and OPTIONS
    are safe by default. 3xx answers to GET and HEAD are followed on the same host; credentials never go to another.
    `lane` "deliver" and "probe" draw on the share of the rate budget that syncs may not use up. `content` is sent as it is;
    its type is for `headers` to say. `public_only`: private addresses are refused as well, whatever is permitted to others,
    unless `hosts.allow` of the daemon's settings names them.
    """

    async def send(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        form: Mapping[str, Any] | None = None,
        content: bytes | None = None,
        safe: bool | None = None,
        expect: tuple[int, ...] = (),
        classify: Classify | None = None,
        lane: Literal["sync", "deliver", "probe"] = "sync",
        public_only: bool = False,
    ) -> Answer: ...


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """A key of ours with which others push records and events; `state` is active, retiring, expired or revoked."""

    key_id: str
    state: str
    created_at: datetime
    last_used_at: datetime | None = None


async def no_keys() -> Sequence[KeyFacts]:
    return ()


async def always() -> bool:
    return True


@dataclass(frozen=True, kw_only=True)
class Room:
    """Everything a connector may use; it makes none of this itself.

    `marker` is `<workspace>/<name>`, the text that remote objects of ours bear. `inbound_url` is where the remote may
    reach us, None where the daemon has no public URL. `keys` are those with which others may push to this integration.
    `may_deliver` is false after a GoneError, until the manifest changes or a person asks for a retry.
    """

    http: Http
    network: Network
    tokens: Tokens
    clock: Clock
    random: Random
    log: RunLog
    marker: str
    inbound_url: str | None = None
    fingerprint: Callable[[Secret], str]
    keys: Callable[[], Awaitable[Sequence[KeyFacts]]] = no_keys
    may_deliver: Callable[[], Awaitable[bool]] = always


SettingsClass = type[Settings]
AuthClasses = tuple[type[AuthSettings], ...]
C = TypeVar("C", bound=Settings)
A = TypeVar("A", bound=AuthSettings)


class Connector(ABC, Generic[C, A]):
    """What the engine may ask. Class attributes are the declaration, shown by `reconciler connectors TYPE`."""

    type: ClassVar[str]
    title: ClassVar[str]
    version: ClassVar[str] = "1"
    docs_url: ClassVar[str] = ""
    Config: ClassVar[SettingsClass]
    auth_types: ClassVar[AuthClasses]
    entities: ClassVar[tuple[Entity, ...]] = ()
    channels: ClassVar[tuple[Channel, ...]] = ()
    limits: ClassVar[tuple[Limit, ...]] = ()
    tells: ClassVar[tuple[str, ...] | None] = ()
    """First words of the types of events that are not about its records; None: it may tell of anything."""
    max_inbound: ClassVar[int] = 1024 * 1024  # bytes of one request of the remote to us

    def __init__(self, config: C, auth: A, room: Room) -> None:
        self.config = config
        self.auth = auth
        self.room = room

    @abstractmethod
    async def probe(self) -> Probe:
        """The cheapest signed-in call, then one cheap read per entity of interest. Raises UnauthorizedError and the like."""

    def read(self, entity: Entity, request: ReadRequest) -> AsyncIterator[Page]:
        """Pages until the remote's own end. Ending without an error means: this was everything that was asked for.

        Scope `keys` (Deletes.KEYS only): the keys of exactly the records that a full read would bring. A key that cannot be
        read is an error there, never a reject: nobody could tell whether it is the one that is missed.
        """
        raise NotImplementedError(f"{self.type} reads nothing")

    def retake(self, entity: Entity, payload: bytes, key: str, listing: str) -> Page:
        """A rejected record, as kept (after `sync.fields`), as a page of its own: taken, rejected again, or not wanted at all.

        `key` is empty where it could not be read, `listing` the partition of the page that it stood in. Asks no remote.
        """
        found = key or _at(payload, entity.key)
        if isinstance(found, str | int) and not isinstance(found, bool) and found != "":
            return Page((str(found),), (payload,), listing)
        said = f"{entity.key}: expected a string or an integer"
        return Page((), (), listing, rejects=(Reject(payload, (said,), field=entity.key),))

    async def deliver(self, channel: Channel, message: Message) -> Receipt:
        """Send one message; returns only when the remote took it."""
        raise NotImplementedError(f"{self.type} delivers nothing")

    async def revoke(self) -> None:
        """Give back credentials obtained at run time; called on disconnect. Default: the remote has no such call."""

    async def close(self) -> None:
        """Release connections. Called once, also after errors."""

    @classmethod
    def entities_of(cls, config: C) -> tuple[Entity, ...]:  # noqa: ARG003 - for those who override it
        """The entities under this configuration: overridden where settings add some or change what is read by default."""
        return cls.entities

    @classmethod
    def entity(cls, name: str) -> Entity | None:
        return next((e for e in cls.entities if e.name == name), None)

    @classmethod
    def channel(cls, name: str) -> Channel | None:
        return next((c for c in cls.channels if c.name == name), None)


def _at(payload: bytes, path: str) -> Any:
    """The value at a dotted path of a record; None where a step is missing."""
    value: Any = msgspec.json.decode(payload)
    for step in path.split("."):
        value = value.get(step) if isinstance(value, dict) else None
    return value


@runtime_checkable
class Counts(Protocol):
    async def count(self, entity: Entity, request: ReadRequest) -> int | None:
        """How many records the read will bring; None where the remote does not say."""
        ...


@runtime_checkable
class Finds(Protocol):
    async def find(self, channel: Channel, message: Message) -> Receipt | None:
        """The receipt of this very message if an earlier attempt reached the remote. Needed for Repeat.FIND."""
        ...


@runtime_checkable
class Subscribes(Protocol):
    """Objects at the remote, such as webhooks, that are created, repaired and removed like everything else in the plan."""

    def wanted_objects(self) -> tuple[RemoteObject, ...]:
        """What the manifest asks for. Pure."""
        ...

    async def list_objects(self) -> tuple[RemoteObject, ...]:
        """Every object at the remote that bears our marker. An error while listing is raised, never an empty tuple."""
        ...

    async def create_object(self, wanted: RemoteObject) -> RemoteObject: ...

    async def update_object(self, remote_id: str, wanted: RemoteObject) -> RemoteObject: ...

    async def delete_object(self, found: RemoteObject) -> None:
        """Remove it; an object that is gone already is no error."""
        ...


@runtime_checkable
class Verifies(Protocol):
    """Requests of the remote to `room.inbound_url`. Both calls are pure, and may be made in another thread."""

    def verify(self, headers: Mapping[str, str], body: bytes) -> None:
        """Check an inbound request's signature over the raw body in constant time; raises UnauthorizedError.

        Also for a request that is too old, where the remote signs when it was made.
        """
        ...

    def receive(self, headers: Mapping[str, str], body: bytes) -> Inbound:
        """What a request that was verified means; raises RejectedError for one that cannot be understood."""
        ...
