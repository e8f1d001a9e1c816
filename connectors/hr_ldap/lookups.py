"""Single entries beside a scan: ids of the entries that DNs stand for, and the rest of values that come in slices.

In: DNs found in a page. Out: ids, None for what does not exist or may not be seen; any other failure is raised, so that a
server in trouble never looks like a manager who left. Called by the connector for every page. Has connections of its own,
because the library loses the page that is under way when something else is asked on its connection.
"""

import asyncio
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from connectors.hr_ldap.flavours import Flavour
from reconciler.sdk.errors import TransientError
from reconciler.sdk.ldap import Entry, Session, Values

LANES = 4  # connections at most
BATCH = 50  # questions of one thread in a row: what a cancelled run waits for at most
KEPT = 10_000  # ids in memory: some 3 MB

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


class Lookups:
    """Opens connections when there is something to ask. Close it."""

    def __init__(self, connect: Callable[[], Awaitable[Session]], flavour: Flavour) -> None:
        self._connect = connect
        self._flavour = flavour
        self._sessions: list[Session] = []
        self._known: OrderedDict[str, str | None] = OrderedDict()

    async def aclose(self) -> None:
        while self._sessions:
            self._sessions.pop().close()

    async def look(self, dn: str, names: Sequence[str]) -> Values | None:
        await self._open(1)
        return await self._sessions[0].look(dn, names)

    async def ids(self, dns: Iterable[str]) -> Mapping[str, str | None]:
        """The id of the entry under each DN. What was seen before in this run is not asked again."""
        asked = sorted(set(dns))
        found = {dn: self._known[dn] for dn in asked if dn in self._known}
        missing = [dn for dn in asked if dn not in found]
        count = min(LANES, len(missing))
        await self._open(count)
        lanes = (self._lane(session, missing[n::count]) for n, session in enumerate(self._sessions[:count]))
        for outcome in await asyncio.gather(*lanes, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome
            found |= outcome
        self._keep(found)
        return found

    async def _open(self, count: int) -> None:
        while len(self._sessions) < count:
            self._sessions.append(await self._connect())

    async def _lane(self, session: Session, dns: Sequence[str]) -> dict[str, str | None]:
        found: dict[str, str | None] = {}
        for start in range(0, len(dns), BATCH):
            entries = await session.look_each(dns[start : start + BATCH], [self._flavour.key])
            found |= {dn: self._id(values or {}) for dn, values in entries.items()}
        return found

    def _id(self, values: Values) -> str | None:
        return self._flavour.id_of({name.lower(): found for name, found in values.items()})

    def _keep(self, found: Mapping[str, str | None]) -> None:
        for dn, key in found.items():
            self._known[dn] = key
            self._known.move_to_end(dn)
        while len(self._known) > KEPT:
            self._known.popitem(last=False)
