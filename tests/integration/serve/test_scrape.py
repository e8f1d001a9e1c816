"""`/metrics` over a real store: what the linter says, series that go, what restarts keep, leaders, negotiation."""

import asyncio
import gzip
import re
import subprocess
from datetime import timedelta
from functools import partial

import pytest
from prometheus_client.parser import text_string_to_metric_families

from reconciler.model.clock import rfc3339
from reconciler.model.finding import Code, Finding
from reconciler.model.plan import Action
from reconciler.model.record import Counts, RunResult
from reconciler.sdk.http import Attempt
from reconciler.serve.snapshot import Board
from reconciler.store import integrations, jobs, journal
from reconciler.store.database import Tx
from reconciler.store.errors import StoreCorruptError
from reconciler.store.journal import SourceRow
from tests.conftest import find_program
from tests.integration.serve.installation import START, Installation, Wish, break_, connect, let_go, synced, want


def fill(tx: Tx) -> None:
    ids = want(
        tx, Wish("jira-eng", labels={"team": "desk"}), Wish("slack-ops", "slack"), Wish("sn", "servicenow", "it")
    )
    connect(tx, ids["jira-eng"])
    connect(tx, ids["sn"])
    break_(tx, ids["slack-ops"])
    synced(tx, ids["jira-eng"], RunResult.SUCCESS, START)
    synced(tx, ids["jira-eng"], RunResult.FAILED, START, "boom")
    jobs.put(tx, kind="sync", ref="1", key="1", prio=1, due_at=START)
    journal.put_source(tx, SourceRow("main", "https://git.example/r", "aa", "aa", rfc3339(START)), rfc3339(START))
    journal.replace_findings(tx, [Finding("x.yaml", 1, 1, Code.UNKNOWN_FIELD, "unknown")])


def exercise(installation: Installation) -> None:
    metrics = installation.metrics
    metrics.observe_http("jira", Attempt("GET", "jira.example", 200, 0.2, 1, "sync"))
    metrics.observe_reconcile("jira", "success", 1.0)
    metrics.observe_run("jira", "default", "jira-eng", "success", 2.0, Counts(added=3))
    metrics.observe_delivery("slack", "post_message", "delivered", 0.1)
    metrics.observe_git("main", "success", 0.1)
    metrics.observe_job("sync", "success", 0.1)
    metrics.count_queue_add("work")
    metrics.count_queue_retry("work")
    metrics.set_plan({Action.CONNECT: 1})


@pytest.mark.needs("promtool")
async def test_the_linter_has_no_complaint(installation: Installation) -> None:
    await installation.change(fill)
    exercise(installation)
    promtool = find_program("promtool")
    assert promtool
    page = (await installation.text()).encode()
    command = [promtool, "check", "metrics"]
    linted = await asyncio.to_thread(subprocess.run, command, input=page, capture_output=True, check=False)
    assert (linted.returncode, linted.stdout, linted.stderr) == (0, b"", b"")
    broken = page + b"no_help_and_a_type_that_lies_total 1\n"
    wrong = await asyncio.to_thread(subprocess.run, command, input=broken, capture_output=True, check=False)
    assert wrong.returncode != 0


async def test_every_family_has_help_and_type_and_stands_together(installation: Installation) -> None:
    await installation.change(fill)
    exercise(installation)
    page = await installation.text()
    families = list(text_string_to_metric_families(page))
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    assert all(family.documentation and family.type != "unknown" for family in families)
    assert page.endswith("\n")


async def test_states_counts_queue_and_sources(installation: Installation) -> None:
    await installation.change(fill)
    page = await installation.text()
    who, slack = 'workspace="default",name="jira-eng"', 'workspace="default",name="slack-ops"'
    for line in (
        f'reconciler_integration_status{{{who},status="connected"}} 1',
        f'reconciler_sync_status{{{who},sync_status="failed"}} 1',
        f"reconciler_syncs_total{{{who}}} 2",
        f"reconciler_sync_failures_total{{{who}}} 1",
        f"reconciler_probe_latency_seconds{{{who}}} 0.1205",
        'reconciler_integration_status{workspace="default",name="slack-ops",status="error"} 1',
        f'reconciler_condition{{{slack},condition="Connected",status="False",reason="AuthenticationFailed"}} 1',
        'reconciler_consecutive_errors{workspace="default",name="slack-ops"} 1',
        'reconciler_queue_depth{queue="work",state="due"} 1',
        f'reconciler_queue_oldest_due_timestamp_seconds{{queue="work"}} {START.timestamp()}',
        'reconciler_source_ready{source="main",reason=""} 1',
        'reconciler_source_info{source="main",revision="aa"} 1',
        'reconciler_findings{severity="error"} 1',
        'reconciler_findings{severity="warning"} 0',
    ):
        assert f"{line}\n" in page


async def test_series_of_a_removed_integration_go_at_once(installation: Installation) -> None:
    await installation.change(fill)
    exercise(installation)
    assert page_has(await installation.text(), "jira-eng") > 10
    removed = await installation.database.read(
        lambda tx: [r.id for r in integrations.every(tx) if r.name == "jira-eng"]
    )
    await installation.change(lambda tx: let_go(tx, removed[0]))
    page = await installation.text()
    assert page_has(page, "jira-eng") == 0
    assert page_has(page, "slack-ops") > 5


def page_has(page: str, name: str) -> int:
    return len(re.findall(rf'name="{name}"', page))


async def test_counts_from_rows_survive_a_restart(installation: Installation) -> None:
    await installation.change(fill)
    board = Board(installation.database, installation.clock)
    await board.reload()
    assert [entry.lines for entry in board.snapshot.entries] == [
        entry.lines for entry in installation.board.snapshot.entries
    ]


