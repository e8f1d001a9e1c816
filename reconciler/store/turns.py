"""Runs that began or ended since the last look, for those who show what happens. Called by `serve` while somebody watches."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from reconciler.store import runs
from reconciler.store.database import Tx
from reconciler.store.runs import Run


@dataclass(frozen=True, slots=True)
class Seen:
    """The state of every open run by id, and the newest run."""

    states: Mapping[int, str] = field(default_factory=dict)
    newest: int = 0


def look(tx: Tx) -> Seen:
    states = {i: state for i, state in tx.tuples("SELECT id, state FROM run WHERE state <> 'done'")}  # noqa: C416 rows
    return Seen(states, int(tx.value("SELECT coalesce(max(id), 0) FROM run")))


def turned(tx: Tx, before: Seen) -> tuple[Seen, list[Run]]:
    """What is seen now, and the runs that began or ended, in the order in which they were asked for."""
    now = look(tx)
    began = {i for i, state in now.states.items() if state == "running" and before.states.get(i) != "running"}
    ended = before.states.keys() - now.states.keys()
    brief = [i for (i,) in tx.tuples("SELECT id FROM run WHERE id > :n AND state = 'done'", n=before.newest)]
    return now, _runs(tx, {*began, *ended, *brief})


def _runs(tx: Tx, ids: Iterable[int]) -> list[Run]:
    found = (runs.get(tx, i) for i in sorted(ids))
    return [run for run in found if run is not None]
