"""What a reconcile and a probe do for integrations that a person has to allow: state the offer, tell what was not given.

In: a connector in use. Out: an offer in the store, from which any process can send a person to the remote, and a `Probe` that
knows scopes and the end of the credential. Called by the reconciler and the prober. Exchanging codes is `authorize`'s.
"""

from dataclasses import replace
from datetime import datetime, timedelta

from reconciler.model.condition import Condition, ConditionType, Reason, Truth
from reconciler.sdk.authorize import Authorized, Authorizes, CodeFlow
from reconciler.sdk.contract import Probe, Right
from reconciler.sdk.errors import UnsupportedError
from reconciler.sdk.live import Live
from reconciler.store import authorizations
from reconciler.store.authorizations import Offer
from reconciler.store.conditions import Say
from reconciler.store.database import Database

WARNING = timedelta(days=7)


def flow_of(live: Live) -> CodeFlow | None:
    """None where nobody has to allow anything."""
    return live.connector.code_flow() if isinstance(live.connector, Authorizes) else None


class Consent:
    """`redirect_uri` is where remotes send people back to; empty where this process does not know it."""

    def __init__(self, database: Database, redirect_uri: str) -> None:
        self._database = database
        self._redirect_uri = redirect_uri

    async def offer(self, live: Live, generation: int) -> None:
        """State what a person can allow, if there is anything; written only where it changed."""
        flow = flow_of(live)
        if flow is None:
            return
        made = Offer(
            generation=generation,
            authorize_url=flow.where(),
            client_id=flow.client_id,
            scopes=flow.separator.join(flow.scopes),
            has_pkce=flow.has_pkce,
            redirect_uri=self._redirect_uri,
        )
        if await self._database.read(lambda tx: authorizations.offer(tx, live.integration_id)) != made:
            await self._database.write(lambda tx: authorizations.put_offer(tx, live.integration_id, made))


async def probed(live: Live) -> Probe:
    """The connector's probe, with what only the consent tells."""
    probe = await live.connector.probe()
    flow = flow_of(live)
    if flow is None:
        return probe
    signer, room = Authorized(flow), live.connector.room
    known = {right.name for right in probe.rights}
    lost = tuple(Right(s, False, "not given") for s in await signer.missing(room) if s not in known)
    try:
        ends_at = probe.credential_expires_at or await signer.ends_at(room)
    except UnsupportedError:  # outside the daemon nobody may look at a token of single use
        ends_at = None
    return replace(probe, rights=probe.rights + lost, credential_expires_at=ends_at)


def expiring(ends_at: datetime | None, now: datetime, ahead: timedelta) -> Say:
    """That the credential ends soon and nothing renews it by itself."""
    if ends_at is None or ends_at - ahead > now:
        return Say(ConditionType.CREDENTIAL_EXPIRING, None)
    at = f"{ends_at:%Y-%m-%d %H:%M} UTC"
    message = f"the credential ends at {at}: put a new one into the manifest, or authorize again"
    return Say(ConditionType.CREDENTIAL_EXPIRING, Truth.TRUE, Reason.CREDENTIAL_EXPIRING, message)


def turned(said: Say, before: Condition | None) -> bool:
    """Whether stating it would begin or end the condition."""
    return (said.truth is Truth.TRUE) is not (before is not None)
