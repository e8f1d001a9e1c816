"""Page commits, the log and its numbers, fences, retention: on real SQLite, statement by statement."""

from typing import Any

import pytest

from reconciler.model.clock import rfc3339
from reconciler.model.event import Lifecycle, Operation
from reconciler.model.record import Page, RunResult, Scope
from reconciler.store import dataset, erasure, journal, retention, runs
from reconciler.store.database import Tx
from reconciler.store.dataset import FencedError, PageCommit
from reconciler.store.deliveries import NewDelivery, create
from reconciler.store.retention import Moments, Tenants
from reconciler.store.runs import Lineage, Run
from tests.desk import World, desired


async def _run(world: World, scope: Scope = Scope.INCREMENTAL, fence: int = 1) -> Run:
    run, at = await world.make_run(scope=scope), rfc3339(world.clock.now())
    started = await world.db.write(lambda tx: runs.start(tx, run.id, fence, Lineage(1, "r1", "h", "1"), at))
    assert started is not None
    return started


async def _commit(world: World, run: Run, page: Page, *, number: int = 1, is_full: bool = False) -> tuple[int, ...]:
    progress = await world.db.write(lambda tx: runs.open_entity(tx, run, "tickets", False))
    commit = PageCommit(
        run.id, run.fence, run.integration_id, progress.entity_id, number, is_full, False, rfc3339(world.clock.now())
    )
    c = await world.db.write(lambda tx: dataset.commit_page(tx, commit, page))
    return c.added, c.updated, c.unchanged, c.deleted


def _page(*pairs: tuple[str, str], deleted: tuple[str, ...] = ()) -> Page:
    return Page(tuple(k for k, _ in pairs), tuple(f'"{v}"'.encode() for _, v in pairs), deleted=deleted)


async def _log(world: World, run: Run) -> list[tuple[int, str, Operation]]:
    found = await world.read(lambda tx: dataset.log_after(tx, run.integration_id, 0, 1000))
    return [(v.number - (run.integration_id << dataset.SHIFT), v.key, v.op) for v in found]


@pytest.fixture
async def up(world: World) -> World:
    await world.wish(desired("desk"), desired("other"))
    return world


async def test_counts_repeats_and_numbers_without_gaps(up: World) -> None:
    run = await _run(up)
    assert await _commit(up, run, _page(("a", "1"), ("b", "1"), ("a", "2"))) == (2, 0, 0, 0)
    assert await _commit(up, run, _page(("a", "2"), ("b", "2"), ("c", "1"))) == (1, 1, 1, 0)
    assert await _commit(up, run, _page(("d", "1"), deleted=("a", "a", "d", "nobody"))) == (0, 0, 0, 1)
    create, update, delete = Operation.CREATE, Operation.UPDATE, Operation.DELETE
    assert await _log(up, run) == [
        (1, "a", create),
        (2, "b", create),
        (3, "b", update),
        (4, "c", create),
        (5, "a", delete),
    ]
    assert await up.read(lambda tx: tx.value("SELECT records FROM entity")) == 2


async def test_a_deleted_record_that_returns_is_created_again(up: World) -> None:
    run = await _run(up)
    await _commit(up, run, _page(("a", "1")))
    await _commit(up, run, _page(deleted=("a",)))
    assert await _commit(up, run, _page(("a", "1"))) == (1, 0, 0, 0)
    assert [op for _, _, op in await _log(up, run)] == [Operation.CREATE, Operation.DELETE, Operation.CREATE]


async def test_an_unchanged_page_writes_nothing_to_the_log(up: World) -> None:
    run = await _run(up)
    await _commit(up, run, _page(("a", "1"), ("b", "1")))
    before = await up.read(lambda tx: tx.value("SELECT seq FROM integration WHERE name = 'desk'"))
    assert await _commit(up, run, _page(("a", "1"), ("b", "1"))) == (0, 0, 2, 0)
    assert await up.read(lambda tx: tx.value("SELECT seq FROM integration WHERE name = 'desk'")) == before == 2


@pytest.mark.parametrize(
    "stop",
    [
        "UPDATE run SET is_cancelling = 1",
        "UPDATE run SET fence = fence + 1",
        "UPDATE run SET state = 'done'",
        "UPDATE run SET state = 'due'",
        "DELETE FROM run",
    ],
)
async def test_the_fence_stops_whoever_may_not_write(up: World, stop: str) -> None:
    run = await _run(up)
    await _commit(up, run, _page(("a", "1")))
    page = _page(("b", "1"))
    progress = await up.db.write(lambda tx: runs.open_entity(tx, run, "tickets", False))
    commit = PageCommit(run.id, run.fence, run.integration_id, progress.entity_id, 2, False, False, "t")
    await up.db.write(lambda tx: tx.execute(stop))
    with pytest.raises(FencedError):
        await up.db.write(lambda tx: dataset.commit_page(tx, commit, page))
    assert len(await _log(up, run)) == 1


