"""What probes found: the last one in the row of its integration, and for each day how many were good.

Query functions for `Database.read` and `Database.write`. Called by `control`. When the next probe is due is `agenda`'s to read.
"""

import json
from dataclasses import dataclass

from reconciler.store.database import Tx


@dataclass(frozen=True, slots=True)
class ProbeRecord:
    """What a probe found; `is_good` counts towards uptime."""

    is_good: bool
    latency_ms: float | None = None
    identity: str = ""
    account: str = ""
    missing: tuple[str, ...] = ()
    skew_ms: float | None = None
    credential_expires_at: str | None = None


def count_probe(tx: Tx, integration_id: int, at: str, *, is_good: bool) -> None:
    """Count towards uptime."""
    tx.execute(
        "INSERT INTO uptime (integration_id, day, good, bad) VALUES (:i, :day, :good, :bad)"
        " ON CONFLICT (integration_id, day) DO UPDATE SET good = uptime.good + excluded.good, bad = uptime.bad + excluded.bad",
        {"i": integration_id, "day": at[:10], "good": int(is_good), "bad": int(not is_good)},
    )


def record_probe(tx: Tx, integration_id: int, probe: ProbeRecord, at: str, next_at: str) -> None:
    count_probe(tx, integration_id, at, is_good=probe.is_good)
    tx.execute(
        "UPDATE integration SET probe_at = :at, next_probe_at = :next, latency_ms = :latency,"
        " error_count = CASE WHEN :good = 1 THEN 0 ELSE error_count + 1 END,"
        " identity = CASE WHEN :good = 1 THEN :identity ELSE identity END,"
        " account = CASE WHEN :good = 1 THEN :account ELSE account END,"
        " missing = CASE WHEN :good = 1 THEN :missing ELSE missing END,"
        " skew_ms = CASE WHEN :good = 1 THEN :skew ELSE skew_ms END,"
        " credential_expires_at = CASE WHEN :good = 1 THEN :expires ELSE credential_expires_at END WHERE id = :id",
        {
            "at": at,
            "next": next_at,
            "latency": probe.latency_ms,
            "good": int(probe.is_good),
            "identity": probe.identity,
            "account": probe.account,
            "missing": json.dumps(probe.missing),
            "skew": probe.skew_ms,
            "expires": probe.credential_expires_at,
            "id": integration_id,
        },
    )


def uptime(tx: Tx, since_day: str) -> dict[int, tuple[int, int]]:
    """id -> (good, bad) probes since the day."""
    rows = tx.all("SELECT integration_id, sum(good), sum(bad) FROM uptime WHERE day >= :d GROUP BY 1", d=since_day)
    return {i: (good, bad) for i, good, bad in rows}


def uptime_of(tx: Tx, integration_id: int, since_day: str) -> tuple[int, int]:
    """(good, bad) probes of one integration since the day."""
    row = tx.one(
        "SELECT coalesce(sum(good), 0), coalesce(sum(bad), 0) FROM uptime WHERE integration_id = :i AND day >= :d",
        i=integration_id,
        d=since_day,
    )
    return (row[0], row[1]) if row else (0, 0)
