"""What sync runs of one integration added up to since this process started: counts in, lines of the exposition out.

Kept apart from the metrics library so that the series of an integration that is gone are gone with the next scrape.
Called by `metrics` (adding) and `scrape` (rendering, in another thread).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from reconciler.model.record import Counts
from reconciler.serve.exposition import Family, integration_labels

Key = tuple[str, str]
TALLY_FAMILIES = (
    Family("reconciler_sync_records_total", "counter", "Records that sync runs handled, by what became of them."),
    Family("reconciler_sync_seconds_total", "counter", "Time spent in sync runs."),
)


@dataclass(slots=True)
class _Tally:
    seconds: float = 0.0
    records: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("added", "updated", "unchanged", "deleted", "rejected"), 0)
    )
    lines: tuple[bytes, ...] | None = None


class Tallies:
    """By workspace and name."""

    def __init__(self) -> None:
        self._tallies: dict[Key, _Tally] = {}

    def add(self, workspace: str, name: str, seconds: float, counts: Counts) -> None:
        tally = self._tallies.setdefault((workspace, name), _Tally())
        tally.seconds += seconds
        for operation in tally.records:
            tally.records[operation] += getattr(counts, operation)
        tally.lines = None

    def render(self, present: Collection[Key]) -> bytes:
        """Integrations that are not `present` any more are forgotten."""
        kept = set(present)
        for key in [key for key in list(self._tallies) if key not in kept]:
            self._tallies.pop(key, None)
        lines = [_lines(key, tally) for key, tally in list(self._tallies.items())]
        return b"".join(
            family.head + b"".join(each) for family, each in zip(TALLY_FAMILIES, _columns(lines), strict=True)
        )


def _columns(lines: list[tuple[bytes, ...]]) -> list[list[bytes]]:
    return [[each[index] for each in lines] for index in range(len(TALLY_FAMILIES))]


def _lines(key: Key, tally: _Tally) -> tuple[bytes, ...]:
    if tally.lines is None:
        prefix, (records, seconds) = integration_labels(*key), TALLY_FAMILIES
        operations: Mapping[str, int] = tally.records
        tally.lines = (
            records.lines(prefix, [({"operation": name}, count) for name, count in operations.items()]),
            seconds.lines(prefix, [({}, tally.seconds)]),
        )
    return tally.lines