async def test_a_sweep_forgets_the_marks_of_its_own_entity_alone(up: World) -> None:
    run = await _run(up)
    await _commit(up, run, _page(("a", "1"), ("b", "1")))
    full = await _run(up, Scope.FULL, fence=2)
    await _commit(up, full, _page(("a", "1")), is_full=True)
    progress = await up.db.write(lambda tx: runs.open_entity(tx, full, "tickets", False))
    await up.db.write(lambda tx: tx.execute("INSERT INTO seen_page VALUES (:r, 999, 1, '[]')", {"r": full.id}))
    commit = PageCommit(full.id, 2, full.integration_id, progress.entity_id, 2, True, False, "t")
    found = await up.read(lambda tx: dataset.unseen(tx, full.id, progress.entity_id))
    assert (found.gone, found.known) == (1, 2)
    assert await up.db.write(lambda tx: dataset.sweep(tx, commit)) == 1
    assert await up.read(lambda tx: [e for (e,) in tx.all("SELECT entity_id FROM seen_page")]) == [999]


@pytest.mark.parametrize("is_ordered", [True, False])
async def test_a_watermark_holds_at_once_only_where_the_remote_sorts(up: World, is_ordered: bool) -> None:
    run = await _run(up)
    progress = await up.db.write(lambda tx: runs.open_entity(tx, run, "tickets", True))
    page = Page(("a",), (b"{}",), position={"p": 1})
    await up.db.write(lambda tx: runs.advance_entity(tx, run, progress, page, {"": "2026"}, is_ordered))
    again = await up.db.write(lambda tx: runs.open_entity(tx, run, "tickets", True))
    assert (again.stored, again.seen, again.position) == ({"": "2026"} if is_ordered else {}, {"": "2026"}, {"p": 1})
    await up.db.write(lambda tx: runs.complete_entity(tx, run, again, {"": "2026"}, "t"))
    done = await up.db.write(lambda tx: runs.open_entity(tx, run, "tickets", True))
    assert (done.stored, done.is_silent, done.is_first) == ({"": "2026"}, True, False)


async def test_versions_only_when_something_changed_also_of_what_was_cancelled(up: World) -> None:
    run, at = await _run(up), rfc3339(up.clock.now())
    assert await up.db.write(lambda tx: runs.finish(tx, run, RunResult.SUCCESS, "Succeeded", "", at))
    run = await _run(up, fence=2)
    await _commit(up, run, _page(("a", "1")))
    await up.db.write(lambda tx: runs.cancel(tx, run.id, "Cancelled"))
    assert await up.db.write(lambda tx: runs.close_cancelled(tx, [run.id], at)) == [run.id]
    assert await up.db.write(lambda tx: runs.finish(tx, run, RunResult.SUCCESS, "Succeeded", "", at)) is False
    rows = await up.read(lambda tx: tx.all("SELECT number, added, connector FROM dataset_version"))
    assert [tuple(r) for r in rows] == [(1, 1, "desk")]


async def test_purge_leaves_nothing_and_numbers_go_on(up: World) -> None:
    run = await _run(up)
    await _commit(up, run, _page(("a", "1"), ("b", "1")))
    assert await up.db.write(lambda tx: erasure.purge(tx, run.integration_id, "t").traces.records) == 2
    for table in ("head", "version", "entity", "dataset_version", "seen_page", "reject"):
        assert await up.read(lambda tx, t=table: tx.value(f"SELECT count(*) FROM {t}")) == 0  # type: ignore[misc]
    run = await _run(up, fence=2)
    await _commit(up, run, _page(("a", "1")))
    assert [n for n, _, _ in await _log(up, run)] == [3]


