"""Times as text."""

from datetime import UTC, datetime, timedelta, timezone

from reconciler.model.clock import from_rfc3339, rfc3339


def test_text_sorts_as_the_times_do() -> None:
    """Also those that nobody means but anybody can send."""
    every = [datetime(year, 3, 1, 12, tzinfo=UTC) for year in (1, 214, 1969, 2026, 9999)]
    texts = [rfc3339(at) for at in every]
    assert texts == sorted(texts)
    assert [from_rfc3339(text) for text in texts] == every
    assert texts[1] == "0214-03-01T12:00:00.000000Z"


def test_utc_with_microseconds() -> None:
    east = timezone(timedelta(hours=2))
    assert rfc3339(datetime(2026, 3, 1, 1, 2, 3, 4, tzinfo=east)) == "2026-02-28T23:02:03.000004Z"
