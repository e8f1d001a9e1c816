"""What is shown of an integration as JSON: views and rows in, plain values out. Called by `snapshot` (lists), `api`, `status`.

Nothing secret leaves: an unresolved value is shown as `********`, and all of the specification passes the redactor.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from reconciler.control.view import IntegrationView
from reconciler.model.clock import from_rfc3339, rfc3339
from reconciler.model.condition import Condition
from reconciler.model.manifest import Spec
from reconciler.model.secret import MASK, Unresolved
from reconciler.sdk.redact import Redactor
from reconciler.store.runs import Run

_ENCODER = msgspec.json.Encoder()
_DEFAULT_DIRECTION = Spec.model_fields["sync_direction"].default


@dataclass(frozen=True, slots=True)
class SpecFacts:
    """The two fields of a specification that lists show."""

    auth_type: str | None
    sync_direction: str


def spec_facts(tree: Mapping[str, Any]) -> SpecFacts:
    """`auth_type` is None where it is encrypted or not stated."""
    auth = tree.get("auth")
    kind = auth.get("type") if isinstance(auth, Mapping) else None
    direction = tree.get("sync_direction")
    return SpecFacts(
        kind if isinstance(kind, str) else None, direction if isinstance(direction, str) else _DEFAULT_DIRECTION
    )


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


@dataclass(frozen=True, slots=True)
class Detail:
    """Everything read for one integration at one moment."""

    at: datetime
    view: IntegrationView
    tree: Mapping[str, Any]
    runs: Sequence[Run]


def detail(found: Detail, redactor: Redactor) -> dict[str, Any]:
    view, row = found.view, found.view.row
    return {
        **summary(view, spec_facts(found.tree)),
        "display_name": row.display_name or row.name,
        "labels": row.labels,
        "message": view.message,
        "conditions": [condition_form(c) for c in (view.ready, *view.conditions.values())],
        "generation": row.generation,
        "observed_generation": row.observed_generation,
        "revision": row.revision,
        "applied_revision": row.applied_revision or None,
        "source": {"file": row.file, "line": row.line},
        "created_by": row.created_by or None,
        "updated_at": row.manifest_updated_at or row.created_at,
        "connected_at": row.connected_at,
        "last_sync_status": row.last_sync_result or None,
        "last_sync_error": row.last_sync_error or None,
        "next_sync_at": row.next_sync_at,
        "next_keys_at": row.next_keys_at,
        "uptime_percent": view.uptime_percent,
        "total_syncs": row.total_syncs,
        "failed_syncs": row.failed_syncs,
        "freshness": _freshness(found),
        "drift": list(row.drifted),
        "suspended": _suspended(view),
        "credential_expires_at": row.credential_expires_at,
        "deliveries": dict(view.deliveries),
        "recent_runs": [run_form(run) for run in found.runs],
        **_specification(found.tree, redactor),
    }


def _specification(tree: Mapping[str, Any], redactor: Redactor) -> dict[str, Any]:
    masked = redactor.value(_masked({name: tree.get(name) or {} for name in ("auth", "config")}))
    return dict(masked)


def _masked(value: Any) -> Any:
    if isinstance(value, Unresolved):
        return MASK
    if isinstance(value, Mapping):
        return {key: _masked(item) for key, item in value.items()}
    return [_masked(item) for item in value] if isinstance(value, list | tuple) else value


def condition_form(condition: Condition) -> dict[str, Any]:
    return {
        "type": condition.type,
        "status": condition.truth,
        "reason": condition.reason,
        "message": condition.message,
        "since": rfc3339(condition.since),
        "generation": condition.generation,
    }


def _freshness(found: Detail) -> dict[str, Any] | None:
    objective, last = found.view.objective, found.view.row.last_sync_at
    if objective is None:
        return None
    age = found.at - from_rfc3339(last) if last else None
    return {
        "objective_seconds": objective.total_seconds(),
        "age_seconds": round(age.total_seconds(), 3) if age is not None else None,
        "is_met": age is not None and age <= objective,
    }


def _suspended(view: IntegrationView) -> dict[str, Any] | None:
    row = view.row
    if not row.is_suspended:
        return None
    return {"by": row.suspended_by, "reason": row.suspend_reason, "until": row.suspended_until}


def run_form(run: Run) -> dict[str, Any]:
    counts = run.counts
    return {
        "id": run.public_id,
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
