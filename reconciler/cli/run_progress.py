"""A run under way, shown to the person who waits for it: a bar on a terminal, plain lines anywhere else.

In: the run's row, again and again, from the store. Out: lines on stdout. Nothing here stops a run: Ctrl-C ends the
watching only.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reconciler.store.runs import Run

LOOK_SECONDS = 0.2
LINE_SECONDS = 5.0
Show = Callable[["Run"], None]


def follow(look: Callable[[], "Run"]) -> "Run":
    """Show the run until it is done; returns its last state. `look` raises where nobody works on it any more."""
    with _bar() if sys.stdout.isatty() else _lines() as show:
        while True:
            run = look()
            show(run)
            if run.state == "done":
                return run
            time.sleep(LOOK_SECONDS)


def progress_text(run: "Run") -> str:
    """Such as `fetch: 1,200 of about 5,000 records in 12 pages`."""
    estimated = run.counts.estimated
    of = f" of about {estimated:,}" if estimated is not None else ""
    return f"{run.step or run.state}: {run.counts.records:,}{of} records in {run.counts.pages:,} pages"


def result_text(run: "Run") -> str:
    """The end of a run in one line."""
    n = run.counts
    numbers = f"{n.added} added, {n.updated} updated, {n.unchanged} unchanged, {n.deleted} deleted"
    rejected = f", {n.rejected} rejected" if n.rejected else ""
    why = f": {run.reason}: {run.error}" if run.error else ""
    return f"{run.public_id} {run.result or run.state}: {numbers}{rejected}{why}"


@contextmanager
def _lines() -> "Iterator[Show]":
    """A line when the step changes, and every few seconds."""
    told = ("", 0.0)

    def show(run: "Run") -> None:
        nonlocal told
        now = time.monotonic()
        if run.state != "done" and (told[0] != run.step or now - told[1] >= LINE_SECONDS):
            told = (run.step, now)
            print(progress_text(run), flush=True)

    yield show


@contextmanager
def _bar() -> "Iterator[Show]":
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, transient=True) as progress:
        task = progress.add_task("waiting", total=None)

        def show(run: "Run") -> None:
            # an estimate may be short; a bar beyond its end would say nothing
            estimated = run.counts.estimated
            total = max(estimated, run.counts.records) if estimated is not None else None
            progress.update(task, description=progress_text(run), total=total, completed=run.counts.records)

        yield show
