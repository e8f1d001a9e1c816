"""Who pushes, and what: the key of a request, the limits of its sender, and a body that was read with care.

In: a request under `/ingest/v1/{integration}/`. Out: a `Sender` and a body, or a problem. The key alone says which integration is
meant; the path must name the same one. Nothing of a key or a payload is ever in an answer or a log. Not done here: what is
pushed, which is `routes.ingest`.
"""

import hmac
import re
import zlib
from dataclasses import dataclass
from datetime import datetime
from typing import NoReturn
from urllib.parse import unquote

from starlette.requests import Request
from starlette.types import Scope

from reconciler.events.inbound import Reception
from reconciler.model.access import hash_of
from reconciler.model.clock import rfc3339
from reconciler.model.ingest_key import key_id_of
from reconciler.sdk.contract import Verifies
from reconciler.sdk.errors import UnauthorizedError
from reconciler.sdk.inbound import Accepts
from reconciler.sdk.live import Live
from reconciler.serve.buckets import Buckets, Flow, Headers
from reconciler.serve.limits import WRONG, too_many
from reconciler.serve.parts import Parts
from reconciler.serve.problem import SAID, ProblemError
from reconciler.store import ingest_keys, integrations
from reconciler.store.database import Tx
from reconciler.store.ingest_keys import KeyRow
from reconciler.store.integrations import IntegrationRow

PREFIX = "/ingest/v1/"
MOST_INFLATED = 20 * 1024 * 1024
_REALM = {"www-authenticate": 'Bearer realm="ingest"'}
_KEY_NAMES = frozenset({"key", "api_key", "apikey", "api-key", "x-api-key", "access_token", "token"})
_DECOY = "0" * 64


@dataclass(frozen=True, slots=True)
class Sender:
    """`key` is what may be shown of the key: its id, or of a pinned one the beginning of its hash."""

    row: IntegrationRow
    live: Live
    accepts: Accepts
    reception: Reception
    key: str


