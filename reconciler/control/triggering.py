"""A reconcile that somebody asked for by a token: how far it is, told from what the daemon notes anyway.

In: the store. Out: whether it was taken up, and which revisions it came to. Called by the API. A look at all of Git is done
when every source was asked after the order and what it gave is taken over; one integration, when its job has ended.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from reconciler.store import integrations, jobs, journal
from reconciler.store.database import Tx
from reconciler.store.integrations import IntegrationRow
from reconciler.store.journal import SourceRow
from reconciler.store.reconcile_tokens import Triggered

Stage = Literal["queued", "running", "done"]


@dataclass(frozen=True, slots=True)
class Progress:
    """`queued`: nobody has taken it up. `sources` are those read since, also where that failed."""

    stage: Stage
    integration: IntegrationRow | None = None
    sources: Sequence[SourceRow] = ()


def progress(tx: Tx, asked: Triggered) -> Progress:
    if asked.integration_id is None:
        return _of_git(tx, asked)
    row = integrations.get(tx, asked.integration_id)
    return Progress(_stage_of_job(tx, asked), row)


def _of_git(tx: Tx, asked: Triggered) -> Progress:
    answer = journal.answer_of(tx, asked.request)
    if answer is None:
        return Progress("queued")
    taken_at = str(answer.get("at") or asked.requested_at)
    every = journal.sources(tx)
    read = [source for source in every if source.attempted_at is not None and source.attempted_at >= taken_at]
    return Progress("done" if len(read) == len(every) else "running", sources=read)


def _stage_of_job(tx: Tx, asked: Triggered) -> Stage:
    state = jobs.standing(tx, "reconcile", str(asked.integration_id))
    if state is None:
        return "done"
    if state.state == "running":
        return "running"
    is_waiting = state.state == "queued" or state.is_asked or state.due_at <= asked.requested_at
    return "queued" if is_waiting else "done"
