"""`reconciler rejects NAME`: records that a sync could not take, and why; `replay` tries the kept ones again.

Listing needs no daemon; a replay is an order and shown to its end. Of a record only an excerpt is shown, without secrets and
without what `sync.fields` leaves out today. Exit code: 0; 1 where the order is refused or the replay failed; 130 after Ctrl-C.
"""

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from reconciler.cli.columns import aligned, one_line
from reconciler.cli.options import add_name, add_output, add_state_dir, examples
from reconciler.cli.store_access import CommandError, find_integration, guarded, order, reading

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from reconciler.store.rejects import Kept

EXCERPT = 80
JSON_EXCERPT = 1000


def configure(parser: argparse.ArgumentParser) -> None:
    parser.usage = "reconciler rejects NAME [options]\n       reconciler rejects NAME replay [--entity ENTITY]"
    add_name(parser)
    parser.add_argument("--entity", metavar="ENTITY", help="only of this one, such as incidents")
    parser.add_argument("--limit", type=int, metavar="N", default=50, help="at most the newest so many (default: 50)")
    add_output(parser)
    add_state_dir(parser)
    examples(
        parser,
        "reconciler rejects servicenow-prod",
        "reconciler rejects servicenow-prod --entity incidents --output json",
        "reconciler rejects servicenow-prod replay",
    )
    commands = parser.add_subparsers(dest="action", metavar="COMMAND", help="without one, they are listed")
    what = "try them again, under today's manifest and connector"
    replay = commands.add_parser("replay", help=what, description=f"{what[0].upper()}{what[1:]}.")
    replay.prog = "reconciler rejects NAME replay"
    # without defaults of their own, so that what stands before the word counts as well
    replay.add_argument("--entity", metavar="ENTITY", default=argparse.SUPPRESS, help="only of this one")
    replay.add_argument(
        "--accept-schema", action="store_true", help="take records as they are, whatever spec.sync.schema says"
    )
    add_state_dir(replay, default=argparse.SUPPRESS)


@guarded
def run(args: argparse.Namespace) -> int:
    return _replay(args) if args.action == "replay" else _list(args)


def _list(args: argparse.Namespace) -> int:
    from reconciler.store import rejects, shown

    if args.limit < 1:
        raise CommandError("--limit: expected a number above 0")
    with reading(args) as tx:
        row = find_integration(tx, args.name, with_removed=True)
        counts = rejects.tally(tx, row.id)
        found = rejects.listing(tx, row.id, args.entity, args.limit)
        shorten = excerpts(shown.desired_tree(tx, row.id))
    total = sum(n for name, n in counts.items() if args.entity in (None, name))
    if args.output == "json":
        json.dump({"total": total, "rejects": [as_json(r, shorten) for r in found]}, sys.stdout, indent=2)
        print()
    elif not total:
        print(f"{row.ref} has no rejects{f' of {args.entity}' if args.entity else ''}")
    else:
        print(table(found, shorten))
        print(f"\n{_number(total)}{', the newest first' if total > len(found) else ''}."
              f" Try again: reconciler rejects {args.name} replay")  # fmt: skip
    return 0


def _number(total: int) -> str:
    return f"{total:,} {'reject' if total == 1 else 'rejects'}"


def excerpts(tree: "Mapping[str, Any]") -> "Callable[[bytes], str]":
    """What may be shown of a record: nothing that `sync.fields` leaves out today, no secret, on one line."""
    from reconciler.cli.dataset_access import in_one_line, visible
    from reconciler.model.manifest import Fields
    from reconciler.sdk.redact import Redactor
    from reconciler.sync.fields import filtered_reject, record_filter

    try:
        apply = record_filter(Fields.model_validate((tree.get("sync") or {}).get("fields") or {}), ())
    except ValueError:  # a manifest that is broken now; its findings are told elsewhere
        apply = None
    redactor = Redactor()

    def shorten(payload: bytes) -> str:
        safe = in_one_line(filtered_reject(apply, payload) if apply else payload).decode(errors="replace")
        return visible(redactor.text(safe))

    return shorten


_HEAD = ("ENTITY", "KEY", "WHEN", "RUN", "REASON", "RECORD")


def table(found: "Sequence[Kept]", shorten: "Callable[[bytes], str]") -> str:
    """Newest first."""
    from reconciler.cli.dataset_access import visible

    rows = [
        (
            r.entity,
            one_line(visible(r.key), EXCERPT) or "-",
            f"{r.at[:19]}Z",
            r.run or "-",
            one_line(visible("; ".join(r.violations)), EXCERPT),
            one_line(shorten(r.payload), EXCERPT) if r.is_whole else "-",
        )
        for r in found
    ]
    return aligned(_HEAD, rows)


def as_json(reject: "Kept", shorten: "Callable[[bytes], str]") -> "dict[str, Any]":
    """The stable JSON form of one reject."""
    return {
        "entity": reject.entity,
        "key": reject.key or None,
        "reasons": list(reject.violations),
        "at": reject.at,
        "run": reject.run,
        "excerpt": one_line(shorten(reject.payload), JSON_EXCERPT) if reject.is_whole else None,
    }


def _replay(args: argparse.Namespace) -> int:
    from reconciler.cli.sync import demand_success, watched

    with reading(args) as tx:
        row = find_integration(tx, args.name)
    public_id = str(order(args, "replay", row.id, {"entity": args.entity, "accept_schema": args.accept_schema})["run"])
    done = watched(args, public_id)
    if done is None:
        return 130
    demand_success(done)
    n = done.counts
    taken = f"{n.added} added, {n.updated} updated, {n.deleted} deleted"
    made = f", version {done.dataset_version}" if done.dataset_version is not None else ""
    print(f"{public_id}: {taken}{made}; {n.rejected} still rejected")
    if n.rejected:
        print(f"why: reconciler rejects {args.name}")
    return 0
