"""`reconciler logs --server`: the same lines over the API; with --follow the last seconds are asked for again and again.

The API does not number lines, and one may be stored a moment after another that bears a later time: what is new is told by
comparing with what was there. Integrations that Git no longer names are not found.
"""

import argparse
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Any

from reconciler.cli.logs import show
from reconciler.cli.server_access import as_ref, client_of
from reconciler.cli.times import instant

if TYPE_CHECKING:
    from reconciler.api.observing import LogLine
    from reconciler.client import Client

PAGE = 200
LOOK_SECONDS = 1.0
OVERLAP = timedelta(seconds=5)


def run(args: argparse.Namespace) -> int:
    with client_of(args) as client:
        tail = Tail(client, args)
        show(map(as_json, tail.newest(args.limit)), args.output)
        while args.follow:
            time.sleep(LOOK_SECONDS)
            show(map(as_json, tail.more()), args.output)
    return 0


class Tail:
    """The end of a log. What it gives is oldest first, each line once."""

    def __init__(self, client: "Client", args: argparse.Namespace) -> None:
        self._client = client
        self._args = args
        self._since = instant(args.since, "--since", datetime.now(UTC)) if args.since else None
        self._seen: Counter[str] = Counter()

    def newest(self, limit: int) -> "Sequence[LogLine]":
        lines = self._lines(limit)
        found = list(islice(lines, limit))
        if found and self._args.follow:
            # beyond the overlap: as many as it takes to know what is old at the next look
            bound = found[0].at - 2 * OVERLAP
            self._note([*found, *takewhile(lambda line: line.at >= bound, lines)])
        return found[::-1]

    def more(self) -> "Sequence[LogLine]":
        lines, known, new = list(self._lines(PAGE)), Counter(self._seen), []
        for line in reversed(lines):
            said = line.model_dump_json()
            if known[said]:
                known[said] -= 1
            else:
                new.append(line)
        self._note(lines)
        return new

    def _lines(self, limit: int) -> "Iterator[LogLine]":
        """The newest first."""
        return self._client.integrations.all_logs(
            as_ref(self._args.name),
            limit=min(limit, PAGE),
            level=self._args.level,
            sync_job_id=self._args.run,
            since=self._since,
        )

    def _note(self, lines: "Iterable[LogLine]") -> None:
        self._seen = Counter(line.model_dump_json() for line in lines)
        recent = max((line.at for line in lines), default=None)
        if recent is not None:
            self._since = max(recent - OVERLAP, self._since or recent - OVERLAP)


def as_json(line: "LogLine") -> dict[str, Any]:
    """In the form of the local command."""
    told = line.model_dump(mode="json")
    names = {"at": "at", "level": "level", "message": "message", "run": "sync_job_id", "detail": "detail"}
    return {name: told[theirs] for name, theirs in names.items()}
