"""Schedules: whether a cron expression, an interval and a time zone mean something.

In: the validated `sync` part of a manifest. Out: problems. Called by `manifests`. Due times are the control room's.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from reconciler.desired.positions import Path
from reconciler.desired.problem import Problem, did_you_mean, shown
from reconciler.model.finding import Code
from reconciler.model.manifest import Deletions, Sync

SHORTEST_INTERVAL = timedelta(seconds=1)
_ANY_DAY = datetime(2024, 1, 1, tzinfo=UTC)
_FIELDS = "minute hour day-of-month month day-of-week, e.g. */15 * * * *"


def schedule_problems(sync: Sync, base: Path = ("spec", "sync")) -> Iterator[Problem]:
    yield from _ticks_problems(sync, base)
    yield from _ticks_problems(sync.deletions, (*base, "deletions"))
    for name in ("jitter", "timeout"):
        yield from _length_problems(name, getattr(sync, name), base)
    if not is_time_zone(sync.time_zone):
        message = f"there is no time zone {shown(sync.time_zone)}"
        yield Problem((*base, "time_zone"), Code.INVALID_SCHEDULE, message, _zone_remedy(sync.time_zone))


def _ticks_problems(timed: Sync | Deletions, base: Path) -> Iterator[Problem]:
    if timed.schedule is not None and timed.every is not None:
        remedy = "keep one of them"
        yield Problem(
            (*base, "every"), Code.INVALID_SCHEDULE, "schedule and every exclude each other", remedy, at_key=True
        )
    if timed.schedule is not None and (wrong := cron_error(timed.schedule)):
        message = f"the schedule {shown(timed.schedule)} {wrong}"
        yield Problem((*base, "schedule"), Code.INVALID_SCHEDULE, message, _FIELDS)
    yield from _length_problems("every", timed.every, base)


def _length_problems(name: str, length: timedelta | None, base: Path) -> Iterator[Problem]:
    if length is not None and length < (timedelta() if name == "jitter" else SHORTEST_INTERVAL):
        yield Problem((*base, name), Code.INVALID_SCHEDULE, f"{name} is shorter than 1s", "for example 15m")


@lru_cache(maxsize=4096)
def cron_error(expression: str) -> str:
    """Why an expression is no schedule; empty where it is one."""
    from cronsim import CronSim, CronSimError

    if len(expression.split()) != 5:
        return "does not have five fields"
    try:
        next(CronSim(expression, _ANY_DAY))
    except CronSimError as error:
        return f"cannot be read: {error}"
    except StopIteration:
        return "never comes due"
    return ""


@lru_cache(maxsize=1024)
def is_time_zone(name: str) -> bool:
    import zoneinfo

    try:
        zoneinfo.ZoneInfo(name)
    except (ValueError, OSError, LookupError):
        return False
    return True


def _zone_remedy(name: str) -> str:
    import zoneinfo

    return did_you_mean(name, zoneinfo.available_timezones()) if len(name) < 60 else "an IANA name, e.g. Europe/Berlin"
