"""`reconciler reconcile --server`: the same over the API; with --wait until what it asked for is done and all stands still.

The list of the API may be some moments old, so what the pending plan names is looked at as well: a new integration, and one
that is on its way out. What is settled is not asked for again.
"""

import argparse
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from reconciler.cli.server_access import as_ref, client_of
from reconciler.cli.store_access import CommandError

if TYPE_CHECKING:
    from reconciler.api.integrations import ConditionShown, IntegrationStatus
    from reconciler.api.reconciles import ReconcileProgress
    from reconciler.client import Client
    from reconciler.control.standing import Standing
    from reconciler.model.condition import Condition

LOOK_SECONDS = 0.5
PAGE = 100


@dataclass(frozen=True, slots=True)
class Seen:
    """One integration at one look."""

    ref: str
    stands: "Standing"
    message: str


def run(args: argparse.Namespace, patience: timedelta) -> int:
    waiting = Waiting(args.timeout, patience)
    with client_of(args) as client:
        asked = client.git.reconcile_now({"integration": as_ref(args.name)} if args.name else None)
        one = f"{asked.integration.workspace}/{asked.integration.name}" if asked.integration else ""
        if not args.wait:
            print(f"{one or 'all of Git'}: looked at now")
            return 0
        await_done(client, asked, waiting)
        found = until_settled(client, one, waiting)
    return tell(found)


def tell(found: Iterable[Seen]) -> int:
    """One line each; the exit code."""
    is_good = True
    for seen in found:
        print(f"{seen.ref} {seen.stands}: {seen.message}")
        is_good = is_good and seen.stands.is_good
    return 0 if is_good else 1


class Waiting:
    """A moment between two looks, as long as patience lasts."""

    def __init__(self, timeout: str, patience: timedelta) -> None:
        self._timeout = timeout
        self._deadline = time.monotonic() + patience.total_seconds()

    def go_on(self, what: str) -> None:
        if time.monotonic() > self._deadline:
            raise CommandError(f"not done within {self._timeout}: {what}")
        time.sleep(LOOK_SECONDS)


def await_done(client: "Client", asked: "ReconcileProgress", waiting: Waiting) -> None:
    """Raises CommandError where a source cannot be read."""
    while asked.status != "done":
        waiting.go_on("nobody has taken it up" if asked.status == "queued" else "it is under way")
        asked = client.git.get_reconcile(asked.token)
    broken = next((source for source in asked.sources if source.error), None)
    if broken:
        raise CommandError(f"source {broken.name}: {broken.error}; the last good revision stays in force")


def until_settled(client: "Client", only: str, waiting: Waiting) -> list[Seen]:
    """By name; those that go meanwhile are not among them."""
    from reconciler.client import NotFoundError

    settled: dict[str, Seen] = {}
    while True:
        leaving, staying = ({only: False}, 0) if only else _every(client)
        why = "not all of them are listed yet"
        for ref in sorted(leaving.keys() - settled.keys()):
            try:
                seen = _seen(client.integrations.get_status(as_ref(ref)), is_leaving=leaving[ref])
            except NotFoundError:
                continue
            if seen.stands.is_settled:
                settled[ref] = seen
            else:
                why, staying = f"{ref}: {seen.message}", staying + 1
        done = [settled[ref] for ref in sorted(leaving) if ref in settled]
        if sum(not leaving[seen.ref] for seen in done) >= staying:
            return done
        waiting.go_on(why)


def _every(client: "Client") -> tuple[dict[str, bool], int]:
    """Whether each is to go; and how many there are that stay, for the list may not have the newest yet."""
    from reconciler.model.plan import Action

    gone = {Action.DISCONNECT, Action.PURGE}
    plan = client.plan.pending()
    pending = {f"{one.workspace}/{one.name}": one.action in gone for one in plan.actions}
    listed = {f"{one.workspace}/{one.name}": False for one in client.integrations.all(limit=PAGE)}
    return listed | pending, plan.summary.get(Action.NONE, 0) + sum(not is_gone for is_gone in pending.values())


def _seen(one: "IntegrationStatus", *, is_leaving: bool) -> Seen:
    """Its reconcile goes on as long as a condition says that a new spec is applied."""
    from reconciler.control.standing import Standing, standing_by
    from reconciler.model.condition import ConditionType, Reason

    said = {shown.type: _condition(shown) for shown in one.conditions}
    progress = said.get(ConditionType.RECONCILING)
    is_pending = progress is not None and progress.reason is Reason.PROGRESSING
    stands = standing_by(said, is_pending=is_pending, is_observed=one.observed_generation >= one.generation)
    if is_leaving and stands not in {Standing.BLOCKED, Standing.STALLED}:
        stands = Standing.WORKING
    return Seen(f"{one.workspace}/{one.name}", stands, one.message)


def _condition(shown: "ConditionShown") -> "Condition":
    from reconciler.model.condition import Condition

    return Condition(shown.type, shown.status, shown.reason, shown.message, shown.since, shown.generation)
