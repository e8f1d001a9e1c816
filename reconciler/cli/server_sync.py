"""`reconciler sync --server`: the same orders over the API; with --wait the run is followed through its stream.

What the connector can do is checked by the server. A connection that is cut while it waits is taken up again; Ctrl-C ends the
waiting only.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from reconciler.cli.server_access import as_ref, client_of
from reconciler.cli.store_access import CommandError
from reconciler.cli.sync_request import asked_for

if TYPE_CHECKING:
    from reconciler.api.stream_events import SyncComplete, SyncProgress
    from reconciler.client import Client


def cancel(args: argparse.Namespace) -> int:
    with client_of(args) as client:
        client.request("POST", f"/v1/syncs/{_segment(args.run)}/cancel", headers={"idempotency-key": _new_key()})
    print(f"{args.run} cancelled")
    return 0


def start(args: argparse.Namespace) -> int:
    body = asked_for(args, datetime.now(UTC))
    with client_of(args) as client:
        if args.wait:
            return _follow(client, args.name, body)
        print(client.integrations.sync(as_ref(args.name), body).sync_job_id)
    return 0


def _segment(text: str) -> str:
    from reconciler.client.ask import segment

    return segment(text)


def _new_key() -> str:
    from reconciler.client.ask import new_key

    return new_key()


def _follow(client: "Client", name: str, body: dict[str, Any]) -> int:
    from reconciler.api.stream_events import SyncProgress
    from reconciler.client.streams import OF_SYNC

    told = ""
    path = f"/v1/integrations/{_segment(as_ref(name))}/sync"
    try:
        with _bar() if sys.stdout.isatty() else _lines() as show:
            for event in client.listen("POST", path, OF_SYNC, body=body):
                if not told:  # the id comes first, as of a sync that nobody waits for
                    told = event.sync_job_id
                    print(told, flush=True)
                if isinstance(event, SyncProgress):
                    show(event)
                else:
                    last = event
    except KeyboardInterrupt:
        goes_on = f"{told} goes on in the daemon; end it: reconciler sync cancel {told}"
        print(f"reconciler: {goes_on if told else 'perhaps nothing was ordered'}", file=sys.stderr)
        return 130
    print(_result_text(last))
    return _judged(last)


def _result_text(end: "SyncComplete") -> str:
    n = end.stats
    unchanged = n.total - n.added - n.updated - n.deleted
    rejected = f", {n.rejected} rejected" if n.rejected else ""
    numbers = f"{n.added} added, {n.updated} updated, {unchanged} unchanged, {n.deleted} deleted"
    return f"{end.sync_job_id} {end.result}: {numbers}{rejected}"


def _judged(end: "SyncComplete") -> int:
    if end.result != "success":
        why = ": ".join(part for part in (end.reason, end.message) if part and part != end.result)
        raise CommandError(f"{end.sync_job_id} was {end.result}" + (f": {why}" if why else ""))
    return 0


@contextmanager
def _lines() -> "Iterator[Callable[[SyncProgress], None]]":
    yield lambda event: print(event.message, flush=True)


@contextmanager
def _bar() -> "Iterator[Callable[[SyncProgress], None]]":
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, transient=True) as progress:
        task = progress.add_task("waiting", total=None)

        def show(event: "SyncProgress") -> None:
            progress.update(task, description=event.message, total=event.totalBatches, completed=event.batch)

        yield show
