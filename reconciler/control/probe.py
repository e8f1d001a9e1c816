"""Probes between reconciles: is the connection still good, how fast, what is missing. Not jobs: cheap and frequent.

A failing probe makes a reconcile due, which decides what it means; so does every probe of an integration with remote
objects, whose drift only a reconcile can see and mend.
"""

import asyncio
from datetime import timedelta
from random import Random

from reconciler.control.consent import WARNING, expiring, probed, turned
from reconciler.model.clock import Clock, from_rfc3339, rfc3339
from reconciler.model.condition import ConditionType, Reason, Truth
from reconciler.sdk.contract import Probe, Subscribes
from reconciler.sdk.live import Connections, NotConnectableError
from reconciler.store import agenda, conditions, integrations, jobs, probes
from reconciler.store.conditions import Say
from reconciler.store.database import Database, Tx
from reconciler.store.errors import StoreError
from reconciler.store.probes import ProbeRecord

AT_ONCE = 16
BATCH = 200
PRIO = 20
DEADLINE = timedelta(seconds=60)
NOT_KNOWN_PAUSE = timedelta(seconds=10)


def probe_record(probe: Probe, latency_seconds: float) -> ProbeRecord:
    """What is kept of a good probe."""
    return ProbeRecord(
        is_good=True,
        latency_ms=round(latency_seconds * 1000, 1),
        identity=probe.identity,
        account=probe.account,
        missing=probe.missing,
        skew_ms=probe.skew / timedelta(milliseconds=1) if probe.skew is not None else None,
        credential_expires_at=rfc3339(probe.credential_expires_at) if probe.credential_expires_at else None,
    )


class Prober:
    """`tick` probes what is due; call it about once a second."""

    def __init__(
        self,
        database: Database,
        connections: Connections,
        clock: Clock,
        random: Random,
        every: timedelta,
        warn_before: timedelta = WARNING,
    ) -> None:
        self._warn_before = warn_before
        self._database = database
        self._connections = connections
        self._clock = clock
        self._random = random
        self._every = every
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def tick(self) -> int:
        """How many were probed."""
        now = rfc3339(self._clock.now())
        due = await self._database.read(lambda tx: agenda.due_probes(tx, now, BATCH))
        await asyncio.gather(*(self._probe(i) for i in due))
        return len(due)

    async def _probe(self, integration_id: int) -> None:
        async with self._slots:
            record = None
            try:
                async with asyncio.timeout(DEADLINE.total_seconds()):
                    record = await self._ask(integration_id)
            except StoreError:
                raise
            except NotConnectableError as error:
                if error.reason is Reason.PENDING:  # desired state is not read yet: nothing is known to be wrong
                    await self._put_off(integration_id)
                    return
            except Exception:  # noqa: BLE001, S110 - also a connector's own fault: the reconcile meets it and states it
                pass
            await self._record(integration_id, record)

    async def _ask(self, integration_id: int) -> ProbeRecord | None:
        """None for what a reconcile has to look at anyway."""
        live = await self._connections.live(integration_id)
        if isinstance(live.connector, Subscribes):
            return None
        started = self._clock.monotonic()
        return probe_record(await probed(live), self._clock.monotonic() - started)

    def _expiring(self, record: ProbeRecord) -> Say:
        until = record.credential_expires_at
        return expiring(from_rfc3339(until) if until else None, self._clock.now(), self._warn_before)

    async def _put_off(self, integration_id: int) -> None:
        soon = rfc3339(self._clock.now() + NOT_KNOWN_PAUSE)
        await self._database.write(lambda tx: agenda.set_next_probe(tx, integration_id, soon))

    async def _record(self, integration_id: int, record: ProbeRecord | None) -> None:
        now = self._clock.now()
        next_at = rfc3339(now + self._every * self._random.uniform(0.9, 1.1))

        def store(tx: Tx) -> None:
            said = conditions.conditions(tx, integration_id)
            connected, ending = said.get(ConditionType.CONNECTED), said.get(ConditionType.CREDENTIAL_EXPIRING)
            is_up = connected is not None and connected.truth is Truth.TRUE
            is_same = record is not None and not (
                turned(self._expiring(record), ending) or is_somebody_else(tx, integration_id, record)
            )
            if record is not None and is_up and is_same:
                probes.record_probe(tx, integration_id, record, rfc3339(now), next_at)
            else:  # what turned is told by the reconcile alone, so that it is told once
                agenda.set_next_probe(tx, integration_id, next_at)
                key = str(integration_id)
                jobs.put(tx, kind="reconcile", ref=key, key=key, prio=PRIO, due_at=now)

        await self._database.write(store)


def is_somebody_else(tx: Tx, integration_id: int, record: ProbeRecord) -> bool:
    """Connected as another account than the last time that it was told."""
    row = integrations.get(tx, integration_id)
    return row is not None and row.identity not in {"", record.identity}
