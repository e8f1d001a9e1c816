"""`reconciler status [NAME]`: a table of all integrations, or everything about one."""

import argparse
import json
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from reconciler.cli.store_access import add_state_dir, find_integration, guarded, reading

if TYPE_CHECKING:
    from reconciler.control.view import IntegrationView, Overview
    from reconciler.store.runs import Run


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="an integration: name or workspace/name")
    parser.add_argument("--workspace", help="only this workspace")
    parser.add_argument("--output", choices=("text", "json"), default="text")
    add_state_dir(parser)


@guarded
def run(args: argparse.Namespace) -> int:
    from reconciler.control.view import overview
    from reconciler.store import runs

    now = datetime.now(UTC)
    with reading(args) as tx:
        seen = overview(tx, now)
        if args.name:
            row = find_integration(tx, args.name)
            view = next(v for v in seen.integrations if v.row.id == row.id)
            history = runs.history(tx, row.id, 5)
            _one(view, history, now, args.output)
            return 0
    views = [v for v in seen.integrations if args.workspace in (None, v.row.workspace)]
    if args.output == "json":
        json.dump({"integrations": [as_json(v) for v in views], "sources": _sources(seen)}, sys.stdout, indent=2)
        print()
    else:
        print(table(views, now))
        print(_footer(seen))
    return 0


def as_json(view: "IntegrationView") -> dict[str, Any]:
    """The stable JSON form of one row of the table."""
    row = view.row
    return {
        "id": row.public_id,
        "workspace": row.workspace,
        "name": row.name,
        "type": row.type,
        "status": view.status,
        "health": {"status": view.health, "latency_ms": row.latency_ms, "error_count": row.error_count},
        "sync_status": view.sync_status,
        "ready": {"status": view.ready.truth, "reason": view.ready.reason, "message": view.ready.message},
        "conditions": [
            {
                "type": c.type,
                "status": c.truth,
                "reason": c.reason,
                "message": c.message,
                "since": c.since.isoformat(),
                "generation": c.generation,
            }
            for c in view.conditions.values()
        ],
        "generation": row.generation,
        "observed_generation": row.observed_generation,
        "revision": row.applied_revision,
        "identity": row.identity,
        "missing": list(row.missing),
        "last_sync_at": row.last_sync_at,
        "last_sync_result": row.last_sync_result or None,
        "last_sync_error": row.last_sync_error or None,
        "next_sync_at": row.next_sync_at,
        "drift": list(row.drifted),
        "uptime_percent": view.uptime_percent,
        "total_syncs": row.total_syncs,
        "failed_syncs": row.failed_syncs,
        "deliveries": dict(view.deliveries),
        "file": row.file,
        "line": row.line,
        "created_by": row.created_by,
        "updated_at": row.manifest_updated_at,
    }


def _sources(seen: "Overview") -> list[dict[str, Any]]:
    return [
        {
            "name": s.name,
            "revision": s.revision,
            "attempted_revision": s.attempted_revision,
            "fetched_at": s.fetched_at,
            "error": {"reason": s.error_reason, "message": s.error_message, "since": s.error_since}
            if s.error_reason
            else None,
        }
        for s in seen.sources
    ]


_HEAD = ("WORKSPACE", "NAME", "TYPE", "STATUS", "HEALTH", "LAST SYNC", "NEXT SYNC", "DRIFT", "REASON")


def table(views: "list[IntegrationView]", now: datetime) -> str:
    """Aligned columns; the reason is last and may be long."""
    rows = [
        (
            v.row.workspace,
            v.row.name,
            v.row.type,
            str(v.status),
            str(v.health),
            _last(v, now),
            _until(v.row.next_sync_at, now),
            str(len(v.row.drifted)) if v.row.drifted else "-",
            _short(v.message),
        )
        for v in views
    ]
    widths = [max(len(r[i]) for r in (_HEAD, *rows)) for i in range(len(_HEAD))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in (_HEAD, *rows))


def _short(message: str) -> str:
    line = message.split("\n", 1)[0]
    return line if len(line) <= 100 else f"{line[:99]}…"


def _last(view: "IntegrationView", now: datetime) -> str:
    from reconciler.model.clock import from_rfc3339
    from reconciler.model.duration import render_duration

    row = view.row
    if view.running is not None:
        return f"running, {view.running.counts.records} records"
    if row.last_sync_at is None:
        return row.last_sync_result or "-"
    age = f"{render_duration(now - from_rfc3339(row.last_sync_at))} ago"
    return age if row.last_sync_result == "success" else f"{row.last_sync_result}, good {age}"


def _until(at: str | None, now: datetime) -> str:
    from reconciler.model.clock import from_rfc3339
    from reconciler.model.duration import render_duration

    if at is None:
        return "-"
    left = from_rfc3339(at) - now
    return f"in {render_duration(left)}" if left.total_seconds() > 0 else "due"


def _footer(seen: "Overview") -> str:
    lines = []
    for s in seen.sources:
        lines.append(f"\nsource {s.name}: {s.url} at {s.revision[:12] or 'nothing yet'}")
        if s.error_reason:
            lines.append(
                f"  {s.error_reason} since {s.error_since}: {s.error_message}; the last good revision stays in force"
            )
    lines += [f"{f.severity}: {f}" for f in seen.findings]
    return "\n".join(lines)


def _one(view: "IntegrationView", history: "list[Run]", now: datetime, output: str) -> None:
    if output == "json":
        shown = as_json(view)
        shown["runs"] = [
            {
                "id": r.public_id,
                "scope": r.scope,
                "state": r.state,
                "result": r.result,
                "reason": r.reason,
                "error": r.error,
                "started_at": r.started_at,
                "finished_at": r.finished_at,
                "added": r.counts.added,
                "updated": r.counts.updated,
                "unchanged": r.counts.unchanged,
                "deleted": r.counts.deleted,
                "rejected": r.counts.rejected,
            }
            for r in history
        ]
        json.dump(shown, sys.stdout, indent=2)
        print()
        return
    row = view.row
    print(table([view], now))
    print(f"\n{row.file}:{row.line} at {row.revision[:12]}, by {row.created_by or 'unknown'}")
    print(
        f"connected as {row.identity or '-'}; latency {row.latency_ms or '-'} ms; uptime {view.uptime_percent or '-'} %"
    )
    if row.missing:
        print(f"missing rights: {', '.join(row.missing)}")
    print("\nconditions:")
    for c in (view.ready, *view.conditions.values()):
        print(f"  {c.type:<17} {c.truth:<8} {c.reason:<22} {c.message}")
    if history:
        print("\nlast runs:")
    for r in history:
        n = r.counts
        numbers = f"+{n.added} ~{n.updated} -{n.deleted} ={n.unchanged}" + (f" !{n.rejected}" if n.rejected else "")
        print(f"  {r.public_id}  {r.requested_at[:19]}Z  {r.scope:<12} {r.result or r.state:<10} {numbers}  {r.error}")
