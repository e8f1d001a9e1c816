"""LDAP for connectors: one bound connection, its searches, and what result codes mean.

In: a `Server` and the room's network. Out: entries as bytes, a page at a time, or errors of `reconciler.sdk.errors`.
Called by connectors of directories. bonsai (the extra `ldap`) is imported on first use and worked around where it would
lose records or time: its asyncio mode polls with a full core while the server thinks, so it runs in synchronous mode in
one thread per connection; it keeps the interpreter's lock while it connects and binds, which would stop the whole daemon
for a server that does not answer, so whether one answers is asked without it first; it turns values such as `+15550101`
into numbers unless their attribute was declared raw; it reads a base that lies on another server as empty; it keeps result
codes on the class. Deliberately not done: writes, following referrals, change feeds, GSSAPI.
"""

import asyncio
import re
import ssl
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

from reconciler.model.condition import Reason
from reconciler.model.secret import Secret
from reconciler.sdk.contract import Network
from reconciler.sdk.errors import (
    ConnectorError,
    ForbiddenError,
    RejectedError,
    TransientError,
    UnauthorizedError,
    UnsupportedError,
)
from reconciler.sdk.network import tls_refusal

T = TypeVar("T")
Values = Mapping[str, Sequence[bytes | str]]
"""Attribute -> values as received; text only where bonsai was not told of the name beforehand."""
PAGED_RESULTS = "1.2.840.113556.1.4.319"
_BASE, _SUBTREE = 0, 2
# A search of the root entry for no attribute, message 1 (RFC 4511 section 5.1): any server answers, if only that it will not.
_PING = bytes.fromhex("302a02010163250400 0a0100 0a0100 020100 020100 010100 870b6f626a656374436c617373 30050403312e31")
_SYSTEM_CA = "/etc/ssl/certs/ca-certificates.crt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where and as whom. Without a password the client certificate says who we are (SASL EXTERNAL)."""

    url: str
    start_tls: bool
    bind_dn: str = ""
    password: Secret | None = None
    ignores_referrals: bool = False
    timeout: timedelta = timedelta(seconds=30)

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or (636 if parts.scheme == "ldaps" else 389)


@dataclass(frozen=True, slots=True)
class Entry:
    dn: str
    values: Values


class Session:
    """A bound connection. Close it; a call that hangs ends at the timeout, and closing does not wait for it."""

    def __init__(self, server: Server, client: Any) -> None:
        self.host = urlsplit(server.url).netloc
        self._timeout = server.timeout.total_seconds()
        self._client = client
        self._thread = ThreadPoolExecutor(1, "ldap")
        self._conn: Any = None

    @classmethod
    async def open(cls, server: Server, network: Network) -> Self:
        """Connect, secure and bind. Raises UnauthorizedError for a refused credential, TLS_FAILED for the certificate."""
        await network.permit(*server.address)
        session = cls(server, _client(server, network))
        try:
            await session._bind(server, network)
        except BaseException:
            session.close()
            raise
        return session

    async def _bind(self, server: Server, network: Network) -> None:
        distrust = await _reach(server, network)
        try:
            self._conn = await self._run(lambda: self._client.connect(timeout=self._timeout), binding=True)
        except TransientError:
            if distrust is not None:
                raise distrust from None
            raise

    def close(self) -> None:
        self._thread.submit(lambda: self._conn and self._conn.close())
        self._thread.shutdown(wait=False)

    async def _run(self, call: Callable[[], T], *, binding: bool = False) -> T:
        from bonsai import LDAPError

        def guarded() -> T | ConnectorError:
            # The code is a class attribute that the next error overwrites, so it is read here and now.
            try:
                return call()
            except LDAPError as error:
                return error_of(error.code, str(error.args[0]) if error.args else "", self.host, binding=binding)

        outcome = await asyncio.get_running_loop().run_in_executor(self._thread, guarded)
        if isinstance(outcome, ConnectorError):
            raise outcome
        return outcome

    async def who_am_i(self) -> str:
        return str(await self._run(lambda: self._conn.whoami(timeout=self._timeout)))

    async def look(self, dn: str, names: Sequence[str]) -> Values | None:
        """These attributes of one entry; None where it does not exist, lies on another server or may not be seen."""

        def search() -> Values | None:
            self._client.set_raw_attributes(list(names))
            found = self._conn.search(dn, _BASE, "(objectClass=*)", list(names), self._timeout)
            return _entry(found[0]).values if found else None

        return await self._run(search)

    async def require_base(self, dn: str) -> None:
        """Ask before every full search: a base on another server would read as empty."""
        if await self.look(dn, ["1.1"]) is None:
            raise RejectedError(
                f"{self.host}: {dn} does not exist, is on another server, or the account may not see it; check base_dn"
            )

    async def pages(
        self, base: str, filter_text: str, names: Sequence[str], size: int
    ) -> AsyncGenerator[tuple[tuple[Entry, ...], bool], None]:
        """Entries of the subtree page by page and whether it was the last; the server already works on the next one."""

        def ask() -> Any:
            return self._conn.paged_search(base, _SUBTREE, filter_text, list(names), self._timeout, page_size=size)

        def take(waiting: int | None) -> tuple[tuple[Entry, ...], int | None]:
            self._client.set_raw_attributes(list(names))
            found = ask() if waiting is None else self._conn.get_result(waiting, self._timeout)
            return _entries(found), found.acquire_next_page()

        waiting: int | None = None
        while True:
            at = waiting
            entries, waiting = await self._run(lambda at=at: take(at))  # type: ignore[misc]
            yield entries, waiting is None
            if waiting is None:
                return


