"""Whatever happened before, a revision that looks only at the names in question ends as one that looks at all of them.

Two worlds live through the same: one as the daemon does it, one that knows nothing of what it took over last.
"""

import asyncio
import tempfile
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.control.book import Unread, secrets_said
from reconciler.control.intake import Intake, Intaken
from reconciler.control.orders import carry_out
from reconciler.model.clock import rfc3339
from reconciler.model.finding import Code, Finding
from reconciler.model.ids import Ref
from reconciler.sdk.errors import TransientError, UnauthorizedError
from reconciler.store import conditions, integrations, journal
from reconciler.store.database import Tx
from reconciler.store.journal import OperatorRequest
from reconciler.store.leases import NotLeadingError
from tests.desk import WORKSPACE, FakeBook, World, desired, embedded, state

NAMES = ("a", "b", "c", "d", "e", "f")
SPECS: tuple[Mapping[str, Any] | None, ...] = (
    None,
    {},
    None,
    {"display_name": "x"},
    {"config": {}},
    {"enabled": False},
    {"suspend": True},
    {"suspend": True, "display_name": "y"},
    {"depends_on": ["a"]},
    {"sync_direction": "outbound"},
    {"deletion_policy": "purge"},
)
Step = tuple[str, str, int]
STEPS = (
    *("put", "move", "hold", "complete", "secret", "unread", "reconcile", "fail", "stall", "drift"),
    *("suspend", "resume", "approve", "again", "restart", "other", "lost", "glance", "late", "save", "restore"),
)


