"""Times as people type them."""

from datetime import UTC, datetime, timedelta

import pytest

from reconciler.cli.columns import aligned, one_line
from reconciler.cli.store_access import CommandError
from reconciler.cli.times import ago, instant, span

NOW = datetime(2030, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "is_ahead", "expected"),
    [
        ("2h", False, NOW - timedelta(hours=2)),
        ("1h30m", True, NOW + timedelta(hours=1, minutes=30)),
        ("2030-01-31T08:00:00Z", False, datetime(2030, 1, 31, 8, tzinfo=UTC)),
        ("2030-01-31T08:00:00+02:00", True, datetime(2030, 1, 31, 6, tzinfo=UTC)),
    ],
)
def test_instant(text: str, is_ahead: bool, expected: datetime) -> None:
    assert instant(text, "--since", NOW, is_ahead=is_ahead) == expected


@pytest.mark.parametrize("text", ["yesterday", "2030-01-31", "2030-01-31T08:00:00", "", "2", "-2h"])
def test_instant_refuses_what_could_mean_two_things(text: str) -> None:
    with pytest.raises(CommandError, match=r"^--since .*: expected a time with a zone such as"):
        instant(text, "--since", NOW)


def test_instant_beyond_the_calendar() -> None:
    with pytest.raises(CommandError, match="too long"):
        instant("999999w", "--since", NOW)


def test_span_and_ago() -> None:
    assert span("90s", "--timeout") == timedelta(seconds=90)
    with pytest.raises(CommandError, match="--timeout soon: a duration is a number and a unit"):
        span("soon", "--timeout")
    assert ago("2030-01-31T11:59:15.000000Z", NOW) == "45s ago"
    assert ago("2030-01-31T12:00:01.000000Z", NOW) == "0ms ago"


def test_columns() -> None:
    assert aligned(("A", "LONG"), [("xyz", "1"), ("", "2")]) == "A    LONG\nxyz  1\n     2"
    assert one_line("first\nsecond") == "first"
    assert one_line("x" * 200, 10) == "xxxxxxx..."
