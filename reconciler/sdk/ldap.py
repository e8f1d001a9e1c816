"""LDAP for connectors: one bound connection, its searches, and its results as they were sent.

In: a `Server` and the room's network. Out: entries as bytes, a page at a time, or errors of `reconciler.sdk.errors`.
Called by connectors of directories. bonsai (the extra `ldap`) is imported on first use and worked around where it would
lose records or time: its asyncio mode polls with a full core while the server thinks, so it runs in synchronous mode in
one thread per connection; an answer that comes while another is waited for is lost, so there is one question at a time;
it turns values such as `+15550101` into numbers unless their attribute was declared raw; it reads a base that lies on
another server as empty; it keeps result codes on the class. Deliberately not done: writes, following referrals, change
feeds, controls (bonsai takes none from outside).
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

from reconciler.sdk.contract import Network
from reconciler.sdk.errors import ConnectorError, RejectedError, TransientError
from reconciler.sdk.ldap_client import Server, client_of, connect, reach
from reconciler.sdk.ldap_codes import OUT_OF_REACH, error_of

T = TypeVar("T")
Values = Mapping[str, Sequence[bytes | str]]
"""Attribute -> values as received; text only where bonsai was not told of the name beforehand."""
PAGED_RESULTS = "1.2.840.113556.1.4.319"
_BASE, _SUBTREE = 0, 2


@dataclass(frozen=True, slots=True)
class Entry:
    dn: str
    values: Values


class Session:
    """A bound connection. Close it; a call that hangs ends at the timeout, and closing does not wait for it."""

    def __init__(self, server: Server, network: Network) -> None:
        self.host = urlsplit(server.url).netloc
        self._server = server
        self._network = network
        self._timeout = server.timeout.total_seconds()
        self._client = client_of(server, network)
        self._thread = ThreadPoolExecutor(1, "ldap")
        self._conn: Any = None
        self._is_paging = False

    @classmethod
    async def open(cls, server: Server, network: Network) -> Self:
        """Connect, secure and bind. Raises UnauthorizedError for a refused credential, TLS_FAILED for the certificate."""
        await network.permit(*server.address)
        session = cls(server, network)
        try:
            await session._bind()
        except BaseException:
            session.close()
            raise
        return session

    async def another(self) -> "Session":
        """A second connection to the very same server."""
        return await Session.open(self._server, self._network)

    async def _bind(self) -> None:
        distrust = await reach(self._server, self._network)
        try:
            self._conn = await self._run(lambda: connect(self._client, self._server), binding=True)
        except (TransientError, RejectedError):
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
        self._refuse_to_lose_a_page()
        return await self._run(lambda: self._entry_at(dn, names))

    async def look_each(self, dns: Iterable[str], names: Sequence[str]) -> Mapping[str, Values | None]:
        """The same for several entries, one after the other; None also where a right is missing or the DN is malformed."""
        from bonsai import LDAPError

        def entry_at(dn: str) -> Values | None:
            try:
                return self._entry_at(dn, names)
            except LDAPError as error:
                if error.code not in OUT_OF_REACH:
                    raise
                return None

        self._refuse_to_lose_a_page()
        return await self._run(lambda: {dn: entry_at(dn) for dn in dns})

    def _entry_at(self, dn: str, names: Sequence[str]) -> Values | None:
        self._client.set_raw_attributes(list(names))
        found = self._conn.search(dn, _BASE, "(objectClass=*)", list(names), self._timeout)
        return _entry(found[0]).values if found else None

    def _refuse_to_lose_a_page(self) -> None:
        if self._is_paging:
            raise RuntimeError("a page is under way on this connection and would be lost: look on another one")

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
        self._is_paging = True
        try:
            while True:
                at = waiting
                entries, waiting = await self._run(lambda at=at: take(at))  # type: ignore[misc]
                yield entries, waiting is None
                if waiting is None:
                    return
        finally:
            self._is_paging = False


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
