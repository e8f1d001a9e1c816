"""What is erased or purged is nowhere any more: in no table of either database, in no byte of the embedded one's file."""

import json
import random
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from reconciler.model.clock import rfc3339
from reconciler.model.condition import Reason
from reconciler.model.event import DeliveryStatus
from reconciler.model.record import Scope
from reconciler.sdk.errors import TransientError
from reconciler.store import deliveries, erasure, history, journal, scrub
from reconciler.store.database import Database, Tx
from reconciler.store.migrations import migrate
from reconciler.store.sqlite import Sqlite
from tests.desk import World, desired, tickets

KEY, NAME = "grace.hopper@example.org", "Grace Brewster Murray Hopper"
SAFE = {"name": "s", "event_type": "ticket.*", "action": "safe", "template": "{{ record.title }}"}
_TABLES = {
    "sqlite": "SELECT name FROM sqlite_master WHERE type = 'table'",
    "postgresql": "SELECT table_name FROM information_schema.tables WHERE table_schema = 'reconciler'",
}


def holders(tx: Tx, *texts: str) -> set[str]:
    """Tables in which any of these texts stands in any column, as text or inside a payload."""

    def stands_in(value: Any) -> bool:
        text = bytes(value).decode(errors="replace") if isinstance(value, bytes | memoryview) else str(value)
        return any(t in text for t in texts)

    tables = [t for (t,) in tx.all(_TABLES[tx.dialect])]
    return {t for t in tables if any(stands_in(v) for row in tx.all(f'SELECT * FROM "{t}"') for v in row)}


def person(key: str = KEY, **more: str) -> dict[str, Any]:
    return {"id": key, "at": "2026-03-02T10:00:00Z", "title": NAME, **more}


@pytest.fixture
async def full(world: World) -> World:
    """A person everywhere a record can get to: versions, deliveries in every state, rejects, log lines, texts of runs."""
    world.remote("source").pages["tickets"] = [[*tickets(1, 2)]]
    await world.wish(desired("source"), desired("target", {"synchronizations": [SAFE]}))
    for name in ("source", "target"):
        await world.reconcile(name)
        await world.sync_due(name)
    for number, answer in enumerate((None, None, TransientError(f"no {KEY} here"), None)):
        world.remote("source").pages["tickets"] = [[*tickets(1, 2), person(step=str(number))]]
        await world.sync("source")
        await world.router.route()
        made = (await world.deliveries())[-1]
        if answer is not None:
            world.remote("target").answers.append(answer)
        if number != 1:
            await world.work("deliver", made.id, made.integration_id)
    await world.db.write(lambda tx: _mention(tx, world))
    return world


def _mention(tx: Tx, world: World) -> None:
    (source,) = tx.all("SELECT id FROM integration WHERE name = 'source'")
    at = rfc3339(world.clock.now())
    lines = [({"key": KEY, "violations": [NAME]}, "record rejected"), ({}, f"the remote knows no {KEY}")]
    journal.write_logs(tx, [journal.LogLine(source[0], at, "warn", message, detail) for detail, message in lines])
    failed = tx.one("SELECT public_id, integration_id FROM delivery WHERE status = 'failed'")
    assert failed is not None
    told = {"delivery": failed["public_id"], "body": NAME}
    journal.write_logs(tx, [journal.LogLine(failed["integration_id"], at, "warn", "delivery failed", told)])
    entity = tx.value("SELECT id FROM entity WHERE name = 'tickets' AND integration_id = :i", i=source[0])
    run = tx.value("SELECT max(id) FROM run WHERE integration_id = :i", i=source[0])
    for key, payload in ((KEY, "{}"), ("", json.dumps(person()))):
        tx.execute(
            "INSERT INTO reject (run_id, entity_id, key, payload, violations, at) VALUES (:r, :e, :k, :p, '[]', :at)",
            {"r": run, "e": entity, "k": key, "p": payload.encode(), "at": at},
        )
    tx.execute("UPDATE run SET error = :t WHERE id = :r", {"t": f"stopped at {KEY}", "r": run})
    position = json.dumps({"after": KEY})
    tx.execute("UPDATE run_entity SET error = :t, position = :p WHERE run_id = :r",
               {"t": f"stopped at {KEY}", "p": position, "r": run})  # fmt: skip
    tx.execute("UPDATE integration SET last_sync_error = :t WHERE id = :i", {"t": KEY, "i": source[0]})
    asked = journal.ask(tx, "erase", source[0], {"keys": [KEY]}, "ada", at)
    number = tx.value("SELECT id FROM request WHERE public_id = :p", p=asked)
    journal.answer(tx, number, {"ok": False}, at)


