"""`reconciler dataset NAME ...`: what was synced, now and before: versions, records, differences, exports; roll back, erase.

Reading needs no daemon; rollback, erase and purge are orders, so a daemon must be there. A server may be asked for all but erase
and purge. This module has the words and the short answers; `dataset_reading`, `dataset_export` and `dataset_orders` do the rest.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reconciler.cli.columns import aligned
from reconciler.cli.dataset_access import MOMENT, MOMENT_HELP, NOW, Dataset, Readable, opened
from reconciler.cli.options import add_name, add_output, add_state_dir, examples
from reconciler.cli.server_access import ELSEWHERE, add_server, asks_server
from reconciler.cli.store_access import CommandError, guarded

_ORDERS = ("rollback", "erase", "purge")
_ONLY_HERE = ("erase", "purge")
_ENTITY = "what is read of it, such as incidents; without a command they are listed"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.usage = "reconciler dataset NAME [COMMAND ...]"
    add_name(parser)
    add_state_dir(parser)
    add_server(parser, ELSEWHERE)
    examples(
        parser,
        "reconciler dataset servicenow-prod",
        "reconciler dataset servicenow-prod versions",
        "reconciler dataset servicenow-prod show incidents --key 46e8219ba9fe19811f --at 2h",
        "reconciler dataset servicenow-prod diff 41 now --entity incidents",
        "reconciler dataset servicenow-prod export incidents --format csv --output incidents.csv",
        "reconciler dataset servicenow-prod rollback 41 --suspend",
    )
    commands = parser.add_subparsers(dest="action", metavar="COMMAND", help="without one, what there is is shown")
    _configure_reading(commands)
    _configure_orders(commands)


def _command(commands: Any, name: str, what: str) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = commands.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")
    made.prog = f"reconciler dataset NAME {name}"
    # without a default of its own, so that what stands before the word counts as well
    add_state_dir(made, default=argparse.SUPPRESS)
    add_server(made, ELSEWHERE, default=argparse.SUPPRESS)
    return made


def _configure_reading(commands: Any) -> None:
    versions = _command(commands, "versions", "list the versions, newest first: run, commit, connector, counts")
    versions.add_argument("--limit", type=int, metavar="N", default=50, help="at most so many (default: 50)")
    add_output(versions)
    show = _command(commands, "show", "show records, or one with all its versions")
    show.add_argument("entity", metavar="ENTITY", help=_ENTITY)
    show.add_argument("--key", metavar="KEY", help="only this record, whole, and where it comes from")
    show.add_argument("--at", metavar=MOMENT, default=NOW, help=f"as they were then: {MOMENT_HELP}")
    show.add_argument(
        "--limit", type=int, metavar="N", default=20, help="at most so many records or versions (default: 20)"
    )
    add_output(show)
    diff = _command(commands, "diff", "show what differs between two versions, field by field")
    diff.add_argument("before", metavar="V1", help=MOMENT_HELP)
    diff.add_argument("after", metavar="V2", help="the same")
    diff.add_argument("--entity", metavar="ENTITY", help="only this one")
    add_output(diff)
    export = _command(commands, "export", "write all records of an entity, in the order of their keys")
    export.add_argument("entity", metavar="ENTITY", help=_ENTITY)
    export.add_argument("--format", choices=("jsonl", "csv"), metavar="FORMAT", required=True, help="jsonl or csv")
    export.add_argument("--at", metavar=MOMENT, default=NOW, help=f"as they were then: {MOMENT_HELP}")
    export.add_argument("--output", metavar="FILE", type=Path, help="a file (default: standard output)")
    export.add_argument(
        "--spreadsheet", action="store_true", help="csv: put ' before texts that a spreadsheet would take for a formula"
    )


def _configure_orders(commands: Any) -> None:
    rollback = _command(commands, "rollback", "bring an earlier version back, as a new version")
    rollback.add_argument("version", metavar="VERSION", type=int, help="its number, as `versions` lists them")
    rollback.add_argument("--emit-events", action="store_true", help="tell subscribers what changes (default: nobody)")
    rollback.add_argument("--suspend", action="store_true", help="suspend the integration, so that no sync undoes it")
    erase = _command(commands, "erase", "forget records for good, in all versions")
    erase.add_argument("keys", metavar="KEY", nargs="+", help="the key of a record, as `show` lists them")
    erase.add_argument("--entity", metavar="ENTITY", help="only in this one (default: wherever the key is)")
    purge = _command(commands, "purge", "forget everything that was synced, for good")
    for one in (rollback, erase, purge):
        one.add_argument("--yes", action="store_true", help="do it without being asked")


@guarded
def run(args: argparse.Namespace) -> int:
    if asks_server(args):
        if args.action in _ONLY_HERE:
            raise CommandError(f"no server is asked to {args.action}: do it where the daemon is, with --state-dir")
        from reconciler.cli import server_dataset

        return server_dataset.run(args)
    if args.action in _ORDERS:
        from reconciler.cli import dataset_orders

        return dataset_orders.carry_out(args)
    with opened(args) as dataset:
        return _summary(dataset) if args.action is None else read(dataset, args)


def read(dataset: Readable, args: argparse.Namespace) -> int:
    """Of the store or of a server."""
    if args.action == "versions":
        return _versions(dataset, args)
    if args.action == "export":
        from reconciler.cli.dataset_export import export

        return export(dataset, args)
    from reconciler.cli import dataset_reading

    return dataset_reading.show(dataset, args) if args.action == "show" else dataset_reading.diff(dataset, args)


def _summary(dataset: Dataset) -> int:
    from reconciler.store import history

    newest = dataset.read(lambda tx: history.versions(tx, dataset.row.id, 1))
    entities = dataset.entities()
    if not entities:
        print(f"{dataset.row.ref} has no records")
        return 0
    made = f"version {newest[0].number} of {newest[0].at[:19]}Z" if newest else "no version yet"
    print(f"{dataset.row.ref}: {made}\n")
    print(aligned(("ENTITY", "RECORDS"), [(e.name, f"{e.records:,}") for e in entities]))
    return 0


def _versions(dataset: Readable, args: argparse.Namespace) -> int:
    if args.limit < 1:
        raise CommandError("--limit: expected a number above 0")
    found = dataset.versions(args.limit)
    if args.output == "json":
        json.dump({"versions": found}, sys.stdout, indent=2)
        print()
    else:
        print(table(found) if found else f"{dataset.ref} has no version yet")
    return 0


_HEAD = ("VERSION", "MADE", "ADDED", "UPDATED", "DELETED", "RUN", "COMMIT", "CONNECTOR", "RESTORES")


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """A run that is no longer kept, and a commit that is not known, show as `-`."""
    rows = [
        (
            str(v["number"]),
            f"{v['at'][:19]}Z",
            str(v["added"]),
            str(v["updated"]),
            str(v["deleted"]),
            v["run"] or "-",
            (v["revision"] or "-")[:12],
            f"{v['connector']} {v['connector_version']}".strip(),
            f"version {v['restores']}" if v["restores"] is not None else "-",
        )
        for v in found
    ]
    return aligned(_HEAD, rows)
