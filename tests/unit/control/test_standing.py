"""When there is nothing left to wait for."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from reconciler.control.standing import Standing, standing
from reconciler.control.view import IntegrationView
from reconciler.model.condition import Condition, ConditionType, Health, Reason, Status, Truth, ready
from reconciler.store import integrations
from reconciler.store.integrations import IntegrationRow

NOW = datetime(2030, 1, 31, 12, tzinfo=UTC)
_BLANK: dict[str, Any] = dict.fromkeys(IntegrationRow.__slots__, "")
ROW = replace(IntegrationRow(**_BLANK), id=1, is_desired=True, generation=2, observed_generation=2)
T, R = ConditionType, Reason


def _view(row: integrations.IntegrationRow, *said: tuple[ConditionType, Truth, Reason]) -> IntegrationView:
    conditions = {t: Condition(t, truth, reason, "", NOW) for t, truth, reason in said}
    return IntegrationView(
        row, conditions, ready(conditions, NOW), Status.ERROR, Health.UNKNOWN, None, None, None, None, {}, None
    )


UP = (T.CONNECTED, Truth.TRUE, R.SUCCEEDED)
DOWN = (T.CONNECTED, Truth.FALSE, R.REMOTE_UNAVAILABLE)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ((), Standing.WORKING),
        ((UP,), Standing.CONNECTED),
        ((UP, (T.FRESH, Truth.FALSE, R.STALE)), Standing.CONNECTED),
        ((DOWN, (T.RECONCILING, Truth.TRUE, R.PROGRESSING_WITH_RETRY)), Standing.WORKING),
        ((DOWN, (T.STALLED, Truth.TRUE, R.AUTHENTICATION_FAILED)), Standing.STALLED),
        (((T.CONNECTED, Truth.FALSE, R.AWAITING_AUTHORIZATION),), Standing.WAITING),
        (((T.RECONCILING, Truth.TRUE, R.DEPENDENCY_NOT_READY),), Standing.WAITING),
        (((T.CONNECTED, Truth.FALSE, R.DISABLED),), Standing.OFF),
        (((T.CONNECTED, Truth.FALSE, R.SUSPENDED),), Standing.OFF),
        ((UP, (T.VALID, Truth.FALSE, R.VALIDATION_FAILED)), Standing.BROKEN),
        ((UP, (T.SECRETS_DECRYPTED, Truth.FALSE, R.SECRET_MISSING)), Standing.BROKEN),
        ((UP, (T.VALID, Truth.FALSE, R.PRUNE_BLOCKED)), Standing.BLOCKED),
    ],
)
def test_standing(said: tuple[tuple[ConditionType, Truth, Reason], ...], expected: Standing) -> None:
    assert standing(_view(ROW, *said), is_pending=False) is expected
    assert standing(_view(ROW, *said), is_pending=True) is Standing.WORKING


def test_an_older_generation_or_a_removal_is_still_work() -> None:
    assert standing(_view(replace(ROW, generation=3), UP), is_pending=False) is Standing.WORKING
    assert standing(_view(replace(ROW, is_desired=False), UP), is_pending=False) is Standing.WORKING


def test_only_connected_and_off_are_good() -> None:
    assert [s for s in Standing if s.is_good] == [Standing.CONNECTED, Standing.OFF]
    assert [s for s in Standing if not s.is_settled] == [Standing.WORKING]
