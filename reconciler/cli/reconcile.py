"""`reconciler reconcile [NAME]`: look at one integration now, or without a name fetch Git and look at everything.

Exit code with --wait: 0 when all is as Git wants it, 1 when something is stalled, broken, waiting, or not done in time.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from reconciler.cli.options import NAME, add_state_dir, examples
from reconciler.cli.server_access import ELSEWHERE, add_server, asks_server
from reconciler.cli.store_access import (
    CommandError,
    DaemonWatch,
    find_integration,
    guarded,
    order,
    reading,
)
from reconciler.cli.times import span

if TYPE_CHECKING:
    from reconciler.control.standing import Standing
    from reconciler.control.view import IntegrationView

LOOK_SECONDS = 0.1
EXITS = "0 ordered or, with --wait, all is as Git wants it; 1 refused, or something failed, stalled or waits"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help=f"{NAME} (default: fetch Git, and look at all)")
    parser.add_argument("--wait", action="store_true", help="until all is as Git wants it, or says why it cannot be")
    parser.add_argument("--timeout", default="5m", metavar="DURATION", help="how long --wait waits (default: 5m)")
    add_state_dir(parser)
    add_server(parser, ELSEWHERE)
    examples(
        parser, "reconciler reconcile --wait", "reconciler reconcile servicenow-prod --wait --timeout 30s", exits=EXITS
    )


@guarded
def run(args: argparse.Namespace) -> int:
    patience = span(args.timeout, "--timeout")
    if asks_server(args):
        from reconciler.cli import server_reconcile

        return server_reconcile.run(args, patience)
    integration_id = None
    if args.name:
        with reading(args) as tx:
            integration_id = find_integration(tx, args.name).id
    asked_at = datetime.now(UTC)
    answer = order(args, "reconcile", integration_id, {})
    if not args.wait:
        print(f"{answer.get('integration', 'all of Git')}: looked at now")
        return 0
    waiting = _Waiting(args, asked_at + patience)
    if integration_id is None:
        _await_sources(args, _by_the_daemons_clock(answer, asked_at), waiting)
    return _wait(args, integration_id, waiting)


def _by_the_daemons_clock(answer: Mapping[str, Any], asked_at: datetime) -> datetime:
    """When it took the order: what it tells of its looks at Git is compared with that, and clocks differ."""
    from reconciler.model.clock import from_rfc3339

    at = answer.get("at")
    return from_rfc3339(at) if at else asked_at


def _wait(args: argparse.Namespace, integration_id: int | None, waiting: "_Waiting") -> int:
    while True:
        found = _look(args, integration_id)
        if all(stands.is_settled for _, stands in found):
            break
        waiting.go_on(_unsettled(found))
    for view, stands in found:
        print(f"{view.row.ref} {stands}: {view.message}")
    return 0 if all(stands.is_good for _, stands in found) else 1


def _look(args: argparse.Namespace, integration_id: int | None) -> "Sequence[tuple[IntegrationView, Standing]]":
    from reconciler.control.standing import standings

    with reading(args) as tx:
        every = standings(tx, tx.now())
    return [pair for pair in every if integration_id in (None, pair[0].row.id)]


def _await_sources(args: argparse.Namespace, asked_at: datetime, waiting: "_Waiting") -> None:
    """Until every source was asked after that time and what it gave was planned; raises CommandError where one cannot be read."""
    from reconciler.model.clock import from_rfc3339
    from reconciler.store import journal

    while True:
        with reading(args) as tx:
            sources = journal.sources(tx)
        late = [s.name for s in sources if s.attempted_at is None or from_rfc3339(s.attempted_at) < asked_at]
        if not late:
            break
        waiting.go_on(f"source {late[0]} has not been read")
    broken = next((s for s in sources if s.error_reason), None)
    if broken:
        raise CommandError(f"source {broken.name}: {broken.error_message}; the last good revision stays in force")


class _Waiting:
    """A moment between two looks, as long as patience lasts and a daemon works."""

    def __init__(self, args: argparse.Namespace, deadline: datetime) -> None:
        self._timeout = args.timeout
        self._deadline = deadline
        self._daemon = DaemonWatch(args, "it goes on")

    def go_on(self, what: str) -> None:
        if datetime.now(UTC) > self._deadline:
            raise CommandError(f"not done within {self._timeout}: {what}")
        self._daemon.check()
        time.sleep(LOOK_SECONDS)


def _unsettled(found: "Sequence[tuple[IntegrationView, Standing]]") -> str:
    view = next(view for view, stands in found if not stands.is_settled)
    return f"{view.row.ref}: {view.message}"