async def test_retention_passes_no_cursor_and_leaves_nothing_dangling(up: World) -> None:
    row, at, old = await up.row(), rfc3339(up.clock.now()), "2020-01-01T00:00:00.000000Z"
    run = await _run(up)
    await up.db.write(lambda tx: runs.finish(tx, run, RunResult.SUCCESS, "Succeeded", "", old))

    def fill(tx):  # type: ignore[no-untyped-def]
        tx.execute("INSERT INTO reject (run_id, entity_id, key, payload, violations, at) VALUES (?, 1, 'k', ?, '[]', ?)",
                   (run.id, b"x", old))  # fmt: skip
        for stamp in (old, old, at):
            journal.emit(tx, row.id, Lifecycle.CONNECTED, stamp, {})
            journal.write_logs(tx, [journal.LogLine(row.id, stamp, "info", "x", {})])
        made = create(tx, [NewDelivery("d1", "e", "t", old, None, "", "", row.id, "s", "safe", {})], old)
        create(tx, [NewDelivery("d2", "e", "t", at, None, "", "", row.id, "s", "safe", {})], at)
        tx.execute("UPDATE delivery SET finished_at = :o WHERE dedupe = 'd1'", {"o": old})
        tx.execute("UPDATE delivery SET retry_of = :f WHERE dedupe = 'd2'", {"f": made[0][0]})
        tx.execute("INSERT INTO route_cursor VALUES ('lifecycle', 1)")

    await up.db.write(fill)
    limit = "2021-01-01T00:00:00.000000Z"
    while await up.db.write(lambda tx: retention.drop_history(tx, Tenants(), Moments(limit, limit, limit), 1)):
        pass
    left = {
        t: await up.read(lambda tx, t=t: tx.value(f"SELECT count(*) FROM {t}"))  # type: ignore[misc]
        for t in ("event", "log", "run", "reject", "delivery")
    }
    assert left == {"event": 2, "log": 1, "run": 0, "reject": 0, "delivery": 2}


@pytest.mark.parametrize(
    "question",
    [
        "SELECT id, routed_seq FROM integration WHERE seq > routed_seq ORDER BY id",
        "SELECT * FROM run WHERE integration_id = 1 AND state <> 'done' ORDER BY id LIMIT 1",
        (
            "SELECT count(*) FROM delivery WHERE status IN ('pending', 'sending', 'failed') AND status = 'failed'"
            " AND integration_id = 1"
        ),
        "SELECT id FROM integration WHERE next_sync_at <= 'x' AND is_connected = 1 ORDER BY next_sync_at LIMIT 9",
        "SELECT id FROM run WHERE state = 'done' AND finished_at < 'x' LIMIT 9",
        "SELECT id FROM delivery WHERE finished_at < 'x' LIMIT 9",
        "SELECT id FROM reject WHERE at < 'x' LIMIT 9",
        "SELECT key FROM reject WHERE entity_id = 1 AND key <> ''",
        (
            "SELECT workspace, name FROM integration WHERE removed_at IS NULL"
            " AND (is_desired = 0 OR is_connected = 0 OR drifted <> '[]' OR applied_hash <> desired_hash"
            " OR (applied_effective <> '' AND applied_effective <> desired_effective))"
        ),
        "SELECT integration_id FROM condition WHERE type = 'Valid' AND truth <> 'True'",
    ],
)
async def test_what_is_asked_again_and_again_reads_no_table_through(up: World, question: str) -> None:
    def whole_reads(tx: Tx) -> list[str]:
        if tx.dialect == "sqlite":
            return [row[3] for row in tx.all(f"EXPLAIN QUERY PLAN {question}") if "USING" not in row[3]]
        tx.execute("SET LOCAL enable_seqscan = off")  # the tables are empty: ask what it will do when they are not
        return [row[0] for row in tx.all(f"EXPLAIN {question}") if "Seq Scan" in row[0]]

    assert await up.read(whole_reads) == []


async def test_a_sweep_never_compares_every_record_with_every_mark(up: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """How PostgreSQL joins them must not hang on statistics, which it has none of for an entity that was just read."""
    plans: list[str] = []
    ask = Tx.all

    def explain(tx: Tx, sql: str, /, **params: object) -> list[Any]:
        plans.extend(row[0] for row in ask(tx, f"EXPLAIN {sql}", **params))
        plans.append(tx.value("SHOW enable_nestloop"))
        return ask(tx, sql, **params)

    if up.db.where.startswith("postgresql"):
        monkeypatch.setattr(Tx, "all", explain)
        await up.read(lambda tx: plans.append(str(dataset.unseen(tx, 1, 1)) + tx.value("SHOW enable_nestloop")))
        assert plans[-2:] == ["off", "Sweep(gone=0, known=0)on"]
        assert any("Hash" in line and "Join" in line for line in plans)