async def test_only_what_changed_is_rendered_again(installation: Installation) -> None:
    await installation.change(fill)
    before = {e.name: e for e in installation.board.snapshot.entries}
    version = installation.board.snapshot.version
    await installation.board.reload()
    assert installation.board.snapshot.version == version
    await installation.change(lambda tx: break_(tx, before["sn"].id))
    after = {e.name: e for e in installation.board.snapshot.entries}
    assert [name for name in after if after[name] is not before[name]] == ["sn"]
    assert installation.board.snapshot.version == version + 1


async def test_freshness_turns_by_time_alone(installation: Installation) -> None:
    def fresh(tx: Tx) -> None:
        ids = want(tx, Wish("jira-eng", spec={"objectives": {"freshness": "30m"}}))
        connect(tx, ids["jira-eng"])
        synced(tx, ids["jira-eng"], RunResult.SUCCESS, START)

    await installation.change(fresh)
    seen = []
    for minutes in (10, 25, 40):
        installation.clock.add(timedelta(minutes=minutes).total_seconds())
        found = re.search(r'sync_status="(\w+)"', await installation.text())
        seen.append(found[1] if found else "")
    assert seen == ["healthy", "degraded", "failed"]
    assert (
        'reconciler_freshness_objective_seconds{workspace="default",name="jira-eng"} 1800.0\n'
        in await installation.text()
    )


async def test_a_board_that_nobody_looks_at_rests(installation: Installation) -> None:
    await installation.board.current()
    at = installation.board.snapshot.at
    for _ in range(30):
        installation.clock.add(1)
        await installation.board.refresh()
    assert (installation.board.snapshot.at - at).total_seconds() < 10
    await installation.database.write(lambda tx: want(tx, Wish("new")))
    assert [e.name for e in (await installation.board.current()).entries] == ["new"]


def want_one(name: str, tx: Tx) -> None:
    want(tx, Wish(name))


async def test_a_board_that_is_looked_at_is_a_second_old(installation: Installation) -> None:
    for second in range(5):
        await installation.board.current()
        await installation.board.refresh()
        assert (installation.clock.now() - installation.board.snapshot.at).total_seconds() < 1
        await installation.database.write(partial(want_one, f"n{second}"))
        installation.clock.add(1)
    assert len(installation.board.snapshot.entries) == 4


async def test_many_who_wait_cause_one_reading(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    read = installation.database.read

    async def counted(query: object) -> object:
        reads.append(query)
        return await read(query)  # type: ignore[arg-type]

    monkeypatch.setattr(installation.database, "read", counted)
    await asyncio.gather(*(installation.board.current() for _ in range(50)))
    assert len(reads) == 1


async def test_only_the_leader_speaks_of_integrations(installation: Installation) -> None:
    await installation.change(fill)
    exercise(installation)
    installation.is_leader = False
    page = await installation.text()
    assert "reconciler_integration_info" not in page
    assert "reconciler_queue_depth" not in page
    assert "reconciler_leader{} 0" in page
    # what this process counted of the runs that it did itself, which nobody else can tell
    assert 'reconciler_sync_records_total{workspace="default",name="jira-eng",operation="added"}' in page
    assert 'reconciler_reconcile_total{result="success",type="jira"} 1.0' in page


async def test_a_broken_store_leaves_the_last_state_with_its_age(installation: Installation) -> None:
    await installation.change(fill)
    read_at = installation.board.snapshot.at.timestamp()

    async def broken(_: object) -> object:
        raise StoreCorruptError("damaged")

    installation.database.read = broken  # type: ignore[method-assign,assignment]
    installation.clock.add(3600)
    page = await installation.text()
    assert page_has(page, "jira-eng") > 10
    assert f"reconciler_board_timestamp_seconds{{}} {read_at}\n" in page


async def test_content_negotiation(installation: Installation) -> None:
    await installation.change(fill)
    async with installation.client() as client:
        plain = await client.get("/metrics", headers={"accept-encoding": "identity"})
        asked = {"accept": "application/openmetrics-text;version=1.0.0", "accept-encoding": "gzip"}
        async with client.stream("GET", "/metrics", headers=asked) as packed:
            body = b"".join([piece async for piece in packed.aiter_raw()])
        refused = await client.get("/metrics", headers={"accept-encoding": "gzip;q=0, br"})
    assert plain.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert packed.headers["content-type"] == plain.headers["content-type"]
    assert "content-encoding" not in plain.headers
    assert "content-encoding" not in refused.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert page_has(gzip.decompress(body).decode(), "jira-eng") == page_has(plain.text, "jira-eng") > 10


async def test_the_loop_goes_on_while_a_large_page_is_rendered(installation: Installation) -> None:
    """The rendering thread is held up; the loop must not be."""
    await installation.change(lambda tx: want(tx, *(Wish(f"n{i}") for i in range(50))))
    gate = asyncio.Event()
    rendered, loop = installation.metrics.render, asyncio.get_running_loop()

    def held() -> bytes:
        asyncio.run_coroutine_threadsafe(gate.wait(), loop).result(120)
        return rendered()

    installation.metrics.render = held  # type: ignore[method-assign]
    async with installation.client() as client:
        scraping = asyncio.create_task(client.get("/metrics"))
        for _ in range(20):
            assert (await client.get("/v1/integrations?limit=1")).status_code == 200
        assert not scraping.done()
        gate.set()
        assert (await scraping).text.count("reconciler_integration_info{") == 50
