"""People and groups of an LDAP directory: OpenLDAP and its kin, or Active Directory. Read only, no channels.

In: settings and a bind credential. Out: pages of records `{"id", "dn", attribute: [values]}`; `id` is entryUUID or
objectGUID, so a rename moves nothing, and `manager_id` is that of the entry which `manager` names. The values of an
attribute are a set in LDAP, hence sorted; bytes are base64. Only named attributes are read, so no password hash ever comes
along and a record's shape does not depend on rights.
Deletions are absence from a complete full run, or from a listing of identities alone, which asks for no other attribute but
the change time. Not done, because the library can send neither their controls nor any of
our own: change feeds (syncrepl, DirSync) and Active Directory's tombstones. Not done either: writes.
"""

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from datetime import timedelta

from connectors.hr_ldap.flavours import FLAVOURS, as_text
from connectors.hr_ldap.lookups import Lookups, complete
from connectors.hr_ldap.records import BINARY, View, time_of
from connectors.hr_ldap.settings import MAX_PAGE, CertificateAuth, Config, ExternalAuth, SimpleAuth, Source
from reconciler.model.record import LogLevel, Page, ReadRequest, Scope
from reconciler.sdk.contract import Connector, Deletes, Entity, Probe, Right
from reconciler.sdk.errors import ForbiddenError, TransientError, UnsupportedError
from reconciler.sdk.ldap import PAGED_RESULTS, Entry, Session
from reconciler.sdk.ldap_client import Certificate, External, Server, Simple

_ROOT = ("supportedControl", "vendorName", "vendorVersion", "currentTime")


class HrLdap(Connector[Config, SimpleAuth | CertificateAuth | ExternalAuth]):
    type = "hr_ldap"
    title = "HR directory (LDAP)"
    docs_url = "https://www.rfc-editor.org/rfc/rfc4510"
    Config = Config
    auth_types = (SimpleAuth, CertificateAuth, ExternalAuth)
    # The overlap covers replicas that lag and clocks that differ; change times have a resolution of one second.
    entities = tuple(
        Entity(
            name=name, title=title, cursor="modifyTimestamp", overlap=timedelta(minutes=15), page_size=500,
            deletes=Deletes.KEYS,
            rights=("search and read the subtree, entryUUID and modifyTimestamp (AD: objectGUID and whenChanged)",),
        )
        for name, title in (("people", "People"), ("groups", "Groups with their members"))
    )  # fmt: skip

    async def probe(self) -> Probe:
        async with self._session() as session:
            root = await session.look("", _ROOT) or {}
            said = {name: [as_text(v) for v in values] for name, values in root.items()}
            if PAGED_RESULTS not in said.get("supportedControl", ()):
                raise UnsupportedError(
                    f"{session.host} offers no paged results ({PAGED_RESULTS}); a full read needs them"
                )
            found = {e.name: await self._shown(session, e) for e in self.entities}
            remote_now = time_of(*said.get("currentTime", [""]))
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
        is_keys = request.scope is Scope.KEYS
        view = replace(view, attributes=(), link="") if is_keys else view
        since = view.since(request, entity.overlap)
        size = min(request.page_size or self.config.page_size, MAX_PAGE)
        number = 0
        async with self._session() as session, aclosing(Lookups(session.another, view.flavour)) as lookups:
            # A paging cookie dies with its connection, so a resumed run begins again with the first page.
            await session.require_base(view.base_dn)
            async for entries, is_last in session.pages(view.base_dn, since, view.wire_names, size):
                number += 1
                position = None if is_last else {"page": number}
                if is_keys:
                    yield view.keys(entries, position)
                    continue
                whole = [Entry(e.dn, await complete(e, lookups.look)) for e in entries]
                yield view.page(whole, await lookups.ids(view.linked(whole)), position)

    def _view(self, entity: Entity) -> View:
        source: Source = getattr(self.config, entity.name)
        flavour = FLAVOURS[self.config.flavour]
        attributes = source.attributes or flavour.attributes[entity.name]
        link = "manager" if entity.name == "people" else "member" if self.config.member_ids else ""
        return View(
            flavour=flavour,
            base_dn=source.base_dn or self.config.base_dn,
            filter=source.filter or flavour.filters[entity.name],
            attributes=attributes,
            single=frozenset(n.lower() for n in self.config.single_valued),
            binary=frozenset(n.lower() for n in self.config.binary) | BINARY,
            link=link if link in {n.lower() for n in attributes} else "",
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
        return Server(
            url=url,
            start_tls=self.config.start_tls,
            sign_in=self._sign_in(),
            ignores_referrals=FLAVOURS[self.config.flavour].ignores_referrals if ignores is None else ignores,
            timeout=timedelta(seconds=self.config.timeout_seconds),
        )

    def _sign_in(self) -> Simple | External:
        match self.auth:
            case SimpleAuth(bind_dn=dn, password=password):
                return Simple(dn, password)
            case CertificateAuth(certificate=certificate, private_key=key):
                return External(Certificate(certificate, key))
            case ExternalAuth():
                return External()
