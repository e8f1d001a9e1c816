"""Job rows: putting work in, taking it out in due order, and the right to run it (claim, fence, lease).

Query functions for `Database.write`; other rooms call `put`, `drop` and `holds` inside their own transactions.
`now` is the time that decides ownership: pass `tx.now()`. How a taken job comes to run is not decided here.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from reconciler.model.clock import from_rfc3339, rfc3339
from reconciler.model.job import Claim, Job, JobCount, QueueName, Window, queue_of
from reconciler.store.database import Row, Tx
from reconciler.store.leases import CONTROLLER

QUEUED_TOO_LONG = timedelta(seconds=60)
LEASE_LONG_GONE = timedelta(seconds=20)
LANE_BUSY_RETRY = timedelta(seconds=1)
SEEN = timedelta(seconds=10)  # who lives says so three times as often
# A time further ahead than any lease was written before the clock was set back: as good as expired.
IMPOSSIBLE = timedelta(seconds=90)
_COLUMNS = "id, kind, queue, key, ref, attempt, failures, asked"
_TO_DUE = "state = 'due', owner = NULL, lease_until = NULL, queued_at = NULL, again_at = NULL"

_PUT = """
INSERT INTO job (kind, queue, key, ref, prio, due_at, state) VALUES (:kind, :queue, :key, :ref, :prio, :due_at, 'due')
ON CONFLICT (kind, ref) DO UPDATE SET
  prio = CASE WHEN job.state = 'due' AND excluded.prio < job.prio THEN excluded.prio ELSE job.prio END,
  due_at = CASE WHEN job.state = 'due' AND excluded.due_at < job.due_at THEN excluded.due_at ELSE job.due_at END,
  again_at = CASE WHEN job.state = 'running' AND (job.again_at IS NULL OR excluded.due_at < job.again_at)
    THEN excluded.due_at ELSE job.again_at END
"""
_ASK = """
UPDATE job SET
  asked = CASE WHEN state = 'running' THEN 2 ELSE 1 END,
  due_at = CASE WHEN state = 'due' AND :now < due_at THEN :now ELSE due_at END,
  again_at = CASE WHEN state = 'running' THEN :now ELSE again_at END
WHERE kind = :kind AND ref = :ref
"""
_STARTABLE = """
SELECT id, kind, queue, key, ref, attempt, failures, asked FROM job
WHERE queue = :queue AND state = 'due' AND due_at <= :now
  AND NOT EXISTS (SELECT 1 FROM job busy WHERE busy.queue = job.queue AND busy.key = job.key AND busy.state <> 'due')
  AND NOT EXISTS (SELECT 1 FROM lane WHERE lane.queue = job.queue AND lane.key = job.key
    AND lane.job_id IS NOT NULL AND lane.lease_until > :now)
ORDER BY asked DESC, prio, due_at, id
FOR UPDATE OF job SKIP LOCKED"""
_ENTER_LANE = """
INSERT INTO lane (queue, key, job_id, fence, lease_until) VALUES (:queue, :key, :job_id, :attempt, :until)
ON CONFLICT (queue, key) DO UPDATE
SET job_id = excluded.job_id, fence = lane.fence + 1, lease_until = excluded.lease_until
WHERE lane.job_id IS NULL OR lane.lease_until < :now OR lane.lease_until > :impossible
RETURNING fence
"""
_LEAVE_LANE = """
UPDATE lane SET job_id = NULL, lease_until = NULL
WHERE queue = :queue AND key = :key AND fence = :fence AND job_id = :job_id
"""
_HELD = """
SELECT job.again_at FROM lane JOIN job ON job.id = lane.job_id WHERE lane.queue = :queue AND lane.key = :key
AND lane.fence = :fence AND job.id = :id AND job.attempt = :attempt AND job.state = 'running' FOR SHARE"""
_ROOM = """
SELECT
  (SELECT count(*) FROM job WHERE queue = :queue AND state <> 'due' AND asked = 0 AND state = 'queued'),
  (SELECT count(*) FROM job WHERE queue = :queue AND state <> 'due' AND asked = 0),
  (SELECT count(*) FROM alive WHERE seen_at >= :fresh),
  EXISTS (SELECT 1 FROM job WHERE queue = :queue AND state = 'due' AND due_at <= :now AND asked = 1)
