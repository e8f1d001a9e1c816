"""`reconciler status --server`: the same table and the same page, as the API tells of them.

Beside the store's answer it lacks what the API does not tell: sources, and who an integration is connected as. The JSON is the
API's own. The list does not tell why, so each integration is asked for by itself.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from reconciler.cli.columns import aligned, one_line
from reconciler.cli.server_access import as_ref, client_of
from reconciler.cli.store_access import CommandError
from reconciler.cli.times import ago

if TYPE_CHECKING:
    from reconciler.api.integrations import IntegrationDetail, Sync
    from reconciler.client import Client

_HEAD = ("WORKSPACE", "NAME", "TYPE", "STATUS", "HEALTH", "LAST SYNC", "NEXT SYNC", "DRIFT", "REASON")


def run(args: argparse.Namespace) -> int:
    now = datetime.now(UTC)
    with client_of(args) as client:
        if args.name:
            is_bare = args.workspace is not None and "/" not in args.name
            (found,) = [client.integrations.get(as_ref(f"{args.workspace}/{args.name}" if is_bare else args.name))]
            print(_json(found) if args.output == "json" else one_text(found, now))
            return 0
        every = list(_every(client, args.workspace))
    if args.workspace is not None and not every:
        raise CommandError(f"no integration in a workspace {args.workspace} that the token may see")
    if args.output == "json":
        print(json.dumps({"integrations": [json.loads(one.model_dump_json()) for one in every]}, indent=2))
    else:
        print(table(every, now) if every else "no integration yet")
    return 0


def _every(client: "Client", workspace: str | None) -> "Iterator[IntegrationDetail]":
    """Those that go while it is asked are left out."""
    from reconciler.client import NotFoundError

    for one in client.integrations.all(workspace=[workspace] if workspace else None, limit=100):
        try:
            yield client.integrations.get(one.id)
        except NotFoundError:
            continue


def _json(found: "IntegrationDetail") -> str:
    return json.dumps(json.loads(found.model_dump_json()), indent=2)


def table(found: "list[IntegrationDetail]", now: datetime) -> str:
    rows = [
        (
            one.workspace,
            one.name,
            one.type,
            str(one.status),
            str(one.health.status),
            _last(one, now),
            _until(one.next_sync_at, now),
            str(len(one.drifted)) if one.drifted else "-",
            one_line(one.message, 100),
        )
        for one in found
    ]
    return aligned(_HEAD, rows)


def _last(one: "IntegrationDetail", now: datetime) -> str:
    running = next((sync for sync in one.recent_syncs if sync.state == "running"), None)
    if running is not None:
        what = "keys" if running.scope == "keys" else "records"
        return f"running, {running.records_synced} {what}"
    if one.last_sync_at is None:
        return one.last_sync_status or "-"
    age = ago(one.last_sync_at.isoformat(), now)
    return age if one.last_sync_status == "success" else f"{one.last_sync_status}, good {age}"


def _until(at: datetime | None, now: datetime) -> str:
    from reconciler.model.duration import render_duration

    if at is None:
        return "-"
    return f"in {render_duration(at - now)}" if at > now else "due"


def one_text(one: "IntegrationDetail", now: datetime) -> str:
    """Everything about one integration, for a person."""
    revision = one.revision.rpartition(":")[2] or one.revision
    lines = [
        table([one], now),
        "",
        f"{one.source.file}:{one.source.line} at {revision[:12]}, by {one.created_by or 'unknown'}",
    ]
    facts = [f"latency {round(one.health.latency_ms, 1):g} ms"] if one.health.latency_ms is not None else []
    facts += [f"uptime {one.uptime_percent:g} %"] if one.uptime_percent is not None else []
    lines += ["; ".join(facts)] if facts else []
    if one.next_keys_at:
        lines.append(f"keys are listed to find what is deleted: {_until(one.next_keys_at, now)}")
    conditions = [(str(c.type), str(c.status), str(c.reason), c.message) for c in one.conditions]
    lines += ["", "conditions:", *_indented(conditions)] if conditions else []
    if one.recent_syncs:
        lines += ["", "last runs:", *_indented([_run_row(sync) for sync in one.recent_syncs[:5]])]
    return "\n".join(lines)


def _run_row(sync: "Sync") -> tuple[str, ...]:
    n = sync.records
    numbers = f"+{n.added} ~{n.updated} -{n.deleted} ={n.unchanged}" + (f" !{n.rejected}" if n.rejected else "")
    if sync.scope == "keys":
        numbers = f"-{n.deleted} of {n.listed} keys" + (f" ?{n.missing}" if n.missing else "")
    why = ": ".join(part for part in (sync.reason, sync.error) if part) if sync.result != "success" else ""
    at = f"{sync.requested_at.astimezone(UTC):%Y-%m-%dT%H:%M:%S}Z"
    what = sync.scope if sync.restores is None else f"rollback to {sync.restores}"
    return sync.id, at, str(what), str(sync.result or sync.state), numbers, one_line(why)


def _indented(rows: Sequence[tuple[str, ...]]) -> list[str]:
    return [f"  {line}" for line in aligned(rows[0], rows[1:]).split("\n")]
