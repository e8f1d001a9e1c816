"""Which hosts an integration may reach: host and port in, checked addresses or RejectedError out.

Called by the HTTP transport for every new connection and through `Network.permit` by connectors that speak something
else. The check is on the resolved addresses, and the HTTP transport connects to exactly those, so a name that resolves
differently a moment later gains nothing. Behind a proxy only the name is checked, because the proxy resolves it; the
proxy itself is a host like any other. Not done here: which connector types a workspace may use, and reading settings.
"""

import asyncio
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from reconciler.model.condition import Reason
from reconciler.sdk.errors import RejectedError, TransientError

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Addresses of a host as text, in the order to try them; raises OSError where there are none."""

# Credentials of the machine itself: AWS (EC2, ECS, EKS), Google, Azure, Alibaba, Oracle.
_METADATA_TEXT = "169.254.0.0/16 fd00:ec2::/32 fd20:ce::254/128 168.63.129.16/32 100.100.100.200/32 192.0.0.192/32"
_METADATA = tuple(map(ipaddress.ip_network, _METADATA_TEXT.split()))
_METADATA_NAMES = frozenset(
    {"metadata", "metadata.google.internal", "metadata.goog", "instance-data", "instance-data.ec2.internal"}
)
_SHARED_SPACE = ipaddress.ip_network("100.64.0.0/10")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_THIS_NETWORK = ipaddress.ip_network("0.0.0.0/8")


async def system_resolve(host: str, port: int) -> Sequence[str]:
    """The machine's resolver, asked in a thread."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))


@dataclass(frozen=True, slots=True)
class GuardSettings:
    """The daemon's own rules. Each entry is a host glob (`*.corp.example`), an address or a CIDR, with `:port` if wanted.

    `deny` always wins. `only`, where it is not empty, lists all that may be reached. `allow` opens what is refused by
    default; a host glob in it never opens metadata addresses, an address or CIDR does. IPv6 with a port is `[addr]:port`.
    """

    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    allow_private: bool = True


@dataclass(frozen=True, slots=True)
class _Rule:
    glob: str
    network: IPNetwork | None
    port: int | None

    def names(self, host: str, port: int) -> bool:
        return self.network is None and self.port in (None, port) and fnmatchcase(host, self.glob)

    def holds(self, address: IPAddress, port: int) -> bool:
        return self.network is not None and self.port in (None, port) and address in self.network


def _rule(text: str) -> _Rule:
    port = re.fullmatch(r"(?:\[([^\]]+)\]|([^:\[\]]+)):(\d+)", text)
    host = (port[1] or port[2]) if port else text.strip("[]")
    try:
        network = ipaddress.ip_network(host, strict=False)
    except ValueError:
        network = None
    return _Rule(_plain(host), network, int(port[3]) if port else None)


def _plain(host: str) -> str:
    return host.strip("[]").rstrip(".").lower()


