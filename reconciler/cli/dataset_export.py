"""`dataset NAME export`: all records of an entity as they are or were, as JSON Lines or CSV, in the order of their keys.

The same state gives the same bytes, whenever and from wherever it is written. JSON Lines are the records as received, each
on one line. CSV (RFC 4180, UTF-8) has the union of all fields of the first level in alphabetical order; inner objects and
lists are JSON, null and absent are empty. What is in memory does not grow with the number of records.
"""

import argparse
import csv
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from reconciler.cli.dataset_access import Readable, in_one_line
from reconciler.cli.store_access import CommandError

if TYPE_CHECKING:
    import msgspec

    from reconciler.store.history import Cut, EntityOf

# what makes a spreadsheet calculate instead of show
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def export(dataset: Readable, args: argparse.Namespace) -> int:
    if args.spreadsheet and args.format != "csv":
        raise CommandError("--spreadsheet is for --format csv")
    entity, cut = dataset.entity(args.entity), dataset.cut(args.at, "--at")
    lines = _csv(dataset, cut, entity, args.spreadsheet) if args.format == "csv" else _jsonl(dataset, cut, entity)
    try:
        with _opened(args.output) as out:
            out.writelines(lines)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise CommandError(f"--output {args.output}: {error.strerror}") from None
    return 0


def _jsonl(dataset: Readable, cut: "Cut", entity: "EntityOf") -> Iterator[bytes]:
    return (in_one_line(entry.payload) + b"\n" for entry in dataset.entries(cut, entity))


def _csv(dataset: Readable, cut: "Cut", entity: "EntityOf", is_guarded: bool) -> Iterator[bytes]:
    """Two passes: the first line has to name what any record may have."""
    fields: set[str] = set()
    for entry in dataset.entries(cut, entity):
        fields.update(_decoded(entry.payload))
    if not fields:
        return
    names, cell = sorted(fields), _guarded_cell if is_guarded else _cell
    writer = csv.writer(_Echo(), lineterminator="\r\n")
    yield writer.writerow([_guarded(n) if is_guarded else n for n in names])
    for entry in dataset.entries(cut, entity):
        record = _decoded(entry.payload)
        yield writer.writerow([cell(record.get(name)) for name in names])


class _Echo:
    """What the csv module writes a line to; it hands it back."""

    def write(self, line: str) -> bytes:
        return line.encode()


def _decoded(payload: bytes) -> "dict[str, msgspec.Raw]":
    """Fields whose values stay as they were received; what has none is one."""
    import msgspec

    if payload.lstrip()[:1] != b"{":
        return {"value": msgspec.Raw(payload)}
    return msgspec.json.decode(payload, type=dict[str, msgspec.Raw])


def _is_text(value: "msgspec.Raw | None") -> bool:
    return value is not None and bytes(value).lstrip()[:1] == b'"'


def _cell(value: "msgspec.Raw | None") -> str:
    """A text as it is, anything else as its JSON."""
    import msgspec

    if value is None:
        return ""
    if _is_text(value):
        return msgspec.json.decode(value, type=str)
    text = in_one_line(bytes(value)).decode().strip()
    return "" if text == "null" else text


def _guarded_cell(value: "msgspec.Raw | None") -> str:
    """Only texts: a negative number is what it seems."""
    return _guarded(_cell(value)) if _is_text(value) else _cell(value)


def _guarded(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text


@contextmanager
def _opened(path: Path | None) -> Iterator[BinaryIO]:
    """A file appears when it is whole; what is no ordinary file (a pipe, a device) is written to as it is."""
    if path is None:
        sys.stdout.flush()
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    if path.exists() and not path.is_file():
        with path.open("wb") as out:
            yield out
        return
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with unfinished.open("xb") as out:
            yield out
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
