"""One probe because a person asked for it: who we are at the remote, what we may do there, and what is missing.

In: how to get the connector. Out: a `Trial`, also where the remote refuses or is not there: that is what was asked. Nothing
is stored. Called by `reconciler test` on a spec that may not be merged yet, and by the daemon on the one in force.
"""

import asyncio
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from reconciler.control.consent import probed
from reconciler.desired.connector_checks import wanted_entities
from reconciler.model.clock import Clock, rfc3339
from reconciler.model.condition import Reason
from reconciler.model.finding import Finding
from reconciler.sdk.announced import synchronizations
from reconciler.sdk.contract import Probe
from reconciler.sdk.errors import ConnectorError, place_of
from reconciler.sdk.live import Live, NotConnectableError
from reconciler.sdk.redact import Redactor


@dataclass(frozen=True, slots=True)
class Trial:
    """What a probe found. `needed` are those of `missing` that this manifest uses; `reason` and `error` where it failed."""

    latency: timedelta | None = None
    probe: Probe | None = None
    needed: tuple[str, ...] = ()
    reason: Reason | None = None
    error: str = ""
    findings: tuple[Finding, ...] = ()

    @property
    def is_good(self) -> bool:
        return self.probe is not None and not self.needed


async def try_out(live: Awaitable[Live], clock: Clock, redactor: Redactor, deadline: timedelta) -> Trial:
    """Raises StoreError only; what a connector does wrong itself is told without its text, which may hold anything."""
    try:
        async with asyncio.timeout(deadline.total_seconds()):
            used = await live
            started = clock.monotonic()
            probe = await probed(used)
    except NotConnectableError as error:
        return Trial(reason=error.reason, error=error.message, findings=error.findings)
    except ConnectorError as error:
        return Trial(reason=error.why, error=redactor.text(error.message))
    except TimeoutError:
        return Trial(reason=Reason.TIMED_OUT, error=f"no answer within {deadline.total_seconds():g} s")
    return Trial(timedelta(seconds=clock.monotonic() - started), probe, needed(used, probe))


def fault(error: Exception) -> Trial:
    """Of a connector that fails as it should not."""
    return Trial(reason=Reason.INTERNAL_ERROR, error=f"unexpected {place_of(error)}")


def needed(live: Live, probe: Probe) -> tuple[str, ...]:
    """What is missing and used by this manifest; a right that nothing declares counts as used."""
    spec, connector = live.manifest.spec, live.connector
    reads = spec.sync_direction != "outbound"
    entities = wanted_entities(connector.entities_of(connector.config), spec.sync) if reads else ()
    channels = {s.action for s in synchronizations(type(connector), spec) if s.enabled}
    used = {r for e in entities for r in e.rights}
    used |= {r for c in connector.channels if c.name in channels for r in c.rights}
    declared = {r for e in connector.entities for r in e.rights} | {r for c in connector.channels for r in c.rights}
    lost = [r.name for r in probe.rights if r.is_granted is False and (r.name in used or r.name not in declared)]
    wanted = {e.name for e in entities}
    return (*lost, *(f"read {name}" for name, ok in probe.entities.items() if not ok and name in wanted))


def probe_form(probe: Probe, latency: timedelta | None) -> dict[str, Any]:
    """As JSON, for every output."""
    expires = probe.credential_expires_at
    return {
        "identity": probe.identity,
        "account": probe.account or None,
        "version": probe.version or None,
        "latency_ms": _milliseconds(latency),
        "clock_skew_ms": _milliseconds(probe.skew),
        "credential_expires_at": rfc3339(expires) if expires else None,
        "rights": [{"name": r.name, "granted": r.is_granted, "detail": r.detail or None} for r in probe.rights],
        "entities": dict(probe.entities),
        "warnings": list(probe.warnings),
    }


def _milliseconds(span: timedelta | None) -> float | None:
    return None if span is None else round(span / timedelta(milliseconds=1), 1)


_NOTHING: Mapping[str, Any] = {
    "identity": None,
    "account": None,
    "version": None,
    "latency_ms": None,
    "clock_skew_ms": None,
    "credential_expires_at": None,
    "rights": [],
    "entities": {},
    "warnings": [],
}


def trial_form(trial: Trial) -> Mapping[str, Any]:
    """The whole result. `reason` is one of those of conditions, also where it answered and a right is missing."""
    seen = probe_form(trial.probe, trial.latency) if trial.probe else _NOTHING
    reason, detail = trial.reason, trial.error or None
    if trial.probe is not None and trial.needed:
        reason, detail = Reason.PERMISSION_DENIED, f"missing: {', '.join(trial.needed)}"
    return {"ok": trial.is_good, "reason": reason, "detail": detail, "missing": list(trial.needed), **seen}
