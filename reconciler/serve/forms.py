"""What is shown of an integration as JSON: views and rows in, plain values out. Called by `snapshot` (lists), `api`, `status`.

Nothing secret leaves: an unresolved value is shown as `********`, and all of the specification passes the redactor.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

import msgspec

from reconciler.control.view import IntegrationView
from reconciler.model.access import Grant
from reconciler.model.clock import from_rfc3339, rfc3339
from reconciler.model.condition import Condition
from reconciler.model.manifest import Spec
from reconciler.model.secret import MASK, Unresolved
from reconciler.plan.access import rights_of
from reconciler.sdk.redact import Redactor
from reconciler.store.integrations import IntegrationRow
from reconciler.store.requests import AuditLine
from reconciler.store.runs import Run

_ENCODER = msgspec.json.Encoder()
_OPEN = {"due": "queued", "running": "running"}
_DEFAULT_DIRECTION = Spec.model_fields["sync_direction"].default


@dataclass(frozen=True, slots=True)
class SpecFacts:
    """The two fields of a specification that lists show, and by client what it may do."""

    auth_type: str | None
    sync_direction: str
    grants: Mapping[str, frozenset[Grant]] = field(default_factory=dict)


def spec_facts(tree: Mapping[str, Any]) -> SpecFacts:
    """`auth_type` is None where it is encrypted or not stated."""
    auth = tree.get("auth")
    kind = auth.get("type") if isinstance(auth, Mapping) else None
    direction = tree.get("sync_direction")
    return SpecFacts(
        kind if isinstance(kind, str) else None,
        direction if isinstance(direction, str) else _DEFAULT_DIRECTION,
        _grants(tree),
    )


def _grants(tree: Mapping[str, Any]) -> Mapping[str, frozenset[Grant]]:
    """Rights that a newer release knows are given by that one only."""
    known = frozenset(map(str, Grant))
    return {client: frozenset(Grant(one) for one in rights & known) for client, rights in rights_of(tree).items()}


def to_json(value: Any) -> bytes:
    return _ENCODER.encode(value)


def summary(view: IntegrationView, facts: SpecFacts) -> dict[str, Any]:
    """One element of the list."""
    row = view.row
    return {
        "id": row.public_id,
        "type": row.type,
        "name": row.name,
        "workspace": row.workspace,
        "status": view.status,
        "auth_type": facts.auth_type,
        "sync_direction": facts.sync_direction,
        "last_sync_at": row.last_sync_at,
        "health": {"status": view.health, "latency_ms": row.latency_ms, "error_count": row.error_count},
        "sync_status": view.sync_status,
        "created_at": row.created_at,
    }


def etag_of(source_hash: str, labels: Mapping[str, str]) -> str:
    """Differs when the manifest does, its annotations aside. Opaque, without the quotes of the header."""
    said = msgspec.json.encode([source_hash, sorted(labels.items())])
    return hashlib.sha256(said).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Detail:
    """Everything read for one integration at one moment."""

    at: datetime
    view: IntegrationView
    tree: Mapping[str, Any]
    runs: Sequence[Run]
    scopes: Sequence[str] = ()


def detail(found: Detail, redactor: Redactor) -> dict[str, Any]:
    view, row = found.view, found.view.row
    return {
        **status_form(found.at, view, spec_facts(found.tree)),
        "metadata": {"name": row.name, "workspace": row.workspace, "labels": row.labels},
        "spec": _specification(found.tree, redactor),
        "is_active": bool(found.tree.get("enabled", True)),
        "revision": row.revision,
        "applied_revision": row.applied_revision or None,
        "source": {"file": row.file, "line": row.line},
        "created_by": row.created_by or None,
        "updated_at": row.manifest_updated_at or row.created_at,
        "connected_at": row.connected_at,
        "granted_scopes": list(found.scopes),
        "recent_syncs": [run_form(run) for run in found.runs],
    }


def status_form(at: datetime, view: IntegrationView, facts: SpecFacts) -> dict[str, Any]:
    """How it fares, without its manifest."""
    row = view.row
    return {
        **summary(view, facts),
        "message": view.message,
        "conditions": [condition_form(c) for c in (view.ready, *view.conditions.values())],
        "generation": row.generation,
        "observed_generation": row.observed_generation,
        "last_sync_status": row.last_sync_result or None,
        "last_sync_error": row.last_sync_error or None,
        "next_sync_at": row.next_sync_at,
        "next_keys_at": row.next_keys_at,
        "uptime_percent": view.uptime_percent,
        "total_syncs": row.total_syncs,
        "failed_syncs": row.failed_syncs,
        "freshness": _freshness(at, view),
        "drifted": list(row.drifted),
        "suspended": suspension_form(row),
        "credential_expires_at": row.credential_expires_at,
        "deliveries": dict(view.deliveries),
    }


def _specification(tree: Mapping[str, Any], redactor: Redactor) -> dict[str, Any]:
    """As it stands in Git; sent back it changes nothing, because a mask stands for what is there."""
    return dict(redactor.value(_masked(tree)))


def _masked(value: Any) -> Any:
    if isinstance(value, Unresolved):
        return MASK
    if isinstance(value, Mapping):
        return {key: _masked(item) for key, item in value.items()}
    return [_masked(item) for item in value] if isinstance(value, list | tuple) else value


class Identified(Protocol):
    @property
    def public_id(self) -> str: ...
    @property
    def workspace(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def type(self) -> str: ...


def named(one: Identified) -> dict[str, str]:
    """Which integration, wherever something is told of one."""
    return {"id": one.public_id, "workspace": one.workspace, "name": one.name, "type": one.type}


def condition_form(condition: Condition) -> dict[str, Any]:
    return {
        "type": condition.type,
        "status": condition.truth,
        "reason": condition.reason,
        "message": condition.message,
        "since": rfc3339(condition.since),
        "generation": condition.generation,
    }


def _freshness(at: datetime, view: IntegrationView) -> dict[str, Any] | None:
    objective, last = view.objective, view.row.last_sync_at
    if objective is None:
        return None
    age = at - from_rfc3339(last) if last else None
    return {
        "objective_seconds": objective.total_seconds(),
        "age_seconds": round(age.total_seconds(), 3) if age is not None else None,
        "is_met": age is not None and age <= objective,
    }


def suspension_form(row: IntegrationRow) -> dict[str, Any] | None:
    if not row.is_suspended:
        return None
    return {"by": row.suspended_by, "reason": row.suspend_reason, "until": row.suspended_until}


def run_form(run: Run) -> dict[str, Any]:
    counts = run.counts
    return {
        "id": run.public_id,
        "at": run.started_at or run.requested_at,
        "status": run.result or _OPEN[run.state],
        "records_synced": counts.added + counts.updated + counts.unchanged + counts.deleted,
        "scope": run.scope,
        "cause": run.cause,
        "state": run.state,
        "step": run.step,
        "result": run.result,
        "reason": run.reason or None,
        "error": run.error or None,
        "requested_at": run.requested_at,
        "started_at": run.started_at,
        "finished_at": run.finished_at,
        "records": {
            "added": counts.added,
            "updated": counts.updated,
            "unchanged": counts.unchanged,
            "deleted": counts.deleted,
            "rejected": counts.rejected,
            "listed": counts.listed,
            "missing": counts.missing,
        },
        "dataset_version": run.dataset_version,
        "restores": run.restores,
    }


def audit_form(line: AuditLine) -> dict[str, Any]:
    return {
        "at": line.at,
        "workspace": line.workspace,
        "caller": line.caller,
        "request_id": line.request_id,
        "action": line.action,
        "target": line.target or None,
        "outcome": line.outcome,
        "status": line.status,
        "revision": line.revision or None,
        "detail": dict(line.detail),
    }