"""


def put(tx: Tx, kind: str, ref: str, key: str, prio: int, due_at: datetime) -> None:
    """Make it due at `due_at` at the latest. A running job becomes due again when it ends (level-triggered)."""
    params = {"kind": kind, "queue": queue_of(kind), "key": key, "ref": ref, "prio": prio, "due_at": rfc3339(due_at)}
    tx.execute(_PUT, params)


def put_all(tx: Tx, kind: str, those: Iterable[tuple[str, str]], prio: int, due_at: datetime) -> None:
    """(ref, key) each, all due at the same time."""
    same = {"kind": kind, "queue": queue_of(kind), "prio": prio, "due_at": rfc3339(due_at)}
    tx.executemany(_PUT, [{**same, "ref": ref, "key": key} for ref, key in those])


def ask(tx: Tx, kind: str, ref: str, now: datetime) -> bool:
    """A person waits for it: due now, before everything else. False where there is no such row."""
    return tx.rowcount(_ASK, kind=kind, ref=ref, now=rfc3339(now)) == 1


@dataclass(frozen=True, slots=True)
class Standing:
    """How a job stands: due, queued or running. `is_asked`: a person waits for it."""

    state: str
    due_at: str
    is_asked: bool


def standing(tx: Tx, kind: str, ref: str) -> Standing | None:
    """None where there is none, or it ended and is not to be done again."""
    row = tx.one("SELECT state, due_at, asked FROM job WHERE kind = :kind AND ref = :ref", kind=kind, ref=ref)
    return Standing(row[0], row[1], bool(row[2])) if row else None


def drop(tx: Tx, kind: str, ref: str) -> Job | None:
    """Forget it. Whoever runs it loses its claim at once; the lane stays shut until that one has stopped."""
    row = tx.one(f"DELETE FROM job WHERE kind = :kind AND ref = :ref RETURNING {_COLUMNS}", kind=kind, ref=ref)
    return None if row is None else _job(row)


def room(tx: Tx, now: datetime, queue: QueueName, window: Window, ttl: timedelta) -> int | None:
    """How many due rows may be taken now; None when nothing would be gained by a write transaction."""
    row = tx.one(_ROOM, queue=queue, now=rfc3339(now), fresh=rfc3339(now - ttl))
    queued, busy, live, is_asked = row or (0, 0, 0, 0)
    processes = max(live, 1)
    free = min(window.queued * processes - queued, window.running * processes - busy)
    is_worth_it = free >= max(min(window.least, window.queued), 1) and _is_any_due(tx, now, queue)
    return max(free, 0) if is_worth_it or is_asked else None


def _is_any_due(tx: Tx, now: datetime, queue: QueueName) -> bool:
    first = next_due(tx, queue)
    return first is not None and first <= now


def next_due(tx: Tx, queue: QueueName) -> datetime | None:
    """When the first waiting row is due: no need to look again before."""
    first = tx.value("SELECT min(due_at) FROM job WHERE queue = :queue AND state = 'due'", queue=queue)
    return None if first is None else from_rfc3339(first)


def take_due(tx: Tx, now: datetime, limit: int, queue: QueueName) -> list[Job]:
    """Due rows become queued, oldest first, at most one for each free lane. Asked rows do not count towards `limit`."""
    rows = _first_of_lanes(tx, now, limit, queue)
    if not rows:
        return []
    last = tx.value("UPDATE job_ticket SET value = value + :n RETURNING value", n=len(rows))
    jobs = [_job(row, last - len(rows) + 1 + number) for number, row in enumerate(rows)]
    tx.executemany(
        "UPDATE job SET state = 'queued', queued_at = :now, attempt = :attempt WHERE id = :id",
        [{"now": rfc3339(now), "attempt": job.attempt, "id": job.id} for job in jobs],
    )
    return jobs


def _first_of_lanes(tx: Tx, now: datetime, limit: int, queue: QueueName) -> list[Row]:
    """Read no further than needed: ten thousand may be due."""
    found: dict[str, Row] = {}
    scheduled = 0
    cursor = tx.stream(_STARTABLE, queue=queue, now=rfc3339(now))
    for row in cursor:
        if not row["asked"] and scheduled >= limit:
            break
        if row["key"] not in found:
            found[row["key"]] = row
            scheduled += not row["asked"]
    cursor.close()
    return list(found.values())


def start(tx: Tx, job_id: int, attempt: int, owner: str, now: datetime, lease: timedelta) -> tuple[Job, Claim] | None:
    """The right to run it; None where this start is stale, or the lane is busy (then it is due again in a moment)."""
    row = tx.one(
        f"SELECT {_COLUMNS} FROM job WHERE id = :id AND attempt = :attempt AND state = 'queued' FOR UPDATE",
        id=job_id,
        attempt=attempt,
    )
    if row is None:
        return None
    job = _job(row)
    times = {"now": rfc3339(now), "until": rfc3339(now + lease), "impossible": rfc3339(now + IMPOSSIBLE)}
    # A lane that was lost begins with a fence above all it ever gave: attempts count faster than fences.
    fence = tx.value(_ENTER_LANE, queue=job.queue, key=job.key, job_id=job_id, attempt=attempt, **times)
    if fence is None:
        soon = rfc3339(now + LANE_BUSY_RETRY)
        tx.execute(f"UPDATE job SET {_TO_DUE}, due_at = :soon WHERE id = :id", {"soon": soon, "id": job_id})
        return None
    tx.execute(
        "UPDATE job SET state = 'running', owner = :owner, lease_until = :until WHERE id = :id",
        {"owner": owner, "until": times["until"], "id": job_id},
    )
    return job, Claim(job_id, attempt, job.queue, job.key, owner, fence)


def holds(tx: Tx, claim: Claim) -> bool:
    """The fencing check: false as soon as the job was dropped, given to another, or its lane taken over."""
    return tx.one(_HELD, **_held_by(claim)) is not None


def _held_by(claim: Claim) -> dict[str, object]:
    return {
        "queue": claim.queue,
        "key": claim.key,
        "fence": claim.fence,
        "id": claim.job_id,
        "attempt": claim.attempt,
    }


def finish(tx: Tx, claim: Claim, again_at: datetime | None, *, failed: bool = False) -> bool:
    """Leave the lane; the row goes, or is due again. False: fenced, somebody else decides about this job now."""
    row = tx.one(_HELD, **_held_by(claim))
    tx.execute(_LEAVE_LANE, {"queue": claim.queue, "key": claim.key, "fence": claim.fence, "job_id": claim.job_id})
    if row is not None:
        _settle(tx, claim.job_id, row[0], again_at, failed=failed)
    return row is not None


def _settle(tx: Tx, job_id: int, wanted: str | None, again_at: datetime | None, *, failed: bool) -> None:
    times = [at for at in (again_at and rfc3339(again_at), wanted) if at]
    if not times:
        tx.execute("DELETE FROM job WHERE id = :id", {"id": job_id})
        return
    tx.execute(
        f"UPDATE job SET {_TO_DUE}, due_at = :due_at, asked = CASE WHEN asked = 2 THEN 1 ELSE 0 END, "
        "failures = CASE WHEN :failed = 1 THEN failures + 1 ELSE 0 END WHERE id = :id",
        {"due_at": min(times), "failed": int(failed), "id": job_id},
    )


def renew(tx: Tx, claims: Iterable[Claim], until: datetime) -> list[Claim]:
    """Longer leases for exactly these jobs, in id order; gives back the claims that are lost."""
    lost = []
    for claim in sorted(claims, key=lambda claim: claim.job_id):
        params = {"until": rfc3339(until), "id": claim.job_id, "attempt": claim.attempt}
        kept = tx.rowcount(
            "UPDATE job SET lease_until = :until WHERE id = :id AND attempt = :attempt AND state = 'running'", **params
        )
        tx.execute(
            "UPDATE lane SET lease_until = :until WHERE queue = :queue AND key = :key AND fence = :fence AND job_id = :id",
            {**params, "queue": claim.queue, "key": claim.key, "fence": claim.fence},
        )
        if not (kept and holds(tx, claim)):
            lost.append(claim)
    return lost


def running(tx: Tx, owner: str) -> set[tuple[int, int]]:
    """(id, attempt) of what this process runs, by the rows."""
    rows = tx.all(
        "SELECT id, attempt FROM job WHERE state <> 'due' AND state = 'running' AND owner = :owner", owner=owner
    )
    return {(number, attempt) for number, attempt in rows}


def stranded(tx: Tx, now: datetime) -> list[Job]:
    """Rows nobody works on any more become due; gives them as they were, so that the engine forgets those starts."""
    times = {
        "queued": rfc3339(now - QUEUED_TOO_LONG),
        "lease": rfc3339(now - LEASE_LONG_GONE),
        "impossible": rfc3339(now + IMPOSSIBLE),
    }
    return _to_due(
        tx,
        "(state = 'queued' AND (queued_at < :queued OR queued_at > :impossible)) "
        "OR (state = 'running' AND (lease_until < :lease OR lease_until > :impossible))",
        **times,
    )


def waiting(tx: Tx, before: datetime) -> list[Job]:
    """Rows handed to the engine before that time and not started yet: the engine should know each of them."""
    rows = tx.all(f"SELECT {_COLUMNS} FROM job WHERE state = 'queued' AND queued_at < :at", at=rfc3339(before))
    return [_job(row) for row in rows]


def give_back(tx: Tx, jobs: Sequence[Job]) -> None:
    """Taken but not started: due again, in their old place."""
    for job in jobs:
        _to_due(tx, "id = :id AND attempt = :attempt AND state = 'queued'", id=job.id, attempt=job.attempt)


def release(tx: Tx, owner: str) -> list[Job]:
    """What a process that is gone was running becomes due."""
    return _to_due(tx, "state = 'running' AND owner = :owner", owner=owner)


def reset(tx: Tx) -> list[Job]:
    """Only for the holder of the state directory's lock: nobody else can be working on anything."""
    tx.execute("DELETE FROM alive")
    return _to_due(tx, "state <> 'due'")


