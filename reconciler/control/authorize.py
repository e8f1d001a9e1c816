"""Exchange the code that a remote sent back for tokens: the coroutine behind job kind `authorize`.

A code can be exchanged once. That it is about to be is committed first, so that after a crash nobody sends it again, and the
person is told to begin anew. In: an attempt with a sealed code. Out: tokens, how the attempt ended, and a reconcile that is
due at once. How an attempt begins, and what a callback must bring, is in `app/authorizations`.
"""

from collections.abc import Callable

from reconciler.control.consent import flow_of
from reconciler.model.clock import Clock, rfc3339
from reconciler.model.job import Claim, Job, Outcome
from reconciler.model.record import LogLevel
from reconciler.model.secret import Secret
from reconciler.sdk.authorize import Authorized, CodeFlow, redeem
from reconciler.sdk.errors import ConnectorError, place_of
from reconciler.sdk.live import Connections, Journal, Live, NotConnectableError
from reconciler.store import authorizations, integrations, inventory, jobs, notices
from reconciler.store.authorizations import Attempt, Step
from reconciler.store.database import Database, Tx
from reconciler.store.errors import StoreError

PRIO = 5
AGAIN = "begin anew: reconciler authorize"


class UnsealError(Exception):
    """What was sealed for this installation cannot be opened here."""


Unseal = Callable[[bytes, str], Secret]
"""Opens what was sealed for a place, `attempt/<public id>/<what>`; raises UnsealError."""


class Exchanger:
    """`run` is the job; `job.ref` is the attempt."""

    def __init__(
        self, database: Database, connections: Connections, journal: Journal, clock: Clock, unseal: Unseal
    ) -> None:
        self._database = database
        self._connections = connections
        self._journal = journal
        self._clock = clock
        self._unseal = unseal

    async def run(self, job: Job, claim: Claim) -> Outcome:
        attempt = await self._database.read(lambda tx: authorizations.get(tx, int(job.ref)))
        if attempt is None or attempt.step not in {Step.RECEIVED, Step.EXCHANGING}:
            return Outcome()
        try:
            await self._finish(attempt, claim)
        except (NotConnectableError, ConnectorError) as error:
            await self._end(attempt, Step.FAILED, error.message)
        except UnsealError as error:
            await self._end(attempt, Step.FAILED, str(error))
        except StoreError:
            raise
        except Exception as error:  # noqa: BLE001 - its text may hold anything, and the person must not wait in vain
            self._journal(attempt.integration_id, LogLevel.ERROR, f"{place_of(error)}: {error}")
            await self._end(attempt, Step.FAILED, f"unexpected {place_of(error)}")
        await self._journal.flush()
        return Outcome()

    async def _finish(self, attempt: Attempt, claim: Claim) -> None:
        if attempt.step is Step.EXCHANGING:
            await self._after_a_crash(attempt)
            return
        live = await self._connections.live(attempt.integration_id)
        flow = flow_of(live)
        if flow is None or not await self._database.read(lambda tx: is_current(tx, attempt)):
            await self._end(attempt, Step.FAILED, "the manifest has changed meanwhile")
            return
        code, verifier = self._opened(attempt, "code", attempt.code), None
        if attempt.verifier is not None:
            verifier = self._opened(attempt, "verifier", attempt.verifier)

        def mine(tx: Tx) -> bool:
            return jobs.holds(tx, claim) and authorizations.exchange(tx, attempt.id)

        if await self._database.write(mine, durable=True):
            said = await redeem(live.connector.room, flow, code, verifier, attempt.redirect_uri)
            await self._forget_others(live, flow)
            await self._end(attempt, Step.AUTHORIZED, said)

    def _opened(self, attempt: Attempt, what: str, sealed: bytes | None) -> Secret:
        return self._unseal(sealed or b"", f"attempt/{attempt.public_id}/{what}")

    async def _after_a_crash(self, attempt: Attempt) -> None:
        """The code was sent, or was about to be. What counts is whether the answer was kept."""
        kept = await self._database.read(lambda tx: inventory.credentials(tx, attempt.integration_id))
        if any(one.updated_at >= (attempt.used_at or "") for name, one in kept.items() if name.startswith("oauth")):
            await self._end(attempt, Step.AUTHORIZED, "")
        else:
            await self._end(attempt, Step.FAILED, "the daemon ended before it had kept the answer of the remote")

    async def _forget_others(self, live: Live, flow: CodeFlow) -> None:
        """What was given to another client, or at another server, is of no use any more."""
        own = Authorized(flow).names(live.connector.room)

        def forget(tx: Tx) -> None:
            for name in inventory.credentials(tx, live.integration_id):
                if name not in own and name.startswith(("oauth-", "refresh-oauth-")):
                    inventory.drop_credentials(tx, live.integration_id, name)

        await self._database.write(forget)

    async def _end(self, attempt: Attempt, step: Step, message: str) -> None:
        is_good, key = step is Step.AUTHORIZED, str(attempt.integration_id)
        now = self._clock.now()

        def end(tx: Tx) -> str:
            row = integrations.get(tx, attempt.integration_id)
            name = str(row.ref) if row else key
            authorizations.end(tx, attempt.id, step, message if is_good else f"{message}; {AGAIN} {name}")
            if is_good:
                jobs.put(tx, kind="reconcile", ref=key, key=key, prio=PRIO, due_at=now)
                jobs.ask(tx, "reconcile", key, now)
                notices.tell(tx, "asked")
            return name

        await self._database.write(end, durable=True)
        level = LogLevel.INFO if is_good else LogLevel.WARN
        said = "authorized" if is_good else "not authorized"
        text = f"{said}: {message}" if message else said
        self._journal(attempt.integration_id, level, text, by=attempt.requested_by, at=rfc3339(now))


def is_current(tx: Tx, attempt: Attempt) -> bool:
    """Whether the integration is what it was when the person was asked."""
    row = integrations.get(tx, attempt.integration_id)
    return row is not None and row.is_desired and row.generation == attempt.generation
