"""Pages of long tables are answered by an index: no read of the API walks through all there is."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from reconciler.model.record import Scope
from reconciler.store import journal, reconcile_tokens, requests, run_history
from reconciler.store.database import Cursor, Params, Tx
from reconciler.store.migrations import apply, migrations
from reconciler.store.run_history import RunsWanted
from reconciler.store.sqlite import Sqlite

AT = "2026-03-01T12:00:00.000000Z"
READS: dict[str, Callable[[Tx], Any]] = {
    "log_of_integration": lambda tx: journal.logs(tx, 1, before_id=7),
    "log_told": lambda tx: journal.logs(tx, 1, level="warn", since=AT),
    "log_of_run": lambda tx: journal.logs(tx, 1, run_id=1, level="error"),
    "run_of_integration": lambda tx: run_history.page(tx, 1, RunsWanted(since=AT), None, 20),
    "run_unwell": lambda tx: run_history.page(tx, 1, RunsWanted(frozenset({"failed"})), 9, 20),
    "run_open": lambda tx: run_history.page(tx, 1, RunsWanted(frozenset({"running", "queued"})), None, 20),
    "run_not_incremental": lambda tx: run_history.page(tx, 1, RunsWanted(scopes=frozenset({Scope.KEYS})), None, 20),
    "audit_of_workspace": lambda tx: requests.audit(tx, "it", since=AT),
    "revision": lambda tx: journal.revisions(tx, 5, 20),
    "reconcile_token": lambda tx: reconcile_tokens.find(tx, "it", "x"),
}


@pytest.mark.parametrize("index", READS)
def test_no_page_reads_a_whole_table(index: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    execute = Tx.execute

    def explained(tx: Tx, sql: str, params: Params = ()) -> Cursor:
        said.extend(str(row[3]) for row in execute(tx, f"EXPLAIN QUERY PLAN {sql}", params))
        return execute(tx, sql, params)

    with closing(Sqlite(tmp_path / "reconciler.db").connect(is_reader=False)) as session:
        with session.transaction("guarded") as tx:
            apply(tx, migrations(), "here")
        with session.transaction("read") as tx, monkeypatch.context() as patch:
            patch.setattr(Tx, "execute", explained)
            READS[index](tx)
    plan = "\n".join(line for line in said if line != "SCAN CONSTANT ROW")
    assert "SCAN" not in plan, plan
    assert "TEMP B-TREE" not in plan, plan
    assert index in plan