def _to_due(tx: Tx, where: str, **params: object) -> list[Job]:
    changed = (
        f"UPDATE job SET {_TO_DUE}, asked = CASE WHEN asked = 0 THEN 0 ELSE 1 END WHERE {where} RETURNING {_COLUMNS}"
    )
    jobs = [_job(row) for row in tx.all(changed, **params)]
    tx.executemany(
        "UPDATE lane SET job_id = NULL, lease_until = NULL WHERE queue = :queue AND key = :key AND job_id = :id",
        [{"queue": job.queue, "key": job.key, "id": job.id} for job in jobs],
    )
    return jobs


def beat(tx: Tx, owner: str, now: datetime) -> None:
    tx.execute(
        "INSERT INTO alive (id, seen_at) VALUES (:id, :at) ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at",
        {"id": owner, "at": rfc3339(now)},
    )


def dead(tx: Tx, now: datetime, ttl: timedelta) -> list[str]:
    """Processes that have not been seen for `ttl`, or only in a future that was a wrong clock."""
    rows = tx.all(
        "SELECT id FROM alive WHERE seen_at < :before OR seen_at > :impossible ORDER BY id",
        before=rfc3339(now - ttl),
        impossible=rfc3339(now + IMPOSSIBLE),
    )
    return [row["id"] for row in rows]


