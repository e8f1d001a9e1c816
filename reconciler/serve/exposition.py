"""The text format of Prometheus (0.0.4) for what exists once per integration: a view in, its finished lines out.

Written by hand because there may be 10,000 integrations with a dozen series each: lines are rendered once per change of an
integration and kept as bytes, and a scrape only joins them, family by family as the format demands. Called by `snapshot`
(lines) and `scrape` (the page). Everything that counts for the process as a whole goes through the metrics library.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from reconciler.control.view import IntegrationView
from reconciler.model.clock import from_rfc3339
from reconciler.model.condition import Condition
from reconciler.store.integrations import IntegrationRow

Labels = Mapping[str, str]
Sample = tuple[Labels, float | int]


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: its name, type and help, and with them the lines that open its group."""

    name: str
    kind: str
    help: str

    @property
    def head(self) -> bytes:
        return f"# HELP {self.name} {_escaped_help(self.help)}\n# TYPE {self.name} {self.kind}\n".encode()

    def lines(self, prefix: str, samples: Iterable[Sample]) -> bytes:
        """`prefix` are labels that all samples share, rendered by `pairs`."""
        start = f"{self.name}{{{prefix}"
        comma = "," if prefix else ""
        return "".join(
            [
                f"{start}{comma}{pairs(labels)}}} {number(value)}\n" if labels else f"{start}}} {number(value)}\n"
                for labels, value in samples
            ]
        ).encode()


def pairs(labels: Labels) -> str:
    return ",".join([f'{name}="{_escaped(value)}"' for name, value in labels.items()])


def number(value: float) -> str:
    """As Go reads it: integers without a point, everything else at full precision."""
    if isinstance(value, int):
        return str(value)
    text = repr(value)
    return {"inf": "+Inf", "-inf": "-Inf", "nan": "NaN"}.get(text, text)


def _escaped(value: str) -> str:
    if '"' in value or "\\" in value or "\n" in value:
        return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
    return value


def _escaped_help(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")


def seconds(at: str | datetime | None) -> float | None:
    """Unix time, as timestamps are exposed."""
    if at is None:
        return None
    return (from_rfc3339(at) if isinstance(at, str) else at).timestamp()


_P = "reconciler_"
INTEGRATION_FAMILIES = (
    Family(
        f"{_P}integration_info",
        "gauge",
        "What an integration is; always 1. revision is the commit of its manifest that is in force.",
    ),
    Family(
        f"{_P}integration_status",
        "gauge",
        "1 for the status the integration has now: connected, disconnected, error, syncing or pending_auth.",
    ),
    Family(
        f"{_P}integration_health",
        "gauge",
        "1 for the health the integration has now: healthy, degraded, unhealthy or unknown.",
    ),
    Family(
        f"{_P}sync_status",
        "gauge",
        "1 for how syncing stands now: healthy, degraded or failed; absent before the first run has ended.",
    ),
    Family(
        f"{_P}condition",
        "gauge",
        "1 for each condition that applies, with its status (True, False or Unknown) and reason. Ready is the summary.",
    ),
    Family(f"{_P}suspended", "gauge", "1 while the integration is suspended."),
    Family(f"{_P}probe_latency_seconds", "gauge", "How long the last probe of the remote took."),
    Family(f"{_P}consecutive_errors", "gauge", "Failed probes and reconciles in a row; 0 after a success."),
    Family(f"{_P}uptime_ratio", "gauge", "Share of good probes in the last 30 days, 0 to 1."),
    Family(f"{_P}syncs_total", "counter", "Sync runs that ended, cancelled ones left out; kept over restarts."),
    Family(f"{_P}sync_failures_total", "counter", "Sync runs that failed; kept over restarts."),
    Family(f"{_P}last_success_timestamp_seconds", "gauge", "When the last successful sync ended."),
    Family(
        f"{_P}freshness_objective_seconds",
        "gauge",
        "How old the last successful sync may become, where an objective is stated.",
    ),
    Family(f"{_P}next_sync_timestamp_seconds", "gauge", "When the next scheduled sync is due."),
    Family(f"{_P}drift_fields", "gauge", "Remote objects or fields that differ from what was applied."),
    Family(
        f"{_P}credential_expiry_timestamp_seconds", "gauge", "When the credential expires, where the remote says so."
    ),
    Family(f"{_P}deliveries", "gauge", "Deliveries to the integration that are kept, by status."),
    Family(
        f"{_P}delivery_oldest_timestamp_seconds",
        "gauge",
        "Creation time of the oldest delivery that is not finished; absent when there is none.",
    ),
)


def integration_labels(workspace: str, name: str) -> str:
    return pairs({"workspace": workspace, "name": name})


def integration_lines(view: IntegrationView) -> tuple[bytes, ...]:
    """The lines of one integration, one entry per family of INTEGRATION_FAMILIES; an empty one where it does not apply."""
    prefix = integration_labels(view.row.workspace, view.row.name)
    samples = (*_states(view), *_figures(view.row, view), *_sent(view))
    return tuple(family.lines(prefix, found) for family, found in zip(INTEGRATION_FAMILIES, samples, strict=True))


def _states(view: IntegrationView) -> Iterable[Iterable[Sample]]:
    row = view.row
    yield [({"type": row.type, "revision": row.revision}, 1)]
    yield [({"status": view.status}, 1)]
    yield [({"health": view.health}, 1)]
    yield [({"sync_status": view.sync_status}, 1)] if view.sync_status else []
    yield [_condition(c) for c in (view.ready, *view.conditions.values())]


def _condition(condition: Condition) -> Sample:
    return {"condition": condition.type, "status": condition.truth, "reason": condition.reason}, 1


def _figures(row: IntegrationRow, view: IntegrationView) -> Iterable[Iterable[Sample]]:
    yield _one(int(row.is_suspended))
    yield _one(None if row.latency_ms is None else row.latency_ms / 1000)
    yield _one(row.error_count)
    yield _one(None if view.uptime_percent is None else view.uptime_percent / 100)
    yield _one(row.total_syncs)
    yield _one(row.failed_syncs)
    yield _one(seconds(row.last_sync_at))
    yield _one(view.objective.total_seconds() if view.objective else None)
    yield _one(seconds(row.next_sync_at))
    yield _one(len(row.drifted))
    yield _one(seconds(row.credential_expires_at))


def _sent(view: IntegrationView) -> Iterable[Iterable[Sample]]:
    yield [({"status": status}, count) for status, count in sorted(view.deliveries.items())]
    yield _one(seconds(view.oldest_delivery_at))


def _one(value: float | None) -> list[Sample]:
    return [] if value is None else [({}, value)]