async def test_a_person_is_nowhere_and_everybody_else_is(full: World) -> None:
    everywhere = {
        "head",
        "version",
        "delivery",
        "attempt",
        "reject",
        "log",
        "run",
        "run_entity",
        "integration",
        "condition",
    }
    assert await full.read(lambda tx: holders(tx, KEY, NAME)) == everywhere
    source = await full.row("source")
    found = await full.read(lambda tx: erasure.find(tx, source.id, KEY))
    erased = await full.db.write(lambda tx: erasure.erase(tx, source.id, [KEY], None, "t"))
    assert erased.traces == found
    assert (found.records, found.versions, found.rejects, found.deliveries, found.log_lines) == (1, 4, 2, 4, 3)
    assert await full.read(lambda tx: holders(tx, KEY, NAME)) == set()
    assert (await full.read(lambda tx: erasure.find(tx, source.id, KEY))).is_empty
    (entity,) = [e for e in await full.read(lambda tx: history.entities(tx, source.id)) if e.name == "tickets"]
    now = await full.read(lambda tx: history.at_present(tx, source.id, ""))
    kept = (await full.read(lambda tx: history.records(tx, now, entity.id)))[0]
    assert ([e.key for e in kept], entity.records) == (["1", "2"], 2)


async def test_who_was_told_stays_on_record_and_nothing_more_is_sent(full: World) -> None:
    source = await full.row("source")
    before = [d.status for d in await full.deliveries()]
    assert before == ["delivered", "pending", "failed", "delivered"]
    await full.db.write(lambda tx: erasure.erase(tx, source.id, [KEY], None, "t"))
    after = await full.deliveries()
    assert [d.status for d in after] == ["delivered", "cancelled", "cancelled", "delivered"]
    assert {(d.reason, d.key) for d in after} == {(Reason.ERASED, "")}
    assert all(d.fields == {} and d.finished_at for d in after)
    assert after[0].receipt == {"remote_id": "m0", "url": ""}
    sent = len(full.remote("target").sent)
    for delivery in after:
        await full.work("deliver", delivery.id, delivery.integration_id)
    assert len(full.remote("target").sent) == sent


async def test_what_is_being_sent_right_now_ends_as_unknown(full: World) -> None:
    source, waiting = await full.row("source"), (await full.deliveries())[1]
    begun = await full.db.write(lambda tx: deliveries.begin(tx, waiting.id, 9, "t"))
    assert begun is not None
    await full.db.write(lambda tx: erasure.erase(tx, source.id, [KEY], None, "t"))
    done = deliveries.Outcome(DeliveryStatus.DELIVERED, receipt={"remote_id": NAME})
    assert await full.db.write(lambda tx: deliveries.settle(tx, begun, done, "t")) is False
    found = (await full.deliveries())[1]
    assert (found.status, found.fields) == (DeliveryStatus.UNKNOWN, {})


@pytest.mark.parametrize("is_purged", [False, True])
async def test_the_router_rests_where_the_end_of_the_log_is_gone(full: World, is_purged: bool) -> None:
    source = await full.row("source")
    full.remote("source").pages["tickets"] = [[*tickets(1, 2), person(step="last")]]
    await full.sync("source")
    assert len(await full.read(deliveries.unrouted)) == 1
    if is_purged:
        await full.db.write(lambda tx: erasure.purge(tx, source.id, "t"))
    else:
        await full.db.write(lambda tx: erasure.erase(tx, source.id, [KEY], None, "t"))
    assert await full.read(deliveries.unrouted) == []


async def test_the_router_goes_on_where_the_end_of_the_log_was_erased(full: World) -> None:
    source = await full.row("source")
    await full.db.write(lambda tx: erasure.erase(tx, source.id, [KEY], None, "t"))
    full.remote("source").pages["tickets"] = [tickets(1, 2, 7)]
    await full.sync("source")
    assert await full.router.route() == 1


async def test_what_was_not_routed_yet_is_never_told(full: World) -> None:
    source = await full.row("source")
    full.remote("source").pages["tickets"] = [[person(step="last"), *tickets(1, 2, 3)]]
    await full.sync("source")
    await full.db.write(lambda tx: erasure.erase(tx, source.id, [KEY], None, "t"))
    before = len(await full.deliveries())
    assert await full.router.route() == 1
    assert [d.key for d in (await full.deliveries())[before:]] == ["3"]


async def test_only_a_remote_that_still_has_it_brings_it_back(full: World) -> None:
    source = await full.row("source")
    await full.db.write(lambda tx: erasure.erase(tx, source.id, [KEY], None, "t"))
    full.remote("source").pages["tickets"] = [tickets(1, 2)]
    assert (await full.sync("source", Scope.FULL)).counts.changed == 0
    full.remote("source").pages["tickets"] = [[*tickets(1, 2), person()]]
    assert (await full.sync("source", Scope.FULL)).counts.added == 1
    assert "version" in await full.read(lambda tx: holders(tx, KEY))


async def test_a_short_key_does_not_tear_other_texts(world: World) -> None:
    world.remote().pages["tickets"] = [tickets(1, 11, 42)]
    await world.up()
    row = await world.row()
    await world.db.write(lambda tx: tx.execute("UPDATE run SET error = '42 of 142 were refused'"))
    await world.db.write(lambda tx: erasure.erase(tx, row.id, ["42"], "tickets", "t"))
    assert await world.read(lambda tx: tx.value("SELECT error FROM run")) == "42 of 142 were refused"
    keys = await world.read(lambda tx: [k for (k,) in tx.all("SELECT key FROM version ORDER BY key")])
    assert keys == ["1", "11"]