class Gatekeeper:
    """`admit` each request. Limits are those of this process; what is left of them is said in every answer."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._senders = Buckets(parts.clock)
        self._failures = Buckets(parts.clock)

    def said(self, scope: Scope) -> Headers:
        """Until its key is known, a request counts as one from its address."""
        if not scope["path"].startswith(PREFIX):
            return ()
        return self._failures.look(self._parts.admission.source(scope), WRONG).headers

    async def admit(self, request: Request, path_name: str) -> Sender:
        """Raises ProblemError."""
        reception = serving(self._parts)
        clear, started = _given(request), self._parts.clock.monotonic()
        found = await self._known(reception, clear, path_name)
        if found is None:
            await reception.even_out(started)
            self._refuse(request, "invalid-key", "the key is missing, unknown or revoked")
        row, live, key = found
        if key.state(self._parts.clock.now()) == "expired":
            self._refuse(request, "expired-key", "the key has expired")
        if path_name not in {row.name, f"{row.workspace}.{row.name}"}:
            raise ProblemError(403, "wrong-integration", "this key is for another integration")
        if live is None and row.is_desired and row.removed_at is None:
            raise _not_ready("the integration cannot be used at the moment, as its operators can see")
        if not _is_open(live) or live is None or not isinstance(live.connector, Accepts):
            raise ProblemError(403, "integration-disabled", "the integration takes nothing at the moment")
        intake = live.connector.intake
        left = self._senders.take(key.key_id, Flow(intake.requests_per_minute / 60, intake.burst))
        request.scope[SAID] = left.headers
        if left.wait:
            raise too_many(f"more than {intake.requests_per_minute} requests a minute", left.retry_after)
        await self._note(key)
        return Sender(row, live, live.connector, reception, key.key_id)

    async def _known(
        self, reception: Reception, clear: str, path_name: str
    ) -> tuple[IntegrationRow, Live | None, KeyRow] | None:
        """Takes as long for an unknown key as for a wrong secret: each is one look and one comparison."""
        sha256, key_id, now = hash_of(clear), key_id_of(clear), self._parts.clock.now()
        key, rows = await self._parts.database.read(lambda tx: _look(tx, key_id, path_name))
        is_right = hmac.compare_digest(key.sha256 if key else _DECOY, sha256)
        if key is not None and is_right and key.state(now) != "revoked":
            row = await self._parts.database.read(lambda tx: integrations.get(tx, key.integration_id))
            return (row, await reception.live_of(row), key) if row is not None else None
        if key is None and key_id and len(rows) == 1:
            return await self._pinned(reception, rows[0], sha256, now)
        return None

    async def _pinned(
        self, reception: Reception, row: IntegrationRow, sha256: str, now: datetime
    ) -> tuple[IntegrationRow, Live | None, KeyRow] | None:
        """A key that the manifest brings along, as a hash."""
        live = await reception.live_of(row)
        known = live.connector.pinned_hashes if live and isinstance(live.connector, Accepts) else ()
        if not any([hmac.compare_digest(one, sha256) for one in known]):  # noqa: C419 - all of them, for equal time
            return None
        return row, live, KeyRow(f"sha256:{sha256[:8]}", row.id, sha256, "", "pinned", rfc3339(now), "git")

    def _refuse(self, request: Request, code: str, message: str) -> NoReturn:
        """Who guesses is slowed down by address; whoever has a key is not concerned."""
        left = self._failures.take(self._parts.admission.source(request.scope), WRONG)
        request.scope[SAID] = left.headers
        if left.wait:
            raise too_many("too many requests without a valid key", left.retry_after)
        raise ProblemError(401, code, message, headers=_REALM)

    async def _note(self, key: KeyRow) -> None:
        now = self._parts.clock.now()
        if key.hint and ingest_keys.is_use_due(key, now):
            await self._parts.database.write(lambda tx: ingest_keys.note_used(tx, [key.key_id], rfc3339(now)))


def serving(parts: Parts) -> Reception:
    """Raises ProblemError where nothing can be verified here, or not yet: nothing is taken unverified."""
    reception = parts.ports.reception
    if reception is None:
        message = "this process does not follow Git and can verify nothing; send it to a controller or worker"
        raise ProblemError(503, "inbound-not-served", message, headers={"retry-after": "60"})
    if not reception.is_ready():
        raise _not_ready("this process has only begun, and has not read Git yet")
    return reception


def _not_ready(why: str) -> ProblemError:
    """It passes, or is mended: whoever sends is to keep what it has."""
    return ProblemError(503, "not-ready", f"{why}; send it again", headers={"retry-after": "10"})


def _is_open(live: Live | None) -> bool:
    return live is not None and live.manifest.spec.enabled and live.manifest.spec.sync_direction != "outbound"


def _look(tx: Tx, key_id: str, path_name: str) -> tuple[KeyRow | None, list[IntegrationRow]]:
    return ingest_keys.find(tx, key_id), integrations.named(tx, path_name)


def _given(request: Request) -> str:
    """The key in clear; empty where there is none. Raises ProblemError where it is where it may be read by others."""
    query = unquote(request.url.query)
    if "rck_" in query or any(name.lower() in _KEY_NAMES for name in request.query_params):
        raise ProblemError(400, "key-in-query", "a key in the URL ends up in logs: send it as Authorization: Bearer")
    words = [value.partition(" ") for value in request.headers.getlist("authorization")]
    given = {bearer.strip() for scheme, _, bearer in words if scheme.lower() == "bearer"}
    given |= {value.strip() for value in request.headers.getlist("x-api-key")}
    if len(given - {""}) > 1:
        raise ProblemError(400, "two-keys", "Authorization and X-API-Key hold different keys: send one")
    return next(iter(given - {""}), "")


async def body_of(request: Request, sender: Sender, *media: str) -> tuple[str, bytes]:
    """Its kind and its bytes, inflated and with a valid signature where one is asked for. Raises ProblemError."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in media:
        raise ProblemError(415, "unsupported-media-type", f"send {' or '.join(media)}")
    raw = await request.body()
    check_signature(request, sender, raw)
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding in {"", "identity"}:
        return kind, raw
    if coding != "gzip":
        raise ProblemError(415, "unsupported-media-type", "send the body as it is, or with Content-Encoding: gzip")
    return kind, await sender.reception.aside(MOST_INFLATED, lambda: _inflated(raw))


def _inflated(raw: bytes) -> bytes:
    unpacking = zlib.decompressobj(wbits=31)
    try:
        body = unpacking.decompress(raw, MOST_INFLATED + 1)
    except zlib.error:
        raise ProblemError(400, "invalid-body", "the body is no gzip") from None
    if len(body) > MOST_INFLATED:
        raise ProblemError(413, "too-large", f"inflated the body has more than {MOST_INFLATED} bytes")
    if not unpacking.eof or unpacking.unused_data:
        raise ProblemError(400, "invalid-body", "the gzip is cut off, or something follows it")
    return body


def check_signature(request: Request, sender: Sender, raw: bytes) -> None:
    """Raises ProblemError where one is asked for, or given, and does not hold."""
    wanted = sender.accepts.intake.signature
    if wanted == "off" or (wanted == "optional" and "webhook-signature" not in request.headers):
        return
    connector = sender.live.connector
    if not isinstance(connector, Verifies):
        raise ProblemError(401, "invalid-signature", "signatures cannot be checked here", headers=_REALM)
    try:
        connector.verify(dict(request.headers), raw)
    except UnauthorizedError as error:
        raise ProblemError(401, "invalid-signature", error.message, headers=_REALM) from None


def idempotency_key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is not None and not re.fullmatch(r"[!-~]{1,255}", key):
        raise ProblemError(400, "invalid-parameter", "Idempotency-Key: 1 to 255 visible ASCII characters")
    return key