class HostGuard:
    """Applies `GuardSettings`; safe to share between all integrations of a process."""

    def __init__(self, settings: GuardSettings, resolve: Resolve = system_resolve) -> None:
        self._allow = tuple(map(_rule, settings.allow))
        self._deny = tuple(map(_rule, settings.deny))
        self._only = tuple(map(_rule, settings.only))
        self._settings = settings
        self._resolve = resolve

    def public(self) -> "HostGuard":
        """The same rules, and private networks are closed: for what a manifest may name but need not be in the house."""
        return HostGuard(replace(self._settings, allow_private=False), self._resolve)

    async def permit(self, host: str, port: int) -> None:
        """Raises RejectedError when any address of the host is forbidden: the caller's library picks one itself."""
        for address in await self._resolved(host, port):
            self._check(host, port, address)

    async def addresses(self, host: str, port: int) -> tuple[str, ...]:
        """The permitted addresses, to connect to; raises RejectedError when there is none."""
        found = await self._resolved(host, port)
        refusals = [self._refusal(host, port, address) for address in found]
        permitted = tuple(str(a) for a, why in zip(found, refusals, strict=True) if not why)
        if not permitted:
            self._check(host, port, found[0])
        return permitted

    def check_name(self, host: str, port: int) -> None:
        """For hosts that a proxy resolves: the name, or the address where the name is one in any spelling."""
        self._check_name(host, port)
        address = _literal(host)
        if address is not None:
            self._check(host, port, address)
        elif self._only and not any(rule.names(_plain(host), port) for rule in self._only):
            raise _refused(host, port, "it is not among the hosts that the daemon's settings permit")
        elif _plain(host) == "localhost" and not any(rule.names("localhost", port) for rule in self._allow):
            raise _refused(host, port, "it is a loopback name")

    async def _resolved(self, host: str, port: int) -> Sequence[IPAddress]:
        self._check_name(host, port)
        try:
            found = await self._resolve(_plain(host), port)
        except (OSError, UnicodeError) as error:
            said = getattr(error, "strerror", None) or type(error).__name__
            raise TransientError(
                f"cannot resolve host {host}: {said}; check the spelling and the daemon's DNS"
            ) from None
        if not found:
            raise TransientError(f"cannot resolve host {host}: the name has no address")
        return [ipaddress.ip_address(text.split("%", 1)[0]) for text in found]

    def _check_name(self, host: str, port: int) -> None:
        name = _plain(host)
        if any(rule.names(name, port) for rule in self._deny):
            raise _refused(host, port, "the daemon's settings deny it")
        if name in _METADATA_NAMES and not any(rule.glob == name for rule in self._allow):
            raise _refused(host, port, "it is the cloud's metadata service")

    def _check(self, host: str, port: int, address: IPAddress) -> None:
        why = self._refusal(host, port, address)
        if why:
            raise _refused(host, port, f"{address} {why}")

    def _refusal(self, host: str, port: int, address: IPAddress) -> str:
        """Why this address of the host is refused; empty where it is permitted."""
        name, inner = _plain(host), _embedded(address)
        if any(rule.holds(a, port) for rule in self._deny for a in (address, inner)):
            return "is denied by the daemon's settings"
        if self._only and not any(rule.names(name, port) or rule.holds(inner, port) for rule in self._only):
            return "is not among the hosts that the daemon's settings permit"
        kind = self._forbidden(inner)
        if not kind or any(rule.holds(inner, port) for rule in self._allow):
            return ""
        by_name = kind != _IS_METADATA and any(rule.names(name, port) for rule in self._allow)
        return "" if by_name else kind

    def _forbidden(self, address: IPAddress) -> str:
        if any(address in network for network in _METADATA):
            return _IS_METADATA
        if address.is_loopback:
            return "is a loopback address"
        if address.is_link_local:
            return "is a link-local address"
        if address.is_unspecified or address in _THIS_NETWORK:
            return "is an unspecified address"
        if address.is_multicast or (address.version == 4 and address.is_reserved):
            return "is a multicast, broadcast or reserved address"
        if not self._settings.allow_private and _is_private(address):
            return "is a private address"
        return ""


def _is_private(address: IPAddress) -> bool:
    if isinstance(address, ipaddress.IPv6Address) and (address.is_site_local or address.is_reserved):
        return True
    return address.is_private or address in _SHARED_SPACE


_IS_METADATA = "is a link-local or cloud metadata address"


def _embedded(address: IPAddress) -> IPAddress:
    """The IPv4 address that an IPv6 one stands for (mapped, NAT64, 6to4), else the address itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address


def _literal(host: str) -> IPAddress | None:
    """The address that a host spells, also as `127.1`, `0x7f000001` or `2130706433`, as a proxy would read it."""
    text = host.strip("[]")
    try:
        return ipaddress.ip_address(text.split("%", 1)[0])
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(text)) if re.fullmatch(r"[0-9a-fA-FxX.]+", text) else None
    except OSError:
        return None


def _refused(host: str, port: int, why: str) -> RejectedError:
    return RejectedError(
        f"host {host}:{port} is not permitted: {why}; whoever runs the daemon can allow it with hosts.allow in its settings",
        reason=Reason.HOST_NOT_PERMITTED,
    )
