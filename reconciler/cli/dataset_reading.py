"""`dataset NAME show` and `diff`: records as they were, what became of one, and what differs between two moments.

As JSON each line is one document, so that a stream can be read. Texts of the remote are cut and made harmless for a terminal;
`export` and JSON give them whole.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from reconciler.cli.columns import aligned, one_line
from reconciler.cli.dataset_access import Change, Readable, in_one_line, said, visible
from reconciler.cli.store_access import CommandError

if TYPE_CHECKING:
    from reconciler.model.plan import FieldChange
    from reconciler.store.history import Cut, EntityOf, Entry, LineageStep

_CHANGES = {"added": "+", "updated": "~", "deleted": "-"}


def show(dataset: Readable, args: argparse.Namespace) -> int:
    if args.limit < 1:
        raise CommandError("--limit: expected a number above 0")
    entity, cut = dataset.entity(args.entity), dataset.cut(args.at, "--at")
    if args.key is not None:
        return _one(dataset, args, entity, cut)
    entries = dataset.entries(cut, entity)
    if args.output == "json":
        _write_lines({"entity": entity.name, "key": e.key, "at": e.at, "record": _raw(e.payload)} for e in
                     islice(entries, args.limit))  # fmt: skip
        return 0
    shown = list(islice(entries, args.limit))
    print(f"{dataset.ref} {entity.name}, {said(cut, args.at)}\n")
    rows = [(one_line(visible(e.key), 60), one_line(visible(_text(e.payload)))) for e in shown]
    print(aligned(("KEY", "RECORD"), rows) if shown else "no records")
    if next(entries, None) is not None:
        print(
            f"\nThe first {args.limit}. --limit shows more of them, --key KEY one as a whole, and all: dataset NAME export."
        )
    return 0


def _one(dataset: Readable, args: argparse.Namespace, entity: "EntityOf", cut: "Cut") -> int:
    found, steps = dataset.record(cut, entity, args.key, args.limit)
    if args.output == "json":
        document = {"entity": entity.name, "key": args.key, "at": found.at if found else None}
        record = _raw(found.payload) if found else None
        _write_lines([document | {"record": record, "lineage": [_step_as_json(s) for s in steps]}])
        return 0
    print(f"{dataset.ref} {entity.name} {visible(args.key)}, {said(cut, args.at)}\n")
    print("\n".join(_fields(found)) if found else "  not there")
    print(f"\n{lineage_table(steps)}")
    if steps[-1].has_older:
        print("older ones: more with --limit, or no longer kept")
    return 0


def _fields(found: "Entry") -> Iterator[str]:
    import msgspec

    record = msgspec.json.decode(found.payload)
    for name, value in (record if isinstance(record, dict) else {"value": record}).items():
        yield f"  {visible(name)}: {visible(_text(msgspec.json.encode(value)))}"


def _step_as_json(step: "LineageStep") -> dict[str, Any]:
    return {"at": step.at, "change": step.op, "version": step.version, "run": step.run}


def lineage_table(steps: "Sequence[LineageStep]") -> str:
    """Newest first. A version is missing while its run goes on."""
    rows = [(str(s.version) if s.version is not None else "-", f"{s.at[:19]}Z", str(s.op), s.run or "-") for s in steps]
    return aligned(("VERSION", "AT", "CHANGE", "RUN"), rows)


def diff(dataset: Readable, args: argparse.Namespace) -> int:
    before, after = dataset.cut(args.before, "V1"), dataset.cut(args.after, "V2")
    changes = dataset.changes(before, after, args.entity)
    found = chain(list(islice(changes, 1)), changes)  # what is wrong is said before anything else
    if args.output == "json":
        _write_lines(map(_change_as_json, found))
        return 0
    print(f"{dataset.ref}, from {said(before, args.before)} to {said(after, args.after)}\n")
    counts = dict.fromkeys(_CHANGES, 0)
    for change in found:
        counts[change.kind] += 1
        for line in _change_as_text(change):
            print(line)
    print(f"{'' if not any(counts.values()) else chr(10)}{', '.join(f'{n:,} {what}' for what, n in counts.items())}")
    return 0


def _change_as_text(change: Change) -> Iterator[str]:
    yield f"{_CHANGES[change.kind]} {change.entity} {visible(change.key)}"
    if change.kind != "updated":
        return
    if not change.fields:
        yield "    only the spelling of its JSON"
    for c in change.fields:
        yield f"    {visible(c.path)}: {_value(c.before)} -> {_value(c.after)}"


def _value(text: str | None) -> str:
    return "(absent)" if text is None else one_line(visible(text))


def _change_as_json(change: Change) -> dict[str, Any]:
    """An added or deleted record comes whole; of an updated one the fields that differ, absent where absent."""
    document = {"entity": change.entity, "key": change.key, "change": change.kind}
    if change.kind != "updated":
        return document | {"record": _raw(change.record)}
    return document | {"fields": {c.path: _field_as_json(c) for c in change.fields}}


def _field_as_json(change: "FieldChange") -> dict[str, Any]:
    sides = (("before", change.before), ("after", change.after))
    return {name: _raw(text.encode()) for name, text in sides if text is not None}


def _raw(payload: bytes) -> Any:
    """To be written as it was received."""
    import msgspec

    return msgspec.Raw(in_one_line(payload))


def _text(payload: bytes) -> str:
    return payload.decode("utf-8", "replace")


def _write_lines(documents: Iterable[dict[str, Any]]) -> None:
    import msgspec

    sys.stdout.flush()
    for document in documents:
        sys.stdout.buffer.write(msgspec.json.encode(document) + b"\n")
    sys.stdout.buffer.flush()
