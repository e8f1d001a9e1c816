"""How often one caller may ask, and how often one address may be wrong about a token.

In: who asks and from where. Out: what is left, or `ProblemError` 429. `admission` calls it for each request, so everything here
takes the same short time however many there are; what is remembered is this process's, and bounded.
"""

import math
from collections import OrderedDict
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from starlette.types import Scope

from reconciler.model.clock import Clock
from reconciler.serve.buckets import MOST_KEPT, Buckets, Flow
from reconciler.serve.problem import SAID, ProblemError

FAILURES, FAILURES_WINDOW = 10, 60.0
WRONG = Flow(FAILURES / FAILURES_WINDOW, FAILURES)
"""How often an address may be wrong about what opens something."""
MOST_DEBT = 5 * FAILURES


class Limits:
    """`rate` None: callers may ask as often as they like. `proxies`: addresses and networks whose word on whence is believed."""

    def __init__(self, clock: Clock, rate: Flow | None = None, proxies: Sequence[str] = ()) -> None:
        self._rate = rate
        self._callers = Buckets(clock)
        self._failures = Buckets(clock)
        self._proxies = tuple(ip_network(text, strict=False) for text in proxies)
        self._familiar: OrderedDict[tuple[str, str], None] = OrderedDict()

    def request(self, scope: Scope, identity: str) -> None:
        """What the answer is to say of the limit is left in the scope; raises ProblemError (429)."""
        if self._rate is None:
            return
        left = self._callers.take(identity, self._rate)
        scope[SAID] = left.headers
        if left.wait:
            raise too_many("this token asks more often than the daemon's settings permit (api.rate)", left.retry_after)

    def attempt(self, source: str, sha256: str) -> None:
        """Before a token is looked at. Raises ProblemError (429) where too many from there opened nothing.

        A token that was right from the same address stays welcome there, so that whoever guesses behind a proxy or a shared
        address keeps out nobody but newcomers.
        """
        if source and (source, sha256) not in self._familiar:
            wait = self._failures.wait(source, WRONG)
            if wait:
                raise too_many(
                    "too many requests with tokens that open nothing came from this address", math.ceil(wait)
                )

    def right(self, source: str, sha256: str) -> None:
        self._familiar[source, sha256] = None
        self._familiar.move_to_end((source, sha256))
        if len(self._familiar) > MOST_KEPT:
            self._familiar.popitem(last=False)

    def wrong(self, source: str, sha256: str) -> None:
        """Counted when it is known, not before: many newcomers at once are no guesses. Guesses at once are paid for later."""
        self._familiar.pop((source, sha256), None)
        if source:
            self._failures.charge(source, WRONG, MOST_DEBT)

    def source(self, scope: Scope) -> str:
        """The address that counts as the asker's: the last one on the way that is no proxy of ours; of IPv6 the network."""
        client = scope.get("client")
        address = client[0] if client else ""
        if self._proxies and self._is_proxy(address):
            said = b",".join(value for name, value in scope["headers"] if name == b"x-forwarded-for")
            for part in reversed(said.decode("latin-1").split(",")):
                if _parsed(part) is None:
                    break
                address = part.strip()
                if not self._is_proxy(address):
                    break
        return _network(address) if ":" in address else address

    def _is_proxy(self, address: str) -> bool:
        parsed = _parsed(address)
        return parsed is not None and any(parsed in network for network in self._proxies)


def _parsed(address: str) -> IPv4Address | IPv6Address | None:
    """An IPv4 address that came over an IPv6 socket is one all the same."""
    try:
        found = ip_address(address.strip())
    except ValueError:
        return None
    return (found.ipv4_mapped or found) if isinstance(found, IPv6Address) else found


def _network(address: str) -> str:
    """Whoever has one IPv6 address has the 2**64 beside it."""
    parsed = _parsed(address)
    return str(ip_network((int(parsed) >> 64 << 64, 64)) if isinstance(parsed, IPv6Address) else parsed or address)


def too_many(message: str, seconds: int) -> ProblemError:
    return ProblemError(
        429, "rate-limited", f"{message}; ask again in {seconds} s", headers={"retry-after": str(seconds)}
    )
