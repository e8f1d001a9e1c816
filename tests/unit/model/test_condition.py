"""Status, health and Ready from conditions, and the checker that finds what may not be."""

from datetime import UTC, datetime

import pytest

from reconciler.model.condition import (
    ONLY_WHILE_TRUE,
    Condition,
    ConditionType,
    Health,
    Reason,
    Status,
    Truth,
    health,
    ready,
    status,
    violations,
)

C, R, T = ConditionType, Reason, Truth
AT = datetime(2026, 3, 2, tzinfo=UTC)


def _is(kind: ConditionType, truth: Truth, reason: Reason) -> Condition:
    return Condition(kind, truth, reason, f"{kind} {reason}", AT, 1)


UP = _is(C.CONNECTED, T.TRUE, R.SUCCEEDED)
VALID = _is(C.VALID, T.TRUE, R.SUCCEEDED)
BROKEN = _is(C.VALID, T.FALSE, R.VALIDATION_FAILED)
STALLED = _is(C.STALLED, T.TRUE, R.AUTHENTICATION_FAILED)
REFUSED = _is(C.CONNECTED, T.FALSE, R.AUTHENTICATION_FAILED)
WAITING = _is(C.CONNECTED, T.UNKNOWN, R.DEPENDENCY_NOT_READY)
PROGRESS = _is(C.RECONCILING, T.TRUE, R.PROGRESSING)
LATE = _is(C.FRESH, T.FALSE, R.LATE)
OFF = _is(C.CONNECTED, T.FALSE, R.DISABLED)
CONSENT = _is(C.CONNECTED, T.FALSE, R.AWAITING_AUTHORIZATION)
NO_KEY = _is(C.SECRETS_DECRYPTED, T.FALSE, R.KEY_MISSING)


@pytest.mark.parametrize(
    ("said", "expected", "how", "is_ready"),
    [
        ([], Status.DISCONNECTED, Health.UNKNOWN, T.UNKNOWN),
        ([UP, VALID], Status.CONNECTED, Health.HEALTHY, T.TRUE),
        ([UP, BROKEN], Status.CONNECTED, Health.DEGRADED, T.FALSE),
        ([BROKEN], Status.ERROR, Health.UNKNOWN, T.FALSE),
        ([UP, LATE], Status.CONNECTED, Health.DEGRADED, T.FALSE),
        ([REFUSED, STALLED], Status.ERROR, Health.UNHEALTHY, T.FALSE),
        ([UP, NO_KEY], Status.CONNECTED, Health.DEGRADED, T.FALSE),
        ([NO_KEY], Status.ERROR, Health.UNKNOWN, T.FALSE),
        ([UP, NO_KEY, _is(C.STALLED, T.TRUE, R.KEY_MISSING)], Status.ERROR, Health.UNHEALTHY, T.FALSE),
        ([OFF, LATE], Status.DISCONNECTED, Health.UNKNOWN, T.FALSE),
        ([CONSENT], Status.PENDING_AUTH, Health.UNHEALTHY, T.FALSE),
        ([WAITING, PROGRESS], Status.DISCONNECTED, Health.UNKNOWN, T.UNKNOWN),
        ([UP, PROGRESS], Status.CONNECTED, Health.HEALTHY, T.UNKNOWN),
        ([UP, _is(C.DRIFTED, T.TRUE, R.DRIFT_DETECTED)], Status.CONNECTED, Health.DEGRADED, T.TRUE),
    ],
)
def test_the_table(said: list[Condition], expected: Status, how: Health, is_ready: Truth) -> None:
    by_type = {c.type: c for c in said}
    assert (status(by_type, is_syncing=False), health(by_type), ready(by_type, AT).truth) == (expected, how, is_ready)
    assert status(by_type, is_syncing=True) is (Status.SYNCING if expected is Status.CONNECTED else expected)
    assert violations(said, 1) == []
    assert ready(by_type, AT).generation == (1 if said else 0)


def test_stalled_is_the_first_reason_of_ready() -> None:
    said = {c.type: c for c in (LATE, REFUSED, STALLED)}
    assert ready(said, AT).message == STALLED.message


@pytest.mark.parametrize(
    "said",
    [
        [UP, UP],
        *[[_is(kind, T.FALSE, R.PROGRESSING)] for kind in ONLY_WHILE_TRUE],
        [STALLED, PROGRESS],
        [_is(C.READY, T.TRUE, R.SUCCEEDED)],
        [Condition(C.VALID, T.TRUE, R.SUCCEEDED, "", AT, 7)],
        [Condition(C.VALID, T.TRUE, R.SUCCEEDED, "", AT.replace(tzinfo=None), 1)],
        [_is(C.FRESH, T.TRUE, R.LATE)],
        [_is(C.FRESH, T.FALSE, R.SUCCEEDED)],
    ],
)
def test_what_may_not_be_is_found(said: list[Condition]) -> None:
    assert violations(said, 1)
