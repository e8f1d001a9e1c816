"""Ways out: suspended, disabled, or let go because Git no longer names it. Called by the reconciler.

Work under way is stopped first, so that nothing is written behind our back; then the remote is left as the
`deletion_policy` says; then it is recorded. A remote that cannot be reached is tried again for about an hour.
"""

from collections.abc import Sequence

from reconciler.control.objects import Objects
from reconciler.control.stopping import Halt, Stopper
from reconciler.control.visit import Visit
from reconciler.model.clock import Clock, from_rfc3339, rfc3339
from reconciler.model.condition import ConditionType, Reason, Truth
from reconciler.model.event import Lifecycle
from reconciler.model.job import Outcome
from reconciler.model.record import LogLevel
from reconciler.model.state import DesiredIntegration
from reconciler.sdk.contract import Subscribes
from reconciler.sdk.errors import ConnectorError, TransientError
from reconciler.sdk.live import Connections, Journal, NotConnectableError
from reconciler.store import agenda, conditions, deliveries, erasure, integrations, inventory, jobs, journal, runs
from reconciler.store.conditions import Say
from reconciler.store.database import Database, Tx
from reconciler.store.integrations import IntegrationRow
from reconciler.store.runs import Run

LETTING_GO_TRIES = 32
BY_GIT = "git"
_OVER = tuple(Say(t, None) for t in (ConditionType.RECONCILING, ConditionType.STALLED))
_GONE = tuple(
    Say(t, None)
    for t in (
        ConditionType.FRESH,
        ConditionType.DELIVERING,
        ConditionType.DRIFTED,
        ConditionType.CREDENTIAL_EXPIRING,
    )
)


