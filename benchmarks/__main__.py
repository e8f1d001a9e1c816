"""`python -m benchmarks [NAME ...] [--quick] [--output FILE]`: run groups of benchmarks, write their rows, print a table.

Without names all groups run but those on request.
Groups that did not run are kept in the file as they were; each says when it was measured.
`--quick` does little of everything: it shows that the benchmarks work and nothing else.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.measure import Bench
from benchmarks.rows import Row, table

GROUPS: Mapping[str, str] = {
    "commands": "help, imports of plan, plan of 1,000 and 10,000",
    "validate": "validate of 10,000 beside check-jsonschema",
    "cycle": "new HEAD to plan, resident",
    "secrets": "1,000 SOPS files",
    "metrics": "/metrics of 10,000 integrations",
    "idle": "a daemon with 1,000 integrations",
    "sync": "100,000 records into the store",
    "jobs": "10,000 jobs due at once, with 1, 2 and 4 processes",
    "api": "the list of 10,000 integrations over HTTP",
    "hidden": "whether times tell what is in other workspaces",
    "events": "events published, to their arrival",
}
ON_REQUEST: Mapping[str, str] = {
    "peers": "whole syncs beside dlt, singer-sdk and airbyte-cdk; installs them, only when named"
}
_ALL = {**GROUPS, **ON_REQUEST}
_MODULES = {"peers": "beside", "validate": "validating", "sync": "syncing", "jobs": "dispatch", "api": "serving"}
RESULTS = Path(__file__).with_name("results.json")


@dataclass(frozen=True, slots=True)
class Measured:
    """The rows of one group, and how the machine was while they were taken."""

    rows: list[Row]
    slowdown: float
    load: list[float]
    at: str

    def as_json(self) -> dict[str, Any]:
        taken = {"measured_at": self.at, "load": self.load, "slowdown": round(self.slowdown, 2)}
        return {**taken, "rows": [row.as_json(self.slowdown) for row in self.rows]}


def main() -> int:
    args = _arguments()
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as name:
        bench = Bench(Path(name).resolve(), args.quick)
        # In this order: a child's peak memory is never less than this process had when it started the child.
        measured = {group: _measure(bench, group) for group in _ALL if group in (args.names or GROUPS)}
    lines = [row.cells(each.slowdown) for each in measured.values() for row in each.rows]
    print(f"\n{table(lines)}\n\n{_footer(list(measured.values()))}")
    if args.output:
        _write(args.output, measured, is_quick=args.quick)
    return 0


def _arguments() -> argparse.Namespace:
    listed = "\n".join(f"  {name:<9} {what}" for name, what in _ALL.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", epilog=f"groups:\n{listed}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="groups to run (default: all but peers)")
    parser.add_argument("--quick", action="store_true", help="little of everything; figures mean nothing")
    parser.add_argument("--output", type=Path, help="JSON file (default: benchmarks/results.json; none when quick)")
    args = parser.parse_args()
    for name in args.names:
        if name not in _ALL:
            parser.error(f"no group {name}: there are {', '.join(_ALL)}")
    if args.output is None and not args.quick:
        args.output = RESULTS
    return args


def _measure(bench: Bench, group: str) -> Measured:
    load = machine.load()
    print(f"{group}: {_ALL[group]} (load {load[0]})", file=sys.stderr, flush=True)
    inner = bench.inside(group)
    slowdown = machine.slowdown(inner)
    measure: Callable[[Bench], Iterator[Row]] = import_module(f"benchmarks.{_MODULES.get(group, group)}").measure
    rows = list(measure(inner))
    if bench.is_quick:  # limits are for the full size
        rows = [replace(row, limit=None) for row in rows]
    return Measured(rows, slowdown, load, datetime.now(UTC).isoformat(timespec="seconds"))


def _footer(measured: list[Measured]) -> str:
    known, paces = machine.facts(), [each.slowdown for each in measured]
    return (
        f"{known['cores']} cores, {known['cpu']}, Python {known['python']}, git {known['git']}, load {machine.load()}; "
        f"{min(paces):.2f} to {max(paces):.2f} times the time it took where the limits were set"
    )


def _write(path: Path, measured: Mapping[str, Measured], *, is_quick: bool) -> None:
    groups = _read(path) | {group: each.as_json() for group, each in measured.items()}
    ordered = {group: groups[group] for group in _ALL if group in groups}
    content = {"is_quick": is_quick, "machine": machine.facts(), "groups": ordered}
    path.write_text(json.dumps(content, indent=1) + "\n")


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text())["groups"])
    except (OSError, ValueError, KeyError):
        return {}


if __name__ == "__main__":
    sys.exit(main())