def workers(tx: Tx) -> int:
    """How many processes run jobs."""
    return int(tx.value("SELECT count(*) FROM alive WHERE seen_at >= :fresh", fresh=rfc3339(tx.now() - SEEN)))


def parties(tx: Tx) -> int:
    """How many processes ask remotes: those that run jobs, and the one that leads, which probes."""
    now = tx.now()
    return int(
        tx.value(
            "SELECT count(*) FROM (SELECT id FROM alive WHERE seen_at >= :fresh"
            " UNION SELECT owner FROM lease WHERE name = :name AND until >= :now) AS party",
            fresh=rfc3339(now - SEEN),
            name=CONTROLLER,
            now=rfc3339(now),
        )
    )


def forget(tx: Tx, owner: str) -> None:
    tx.execute("DELETE FROM alive WHERE id = :id", {"id": owner})


def counts(tx: Tx) -> list[JobCount]:
    """For metrics: rows by queue and state."""
    rows = tx.all(
        "SELECT queue, state, count(*) AS n, min(due_at) AS oldest FROM job GROUP BY queue, state ORDER BY 1, 2"
    )
    return [JobCount(row["queue"], row["state"], row["n"], from_rfc3339(row["oldest"])) for row in rows]


def is_due(tx: Tx, kind: str, ref: str, now: datetime) -> bool:
    """Whether this very job waits, for example for the lane that the asker holds."""
    sql = "SELECT 1 FROM job WHERE kind = :kind AND ref = :ref AND state = 'due' AND due_at <= :now"
    return tx.value(sql, kind=kind, ref=ref, now=rfc3339(now)) is not None


def due_at(tx: Tx, kind: str, ref: str) -> datetime | None:
    """When this job begins at the earliest; None where it is under way, or there is none."""
    at = tx.value("SELECT due_at FROM job WHERE kind = :kind AND ref = :ref AND state = 'due'", kind=kind, ref=ref)
    return None if at is None else from_rfc3339(at)


def pending(tx: Tx, kind: str, now: datetime) -> frozenset[str]:
    """What these jobs are about, as far as they are due by now or under way: for whoever waits until nothing is."""
    rows = tx.all(
        "SELECT ref FROM job WHERE kind = :kind AND (state <> 'due' OR due_at <= :now)", kind=kind, now=rfc3339(now)
    )
    return frozenset(ref for (ref,) in rows)


def _job(row: Row, attempt: int | None = None) -> Job:
    number, kind, queue, key, ref, last, failures, asked = row
    return Job(number, kind, queue, key, ref, last if attempt is None else attempt, failures, bool(asked))