class Leaver:
    """`suspend`, `disable` and `let_go` each take a visit to its end; what the remote raises goes to the caller."""

    def __init__(
        self, database: Database, connections: Connections, journal: Journal, clock: Clock, halt: Halt
    ) -> None:
        self._database = database
        self._connections = connections
        self._journal = journal
        self._clock = clock
        self._stopper = Stopper(database, journal, clock, halt)

    async def suspend(self, visit: Visit, desired: DesiredIntegration) -> Outcome:
        """Nothing is changed, synced or delivered; remote objects stay. Ends by itself where a time was given."""
        row, at = visit.row, self._at()
        is_wanted = desired.manifest.spec.suspend
        message = f"suspended by {row.suspended_by or BY_GIT}{f': {row.suspend_reason}' if row.suspend_reason else ''}"

        def record(tx: Tx) -> list[int]:
            if is_wanted and not row.is_suspended:
                integrations.suspend(tx, row.id, BY_GIT, "spec.suspend is true", None)
            if is_wanted:
                integrations.record_suspended(tx, row.id)
            agenda.rest(tx, row.id)
            before = conditions.conditions(tx, row.id).get(ConditionType.CONNECTED)
            if before is None or before.reason is not Reason.SUSPENDED:
                journal.emit(tx, row.id, Lifecycle.SUSPENDED, at, {"message": message})
            said = Say(ConditionType.CONNECTED, Truth.FALSE, Reason.SUSPENDED, message)
            conditions.say(tx, row.id, row.generation, [said, *_OVER], at)
            return _cancelled(tx, runs.open_syncs(tx, row.id), Reason.SUSPENDED)

        await self._stopper.end(await self._database.write(record))
        return Outcome(from_rfc3339(row.suspended_until)) if row.suspended_until else Outcome()

    async def disable(self, visit: Visit, desired: DesiredIntegration) -> Outcome:
        """`enabled: false`: remote objects go and credentials are revoked, configuration and records stay."""
        row = visit.row
        await self._stop_work(row, Reason.DISABLED)
        left = await self._leave(row, row.applied_policy)
        await self._connections.drop(row.id)
        at, policy = self._at(), desired.manifest.spec.deletion_policy

        def record(tx: Tx) -> None:
            integrations.record_stopped(tx, row.id, row.generation, desired.tree, at, policy)
            said = Say(ConditionType.CONNECTED, Truth.FALSE, Reason.DISABLED, "enabled: false")
            conditions.say(tx, row.id, row.generation, [said, *_GONE, *_OVER], at)
            _tell_disconnected(tx, row, Reason.DISABLED, left, at)

        await self._database.write(record)
        return Outcome()

    async def let_go(self, visit: Visit, desired: DesiredIntegration | None) -> Outcome:
        """Git no longer names it: by `deletion_policy`, then it leaves every list. `desired` is the last wish, if known."""
        row = visit.row
        if row.removed_at is not None:
            return Outcome()
        policy = row.applied_policy
        if row.applied_at is None and desired is not None:
            policy = desired.manifest.spec.deletion_policy
        await self._stop_work(row, Reason.PRUNED)
        left = await self._leave(row, policy)
        await self._connections.drop(row.id)
        at = self._at()

        def record(tx: Tx) -> bool:
            integrations.record_stopped(tx, row.id, row.generation, None, at)
            inventory.drop_credentials(tx, row.id)
            _tell_disconnected(tx, row, Reason.PRUNED, left, at)
            if not integrations.record_removed(tx, row.id, row.generation, at):
                return False
            if policy == "purge":
                erasure.purge(tx, row.id, at)
            everything = [Say(t, None) for t in ConditionType if t is not ConditionType.READY]
            conditions.say(tx, row.id, row.generation, everything, at)
            return True

        if await self._database.write(record):
            self._journal(row.id, LogLevel.INFO, "disconnected", policy=policy)
        return Outcome()

    async def _stop_work(self, row: IntegrationRow, reason: Reason) -> None:
        """Syncs under way end at their next page, waiting ones at once; deliveries not yet sent are taken back."""
        at = self._at()

        def cancel(tx: Tx) -> list[int]:
            for delivery_id in deliveries.cancel_open(tx, row.id, reason, at):
                jobs.drop(tx, kind="deliver", ref=str(delivery_id))
            return _cancelled(tx, runs.open_runs(tx, row.id), reason)

        await self._stopper.end(await self._database.write(cancel))

    async def _leave(self, row: IntegrationRow, policy: str) -> list[str]:
        """Remove our remote objects and give credentials back; returns what had to be left.

        Also what never came to be connected may have made some of them.
        """
        if policy == "orphan" or not (
            row.is_connected or await self._database.read(lambda tx: _has_traces(tx, row.id))
        ):
            return []
        try:
            live = await self._connections.live(row.id)
            if isinstance(live.connector, Subscribes):
                await Objects(self._database, self._clock, live, live.connector).remove_all()
            await live.connector.revoke()
        except (ConnectorError, NotConnectableError) as error:
            if isinstance(error, TransientError) and row.retries < LETTING_GO_TRIES:
                raise
            return await self._leave_behind(row, error)
        await self._database.write(lambda tx: inventory.drop_credentials(tx, row.id))
        return []

    async def _leave_behind(self, row: IntegrationRow, error: ConnectorError | NotConnectableError) -> list[str]:
        items = await self._database.read(lambda tx: inventory.items(tx, row.id))
        left = [f"{item.kind} {item.remote_id or item.marker}" for item in items]
        message = f"remote objects and credentials could not be removed and are left: {error.message}"
        self._journal(row.id, LogLevel.ERROR, message, left=left)
        await self._database.write(lambda tx: inventory.drop_credentials(tx, row.id))
        return left

    def _at(self) -> str:
        return rfc3339(self._clock.now())


def _cancelled(tx: Tx, open_runs: Sequence[Run], reason: Reason) -> list[int]:
    ids = [run.id for run in open_runs]
    for run_id in ids:
        runs.cancel(tx, run_id, reason)
    return ids


def _has_traces(tx: Tx, integration_id: int) -> bool:
    return bool(inventory.items(tx, integration_id) or inventory.credentials(tx, integration_id))


def _tell_disconnected(tx: Tx, row: IntegrationRow, reason: Reason, left: Sequence[str], at: str) -> None:
    if row.is_connected:
        detail = {"reason": reason, "left": list(left)} if left else {"reason": reason}
        journal.emit(tx, row.id, Lifecycle.DISCONNECTED, at, detail)
