"""Send a person to a remote, and take what the remote sends back: the service behind `authorize` and its callback.

Works in any process that has the database, also without Git and master key: `begin` reads the offer of the last reconcile,
`finish` seals the code for whoever has the key, and job `authorize` exchanges it. Called by the HTTP API (`Authorizations`)
and by `reconciler authorize` (`begin` and `finish` in a transaction). A state is random, kept as a hash, good for ten minutes and
once, and only for the integration as its manifest was then.
"""

import asyncio
import secrets
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Literal
from urllib.parse import parse_qsl, urlsplit

from reconciler.app.lasting import TRANSIT
from reconciler.app.vault import seal_for
from reconciler.control.authorize import PRIO, is_current
from reconciler.model.authorization import (
    Authorization,
    AuthorizationOutcome,
    NotAuthorizableError,
    Returned,
    StateRefusedError,
)
from reconciler.model.clock import Clock, from_rfc3339, rfc3339
from reconciler.model.condition import ConditionType, Reason
from reconciler.model.ids import new_id
from reconciler.model.record import LogLevel
from reconciler.model.secret import Secret
from reconciler.sdk.authorize import authorization_url, plain
from reconciler.store import authorizations, conditions, integrations, jobs, journal, notices, sealed_keys, shown
from reconciler.store.authorizations import Attempt, Offer, Step
from reconciler.store.database import Database, Tx
from reconciler.store.integrations import IntegrationRow
from reconciler.store.journal import LogLine

__all__ = [
    "Authorization",
    "AuthorizationOutcome",
    "Authorizations",
    "NotAuthorizableError",
    "Returned",
    "StateRefusedError",
    "begin",
    "callback_url",
    "finish",
    "outcome",
    "returned_by",
]
CALLBACK = "/v1/oauth/callback"
LIFE = timedelta(minutes=10)
LOOK_SECONDS = 0.1


class Authorizations:
    """For whoever has an event loop; `begin` and `finish` below are the same inside a transaction."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def begin(self, integration_id: int, by: str) -> Authorization:
        """Raises NotAuthorizableError."""
        return await self._database.write(lambda tx: begin(tx, integration_id, by, self._clock.now()))

    async def finish(self, returned: Returned, within: timedelta = timedelta(seconds=15)) -> AuthorizationOutcome:
        """Waits that long for the exchange; raises StateRefusedError."""
        now = self._clock.now()
        attempt = await self._database.write(lambda tx: finish(tx, returned, now), durable=True)
        return await self.outcome(attempt, within)

    async def outcome(self, attempt: str, within: timedelta = timedelta()) -> AuthorizationOutcome:
        """Of the attempt with that id, when it is over or `within` has passed."""
        end = self._clock.monotonic() + within.total_seconds()
        while True:
            found = await self._database.read(lambda tx: outcome(tx, attempt))
            if found.status != "waiting" or self._clock.monotonic() >= end:
                return found
            await asyncio.sleep(LOOK_SECONDS)


def callback_url(public_url: str, listen: str, *, is_tls: bool = False) -> str:
    """Where remotes send people back to: by the public URL, else to this machine alone; empty where neither is known."""
    if public_url:
        return public_url.rstrip("/") + CALLBACK
    host, _, port = listen.rpartition(":")
    here = "127.0.0.1" if host in {"0.0.0.0", "::", "[::]"} else host  # noqa: S104 - asked, not bound
    return f"{'https' if is_tls else 'http'}://{here}:{port}{CALLBACK}" if host and port != "0" else ""


def begin(tx: Tx, integration_id: int, by: str, now: datetime) -> Authorization:
    """A new attempt. Raises NotAuthorizableError."""
    row = integrations.get(tx, integration_id)
    offer = authorizations.offer(tx, integration_id)
    public = sealed_keys.public_of(tx, TRANSIT)
    refusal = _held_up(tx, row) or _refusal(row, offer)
    if row is None or offer is None or refusal or public is None:
        raise NotAuthorizableError(refusal or "no daemon has worked on this database yet; start one: reconciler run")
    attempt_id, state = new_id("aut"), Secret(secrets.token_urlsafe(32))
    verifier = Secret(secrets.token_urlsafe(48)) if offer.has_pkce else None
    place = f"attempt/{attempt_id}/verifier"
    made = Attempt(
        public_id=attempt_id,
        integration_id=integration_id,
        generation=row.generation,
        state_sha256=_hash(state.reveal()),
        redirect_uri=offer.redirect_uri,
        verifier=seal_for(public, verifier, place) if verifier else None,
        requested_by=by,
        created_at=rfc3339(now),
        expires_at=rfc3339(now + LIFE),
    )
    authorizations.add(tx, made)
    url = authorization_url(offer.authorize_url, offer.client_id, offer.scopes, offer.redirect_uri, state, verifier)
    return Authorization(attempt_id, url, state, offer.redirect_uri, now + LIFE)


def _refusal(row: IntegrationRow | None, offer: Offer | None) -> str:
    if row is None or not row.is_desired:
        return "there is no such integration"
    if row.is_suspended:
        return f"{row.ref} is suspended; first: reconciler resume {row.ref}"
    if offer is None:
        return f"nobody has to allow {row.ref} anything: its auth is of another type, or the daemon has not looked at it yet"
    if offer.generation != row.generation:
        return f"the daemon has not looked at the newest manifest of {row.ref} yet; see: reconciler status {row.ref}"
    if not offer.redirect_uri:
        return "the daemon knows no URL that a remote could send people back to; set public_url in its settings"
    return ""


def _held_up(tx: Tx, row: IntegrationRow | None) -> str:
    """By the daemon, or by the manifest."""
    if shown.is_observed(tx):
        return "this daemon only observes (--observe): it exchanges nothing"
    said = conditions.conditions(tx, row.id).get(ConditionType.CONNECTED) if row else None
    is_disabled = said is not None and said.reason is Reason.DISABLED
    return f"{row.ref} is disabled; set spec.enabled to true in {row.file}" if row and is_disabled else ""


def finish(tx: Tx, returned: Returned, now: datetime) -> str:
    """Take what a callback brought; returns the attempt's id. Raises StateRefusedError."""
    attempt = _used(tx, returned.state, now)
    if returned.code and not returned.error:
        _hand_over(tx, attempt, Secret(returned.code), now)
    else:
        _deny(tx, attempt, returned, now)
    return attempt.public_id


