"""`reconciler sync NAME`: order a sync from the daemon, and on request wait for it. `reconciler sync cancel RUN`.

What cannot start now is refused with what to do. With --wait, what passes by itself is waited for: before the order until
the integration is connected, after it until the run is done. Exit code: 0 ordered or, with --wait, succeeded; 1 refused,
failed, partial or cancelled; 130 after Ctrl-C.
"""

import argparse
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from reconciler.cli.options import NAME, add_state_dir, examples
from reconciler.cli.server_access import ELSEWHERE, add_server, asks_server
from reconciler.cli.store_access import (
    CommandError,
    DaemonWatch,
    demand_daemon,
    find_integration,
    guarded,
    order,
    reading,
)

if TYPE_CHECKING:
    from reconciler.cli.run_progress import Seen
    from reconciler.store.runs import Run

LOOK_SECONDS = 0.2


def configure(parser: argparse.ArgumentParser) -> None:
    parser.usage = "reconciler sync NAME [options]\n       reconciler sync cancel RUN [--state-dir DIR]"
    parser.add_argument("name", metavar="NAME", help=f"{NAME}; or the word cancel")
    parser.add_argument("run", metavar="RUN", nargs="?", help="after cancel: the run to end, such as run_7xKpQ2mR4wVb")
    parser.add_argument(
        "--scope",
        metavar="SCOPE",
        help="incremental (default), full, delta where the remote has a change feed, or keys: look only for what is deleted",
    )
    parser.add_argument(
        "--entities", nargs="+", action="extend", metavar="ENTITY", help="only these (default: as the manifest says)"
    )
    parser.add_argument("--since", metavar="TIME", help="read changes since then: RFC 3339, or 2h for two hours ago")
    parser.add_argument(
        "--allow-deletes",
        action="store_true",
        help="let a full read, or a listing of keys, mark more records deleted than the guard allows",
    )
    parser.add_argument(
        "--accept-schema",
        action="store_true",
        help="take records as they are now, whatever spec.sync.schema says, and go on from there",
    )
    parser.add_argument("--wait", action="store_true", help="show progress, and why it has not begun, until it is done")
    add_state_dir(parser)
    add_server(parser, ELSEWHERE)
    examples(
        parser,
        "reconciler sync servicenow-prod --wait",
        "reconciler sync it-ops/servicenow-prod --entities incidents,changes --since 2h",
        "reconciler sync servicenow-prod --scope full",
        "reconciler sync servicenow-prod --scope keys --wait",
        "reconciler sync cancel run_7xKpQ2mR4wVb",
        exits="0 ordered or, with --wait, succeeded; 1 refused, failed, partial or cancelled",
    )


@guarded
def run(args: argparse.Namespace) -> int:
    if args.name == "cancel":
        return _cancel(args)
    if args.run is not None:
        raise CommandError(f"one integration at a time: {args.name} or {args.run}?")
    if asks_server(args):
        from reconciler.cli import server_sync

        return server_sync.start(args)
    return _start(args)


def _cancel(args: argparse.Namespace) -> int:
    if args.run is None:
        raise CommandError("which run? reconciler sync cancel RUN; `reconciler status NAME` lists them")
    if asks_server(args):
        from reconciler.cli import server_sync

        return server_sync.cancel(args)
    answer = order(args, "cancel-sync", None, {"run": args.run})
    print(f"{answer['run']} cancelled")
    return 0


def _start(args: argparse.Namespace) -> int:
    from reconciler.cli.sync_request import sync_params
    from reconciler.store import shown

    with reading(args) as tx:
        row = find_integration(tx, args.name)
        tree = shown.desired_tree(tx, row.id)
    params = sync_params(args, row.type, tree, datetime.now(UTC))
    if args.wait and not _until_startable(args, row.id):
        return 130
    public_id = str(order(args, "sync", row.id, params)["run"])
    if args.wait:
        return _wait(args, public_id)
    print(public_id, flush=True)
    return 0


def _until_startable(args: argparse.Namespace, integration_id: int) -> bool:
    """Tell once what it waits for, and again when that changes. What needs somebody is the order's to refuse.

    False after Ctrl-C.
    """
    from reconciler.control import holdup
    from reconciler.store import integrations

    demand_daemon(args)
    told, daemon = "", DaemonWatch(args, "order it")
    try:
        while True:
            daemon.check()
            with reading(args) as tx:
                row = integrations.get(tx, integration_id)
                held = holdup.of_integration(tx, row) if row else None
            if held is None or held.remedy:
                return True
            if held.message != told:
                told = held.message
                print(f"waiting: {told}", flush=True)
            time.sleep(LOOK_SECONDS)
    except KeyboardInterrupt:
        print("reconciler: nothing was ordered", file=sys.stderr)
        return False


def _wait(args: argparse.Namespace, public_id: str) -> int:
    from reconciler.cli.run_progress import result_text

    run = watched(args, public_id, tells_id=True)
    if run is None:
        return 130
    print(result_text(run))
    if run.counts.missing:
        print(f"no incremental sync asks for what is missing here: reconciler sync {args.name} --scope full")
    demand_success(run)
    return 0


def watched(args: argparse.Namespace, public_id: str, *, tells_id: bool = False) -> "Run | None":
    """Show the run until it is done; its last state, None after Ctrl-C, which from the moment the id is shown is answered."""
    from reconciler.cli.run_progress import follow

    daemon = DaemonWatch(args, f"{public_id} goes on")
    try:
        if tells_id:
            print(public_id, flush=True)
        return follow(lambda: _look(args, public_id, daemon))
    except KeyboardInterrupt:
        look, end = f"reconciler logs {args.name} --run {public_id} -f", f"reconciler sync cancel {public_id}"
        print(f"reconciler: {public_id} goes on in the daemon; look: {look}; end it: {end}", file=sys.stderr)
        return None


def demand_success(run: "Run") -> None:
    """Raises CommandError with how else the run ended."""
    from reconciler.model.record import RunResult

    if run.result is not RunResult.SUCCESS:
        why = ": ".join(part for part in (run.reason, run.error) if part)
        raise CommandError(f"{run.public_id} was {run.result}" + (f": {why}" if why else ""))


def _look(args: argparse.Namespace, public_id: str, daemon: DaemonWatch) -> "Seen":
    """The run's row and what holds it up; raises CommandError where nobody works on it any more."""
    from reconciler.cli.run_progress import Seen
    from reconciler.control import holdup
    from reconciler.store import runs

    daemon.check()
    with reading(args) as tx:
        found = runs.find(tx, public_id)
        held = holdup.of_run(tx, found, tx.now()) if found else None
    if found is None:
        raise CommandError(f"{public_id} is gone from the store")
    if held is not None and held.remedy:
        raise CommandError(f"{public_id} has not begun: {held}")
    return Seen(found, held.message if held else "")
