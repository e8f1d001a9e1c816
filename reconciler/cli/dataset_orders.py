"""`dataset NAME rollback`, `erase` and `purge`: first what would happen, then, when a person agrees, the order and its end.

Out: a preview from the store, a question where somebody can answer it, and what came of it. Without `--yes` nothing is
done where nobody can be asked.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from reconciler.cli.dataset_access import Dataset, opened, visible
from reconciler.cli.store_access import CommandError, DaemonWatch, order, reading

if TYPE_CHECKING:
    from reconciler.model.record import Counts
    from reconciler.sdk.contract import Entity
    from reconciler.store.erasure import Traces

SCRUB_SECONDS = 0.5
_ELSEWHERE = (
    "Not reached: the remote (while it has the record a sync may read it again: a full one does), what was delivered,"
    " exports, backups, and what the daemon printed."
)


def carry_out(args: argparse.Namespace) -> int:
    orders: Mapping[str, Callable[[argparse.Namespace], int]] = {
        "rollback": _roll_back,
        "erase": _erase,
        "purge": _purge,
    }
    return orders[args.action](args)


def agree(args: argparse.Namespace) -> None:
    """Raises CommandError unless a person wants it."""
    if args.yes:
        return
    if not sys.stdin.isatty():
        raise CommandError("nothing was done; --yes does it without being asked")
    print("Do it? [y/N] ", end="", flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise CommandError("nothing was done")


def _roll_back(args: argparse.Namespace) -> int:
    with opened(args) as dataset:
        lines, is_needed = rollback_preview(dataset, args)
        integration_id = dataset.row.id
    print("\n".join(lines))
    if not is_needed:
        return 0
    print(flush=True)
    agree(args)
    asked = {"version": args.version, "emit_events": args.emit_events, "suspend": args.suspend}
    return _watch(args, str(order(args, "rollback", integration_id, asked)["run"]))


def rollback_preview(dataset: Dataset, args: argparse.Namespace) -> tuple[list[str], bool]:
    """What would change, who would be told, and what the next sync does; and whether there is anything to do."""
    from reconciler.store import history, runs, shown

    row = dataset.row
    if row.removed_at is not None:
        raise CommandError(f"{row.ref} is gone from Git; what it had can be exported, erased or purged")
    present, target = dataset.cut("now", "now"), dataset.cut(str(args.version), "VERSION")
    counts = {e.name: dataset.read(partial(history.tally, before=present, after=target, entity_id=e.id))
              for e in dataset.entities()}  # fmt: skip
    changed = {name: c for name, c in counts.items() if c.changed}
    head = f"{row.ref}: back to version {target.version} of {target.at[:19]}Z"
    if not changed:
        return [f"{head}: nothing to do, the records are as they were then"], False
    open_runs = dataset.read(lambda tx: runs.open_runs(tx, row.id))
    tree = dataset.read(lambda tx: shown.desired_tree(tx, row.id))
    return [
        head,
        *(f"  {name}: {counted(c)}" for name, c in changed.items()),
        *(f"{r.public_id} is under way and ends; what it stored stays, in a version of its own" for r in open_runs),
        events_text(changed, emits=args.emit_events),
        *next_sync_text(dataset, tree, list(changed), is_suspending=args.suspend),
    ], True


def counted(counts: "Counts") -> str:
    parts = (
        (counts.added, "deleted since then come back"),
        (counts.updated, "get the content they had"),
        (counts.deleted, "that came since then are marked deleted"),
    )
    return ", ".join(f"{n:,} {what}" for n, what in parts if n)


def events_text(changed: "Mapping[str, Counts]", *, emits: bool) -> str:
    from reconciler.model.event import singular

    said = [
        f"{count:,} {singular(name)}.{what}"
        for name, c in changed.items()
        for count, what in ((c.added, "created"), (c.updated, "updated"), (c.deleted, "deleted"))
        if count
    ]
    return f"Events: {', '.join(said)}" if emits else f"Events: none (with --emit-events: {', '.join(said)})"


def next_sync_text(
    dataset: Dataset, tree: Mapping[str, Any], changed: Sequence[str], *, is_suspending: bool
) -> list[str]:
    """Whether a sync will undo it. `changed` are the entities that the rollback touches."""
    row = dataset.row
    if is_suspending or row.is_suspended:
        return [f"Next sync: none before `reconciler resume {row.ref}`"]
    if not row.is_connected:
        return ["Next sync: none, it is not connected"]
    when = f"at {row.next_sync_at[:19]}Z" if row.next_sync_at else "when somebody starts it"
    if (tree.get("sync") or {}).get("scope") == "full":
        return [f"Next sync: {when}, a full one: it brings the remote's state back; --suspend keeps it off"]
    whole = [e for e in _read_whole(row.type, tree) if e in changed]
    others = [e for e in changed if e not in whole]
    lines = [f"Next sync: {when}"]
    if others:
        overlap = _overlap(row.type, tree, others)
        lines.append(
            f"  {', '.join(others)}: stays as it is, but for what changes at the remote{overlap}; a full sync"
            " (--scope full) brings the remote's state back"
        )
    if row.next_keys_at and (listed := _listing_keys(row.type, tree, others)):
        lines.append(
            f"  {', '.join(listed)}: keys are listed at {row.next_keys_at[:19]}Z; what is not at the remote is deleted again"
        )
    if whole:
        lines.append(
            f"  {', '.join(whole)}: is read as a whole each time, which brings the remote's state back; --suspend keeps it off"
        )
    return lines


def _listing_keys(type_name: str, tree: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    from reconciler.sdk.contract import Deletes

    return [e.name for e in _declared(type_name, tree) if e.deletes is Deletes.KEYS and e.name in names]


def _declared(type_name: str, tree: Mapping[str, Any]) -> "Sequence[Entity]":
    """None are known where the connector is not installed here."""
    from reconciler.cli.sync_request import declared_entities

    try:
        return declared_entities(type_name, tree) or ()
    except CommandError:
        return ()


def _read_whole(type_name: str, tree: Mapping[str, Any]) -> list[str]:
    return [entity.name for entity in _declared(type_name, tree) if entity.cursor is None]


def _overlap(type_name: str, tree: Mapping[str, Any], names: Sequence[str]) -> str:
    from reconciler.model.duration import render_duration

    overlaps = [entity.overlap for entity in _declared(type_name, tree) if entity.name in names]
    longest = max(overlaps, default=timedelta())
    return f" and has changed in the {render_duration(longest)} before the last sync" if longest else ""


def _watch(args: argparse.Namespace, public_id: str) -> int:
    from reconciler.cli.sync import demand_success, watched

    run = watched(args, public_id)
    if run is None:
        return 130
    demand_success(run)
    n = run.counts
    made = f"is version {run.dataset_version}" if run.dataset_version is not None else "changed nothing"
    print(f"{public_id} {made}: {n.added} added, {n.updated} updated, {n.deleted} deleted")
    return 0


def _erase(args: argparse.Namespace) -> int:
    keys = list(dict.fromkeys(args.keys))
    with opened(args) as dataset:
        if args.entity is not None:
            dataset.entity(args.entity)
        found = {key: _traces(dataset, key, args.entity) for key in keys}
        row = dataset.row
    for key, traces in found.items():
        if traces.is_empty:
            raise CommandError(
                f"{row.ref} holds nothing of {visible(key)}{f' in {args.entity}' if args.entity else ''}"
            )
    print(f"{row.ref}: gone for good, in all versions")
    for key, traces in found.items():
        print(f"  {visible(key)}: {traces_text(traces)}")
    print(
        f"Deliveries that are not sent yet are cancelled. A rollback does not bring it back.\n{_ELSEWHERE}\n",
        flush=True,
    )
    agree(args)
    answer = order(args, "erase", row.id, {"keys": keys, "entity": args.entity})
    return _scrubbed(args, f"erased {_answer_text(answer)}")


def _traces(dataset: Dataset, key: str, entity: str | None) -> "Traces":
    from reconciler.store import erasure

    return dataset.read(lambda tx: erasure.find(tx, dataset.row.id, key, entity))


def _purge(args: argparse.Namespace) -> int:
    with opened(args) as dataset:
        row, entities = dataset.row, dataset.entities()
    print(f"{row.ref}: all records of all versions go for good, checkpoints and rejects, too")
    print("\n".join(f"  {e.name}: {e.records:,} records" for e in entities) or "  no records")
    syncs = "" if row.removed_at else "\nThe next sync reads everything anew, as a first one."
    print(f"Deliveries of them that are not sent yet are cancelled.{syncs}\n{_ELSEWHERE}\n", flush=True)
    agree(args)
    return _scrubbed(args, f"purged {_answer_text(order(args, 'purge', row.id, {}))}")


def traces_text(traces: "Traces") -> str:
    """Such as `1 record, 3 versions, 2 log lines`."""
    return _answer_text({name: getattr(traces, name) for name in _TRACES})


_TRACES = {
    "records": "record",
    "versions": "version",
    "rejects": "reject",
    "deliveries": "delivery",
    "log_lines": "log line",
}
_PLURALS = {"delivery": "deliveries"}


def _answer_text(answer: Mapping[str, Any]) -> str:
    said = [(answer[name], one) for name, one in _TRACES.items() if answer[name]]
    return ", ".join(f"{n:,} {one if n == 1 else _PLURALS.get(one, f'{one}s')}" for n, one in said) or "nothing"


def _scrubbed(args: argparse.Namespace, done: str) -> int:
    """Wait until no byte of it is left in the file."""
    from reconciler.store import scrub

    print(done, flush=True)
    left = "no query finds it any more, and the database file is written anew"
    daemon = DaemonWatch(args, left)
    try:
        while True:
            with reading(args) as tx:
                if not scrub.is_due(tx):
                    print("the database holds no trace of it")
                    return 0
            daemon.check()
            time.sleep(SCRUB_SECONDS)
    except KeyboardInterrupt:
        print(f"reconciler: {left} by the daemon", file=sys.stderr)
        return 130
