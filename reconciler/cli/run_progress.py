"""A run under way, shown to the person who waits for it: a bar on a terminal, plain lines anywhere else.

In: the run's row and what holds it up, again and again, from the store. Out: lines on stdout. Nothing here stops a run:
Ctrl-C ends the watching only.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reconciler.store.runs import Run

LOOK_SECONDS = 0.2
LINE_SECONDS = 5.0
Show = Callable[["Seen"], None]


@dataclass(frozen=True, slots=True)
class Seen:
    """A run at one look. `held` says why it has not begun, or does not go on; empty where nothing is known to."""

    run: "Run"
    held: str = ""


def follow(look: Callable[[], Seen]) -> "Run":
    """Show the run until it is done; returns its last state. `look` raises where nobody works on it any more."""
    with _bar() if sys.stdout.isatty() else _lines() as show:
        while True:
            seen = look()
            show(seen)
            if seen.run.state == "done":
                return seen.run
            time.sleep(LOOK_SECONDS)


def progress_text(seen: Seen) -> str:
    """Such as `fetch: 1,200 of about 5,000 records in 12 pages`, or what it waits for."""
    if seen.held:
        return f"waiting: {seen.held}"
    run = seen.run
    if run.state == "due":
        return "waiting for its turn"
    estimated = run.counts.estimated
    of = f" of about {estimated:,}" if estimated is not None else ""
    what = "keys" if run.scope == "keys" else "records"
    return f"{run.step or run.state}: {run.counts.records:,}{of} {what} in {run.counts.pages:,} pages"


def result_text(run: "Run") -> str:
    """The end of a run in one line; why it failed is told apart."""
    n = run.counts
    if run.scope == "keys":
        missing = f", {n.missing} missing here" if n.missing else ""
        return f"{run.public_id} {run.result or run.state}: {n.listed} keys listed, {n.deleted} deleted{missing}"
    numbers = f"{n.added} added, {n.updated} updated, {n.unchanged} unchanged, {n.deleted} deleted"
    rejected = f", {n.rejected} rejected" if n.rejected else ""
    return f"{run.public_id} {run.result or run.state}: {numbers}{rejected}"


@contextmanager
def _lines() -> "Iterator[Show]":
    """A line when the step or what it waits for changes, and while it reads every few seconds."""
    told = ("", "", 0.0)

    def show(seen: Seen) -> None:
        nonlocal told
        run, now = seen.run, time.monotonic()
        is_late = run.state == "running" and now - told[2] >= LINE_SECONDS
        now_told = (run.state + run.step, seen.held, now)
        if run.state != "done" and (now_told[:2] != told[:2] or is_late):
            told = now_told
            print(progress_text(seen), flush=True)

    yield show


@contextmanager
def _bar() -> "Iterator[Show]":
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, transient=True) as progress:
        task = progress.add_task("waiting", total=None)
        told = ""

        def show(seen: Seen) -> None:
            nonlocal told
            if seen.held and seen.held != told:
                progress.print(progress_text(seen), markup=False, highlight=False)
            told = seen.held
            # an estimate may be short; a bar beyond its end would say nothing
            run, estimated = seen.run, seen.run.counts.estimated
            total = max(estimated, run.counts.records) if estimated is not None else None
            text = "waiting" if seen.held else progress_text(seen)
            progress.update(task, description=text, total=total, completed=run.counts.records)

        yield show
