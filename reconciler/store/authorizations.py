"""Authorizations: what a person may be asked to allow at a remote (offers), and each time somebody is asked (attempts).

Query functions for `Database.read` and `Database.write`. A state is kept as a hash and can be used once; what is sealed in an
attempt is wiped as soon as it is used. Called by `app/authorizations`, which begins and ends them, and `control/authorize`.
"""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from reconciler.model.clock import from_rfc3339, rfc3339
from reconciler.store.database import Row, Tx

KEPT = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Offer:
    """`authorize_url` is where the person goes, before anything of a single attempt is added to it."""

    generation: int
    authorize_url: str
    client_id: str
    scopes: str
    has_pkce: bool
    redirect_uri: str


def offer(tx: Tx, integration_id: int) -> Offer | None:
    row = tx.one(
        "SELECT generation, authorize_url, client_id, scopes, has_pkce, redirect_uri FROM authorization_offer"
        " WHERE integration_id = :i",
        i=integration_id,
    )
    return Offer(row[0], row[1], row[2], row[3], bool(row[4]), row[5]) if row else None


def put_offer(tx: Tx, integration_id: int, made: Offer) -> None:
    tx.execute("DELETE FROM authorization_offer WHERE integration_id = :i", {"i": integration_id})
    tx.execute(
        "INSERT INTO authorization_offer (integration_id, generation, authorize_url, client_id, scopes, has_pkce,"
        " redirect_uri) VALUES (:i, :g, :url, :client, :scopes, :pkce, :redirect)",
        {
            "i": integration_id,
            "g": made.generation,
            "url": made.authorize_url,
            "client": made.client_id,
            "scopes": made.scopes,
            "pkce": int(made.has_pkce),
            "redirect": made.redirect_uri,
        },
    )


class Step(StrEnum):
    """How far an attempt is. The last four are its end."""

    ASKED = "asked"  # a person was sent to the remote
    RECEIVED = "received"  # the remote sent a code
    EXCHANGING = "exchanging"  # the code is being exchanged, which can be done once
    AUTHORIZED = "authorized"
    DENIED = "denied"
    FAILED = "failed"

    @property
    def is_over(self) -> bool:
        return self in {Step.AUTHORIZED, Step.DENIED, Step.FAILED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    id: int = 0
    public_id: str
    integration_id: int
    generation: int
    state_sha256: str
    redirect_uri: str
    verifier: bytes | None
    code: bytes | None = None
    step: Step = Step.ASKED
    message: str = ""
    requested_by: str
    created_at: str
    expires_at: str
    used_at: str | None = None


_COLUMNS = (
    "id, public_id, integration_id, generation, state_sha256, redirect_uri, verifier, code, step, message, requested_by,"
    " created_at, expires_at, used_at"
)


def add(tx: Tx, made: Attempt) -> None:
    """Those of long ago go."""
    before = rfc3339(from_rfc3339(made.created_at) - KEPT)
    tx.execute("DELETE FROM authorization_attempt WHERE expires_at < :t", {"t": before})
    tx.execute(
        "INSERT INTO authorization_attempt (public_id, integration_id, generation, state_sha256, redirect_uri, verifier,"
        " step, requested_by, created_at, expires_at)"
        " VALUES (:public, :i, :g, :state, :redirect, :verifier, :step, :by, :at, :until)",
        {
            "public": made.public_id,
            "i": made.integration_id,
            "g": made.generation,
            "state": made.state_sha256,
            "redirect": made.redirect_uri,
            "verifier": made.verifier,
            "step": made.step,
            "by": made.requested_by,
            "at": made.created_at,
            "until": made.expires_at,
        },
    )


def of_state(tx: Tx, state_sha256: str) -> Attempt | None:
    row = tx.one(f"SELECT {_COLUMNS} FROM authorization_attempt WHERE state_sha256 = :s", s=state_sha256)
    return _attempt(row) if row else None


def get(tx: Tx, attempt_id: int) -> Attempt | None:
    row = tx.one(f"SELECT {_COLUMNS} FROM authorization_attempt WHERE id = :i", i=attempt_id)
    return _attempt(row) if row else None


def find(tx: Tx, public_id: str) -> Attempt | None:
    row = tx.one(f"SELECT {_COLUMNS} FROM authorization_attempt WHERE public_id = :p", p=public_id)
    return _attempt(row) if row else None


def unfinished(tx: Tx) -> list[tuple[int, int]]:
    """(id, integration) of those whose code has to be exchanged still, or was being exchanged."""
    sql = "SELECT id, integration_id FROM authorization_attempt WHERE step IN ('received', 'exchanging')"
    return [(attempt_id, integration_id) for attempt_id, integration_id in tx.all(sql)]


def use(tx: Tx, attempt_id: int, at: str) -> bool:
    """Whether its state was not used before."""
    sql = "UPDATE authorization_attempt SET used_at = :at WHERE id = :i AND used_at IS NULL"
    return tx.rowcount(sql, at=at, i=attempt_id) == 1


def receive(tx: Tx, attempt_id: int, code: bytes) -> None:
    tx.execute(
        "UPDATE authorization_attempt SET step = 'received', code = :c WHERE id = :i", {"c": code, "i": attempt_id}
    )


def exchange(tx: Tx, attempt_id: int) -> bool:
    """From now on nobody else has the code; whoever comes later knows that it was sent. False where that is so already."""
    sql = (
        "UPDATE authorization_attempt SET step = 'exchanging', code = NULL, verifier = NULL"
        " WHERE id = :i AND step = 'received'"
    )
    return tx.rowcount(sql, i=attempt_id) == 1


def end(tx: Tx, attempt_id: int, step: Step, message: str) -> None:
    tx.execute(
        "UPDATE authorization_attempt SET step = :s, message = :m, code = NULL, verifier = NULL WHERE id = :i",
        {"s": step, "m": message[:2000], "i": attempt_id},
    )


def _attempt(row: Row) -> Attempt:
    values = dict(zip(_COLUMNS.replace(" ", "").split(","), row, strict=True))
    values["step"] = Step(values["step"])
    for name in ("verifier", "code"):
        values[name] = None if values[name] is None else bytes(values[name])
    return Attempt(**values)