class Life:
    """One of the two worlds, and what Git holds in it."""

    def __init__(self, world: World, *, looks_at_all: bool) -> None:
        self.world = world
        self.looks_at_all = looks_at_all
        self.git: dict[str, Mapping[str, Any]] = {}
        self.lines: dict[str, int] = {}
        self.held: set[Ref] = set()
        self.is_complete = True
        self.revision = 0
        self.digest = ""
        self.saved: dict[str, list[dict[str, Any]]] | None = None

    async def do(self, step: Step) -> Any:
        """The plan where the step takes a revision over."""
        kind, name, number = step
        found: Any = await getattr(self, f"_{kind}")(name, number)
        self.world.clock.advance(timedelta(seconds=1))
        return found

    async def _take(self) -> Any:
        world = self.world
        self.revision += 1
        wishes = [self._wish(n, spec) for n, spec in self.git.items()]
        now = state(
            *wishes, revision=f"r{self.revision}", held=frozenset(self.held), is_complete=self.is_complete,
            findings=tuple(Finding(f"{ref.name}.yaml", 1, 1, Code.YAML_SYNTAX, "broken") for ref in sorted(self.held)),
        )  # fmt: skip
        before = world.book.state.integrations if world.book.state else {}
        world.book.state = now
        world.book.departed |= {r: w for r, w in before.items() if r not in now.integrations}
        return await self._hand_over()

    def _wish(self, name: str, spec: Mapping[str, Any]) -> Any:
        wish = desired(name, spec, f"r{self.revision}")
        origin = wish.origin.__class__("git", f"{name}.yaml", self.lines.get(name, 1), "r")
        return wish.__class__(wish.ref, wish.manifest, wish.tree, wish.source_hash, origin, wish.created_by)

    async def _hand_over(self) -> Any:
        world = self.world
        assert world.book.state is not None
        if self.looks_at_all:
            world.intake._last = None
        taken = await world.intake.take(world.book.state)
        rows = await world.db.read(lambda tx: integrations.every(tx, with_removed=True))
        world.connections.refs = {row.id: row.ref for row in rows}
        if taken.plan.blocks:
            self.digest = taken.plan.blocks[0].remedy.rsplit(" ", 1)[-1]
        await world.check()
        return taken

    async def _put(self, name: str, number: int) -> Any:
        spec = SPECS[number % len(SPECS)]
        if spec is None:
            self.git.pop(name, None)
        else:
            self.git[name] = spec
        return await self._take()

    async def _move(self, name: str, number: int) -> Any:
        self.lines[name] = number
        return await self._take()

    async def _hold(self, name: str, _: int) -> Any:
        self.held ^= {Ref(WORKSPACE, name)}
        return await self._take()

    async def _complete(self, *_: object) -> Any:
        self.is_complete = not self.is_complete
        return await self._take()

    async def _secret(self, name: str, number: int) -> Any:
        self.world.book.secrets[Ref(WORKSPACE, name)] = str(number)
        return await self._again()

    async def _unread(self, name: str, _: int) -> Any:
        failed, ref = self.world.book.failed, Ref(WORKSPACE, name)
        if failed.pop(ref, None) is None and name in self.git:
            failed[ref] = (Finding(f"{name}.yaml", 1, 1, Code.SOPS_KEY_MISSING, "no key"),)
        return await self._again()

    async def _again(self, *_: object) -> Any:
        return await self._hand_over() if self.world.book.state else None

    async def _reconcile(self, name: str, _: int, *faults: Exception) -> None:
        world = self.world
        row = await world.db.read(lambda tx: integrations.find(tx, Ref(WORKSPACE, name)))
        if row is not None:
            world.remote(name).probes[:] = faults
            await world.work("reconcile", row.id, row.id)

    async def _fail(self, name: str, number: int) -> None:
        await self._reconcile(name, number, TransientError("down"))

    async def _stall(self, name: str, number: int) -> None:
        await self._reconcile(name, number, UnauthorizedError("no"))

    async def _drift(self, name: str, number: int) -> None:
        await self._on_row(name, lambda tx, i: integrations.record_drift(tx, i, ["hook"] * (number % 2)))

    async def _suspend(self, name: str, _: int) -> None:
        await self._on_row(name, lambda tx, i: self._order(tx, "suspend", i))

    async def _resume(self, name: str, _: int) -> None:
        await self._on_row(name, lambda tx, i: self._order(tx, "resume", i))

    def _order(self, tx: Tx, kind: str, integration_id: int) -> None:
        row = integrations.get(tx, integration_id)
        if row is not None and row.removed_at is None and (kind == "suspend" or row.suspended_by != "git"):
            carry_out(tx, OperatorRequest(1, "q", kind, integration_id, {}, "ada"), self.world.clock.now())

    async def _on_row(self, name: str, query: Callable[[Tx, int], object]) -> None:
        world = self.world
        row = await world.db.read(lambda tx: integrations.find(tx, Ref(WORKSPACE, name)))
        if row is not None:
            await world.db.write(lambda tx: query(tx, row.id))

    async def _approve(self, *_: object) -> Any:
        await self.world.db.write(lambda tx: journal.approve(tx, self.digest, "ada", "2026-01-01T00:00:00Z"))
        return await self._again()

    async def _restart(self, *_: object) -> None:
        self.world.intake = Intake(self.world.db, self.world.book, self.world.clock)

    async def _other(self, name: str, number: int) -> Any:
        """Another process led for a while, with another idea of what Git wants."""
        spec = SPECS[number % len(SPECS)]
        wishes = {n: desired(n, s) for n, s in ({**self.git, name: spec}).items() if s is not None}
        await Intake(self.world.db, FakeBook(), self.world.clock).take(state(*wishes.values(), revision="other"))
        return await self._again()

    async def _lost(self, name: str, number: int) -> None:
        def refuse(_: Tx) -> None:
            raise NotLeadingError("not now")

        self.world.intake._fence = refuse
        with pytest.raises(NotLeadingError):
            await self._put(name, number)
        self.world.intake._fence = None

    async def _glance(self, name: str, number: int) -> None:
        """The book put something in force that nobody took over."""
        self.world.book.secrets[Ref(WORKSPACE, name)] = str(number)
        if self.world.book.state is not None:
            await self.world.book.resolve(self.world.book.state)

    async def _late(self, name: str, _: int) -> None:
        """A worker tells what it knew of the secrets before."""
        said = secrets_said(Unread((Finding(f"{name}.yaml", 1, 1, Code.SOPS_KEY_MISSING, "no key"),)))
        at = rfc3339(self.world.clock.now())
        await self._on_row(name, lambda tx, i: conditions.say(tx, i, _generation(tx, i), [said], at))

    async def _save(self, *_: object) -> None:
        self.saved = await self.world.db.read(
            lambda tx: {table: _rows(tx, table) for table in ("integration", "condition", "meta")}
        )

    async def _restore(self, *_: object) -> Any:
        saved = self.saved
        if saved is None:
            return None
        await self.world.db.write(lambda tx: _restore(tx, saved))
        return await self._again()


def _generation(tx: Tx, integration_id: int) -> int:
    row = integrations.get(tx, integration_id)
    return row.generation if row else 0


def _rows(tx: Tx, table: str) -> list[dict[str, Any]]:
    return [{name: row[name] for name in row.keys()} for row in tx.all(f"SELECT * FROM {table}")]  # noqa: SIM118


def _restore(tx: Tx, saved: Mapping[str, list[dict[str, Any]]]) -> None:
    ids = ", ".join(str(row["id"]) for row in saved["integration"]) or "0"
    tx.execute(f"DELETE FROM integration WHERE id NOT IN ({ids})")
    for row in saved["integration"]:
        tx.execute(f"UPDATE integration SET {', '.join(f'{c} = :{c}' for c in row if c != 'id')} WHERE id = :id", row)
    for table in ("condition", "meta"):
        tx.execute(f"DELETE FROM {table}")
        for row in saved[table]:
            tx.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({', '.join(f':{c}' for c in row)})", row)