def _client(server: Server, network: Network) -> Any:
    try:
        import bonsai
    except ImportError:
        raise UnsupportedError(
            "the LDAP library is not installed: pip install 'reconciler[ldap]'; it is built on the spot and needs, on "
            "Debian, apt-get install gcc python3-dev libldap-dev libsasl2-dev libkrb5-dev"
        ) from None
    client = bonsai.LDAPClient(server.url, tls=server.start_tls)
    client.set_cert_policy("demand")
    # libldap takes one file, so an authority of our own stands in place of the system's, not beside them.
    client.set_ca_cert(network.ca_file or ssl.get_default_verify_paths().cafile or _SYSTEM_CA)
    if network.client_cert:
        certificate, key = network.client_cert
        client.set_client_cert(certificate)
        client.set_client_key(key)
    if server.password is None:
        client.set_credentials("EXTERNAL")
    elif not server.password:
        raise UnauthorizedError("the password is empty: directories take that for an anonymous bind")
    else:
        client.set_credentials("SIMPLE", user=server.bind_dn, password=server.password.reveal())
    client.set_auto_page_acquire(False)
    client.set_ignore_referrals(server.ignores_referrals)
    return client


def _entry(found: Any) -> Entry:
    return Entry(str(found.dn), {name: tuple(values) for name, values in found.items() if name != "dn"})


def _entries(found: Iterable[Any]) -> tuple[Entry, ...]:
    from bonsai import LDAPReference

    entries = tuple(found)
    elsewhere = next((e for e in entries if isinstance(e, LDAPReference)), None)
    if elsewhere is not None:
        raise RejectedError(
            f"a part of the tree is on another server ({', '.join(map(str, elsewhere.references))}), which is not "
            "followed: give that server an integration of its own and set ignore_referrals here"
        )
    return tuple(map(_entry, entries))


async def _reach(server: Server, network: Network) -> RejectedError | None:
    """See that the server answers. Returns what is wrong with its certificate, of which libldap says nothing."""
    (host, port), is_tls = server.address, server.url.startswith("ldaps:")
    context = await asyncio.to_thread(network.tls) if is_tls else None
    where = f"{host}:{port}"
    try:
        async with asyncio.timeout(server.timeout.total_seconds()):
            reader, writer = await asyncio.open_connection(host, port, ssl=context)
            try:
                writer.write(_PING)
                await reader.read(1)
            finally:
                writer.transport.abort()  # a polite end of TLS would keep the socket until the server answers
                await asyncio.sleep(0)
    except ssl.SSLError as error:
        if refused := tls_refusal(error, where):
            return refused
        raise TransientError(f"{where}: the TLS handshake broke off") from None
    except TimeoutError:
        raise error_of(-5, "Timed out", where) from None
    except OSError as error:
        raise error_of(-1, error.strerror or str(error), where) from None
    return None


_AD_SIGN_IN = {
    "525": "the account does not exist",
    "52e": "wrong password",
    "530": "the account may not sign in at this hour",
    "531": "the account may not sign in from this machine",
    "532": "the password has expired",
    "533": "the account is disabled",
    "701": "the account has expired",
    "773": "the password must be changed first",
    "775": "the account is locked",
}
_TRUST = "TLS failed: the certificate must come from a trusted authority (ca_file) and name this very host"
_SIZE = "the size limit cut the search; let the account page through all (OpenLDAP: limits ... size.prtotal=unlimited)"
_CODES: Mapping[int, tuple[type[ConnectorError], Reason | None, str]] = {
    -11: (RejectedError, Reason.TLS_FAILED, _TRUST),
    -7: (RejectedError, None, "the filter is malformed"),
    -6: (UnauthorizedError, None, "the server does not take this kind of sign-in"),
    -5: (TransientError, Reason.TIMED_OUT, "no answer in time"),
    -1: (TransientError, None, "cannot be reached, or the connection was lost"),
    2: (RejectedError, Reason.PROTOCOL_ERROR, "the server does not support what was asked"),
    3: (TransientError, Reason.TIMED_OUT, "the server's time limit cut the search; index the change time there"),
    4: (RejectedError, None, _SIZE),
    7: (UnauthorizedError, None, "the server does not take this kind of sign-in"),
    8: (RejectedError, None, "the server demands TLS: use ldaps:// or start_tls"),
    11: (RejectedError, None, "an administrative limit cut the search; the account needs higher limits"),
    32: (RejectedError, None, "the base does not exist; check base_dn"),
    34: (RejectedError, None, "a DN is malformed; check base_dn"),
    48: (UnauthorizedError, None, "the server does not take this kind of sign-in"),
    49: (UnauthorizedError, None, "wrong bind_dn or password"),
    50: (ForbiddenError, None, "the account may not read this"),
    51: (TransientError, None, "the server is busy"),
    52: (TransientError, None, "the server is unavailable"),
    53: (RejectedError, None, "the server is unwilling to do this"),
    80: (TransientError, None, "the server met an internal error"),
}


def error_of(code: int, said: str, host: str, *, binding: bool = False) -> ConnectorError:
    """What a result code means: RFC 4511, below zero libldap's own. `said` is the server's text, never a password.

    Active Directory says in its text why it refused: `AcceptSecurityContext error, data 52e`.
    """
    kind, reason, meaning = _CODES.get(code, (RejectedError, None, "the server refused"))
    if binding and code == 34:
        kind, meaning = UnauthorizedError, "bind_dn is malformed"
    told = re.search(r"\bdata ([0-9a-f]{3})\b", said) if code == 49 else None
    if told:
        meaning = _AD_SIGN_IN.get(told[1], meaning)
    return kind(f"{host}: {meaning} ({said.rstrip('. ')})", reason=reason, detail={"result_code": code})
