"""Times and durations as people type them: RFC 3339, or `2h` for two hours ago (or from now). Every command uses these."""

from datetime import datetime, timedelta

from reconciler.cli.store_access import CommandError


def instant(text: str, option: str, now: datetime, *, is_ahead: bool = False) -> datetime:
    """The time that `text` means; `is_ahead` counts a duration from now on. Raises CommandError."""
    from reconciler.model.clock import from_rfc3339
    from reconciler.model.duration import parse_duration

    try:
        pause = parse_duration(text)
    except ValueError:
        try:
            return from_rfc3339(text)
        except ValueError:
            expected = "a time with a zone such as 2030-01-31T08:00:00Z, or a duration such as 2h"
            raise CommandError(f"{option} {text}: expected {expected}") from None
    try:
        return now + pause if is_ahead else now - pause
    except OverflowError:
        raise CommandError(f"{option} {text}: too long") from None


def span(text: str, option: str) -> timedelta:
    """A duration such as `90s` or `5m`; raises CommandError."""
    from reconciler.model.duration import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise CommandError(f"{option} {text}: {error}") from None


def ago(at: str, now: datetime) -> str:
    """How long ago a stored time is, for a person."""
    from reconciler.model.clock import from_rfc3339
    from reconciler.model.duration import render_duration

    return f"{render_duration(max(now - from_rfc3339(at), timedelta()))} ago"
