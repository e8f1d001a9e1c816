"""`reconciler sync NAME`: order a sync from the daemon, and on request wait for it. `reconciler sync cancel RUN`.

Exit code: 0 ordered or, with --wait, succeeded; 1 refused, failed, partial or cancelled.
"""

import argparse
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from reconciler.cli.store_access import (
    CommandError,
    add_state_dir,
    daemon_runs,
    find_integration,
    guarded,
    order,
    reading,
    state_dir,
)

if TYPE_CHECKING:
    from reconciler.store.runs import Run

GONE_AFTER = 10


def configure(parser: argparse.ArgumentParser) -> None:
    parser.usage = "reconciler sync NAME [options]\n       reconciler sync cancel RUN [--state-dir DIR]"
    parser.add_argument("name", metavar="NAME", help="an integration: name or workspace/name; or the word cancel")
    parser.add_argument("run", metavar="RUN", nargs="?", help="after cancel: the run to end, such as run_7xKpQ2mR4wVb")
    parser.add_argument("--scope", help="incremental (default), full, or delta where the remote has a change feed")
    parser.add_argument(
        "--entities", nargs="+", action="extend", metavar="ENTITY", help="only these (default: as the manifest says)"
    )
    parser.add_argument("--since", metavar="TIME", help="read changes since then: RFC 3339, or 2h for two hours ago")
    parser.add_argument(
        "--allow-deletes", action="store_true", help="let a full read mark more records deleted than the guard allows"
    )
    parser.add_argument("--wait", action="store_true", help="show progress until it is done")
    add_state_dir(parser)


@guarded
def run(args: argparse.Namespace) -> int:
    if args.name == "cancel":
        return _cancel(args)
    if args.run is not None:
        raise CommandError(f"one integration at a time: {args.name} or {args.run}?")
    return _start(args)


def _cancel(args: argparse.Namespace) -> int:
    if args.run is None:
        raise CommandError("which run? reconciler sync cancel RUN; `reconciler status NAME` lists them")
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
    public_id = str(order(args, "sync", row.id, params)["run"])
    print(public_id, flush=True)
    return _wait(args, public_id) if args.wait else 0


def _wait(args: argparse.Namespace, public_id: str) -> int:
    from reconciler.cli.run_progress import follow, result_text
    from reconciler.model.record import RunResult

    watched = _Watched(args, public_id)
    try:
        run = follow(watched.look)
    except KeyboardInterrupt:
        cancel = f"reconciler sync cancel {public_id}"
        raise CommandError(f"{public_id} goes on in the daemon; to end it: {cancel}") from None
    print(result_text(run))
    if run.result is RunResult.SUCCESS:
        return 0
    raise CommandError(f"{public_id} was {run.result}: {run.error or run.reason}")


class _Watched:
    """Reads the run's row, and notices when the daemon that works on it is gone."""

    def __init__(self, args: argparse.Namespace, public_id: str) -> None:
        self._args = args
        self._public_id = public_id
        self._looks = 0

    def look(self) -> "Run":
        from reconciler.store import runs

        self._looks += 1
        if self._looks % GONE_AFTER == 0 and not daemon_runs(state_dir(self._args)):
            raise CommandError(f"the daemon has stopped; {self._public_id} goes on when it runs again")
        with reading(self._args) as tx:
            run = runs.find(tx, self._public_id)
        if run is None:
            raise CommandError(f"{self._public_id} is gone from the store")
        return run
