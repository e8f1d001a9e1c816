"""Conditions, reasons and the closed sets of states, with the one table that computes `status`.

A condition says one thing with one polarity. `Valid`, `SecretsDecrypted`, `Connected`, `Fresh` and `Delivering` are good
when true; `Drifted`, `Reconciling`, `Stalled` and `CredentialExpiring` exist only while true; `Ready` is computed, never
set. An absent condition does not apply. `violations` is the checker that every test may call on any status it sees.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum


class ConditionType(StrEnum):
    READY = "Ready"
    VALID = "Valid"
    SECRETS_DECRYPTED = "SecretsDecrypted"
    CONNECTED = "Connected"
    FRESH = "Fresh"
    DELIVERING = "Delivering"
    DRIFTED = "Drifted"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"
    CREDENTIAL_EXPIRING = "CredentialExpiring"


ONLY_WHILE_TRUE = frozenset(
    {
        ConditionType.DRIFTED,
        ConditionType.RECONCILING,
        ConditionType.STALLED,
        ConditionType.CREDENTIAL_EXPIRING,
    }
)
GOOD_WHEN_TRUE = frozenset(
    {
        ConditionType.VALID,
        ConditionType.SECRETS_DECRYPTED,
        ConditionType.CONNECTED,
        ConditionType.FRESH,
        ConditionType.DELIVERING,
    }
)


class Truth(StrEnum):
    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Reason(StrEnum):
    """Why a condition, event, log line or metric says what it says. One list for all four."""

    SUCCEEDED = "Succeeded"
    PROGRESSING = "Progressing"
    PROGRESSING_WITH_RETRY = "ProgressingWithRetry"
    PENDING = "Pending"
    DISABLED = "Disabled"
    SUSPENDED = "Suspended"
    OBSERVE_ONLY = "ObserveOnly"
    DEPENDENCY_NOT_READY = "DependencyNotReady"
    VALIDATION_FAILED = "ValidationFailed"
    DECRYPTION_FAILED = "DecryptionFailed"
    KEY_MISSING = "KeyMissing"
    MAC_MISMATCH = "MacMismatch"
    SECRET_MISSING = "SecretMissing"
    AUTHENTICATION_FAILED = "AuthenticationFailed"
    PERMISSION_DENIED = "PermissionDenied"
    AWAITING_AUTHORIZATION = "AwaitingAuthorization"
    CREDENTIAL_EXPIRING = "CredentialExpiring"
    REJECTED = "Rejected"
    REMOTE_UNAVAILABLE = "RemoteUnavailable"
    RATE_LIMITED = "RateLimited"
    TIMED_OUT = "TimedOut"
    PROTOCOL_ERROR = "ProtocolError"
    HOST_NOT_PERMITTED = "HostNotPermitted"
    TLS_FAILED = "TlsFailed"
    MISSING_DEPENDENCY = "MissingDependency"
    OWNERSHIP_CONFLICT = "OwnershipConflict"
    DRIFT_DETECTED = "DriftDetected"
    PRUNE_BLOCKED = "PruneBlocked"
    PRUNED = "Pruned"
    PARTIAL = "Partial"
    SCHEMA_CHANGED = "SchemaChanged"
    LATE = "Late"
    STALE = "Stale"
    CANCELLED = "Cancelled"
    ERASED = "Erased"
    FENCED = "Fenced"
    STORE_FULL = "StoreFull"
    DELIVERY_FAILING = "DeliveryFailing"
    DELIVERY_UNKNOWN = "DeliveryUnknown"
    GONE = "Gone"
    TEMPLATE_FAILED = "TemplateFailed"
    INTERNAL_ERROR = "InternalError"


class Status(StrEnum):
    CONNECTED = "connected"
    DISCONNECTED = "disconnected"
    ERROR = "error"
    SYNCING = "syncing"
    PENDING_AUTH = "pending_auth"


class Health(StrEnum):
    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"
    UNKNOWN = "unknown"


class SyncStatus(StrEnum):
    HEALTHY = "healthy"
    DEGRADED = "degraded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Condition:
    """One statement about an integration. `since` moves only when `truth` does."""

    type: ConditionType
    truth: Truth
    reason: Reason
    message: str
    since: datetime
    generation: int = 0


def ready(conditions: Mapping[ConditionType, Condition], now: datetime) -> Condition:
    """The summary: Stalled beats every bad condition, which beats Reconciling, which beats good."""
    stalled = conditions.get(ConditionType.STALLED)
    bad = [c for t, c in conditions.items() if t in GOOD_WHEN_TRUE and c.truth is Truth.FALSE]
    progressing = conditions.get(ConditionType.RECONCILING)
    worst = stalled or next(iter(sorted(bad, key=_rank)), None)
    if worst:
        return replace(worst, type=ConditionType.READY, truth=Truth.FALSE)
    if progressing:
        return replace(progressing, type=ConditionType.READY, truth=Truth.UNKNOWN)
    connected = conditions.get(ConditionType.CONNECTED)
    if connected is None:
        return Condition(ConditionType.READY, Truth.UNKNOWN, Reason.PENDING, "waiting for the first reconcile", now)
    return replace(connected, type=ConditionType.READY)


def _rank(condition: Condition) -> int:
    return list(ConditionType).index(condition.type)


_STOPPED = (Reason.DISABLED, Reason.SUSPENDED, Reason.PRUNED)


def status(conditions: Mapping[ConditionType, Condition], is_syncing: bool) -> Status:
    """The precedence table of `status`: stopped on purpose, waiting for a person, broken, syncing, connected, not yet."""
    connected = conditions.get(ConditionType.CONNECTED)
    if connected and connected.reason in _STOPPED:
        return Status.DISCONNECTED
    if connected and connected.reason is Reason.AWAITING_AUTHORIZATION:
        return Status.PENDING_AUTH
    # a broken manifest, or one that cannot be decrypted, leaves its last good spec connected; without one it stalls
    is_up = connected is not None and connected.truth is Truth.TRUE
    gates = set() if is_up else {ConditionType.VALID, ConditionType.SECRETS_DECRYPTED, ConditionType.CONNECTED}
    if ConditionType.STALLED in conditions or any(
        conditions[t].truth is Truth.FALSE for t in gates & conditions.keys()
    ):
        return Status.ERROR
    if connected is None or connected.truth is not Truth.TRUE:
        return Status.DISCONNECTED
    return Status.SYNCING if is_syncing else Status.CONNECTED


def health(conditions: Mapping[ConditionType, Condition]) -> Health:
    """Unhealthy: not connected though it should be. Degraded: connected, but stale, drifted or not delivering."""
    connected = conditions.get(ConditionType.CONNECTED)
    if connected is None or connected.truth is Truth.UNKNOWN or connected.reason in _STOPPED:
        return Health.UNKNOWN
    if connected.truth is Truth.FALSE or ConditionType.STALLED in conditions:
        return Health.UNHEALTHY
    return Health.DEGRADED if soft(conditions) else Health.HEALTHY


def soft(conditions: Mapping[ConditionType, Condition]) -> list[Condition]:
    """Those that degrade what is connected all the same."""
    bad = [c for c in conditions.values() if c.type in GOOD_WHEN_TRUE and c.truth is Truth.FALSE]
    drifted = conditions.get(ConditionType.DRIFTED)
    return [*bad, drifted] if drifted is not None else bad


def violations(conditions: Iterable[Condition], generation: int) -> list[str]:
    """Every invariant of a set of conditions that does not hold; empty for a legal status."""
    found = list(conditions)
    by_type = {c.type: c for c in found}
    wrong = [f"{c.type} twice" for i, c in enumerate(found) if any(o.type is c.type for o in found[:i])]
    wrong += [
        f"{t} present but {by_type[t].truth}"
        for t in ONLY_WHILE_TRUE & by_type.keys()
        if by_type[t].truth is not Truth.TRUE
    ]
    wrong += [
        f"{c.type} speaks of generation {c.generation} > {generation}" for c in found if c.generation > generation
    ]
    wrong += [f"{c.type} since has no zone" for c in found if c.since.tzinfo is None]
    wrong += [
        f"{c.type} is {c.truth} because {c.reason}"
        for c in found
        if c.type in GOOD_WHEN_TRUE and (c.truth is Truth.TRUE) is not (c.reason is Reason.SUCCEEDED)
    ]
    if ConditionType.STALLED in by_type and ConditionType.RECONCILING in by_type:
        wrong.append("Stalled and Reconciling together")
    if ConditionType.READY in by_type:
        wrong.append("Ready is stored though it is computed")
    return wrong
