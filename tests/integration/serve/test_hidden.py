"""What is another workspace's and what does not exist take the same way: the same rows and entries are touched, none of theirs.

That the times are the same, too, is measured by `python -m benchmarks hidden`.
"""

from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.hidden import LIMIT, rank_z
from reconciler.model.access import Caller, Permission
from reconciler.serve.listing import resolve
from reconciler.serve.snapshot import Entry, Snapshot
from reconciler.store.database import Tx
from tests.integration.serve.installation import Installation, Wish, want

OWN = Caller("own", "it", frozenset({Permission.INTEGRATION_VIEW}))


class Watched(tuple[Entry, ...]):  # noqa: SLOT001 - it has one thing more to remember
    """Notes which places were read."""

    read: set[int]

    def __getitem__(self, place: Any) -> Any:
        self.read |= set(range(*place.indices(len(self)))) if isinstance(place, slice) else {place}
        return super().__getitem__(place)

    def __iter__(self) -> Any:
        self.read |= set(range(len(self)))
        return super().__iter__()


async def filled(installation: Installation) -> Snapshot:
    wishes = [Wish(f"n{n}", workspace=w) for w in ("hr", "it", "it-ops") for n in range(5)]
    await installation.change(lambda tx: want(tx, *wishes, Wish("theirs", "servicenow", "hr")))
    return await installation.board.current()


def pairs(snapshot: Snapshot) -> list[tuple[str, str]]:
    """Each way to name what is in hr, beside the same that is nowhere."""
    (entry,) = [one for one in snapshot.entries if one.name == "theirs"]
    names = [entry.public_id, "hr/theirs", "hr.theirs", "theirs", "servicenow"]
    return [(name, f"{name[:-1]}x") for name in names]


async def test_only_ones_own_entries_are_looked_at(installation: Installation) -> None:
    snapshot = await filled(installation)
    own = {place for place, entry in enumerate(snapshot.entries) if entry.workspace == "it"}
    for pair in pairs(snapshot):
        for ref in pair:
            watched = Watched(snapshot.entries)
            watched.read = set()
            looked = Snapshot(snapshot.at, entries=watched, keys=snapshot.keys)
            assert resolve(looked, ref, OWN) == []
            assert watched.read == own


async def test_the_store_is_asked_the_same(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing at all, once the tokens are known."""
    snapshot = await filled(installation)
    token = await installation.issue("own", "it", Permission.INTEGRATION_VIEW)
    asked: list[str] = []
    execute = Tx.execute

    def counted(tx: Tx, sql: str, *more: Any) -> Any:
        asked.append(sql)
        return execute(tx, sql, *more)

    async with installation.client(token=token) as client:

        async def answered(ref: str) -> tuple[Any, ...]:
            answer = await client.get(f"/v1/integrations/{ref}")
            body = {**answer.json(), "request_id": "", "detail": answer.json()["detail"].replace(ref, "REF")}
            kept = {name: value for name, value in answer.headers.items() if name not in ("date", "x-request-id")}
            return answer.status_code, body, kept

        await answered("warm")
        monkeypatch.setattr(Tx, "execute", counted)
        for theirs, nobodys in pairs(snapshot):
            assert await answered(theirs) == await answered(nobodys)
            assert len(theirs) == len(nobodys)
    assert asked == []


@pytest.mark.parametrize(
    ("times", "is_apart"), [(lambda n: n % 997, False), (lambda n: n % 997 + (60 if n % 2 else 0), True)]
)
def test_the_measure_finds_a_difference_where_there_is_one(times: Callable[[int], int], is_apart: bool) -> None:
    """A shift of a fifth of the spread."""
    found = [[times(n) for n in range(start, 10_000, 2)] for start in (0, 1)]
    assert (abs(rank_z(*found)) > LIMIT) is is_apart