def _recorded(tx: Tx) -> Any:
    """All that a revision writes, by names instead of ids."""
    every = {row["id"]: row for row in _rows(tx, "integration")}
    names = {str(i): row["name"] for i, row in every.items()}
    rows = {row["name"]: {c: v for c, v in row.items() if c not in {"id", "public_id"}} for row in every.values()}
    said = sorted((names[str(r.pop("integration_id"))], *map(str, r.values())) for r in _rows(tx, "condition"))
    due = sorted((j["kind"], names.get(j["key"], ""), j["prio"], j["due_at"]) for j in _rows(tx, "job"))
    told = sorted(str({c: v for c, v in row.items() if c != "id"}) for row in _rows(tx, "revision"))
    meta = {r["key"]: r["value"] for r in _rows(tx, "meta") if r["key"] != "taken"}
    return rows, said, due, journal.findings(tx), told, meta


def _in_words(world: World, taken: Intaken | None) -> Any:
    if taken is None:
        return None
    refs = world.connections.refs
    turned = sorted((row.name, said.type, said.reason) for row, said in taken.turned)
    return taken.plan, {refs[i] for i in taken.changed}, {refs[i] for i in taken.removed}, turned


async def _live(subject: Life, twin: Life, steps: list[Step]) -> int:
    """Returns how often fewer than all names were looked at."""
    few = 0
    for step in steps:
        found, expected = [await one.do(step) for one in (subject, twin)]
        assert _in_words(subject.world, found) == _in_words(twin.world, expected), step
        assert await subject.world.read(_recorded) == await twin.world.read(_recorded), step
        few += found is not None and found.asked is not None
        assert expected is None or expected.asked is None
    return few


_STEPS = st.lists(
    st.tuples(st.sampled_from(STEPS), st.sampled_from(NAMES), st.integers(0, 2 * len(SPECS))), max_size=25
)


async def _twice(folder: Path, steps: list[Step]) -> int:
    for place in ("one", "two"):
        (folder / place).mkdir()
    async with embedded(folder / "one") as one, embedded(folder / "two") as two:
        return await _live(Life(one, looks_at_all=False), Life(two, looks_at_all=True), steps)


@settings(max_examples=25)
@given(_STEPS)
def test_looking_at_few_is_as_looking_at_all(steps: list[Step]) -> None:
    with tempfile.TemporaryDirectory() as name:
        asyncio.run(_twice(Path(name), steps))


_UP: list[Step] = [*(("put", n, 1) for n in NAMES), *(("reconcile", n, 0) for n in NAMES), ("again", "", 0)]


@pytest.mark.parametrize(
    "steps",
    [
        [("complete", "", 0), ("put", "a", 0), ("move", "b", 7), ("complete", "", 0)],
        [
            ("put", "a", 0),
            ("put", "b", 0),
            ("put", "c", 0),
            ("move", "d", 7),
            ("approve", "", 0),
            ("reconcile", "c", 0),
        ],
        [("hold", "a", 0), ("put", "a", 0), ("move", "b", 7), ("hold", "a", 0), ("again", "", 0)],
        [("unread", "a", 0), ("move", "b", 7), ("unread", "a", 0), ("late", "a", 0), ("move", "b", 8)],
        [("glance", "a", 5), ("move", "b", 7)],
        [("save", "", 0), ("secret", "a", 5), ("put", "b", 3), ("restore", "", 0), ("move", "c", 7)],
        [("lost", "a", 3), ("move", "b", 7)],
        [("other", "a", 3), ("move", "b", 7)],
        [("drift", "a", 1), ("move", "b", 7), ("suspend", "c", 0), ("reconcile", "c", 0), ("move", "b", 8)],
    ],
)
async def test_each_way_to_come_into_question(tmp_path: Path, steps: list[Step]) -> None:
    assert await _twice(tmp_path, [*_UP, *steps]) > 0


@pytest.mark.parametrize("seed", range(3))
async def test_a_long_life_on_each_database(world: World, tmp_path: Path, seed: int) -> None:
    """The twin is on SQLite."""
    random = Random(seed)
    steps = [("put", name, 1) for name in NAMES]
    steps += [("reconcile", name, 0) for name in NAMES]
    steps += [(random.choice(STEPS), random.choice(NAMES), random.randrange(99)) for _ in range(60)]
    (tmp_path / "twin").mkdir()
    async with embedded(tmp_path / "twin") as two:
        few = await _live(Life(world, looks_at_all=False), Life(two, looks_at_all=True), steps)
    assert few > 10
