"""`reconciler status [NAME]`: a table of all integrations, or everything about one."""

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from reconciler.cli.caveats import caveats
from reconciler.cli.columns import aligned, one_line
from reconciler.cli.names import meant
from reconciler.cli.options import NAME, add_output, add_state_dir, examples
from reconciler.cli.server_access import ELSEWHERE, add_server, asks_server
from reconciler.cli.store_access import CommandError, find_integration, guarded, location, reading
from reconciler.cli.times import ago

if TYPE_CHECKING:
    from reconciler.control.view import IntegrationView, Overview
    from reconciler.store.runs import Run


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help=f"{NAME} (default: a table of all)")
    parser.add_argument("--workspace", metavar="WORKSPACE", help="only this workspace")
    add_output(parser)
    add_state_dir(parser)
    add_server(parser, ELSEWHERE)
    examples(parser, "reconciler status", "reconciler status --workspace it-ops", "reconciler status servicenow-prod")


@guarded
def run(args: argparse.Namespace) -> int:
    if asks_server(args):
        from reconciler.cli import server_status

        return server_status.run(args)
    from reconciler.control.view import overview
    from reconciler.store import runs

    now = datetime.now(UTC)
    with reading(args) as tx:
        seen, notes = overview(tx, now), caveats(location(args), tx)
        if args.name:
            is_bare = args.workspace is not None and "/" not in args.name
            row = find_integration(tx, f"{args.workspace}/{args.name}" if is_bare else args.name)
            view = next(v for v in seen.integrations if v.row.id == row.id)
            history = runs.history(tx, row.id, 5)
            _one(view, history, now, args.output)
            _notes(notes, args.output)
            return 0
    known = {v.row.workspace for v in seen.integrations}
    if args.workspace is not None and args.workspace not in known:
        raise CommandError(f"no integration in a workspace {args.workspace}{meant(args.workspace, known)}")
    views = [v for v in seen.integrations if args.workspace in (None, v.row.workspace)]
    if args.output == "json":
        json.dump({"integrations": [as_json(v) for v in views], "sources": _sources(seen)}, sys.stdout, indent=2)
        print()
    else:
        print(table(views, now) if views else "no integration yet")
        print(_footer(seen))
    _notes(notes, args.output)
    return 0


def _notes(notes: Sequence[str], output: str) -> None:
    """For programs they are no part of the answer."""
    for note in notes:
        print(f"\nnote: {note}", file=sys.stdout if output == "text" else sys.stderr)


def as_json(view: "IntegrationView") -> dict[str, Any]:
    """The stable JSON form of one row of the table."""
    from reconciler.serve.forms import condition_form

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
        "conditions": [condition_form(c) for c in view.conditions.values()],
        "generation": row.generation,
        "observed_generation": row.observed_generation,
        "revision": row.applied_revision,
        "identity": row.identity,
        "missing": list(row.missing),
        "last_sync_at": row.last_sync_at,
        "last_sync_result": row.last_sync_result or None,
        "last_sync_error": row.last_sync_error or None,
        "next_sync_at": row.next_sync_at,
        "next_keys_at": row.next_keys_at,
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
            one_line(v.message, 100),
        )
        for v in views
    ]
    return aligned(_HEAD, rows)


def _last(view: "IntegrationView", now: datetime) -> str:
    row = view.row
    if view.running is not None:
        what = "keys" if view.running.scope == "keys" else "records"
        return f"running, {view.running.counts.records} {what}"
    if row.last_sync_at is None:
        return row.last_sync_result or "-"
    age = ago(row.last_sync_at, now)
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
                f"  {s.error_reason} since {s.error_since}: {s.error_message}"
                + ("; the last good revision stays in force" if s.revision else "")
            )
    lines += [f"{f.severity}: {f}" for f in seen.findings]
    return "\n".join(lines)


def _one(view: "IntegrationView", history: "list[Run]", now: datetime, output: str) -> None:
    from reconciler.serve.forms import run_form

    if output == "json":
        shown = as_json(view)
        shown["runs"] = [run_form(r) for r in history]
        json.dump(shown, sys.stdout, indent=2)
        print()
        return
    print(one_text(view, history, now))


def one_text(view: "IntegrationView", history: "list[Run]", now: datetime) -> str:
    """Everything about one integration, for a person."""
    row = view.row
    lines = [table([view], now), "", f"{row.file}:{row.line} at {row.revision[:12]}, by {row.created_by or 'unknown'}"]
    lines += [text for text in (_who(view),) if text]
    if row.missing:
        lines.append(f"missing rights: {', '.join(row.missing)}")
    if row.next_keys_at:
        lines.append(f"keys are listed to find what is deleted: {_until(row.next_keys_at, now)}")
    conditions = [(c.type, c.truth, c.reason, c.message) for c in (view.ready, *view.conditions.values())]
    lines += ["", "conditions:", *_indented(conditions)]
    if history:
        lines += ["", "last runs:", *_indented([_run_row(r) for r in history])]
    return "\n".join(lines)


def _who(view: "IntegrationView") -> str:
    """What the last good probe told: of the present only while the integration is connected."""
    from reconciler.model.condition import Status

    row, is_up = view.row, view.status in {Status.CONNECTED, Status.SYNCING}
    parts = []
    if row.identity:
        parts.append(f"{'connected' if is_up else 'was connected'} as {row.identity}")
    if is_up and row.latency_ms is not None:
        parts.append(f"latency {round(row.latency_ms, 1):g} ms")
    if view.uptime_percent is not None:
        parts.append(f"uptime {view.uptime_percent:g} %")
    return "; ".join(parts)


def _run_row(r: "Run") -> tuple[str, ...]:
    n = r.counts
    numbers = f"+{n.added} ~{n.updated} -{n.deleted} ={n.unchanged}" + (f" !{n.rejected}" if n.rejected else "")
    if r.scope == "keys":
        numbers = f"-{n.deleted} of {n.listed} keys" + (f" ?{n.missing}" if n.missing else "")
    why = ": ".join(part for part in (r.reason, r.error) if part) if r.result != "success" else ""
    what = (
        "inbound"
        if r.is_inbound
        else r.scope
        if r.is_sync
        else "replay"
        if r.is_replay
        else f"rollback to {r.restores}"
    )
    return r.public_id, f"{r.requested_at[:19]}Z", what, str(r.result or r.state), numbers, one_line(why)


def _indented(rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"  {line}" for line in aligned(rows[0], rows[1:]).split("\n")]
