"""Rate limit headers of real vendors, as their documentation and dumps show them."""

from datetime import UTC, datetime, timedelta

import pytest

from reconciler.sdk.quota import Quota, exhausted_for, quotas, retry_after

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
EPOCH = int(NOW.timestamp())


def said(prefix: str, limit: object, remaining: object, reset: object, **more: str) -> dict[str, str]:
    """The usual three headers, and others beside them."""
    figures = {f"{prefix}-limit": limit, f"{prefix}-remaining": remaining, f"{prefix}-reset": reset}
    return {name: str(value) for name, value in {**figures, **more}.items() if value is not None}


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (said("ratelimit", 960, 950, 40), ("", 960, 950, 40)),
        (said("ratelimit", "10, 10;w=1, 150;w=60", 9, 1), ("", 10, 9, 1)),
        (said("x-ratelimit", 5000, 0, EPOCH + 90, **{"x-ratelimit-resource": "core"}), ("core", 5000, 0, 90)),
        (said("ratelimit", 2000, 3, EPOCH + 60, **{"ratelimit-name": "throttle_api"}), ("throttle_api", 2000, 3, 60)),
        (said("x-ratelimit", 100, 5, "2026-05-04T12:00:30Z"), ("", 100, 5, 30)),
        (said("x-ratelimit", 1000, None, EPOCH + 10), ("", 1000, None, 10)),
        ({"x-rate-limit": "700", "x-rate-limit-remaining": "699"}, ("", 700, 699, None)),
        ({"x-ratelimit-total": "100", "x-ratelimit-remaining": "98"}, ("", 100, 98, None)),
        ({"ratelimit": '"default";r=50;t=30', "ratelimit-policy": '"default";q=100;w=60'}, ("default", 100, 50, 30)),
        ({"ratelimit": "limit=100, remaining=50, reset=5"}, ("", 100, 50, 5)),
        (said("x-ratelimit-requests", 2500, 1, (EPOCH + 7) * 1000), ("requests", 2500, 1, 7)),
        (said("x-ratelimit", 10, 1, "garbage"), ("", 10, 1, None)),
    ],
)
def test_vendors(headers: dict[str, str], expected: tuple[str, int, int | None, float | None]) -> None:
    assert quotas(headers, NOW) == (Quota(*expected),)


@pytest.mark.parametrize(
    "headers", [{}, {"x-ratelimit-limit": "unlimited"}, {"ratelimit": "?!"}, {"ratelimit-reset": "9"}]
)
def test_headers_that_say_nothing(headers: dict[str, str]) -> None:
    assert quotas(headers, NOW) == ()


def test_the_answers_own_date_beats_our_clock() -> None:
    headers = {
        "date": "Mon, 04 May 2026 11:50:00 GMT",
        "x-ratelimit-limit": "1",
        "x-ratelimit-remaining": "0",
        "x-ratelimit-reset": str(EPOCH - 570),
        "retry-after": "Mon, 04 May 2026 11:50:20 GMT",
    }
    assert quotas(headers, NOW)[0].reset_in == pytest.approx(30)
    assert retry_after(headers, NOW) == 20


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 30),
        ("0", 0),
        ("1.5", 1.5),
        ("Mon, 04 May 2026 12:00:45 GMT", 45),
        ("Mon, 04 May 2026 11:00:00 GMT", 0),
        ("soon", None),
        ("-5", None),
        ("", None),
    ],
)
def test_retry_after(text: str, seconds: float | None) -> None:
    assert retry_after({"retry-after": text} if text else {}, NOW) == seconds


def test_exhausted_is_the_latest_reset_of_what_is_used_up() -> None:
    headers = {
        "x-ratelimit-requests-remaining": "0",
        "x-ratelimit-requests-reset": "20",
        "x-ratelimit-complexity-remaining": "0",
        "x-ratelimit-complexity-reset": "50",
        "x-ratelimit-endpoint-requests-remaining": "4",
        "x-ratelimit-endpoint-requests-reset": "90",
    }
    assert exhausted_for(headers, NOW) == 50
    assert exhausted_for({"ratelimit-remaining": "1", "ratelimit-reset": "9"}, NOW + timedelta(1)) is None