async def test_purge_leaves_no_record_of_this_integration_and_all_of_others(full: World) -> None:
    full.remote("target").pages["tickets"] = [tickets(5)]
    await full.sync("target")
    source, target = await full.row("source"), await full.row("target")
    assert await full.read(lambda tx: holders(tx, NAME)) >= {"version", "delivery", "reject", "log"}
    await full.db.write(lambda tx: erasure.purge(tx, source.id, "t"))
    assert await full.read(lambda tx: holders(tx, NAME, "ticket 1")) == set()
    assert await full.read(lambda tx: history.entities(tx, source.id)) == []
    assert {e.name: e.records for e in await full.read(lambda tx: history.entities(tx, target.id))}["tickets"] == 1
    assert {d.status for d in await full.deliveries()} == {"delivered", "cancelled"}


# The file of the embedded database.


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "reconciler.db"


async def _filled(file: Path) -> list[str]:
    """Hundreds of records in random order, so that pages of tables and indices were split; some of them, by key."""
    database = Database(Sqlite(file))
    await migrate(database)
    rng, keys = random.Random(7), [secrets.token_hex(12) for _ in range(1500)]

    def fill(tx: Tx) -> None:
        tx.execute("INSERT INTO integration (public_id, workspace, name, type, created_at, updated_at) VALUES"
                   " ('i', 'w', 'n', 'desk', '', '')")  # fmt: skip
        tx.execute("INSERT INTO entity (integration_id, name) VALUES (1, 'people')")
        for n, key in enumerate(keys):
            number = (1 << 40) + n + 1
            payload = json.dumps({"id": key, "about": "x" * rng.randrange(2000)}).encode()
            tx.execute("INSERT INTO head (id, entity_id, key, version_id, hash) VALUES (?, 1, ?, ?, ?)",
                       (number, key, number, b"h" * 16))  # fmt: skip
            tx.execute("INSERT INTO version (number, entity_id, key, op, run_id, at, hash, payload)"
                       " VALUES (?, 1, ?, 1, 1, 't', ?, ?)", (number, key, b"h" * 16, payload))  # fmt: skip

    await database.write(fill)
    database.close()
    return rng.sample(keys, 40)


async def _opened(file: Path) -> Database:
    """As with a build of SQLite that does not even overwrite what it deletes; many do not."""
    database = Database(Sqlite(file))
    await database.write(lambda tx: tx.execute("PRAGMA secure_delete=OFF"))
    return database


def _left(file: Path, keys: list[str]) -> int:
    content = b"".join(p.read_bytes() for p in file.parent.glob(f"{file.name}*"))
    return sum(key.encode() in content for key in keys)


@pytest.fixture
def reader(file: Path) -> Iterator[sqlite3.Connection]:
    """Somebody who looks at the database and takes their time."""
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        yield connection


async def test_no_byte_is_left_in_the_file(file: Path) -> None:
    keys = await _filled(file)
    database = await _opened(file)
    await database.write(lambda tx: erasure.erase(tx, 1, keys, None, "t"))
    assert _left(file, keys) > 0, "the test would prove nothing"
    assert await scrub.scrub(database) is True
    assert _left(file, keys) == 0
    assert await database.read(lambda tx: tx.value("SELECT count(*) FROM head")) == 1460
    assert await database.read(lambda tx: tx.value("PRAGMA integrity_check")) == "ok"
    database.close()


async def test_a_crash_before_the_scrub_only_delays_it(file: Path) -> None:
    keys = await _filled(file)
    database = await _opened(file)
    await database.write(lambda tx: erasure.erase(tx, 1, keys, None, "t"))
    database.close()
    assert _left(file, keys) > 0
    database = await _opened(file)
    assert await database.read(scrub.is_due)
    assert await scrub.scrub(database) is True
    assert await database.read(scrub.is_due) is False
    database.close()
    assert _left(file, keys) == 0


async def test_a_reader_delays_the_end_and_nobody_else(file: Path, reader: sqlite3.Connection) -> None:
    keys = await _filled(file)
    database = await _opened(file)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM head").fetchone()
    await database.write(lambda tx: erasure.erase(tx, 1, keys, None, "t"))
    assert await scrub.scrub(database) is False
    assert await database.read(scrub.is_due)
    await database.write(lambda tx: tx.execute("UPDATE integration SET name = 'still writable'"))
    reader.execute("COMMIT")
    assert await scrub.scrub(database) is True
    assert _left(file, keys) == 0
    database.close()


async def test_nothing_is_done_unasked(file: Path) -> None:
    keys = await _filled(file)
    database = await _opened(file)
    await database.write(lambda tx: tx.execute("DELETE FROM version"))
    assert await scrub.scrub(database) is True
    database.close()
    assert _left(file, keys) > 0