def _used(tx: Tx, state: str, now: datetime) -> Attempt:
    """Found by its hash, so that the time it takes tells nothing of other states."""
    attempt = authorizations.of_state(tx, _hash(state)) if state else None
    if attempt is None:
        raise StateRefusedError("nobody asked for this: the state is unknown; begin with: reconciler authorize NAME")
    if from_rfc3339(attempt.expires_at) <= now:
        raise StateRefusedError("this came too late: an authorization must end within ten minutes; begin it anew")
    if not authorizations.use(tx, attempt.id, rfc3339(now)):
        raise StateRefusedError("this came before: what a remote sends back counts once; begin it anew")
    return attempt


def _hand_over(tx: Tx, attempt: Attempt, code: Secret, now: datetime) -> None:
    """To whoever has the master key and the client's secret."""
    public = sealed_keys.public_of(tx, TRANSIT)
    if public is None or not is_current(tx, attempt):
        authorizations.end(tx, attempt.id, Step.FAILED, "the manifest has changed meanwhile; begin anew")
        return
    authorizations.receive(tx, attempt.id, seal_for(public, code, f"attempt/{attempt.public_id}/code"))
    ref, key = str(attempt.id), str(attempt.integration_id)
    jobs.put(tx, kind="authorize", ref=ref, key=key, prio=PRIO, due_at=now)
    jobs.ask(tx, "authorize", ref, now)
    notices.tell(tx, "asked")


def _deny(tx: Tx, attempt: Attempt, returned: Returned, now: datetime) -> None:
    error = returned.error or "neither a code nor an error came back"
    words = plain(": ".join(part for part in (error, returned.description) if part)).rstrip(".")
    is_denied = returned.error == "access_denied"
    message = f"the person, or the remote, did not allow it: {words}" if is_denied else f"the remote refused: {words}"
    authorizations.end(tx, attempt.id, Step.DENIED if is_denied else Step.FAILED, message)
    line = LogLine(attempt.integration_id, rfc3339(now), LogLevel.WARN, message, {"by": attempt.requested_by})
    journal.write_logs(tx, [line])


def outcome(tx: Tx, attempt_id: str) -> AuthorizationOutcome:
    """Of the attempt with that public id; raises LookupError."""
    attempt = authorizations.find(tx, attempt_id)
    row = integrations.get(tx, attempt.integration_id) if attempt else None
    if attempt is None or row is None:
        raise LookupError(attempt_id)
    said = attempt.message if attempt.step.is_over else _WAITS[attempt.step]
    status, begun_at = _ENDS.get(attempt.step, "waiting"), from_rfc3339(attempt.created_at)
    return AuthorizationOutcome(status, row.ref, said, attempt.requested_by, begun_at)


_BACK = "what came back was not exchanged yet"
_WAITS = {Step.ASKED: "nobody came back from the remote", Step.RECEIVED: _BACK, Step.EXCHANGING: _BACK}
_ENDS: dict[Step, Literal["waiting", "authorized", "denied", "failed"]] = {
    Step.AUTHORIZED: "authorized",
    Step.DENIED: "denied",
    Step.FAILED: "failed",
}


def _hash(state: str) -> str:
    return sha256(state.encode()).hexdigest()


def returned_by(address: str) -> Returned:
    """What stands in the query of the address that a remote sent somebody back to."""
    values = dict(parse_qsl(urlsplit(address).query))
    names = ("state", "code", "error", "error_description")
    return Returned(*(values.get(name, "") for name in names))
