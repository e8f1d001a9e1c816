"""The public keys of an issuer of tokens: fetched when they are needed, kept, and fetched again as they age.

In: the HTTP client that the composition root made for this issuer, and where to ask. Out: keys by their id. Called by
whoever verifies tokens. An issuer that is away takes nobody's access at once: keys stay good for a day. One fetch at a time,
however many wait for it; a key id that nobody knows causes one at most every `PAUSE`. Not done here: verifying.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from reconciler.model.clock import Clock
from reconciler.model.record import LogLevel
from reconciler.sdk.contract import Http, RunLog
from reconciler.sdk.errors import ConnectorError

if TYPE_CHECKING:
    from joserfc.jwk import ECKey, OKPKey, RSAKey

    PublicKey = RSAKey | ECKey | OKPKey

LEAST_AGE, USUAL_AGE, MOST_AGE = 300.0, 3600.0, 86_400.0
"""Seconds for which keys are taken as they are, whatever the issuer's Cache-Control says beyond these."""
KEPT = 86_400.0
PAUSE = 30.0
PATIENCE = 5.0
MOST_KEYS = 100
_LEAST_MODULUS = 2048 // 6  # characters of base64
_MAX_AGE = re.compile(r"(?:^|[\s,])max-age=(\d{1,9})", re.IGNORECASE)


class IssuerError(Exception):
    """What the issuer says is not usable; the message says what and where."""


@dataclass(frozen=True, slots=True)
class Place:
    """`jwks_url` empty: where the discovery document of the issuer says."""

    issuer: str
    jwks_url: str = ""
    allow_http: bool = False


@dataclass(frozen=True, slots=True)
class _Kept:
    keys: tuple["PublicKey", ...]
    fetched_at: float
    age: float


class IssuerKeys:
    """`find` for each token that is verified. Made once for each issuer; `http` is closed by who made it."""

    def __init__(self, place: Place, http: Http, clock: Clock, log: RunLog) -> None:
        self._place = place
        self._http = http
        self._clock = clock
        self._log = log
        self._kept: _Kept | None = None
        self._tried_at = float("-inf")
        self._fetching: asyncio.Task[None] | None = None

    async def find(self, key_id: str | None) -> "Sequence[PublicKey]":
        """Those with this id; without one, all there are. Empty where the issuer has none, or is away for too long."""
        kept = self._current()
        if kept is None or self._clock.monotonic() >= kept.fetched_at + kept.age:
            await self._refresh()
        found = self._with(key_id)
        if not found:
            await self._refresh()
            found = self._with(key_id)
        return found

    @property
    def is_known(self) -> bool:
        """Whether there are keys at all; else nobody can be let in or turned away for good."""
        return self._current() is not None

    async def close(self) -> None:
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)

    def _current(self) -> _Kept | None:
        kept = self._kept
        return kept if kept is not None and self._clock.monotonic() < kept.fetched_at + kept.age + KEPT else None

    def _with(self, key_id: str | None) -> "Sequence[PublicKey]":
        kept = self._current()
        if kept is None or key_id is None:
            return kept.keys if kept else ()
        return [key for key in kept.keys if key.kid == key_id]

    async def _refresh(self) -> None:
        """Joins a fetch under way. A caller that goes away takes nobody's fetch with it."""
        if self._fetching is None:
            if self._clock.monotonic() < self._tried_at + PAUSE:
                return
            self._tried_at = self._clock.monotonic()
            self._fetching = asyncio.create_task(self._try(), name="keys of an issuer")
        await asyncio.shield(self._fetching)

    async def _try(self) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                self._kept = await self._fetched()
        except (ConnectorError, IssuerError, TimeoutError) as error:
            why = str(error) or f"no answer within {PATIENCE:g} s"
            standing = "those known stay good" if self._current() else "its tokens open nothing meanwhile"
            self._log(LogLevel.WARN, f"the keys of {self._place.issuer} cannot be read; {standing}: {why}")
        finally:
            self._fetching = None

    async def _fetched(self) -> _Kept:
        url = self._place.jwks_url or await self._discovered()
        answer = await self._http.send("GET", url, lane="probe")
        keys = await asyncio.to_thread(public_keys, answer.body)
        if not keys:
            raise IssuerError(f"{url} has no public key that signs")
        return _Kept(keys, self._clock.monotonic(), _age(answer.headers))

    async def _discovered(self) -> str:
        place = self._place
        url = f"{place.issuer.rstrip('/')}/.well-known/openid-configuration"
        answer = await self._http.send("GET", url, lane="probe")
        document = _mapping(answer.body, url)
        if document.get("issuer") != place.issuer:
            raise IssuerError(f"{url} speaks for another issuer; the setting must be as it stands there")
        found = document.get("jwks_uri")
        if not isinstance(found, str) or not found.startswith(
            ("https://", "http://" if place.allow_http else "https://")
        ):
            raise IssuerError(f"{url} names no https:// address under jwks_uri")
        return found


def public_keys(body: bytes) -> "tuple[PublicKey, ...]":
    """Keys that sign, of kinds with a public half; what is odd, secret, too short or of a newer kind is left out."""
    listed = _mapping(body, "the key set").get("keys")
    if not isinstance(listed, list) or len(listed) > MOST_KEYS:
        raise IssuerError(f"the key set is no list of at most {MOST_KEYS} keys")
    return tuple(key for one in listed if (key := _public_key(one)) is not None)


def _public_key(written: Any) -> "PublicKey | None":
    from joserfc.errors import JoseError
    from joserfc.jwk import ECKey, OKPKey, RSAKey

    if not isinstance(written, dict) or written.get("use", "sig") != "sig":
        return None
    kinds: Mapping[str, type[PublicKey]] = {"RSA": RSAKey, "EC": ECKey, "OKP": OKPKey}
    kind = kinds.get(str(written.get("kty")))
    if kind is None or "d" in written or (kind is RSAKey and len(str(written.get("n"))) < _LEAST_MODULUS):
        return None
    try:
        return kind.import_key(written)
    except (JoseError, ValueError, TypeError, KeyError):
        return None


def _mapping(body: bytes, what: str) -> Mapping[str, Any]:
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise IssuerError(f"{what} is not JSON") from None
    if not isinstance(found, dict):
        raise IssuerError(f"{what} is not a JSON object")
    return found


def _age(headers: Mapping[str, str]) -> float:
    said = _MAX_AGE.search(headers.get("cache-control", ""))
    return min(max(float(said[1]), LEAST_AGE), MOST_AGE) if said else USUAL_AGE
