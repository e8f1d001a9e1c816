"""`reconciler logs NAME`: what an integration did, from the daemon's store or a server. With --follow as it happens.

As JSON each line is one document, so that a stream can be read. In the store integrations that Git no longer names are found,
too.
"""

import argparse
import json
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from reconciler.cli.options import add_name, add_output, add_state_dir, examples
from reconciler.cli.server_access import ELSEWHERE, add_server, asks_server
from reconciler.cli.store_access import CommandError, find_integration, guarded, reading
from reconciler.cli.times import instant

if TYPE_CHECKING:
    from reconciler.store.database import Tx
    from reconciler.store.journal import LogLine

LOOK_SECONDS = 0.3
MOST_AT_ONCE = 10_000
LEVELS = ("debug", "info", "warn", "error")


def configure(parser: argparse.ArgumentParser) -> None:
    add_name(parser)
    bad = f"only lines this bad or worse: {', '.join(LEVELS)} (default: all)"
    parser.add_argument("--level", choices=LEVELS, metavar="LEVEL", help=bad)
    parser.add_argument("--run", metavar="RUN", help="only lines of this run, such as run_7xKpQ2mR4wVb")
    parser.add_argument("--since", metavar="TIME", help="only since then: RFC 3339, or 2h for the last two hours")
    parser.add_argument("--limit", type=int, default=200, metavar="N", help="at most the newest so many (default: 200)")
    parser.add_argument("-f", "--follow", action="store_true", help="go on with new lines until Ctrl-C")
    add_output(parser)
    add_state_dir(parser)
    add_server(parser, ELSEWHERE)
    examples(
        parser,
        "reconciler logs servicenow-prod --since 2h --level warn",
        "reconciler logs servicenow-prod --follow --output json",
    )


@guarded
def run(args: argparse.Namespace) -> int:
    if args.limit < 1:
        raise CommandError("--limit: expected a number above 0")
    if asks_server(args):
        from reconciler.cli import server_logs

        return server_logs.run(args)
    wanted = _Wanted(args)
    last = wanted.show(after_id=0, limit=args.limit)
    while args.follow:
        time.sleep(LOOK_SECONDS)
        last = wanted.show(after_id=last, limit=MOST_AT_ONCE)
    return 0


class _Wanted:
    """The integration, run and time that were asked for, looked up once."""

    def __init__(self, args: argparse.Namespace) -> None:
        from reconciler.model.clock import rfc3339

        self._args = args
        self._since = rfc3339(instant(args.since, "--since", datetime.now(UTC))) if args.since else None
        with reading(args) as tx:
            self._integration_id = find_integration(tx, args.name, with_removed=True).id
            self._run_id = self._find_run(tx) if args.run else None

    def _find_run(self, tx: "Tx") -> int:
        from reconciler.store import runs

        run = runs.find(tx, self._args.run)
        if run is None or run.integration_id != self._integration_id:
            raise CommandError(
                f"{self._args.name} has no run {self._args.run}; see: reconciler status {self._args.name}"
            )
        return run.id

    def show(self, after_id: int, limit: int) -> int:
        """Print what is there; returns the id of the last line, `after_id` where there is none."""
        from reconciler.store import journal, runs

        with reading(self._args) as tx:
            lines = journal.logs(
                tx,
                self._integration_id,
                level=self._args.level,
                run_id=self._run_id,
                since=self._since,
                after_id=after_id,
                limit=limit,
            )
            found = {n: runs.get(tx, n) for n in {line.run_id for line in lines} if n is not None}
        names = {n: run.public_id for n, run in found.items() if run is not None}
        show((as_json(line, names) for line in lines), self._args.output)
        return lines[-1].id if lines else after_id


def show(lines: Iterable[Mapping[str, Any]], output: str) -> None:
    """Lines in the stable form."""
    for line in lines:
        print(json.dumps(line) if output == "json" else as_text(line), flush=True)


def as_json(line: "LogLine", runs: Mapping[int, str]) -> dict[str, Any]:
    """The stable form of one line."""
    return {
        "at": line.at,
        "level": line.level,
        "message": line.message,
        "run": runs.get(line.run_id) if line.run_id is not None else None,
        "detail": dict(line.detail),
    }


def as_text(line: Mapping[str, Any]) -> str:
    """Time, level, message, then what belongs to it as name=value."""
    detail = {**line["detail"], **({"run": line["run"]} if line["run"] else {})}
    said = "".join(f"  {name}={_value(value)}" for name, value in detail.items())
    return f"{line['at'][:19]}Z  {line['level']:<5}  {line['message']}{said}"


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return json.dumps(text) if isinstance(value, str) and (" " in text or not text) else text
