"""TLS, proxy and host rules of one integration: settings in, `Network` out.

Made by the composition root for every integration; used by the HTTP transport and handed to connectors as
`room.network`. Contexts are shared between integrations with equal TLS settings, because loading the system's trust
store costs milliseconds and half a megabyte. Not done here: connections, and deciding which files a tenant may name.
"""

import ipaddress
import re
import ssl
import threading
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from reconciler.model.condition import Reason
from reconciler.sdk.errors import RejectedError
from reconciler.sdk.guard import HostGuard


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSettings:
    """`ca_file` (PEM) is trusted besides the system's authorities. `no_proxy` entries: `*`, domain, address or CIDR.

    `client_key` is empty where the key is inside `client_cert`. `proxy` may hold userinfo, so it is not shown in a repr.
    """

    proxy: str = field(default="", repr=False)
    no_proxy: tuple[str, ...] = ()
    ca_file: str = ""
    client_cert: str = ""
    client_key: str = ""
    connect_timeout: timedelta = timedelta(seconds=10)
    read_timeout: timedelta = timedelta(seconds=60)


class TlsContexts:
    """Client contexts by what they are made of; a file that changed on disk makes a new one."""

    def __init__(self) -> None:
        self._kept: dict[tuple[tuple[str, int], ...], ssl.SSLContext] = {}
        self._lock = threading.Lock()  # connectors are made in threads

    def of(self, settings: NetworkSettings) -> ssl.SSLContext:
        """Reads files on the first call; raises RejectedError (TLS_FAILED) naming the setting that is wrong."""
        named = (
            ("ca_file", settings.ca_file),
            ("client_cert", settings.client_cert),
            ("client_key", settings.client_key),
        )
        key = tuple((path, _changed_at(setting, path)) for setting, path in named)
        with self._lock:
            if key not in self._kept:
                self._kept = {k: v for k, v in self._kept.items() if _paths(k) != _paths(key)}
                self._kept[key] = _context(settings)
            return self._kept[key]


def _paths(key: tuple[tuple[str, int], ...]) -> tuple[str, ...]:
    return tuple(path for path, _ in key)


def _changed_at(setting: str, path: str) -> int:
    try:
        return Path(path).stat().st_mtime_ns if path else 0
    except OSError as error:
        raise _unusable(setting, path, error.strerror or "not readable") from None


def _context(settings: NetworkSettings) -> ssl.SSLContext:
    context = ssl.create_default_context()
    paths = ssl.get_default_verify_paths()
    if not (paths.cafile or paths.capath):
        # A slim image without ca-certificates; httpx brings certifi.
        import certifi

        context.load_verify_locations(certifi.where())
    if settings.ca_file:
        try:
            context.load_verify_locations(settings.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise _unusable("ca_file", settings.ca_file, _said(error)) from None
    if settings.client_cert:
        try:
            # A password is refused instead of asked for on the terminal.
            context.load_cert_chain(settings.client_cert, settings.client_key or None, password=lambda: b"")
        except (OSError, ssl.SSLError, ValueError) as error:
            raise _unusable("client_cert", settings.client_cert, _said(error)) from None
    return context


def _said(error: Exception) -> str:
    return getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__


def _unusable(setting: str, path: str, why: str) -> RejectedError:
    return RejectedError(
        f"{setting} {path} cannot be used: {why}; it must be a readable PEM file without a password",
        reason=Reason.TLS_FAILED,
    )


def tls_refusal(error: ssl.SSLError, host: str) -> RejectedError | None:
    """What no retry mends; None for a handshake that merely broke."""
    reason = error.reason or ""
    if isinstance(error, ssl.SSLCertVerificationError):
        why = f"the certificate is not accepted: {error.verify_message}; for a private CA set ca_file to its PEM file"
    elif "CERTIFICATE_REQUIRED" in reason or "BAD_CERTIFICATE" in reason or "UNKNOWN_CA" in reason:
        why = f"the remote does not accept our certificate ({reason}): set client_cert and client_key"
    elif "WRONG_VERSION_NUMBER" in reason or "RECORD_LAYER_FAILURE" in reason:
        why = "the port does not speak TLS: check port and scheme, and whether it begins in clear (STARTTLS)"
    elif "ALERT" in reason or "UNSUPPORTED_PROTOCOL" in reason or "NO_CIPHERS" in reason:
        why = f"the remote ended the handshake: {reason}; if it asks for a client certificate: set client_cert and client_key"
    else:
        return None
    return RejectedError(f"TLS with {host} failed: {why}", reason=Reason.TLS_FAILED)


class GuardedNetwork:
    """`Network` for connectors, and what the HTTP transport needs besides."""

    def __init__(self, settings: NetworkSettings, guard: HostGuard, contexts: TlsContexts) -> None:
        self.settings = settings
        self.guard = guard
        self._contexts = contexts

    def tls(self) -> ssl.SSLContext:
        return self._contexts.of(self.settings)

    @property
    def ca_file(self) -> str | None:
        return self.settings.ca_file or None

    @property
    def client_cert(self) -> tuple[str, str] | None:
        cert = self.settings.client_cert
        return (cert, self.settings.client_key or cert) if cert else None

    async def permit(self, host: str, port: int) -> None:
        await self.guard.permit(host, port)

    def uses_proxy(self, host: str, port: int) -> bool:
        """Whether requests to this host go through the proxy."""
        return bool(self.settings.proxy) and not any(_bypasses(r, host, port) for r in self.settings.no_proxy)


def _bypasses(rule: str, host: str, port: int) -> bool:
    """One entry of NO_PROXY as curl and Go read it: a domain also means everything below it."""
    rule, host = rule.strip().lower(), host.strip("[]").rstrip(".").lower()
    if rule == "*":
        return True
    with_port = re.fullmatch(r"(?:\[([^\]]+)\]|([^:\[\]]+)):(\d+)", rule)
    if with_port:
        if int(with_port[3]) != port:
            return False
        rule = with_port[1] or with_port[2]
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(rule.strip("[]"), strict=False)
    except ValueError:
        domain = rule.removeprefix("*").lstrip(".").rstrip(".")
        return bool(domain) and (host == domain or host.endswith("." + domain))
