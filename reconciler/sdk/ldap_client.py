"""Reaching a directory and signing in: what bonsai needs for it, and what it leaves unsaid.

In: a `Server` and the room's network. Out: a bound connection of bonsai's, or errors of `reconciler.sdk.errors`. Called by
`reconciler.sdk.ldap`. bonsai keeps the interpreter's lock while it connects and binds, which would stop the whole daemon
for a server that does not answer, so `reach` asks first, up to the end of the TLS handshake; it also learns what is wrong
with a certificate, which libldap never says. Deliberately not done: GSSAPI (docs/design.md says why).
"""

import asyncio
import os
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from reconciler.model.condition import Reason
from reconciler.model.secret import Secret
from reconciler.sdk.contract import Network
from reconciler.sdk.errors import RejectedError, TransientError, UnauthorizedError, UnsupportedError
from reconciler.sdk.ldap_codes import TIMED_OUT, UNREACHABLE, error_of
from reconciler.sdk.network import tls_refusal

# A search of the root entry for no attribute, message 1 (RFC 4511 section 5.1): any server answers, if only that it will not.
_PING = bytes.fromhex("302a02010163250400 0a0100 0a0100 020100 020100 010100 870b6f626a656374436c617373 30050403312e31")
_START_TLS = bytes.fromhex("301d02010177188016") + b"1.3.6.1.4.1.1466.20037"
_DONE = bytes.fromhex("0a0100")  # in a short answer: result code 0
_BROKEN_OFF = "the server broke off the TLS handshake; perhaps it demands a client certificate, or does not accept ours"
_SYSTEM_CA = "/etc/ssl/certs/ca-certificates.crt"


@dataclass(frozen=True, slots=True)
class Simple:
    """A name and its password."""

    bind_dn: str
    password: Secret


@dataclass(frozen=True, slots=True)
class Certificate:
    """PEM texts."""

    chain: str
    key: Secret


@dataclass(frozen=True, slots=True)
class External:
    """SASL EXTERNAL: the client certificate says who we are; without one of its own that of the network."""

    certificate: Certificate | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    url: str
    start_tls: bool
    sign_in: Simple | External
    ignores_referrals: bool = False
    timeout: timedelta = timedelta(seconds=30)

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or (636 if parts.scheme == "ldaps" else 389)

    @property
    def is_ldaps(self) -> bool:
        return self.url.startswith("ldaps:")

    @property
    def certificate(self) -> Certificate | None:
        return self.sign_in.certificate if isinstance(self.sign_in, External) else None


def client_of(server: Server, network: Network) -> Any:
    """A client of bonsai's, not connected yet."""
    try:
        import bonsai
    except ImportError:
        raise UnsupportedError(
            "the LDAP library is not installed: pip install 'reconciler[ldap]'; it is built on the spot and needs, on "
            "Debian, apt-get install gcc python3-dev libldap-dev libsasl2-dev libkrb5-dev"
        ) from None
    client = bonsai.LDAPClient(server.url, tls=server.start_tls and not server.is_ldaps)
    client.set_cert_policy("demand")
    client.set_ca_cert(_trusted(network))
    if network.client_cert:
        certificate, key = network.client_cert
        client.set_client_cert(certificate)
        client.set_client_key(key)
    match server.sign_in:
        case External():
            if server.certificate is None and network.client_cert is None:
                raise UnauthorizedError(
                    "there is no client certificate to sign in with: set client_cert_file and client_key_file in "
                    "spec.network, or sign in with type client_certificate"
                )
            client.set_credentials("EXTERNAL")
        case Simple(bind_dn=dn, password=password):
            if not password:
                raise UnauthorizedError("the password is empty: directories take that for an anonymous bind")
            client.set_credentials("SIMPLE", user=dn, password=password.reveal())
    client.set_auto_page_acquire(False)
    client.set_ignore_referrals(server.ignores_referrals)
    return client


def connect(client: Any, server: Server) -> Any:
    """Blocks. Raises bonsai's errors."""
    with ExitStack() as held:
        if server.certificate:
            client.set_client_cert(held.enter_context(_path_of(server.certificate.chain)))
            client.set_client_key(held.enter_context(_path_of(server.certificate.key.reveal())))
        return client.connect(timeout=server.timeout.total_seconds())


def _trusted(network: Network) -> str:
    """libldap takes one file, so an authority of our own stands in place of the system's, not beside them."""
    return network.ca_file or ssl.get_default_verify_paths().cafile or _SYSTEM_CA


@contextmanager
def _path_of(text: str) -> Iterator[str]:
    """A file that holds it, for libraries that take nothing else: in memory, for us alone, gone afterwards or with us."""
    if not hasattr(os, "memfd_create"):
        raise UnsupportedError(
            "certificate and private_key in spec.auth need Linux; elsewhere use type external with client_cert_file and "
            "client_key_file in spec.network"
        )
    descriptor = os.memfd_create("secret")
    try:
        os.fchmod(descriptor, 0o600)
        os.write(descriptor, text.encode())
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


async def reach(server: Server, network: Network) -> RejectedError | None:
    """See that the server answers, in the end over TLS. Returns what is wrong with its certificate or with ours."""
    host, port = server.address
    where = f"{host}:{port}"
    context = await asyncio.to_thread(_context, server, network) if server.is_ldaps or server.start_tls else None
    try:
        async with asyncio.timeout(server.timeout.total_seconds()):
            await _ping(server, context)
    except ssl.SSLError as error:
        if not isinstance(error, ssl.SSLEOFError) and (refused := tls_refusal(error, where)):
            return refused
        raise TransientError(f"{where}: {_BROKEN_OFF}", reason=Reason.TLS_FAILED) from None
    except TimeoutError:
        raise error_of(TIMED_OUT, "Timed out", where) from None
    except OSError as error:
        raise error_of(UNREACHABLE, error.strerror or str(error), where) from None
    return None


async def _ping(server: Server, context: ssl.SSLContext | None) -> None:
    host, port = server.address
    reader, writer = await asyncio.open_connection(host, port, ssl=context if server.is_ldaps else None)
    try:
        if context and not server.is_ldaps:
            writer.write(_START_TLS)
            if _DONE not in await reader.read(4096):
                return  # the server will not; bonsai asks once more and says why
            await writer.start_tls(context, server_hostname=host)
        writer.write(_PING)
        if not await _is_answered(reader) and context:
            raise ssl.SSLEOFError  # OpenLDAP gives no reason when it dislikes a certificate
    finally:
        writer.transport.abort()  # a polite end of TLS would keep the socket until the server answers
        await asyncio.sleep(0)


async def _is_answered(reader: asyncio.StreamReader) -> bool:
    try:
        return bool(await reader.read(1))
    except ConnectionError:
        return False


def _context(server: Server, network: Network) -> ssl.SSLContext:
    context = network.tls()
    if server.certificate is None:
        return context
    context = ssl.create_default_context()
    if network.ca_file:
        context.load_verify_locations(network.ca_file)
    with _path_of(server.certificate.chain) as chain, _path_of(server.certificate.key.reveal()) as key:
        try:
            # A password is refused instead of asked for on the terminal.
            context.load_cert_chain(chain, key, password=lambda: b"")
        except (OSError, ssl.SSLError, ValueError) as error:
            why = getattr(error, "reason", None) or type(error).__name__
            raise UnauthorizedError(
                f"certificate and private_key in spec.auth cannot be used ({why}): they must be PEM, belong together, and "
                "the key must have no password"
            ) from None
    return context
