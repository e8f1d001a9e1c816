"""Bearer tokens of other issuers (OpenID Connect): a signed token becomes a caller, or the request is refused.

In: the issuers of the daemon's settings, with their keys. Out: a `Caller`, remembered until the token ends and for
`REMEMBERED` at most: then its key is looked for again, so that one the issuer withdrew opens nothing for long. Called by
`admission`. Only asymmetric signatures count. Not done here: revocation lists, opaque tokens, encrypted tokens.
"""

import base64
import binascii
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from reconciler.model.access import Caller, Permission
from reconciler.model.clock import Clock
from reconciler.model.ids import DNS_LABEL
from reconciler.sdk.issuer import PAUSE, IssuerKeys
from reconciler.serve.problem import ProblemError

if TYPE_CHECKING:
    from reconciler.sdk.issuer import PublicKey

MAX_TOKEN = 8 * 1024
MAX_NAME = 255
REMEMBERED = 300.0
MOST_REMEMBERED = 10_000
ALGORITHMS: Mapping[str, str] = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), "RSA"),
    **dict.fromkeys(("ES256", "ES384", "ES512"), "EC"),
    **dict.fromkeys(("EdDSA", "Ed25519"), "OKP"),
}
"""Names of the algorithms that count, and the kind of key each takes."""
_TYPES = frozenset({"jwt", "at+jwt"})
_EVERY = "*"
Claims = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Rule:
    """Who has `value` among the values of `claim` may do `grant`. `workspace` empty: that of the issuer's callers."""

    claim: str
    value: str
    grant: frozenset[Permission]
    workspace: str = ""


@dataclass(frozen=True, slots=True)
class Issuer:
    """`workspace` and those of rules are a name, or `*` for every one; what a claim names is always one."""

    url: str
    audience: str
    keys: IssuerKeys
    rules: Sequence[Rule]
    name_claim: str = "sub"
    name_prefix: str = ""
    workspace: str = ""
    workspace_claim: str = ""


@dataclass(frozen=True, slots=True)
class _Signed:
    """What a token says of itself, not verified yet."""

    text: str
    header: Claims
    claims: Claims


class Bearers:
    """`is_one` tells whether a text is such a token, `caller` whose it is."""

    def __init__(self, issuers: Sequence[Issuer], clock: Clock) -> None:
        self._issuers = issuers
        self._clock = clock
        self._known: OrderedDict[str, tuple[Caller, float]] = OrderedDict()

    def is_one(self, text: str) -> bool:
        """By its form: three parts, the first being a JSON object in base64."""
        return bool(self._issuers) and text.startswith("eyJ") and text.count(".") == 2

    async def caller(self, text: str, sha256: str) -> Caller:
        """Raises ProblemError: 401 for what does not count, 403 for who may do nothing, 503 while nobody can tell."""
        now = self._clock.now().timestamp()
        known = self._known.get(sha256)
        if known is not None and now < known[1]:
            return known[0]
        issuer, claims = await self._verified(text, now)
        caller = caller_of(issuer, claims)
        self._known[sha256] = (caller, min(now + REMEMBERED, max(now, claims["exp"])))
        self._known.move_to_end(sha256)
        if len(self._known) > MOST_REMEMBERED:
            self._known.popitem(last=False)
        return caller

    async def close(self) -> None:
        for issuer in self._issuers:
            await issuer.keys.close()

    async def _verified(self, text: str, now: float) -> tuple[Issuer, Claims]:
        signed = _read(text)
        issuer = self._issuer(signed.claims)
        algorithm, key_id = _algorithm(signed.header), signed.header.get("kid")
        if not isinstance(key_id, str | None):
            raise refused("its header has a kid that is no text")
        found = await issuer.keys.find(key_id)
        if not issuer.keys.is_known:
            wait = {"Retry-After": str(int(PAUSE))}
            raise ProblemError(503, "issuer-unavailable", f"the keys of {issuer.url} cannot be read now", headers=wait)
        fitting = [key for key in found if _fits(key, algorithm)]
        if len(fitting) != 1 and (key_id is None or not fitting):
            raise refused("its issuer has no key that it could be signed with")
        return issuer, _checked(signed.text, fitting[0], algorithm, issuer, now)

    def _issuer(self, claims: Claims) -> Issuer:
        named = [one for one in self._issuers if one.url == claims.get("iss")]
        if not named:
            raise refused("no issuer of the daemon's settings made it")
        audience = claims.get("aud")
        meant = audience if isinstance(audience, list) else [audience]
        found = next((one for one in named if one.audience in meant), None)
        if found is None:
            raise refused("it is for another audience")
        return found


def refused(why: str) -> ProblemError:
    said = {"www-authenticate": 'Bearer realm="reconciler", error="invalid_token"'}
    return ProblemError(401, "invalid-token", f"the token does not count: {why}", headers=said)


def caller_of(issuer: Issuer, claims: Claims) -> Caller:
    """Who this is, and what the settings let such a one do; raises ProblemError (403) where that is nothing."""
    name, subject = _name(claims, issuer.name_claim), _name(claims, "sub")
    met = [rule for rule in issuer.rules if rule.value in _values(claims, rule.claim)]
    if not met:
        looked = ", ".join(dict.fromkeys(rule.claim for rule in issuer.rules))
        message = f"{name} may do nothing here: no rule of the daemon's settings fits this token's claims (looked at: {looked})"
        raise ProblemError(403, "permission-missing", message)
    own = "" if all(rule.workspace for rule in met) else _own_workspace(issuer, claims)
    where = met[0].workspace or own
    granted = frozenset[Permission]().union(*(rule.grant for rule in met if (rule.workspace or own) == where))
    return Caller(
        name=f"{issuer.name_prefix}{name}",
        workspace=None if where == _EVERY else where,
        permissions=granted,
        identity=f"oidc:{issuer.url}#{subject}",
        issuer=issuer.url,
        subject=subject,
    )


def _own_workspace(issuer: Issuer, claims: Claims) -> str:
    if issuer.workspace:
        return issuer.workspace
    found = sorted(_values(claims, issuer.workspace_claim))
    if len(found) != 1 or not DNS_LABEL.fullmatch(found[0]):
        message = f"the claim {issuer.workspace_claim} must name the one workspace that this token is for"
        raise ProblemError(403, "permission-missing", message)
    return found[0]


def _name(claims: Claims, claim: str) -> str:
    found = _at(claims, claim)
    if (
        not isinstance(found, str)
        or not (0 < len(found) <= MAX_NAME)
        or not found.isprintable()
        or found != found.strip()
    ):
        raise refused(f"its claim {claim} is no printable name of at most {MAX_NAME} characters")
    return found


def _values(claims: Claims, claim: str) -> set[str]:
    """The members of a list; of a text, all of it and its words, because scopes are one text."""
    found = _at(claims, claim)
    values: set[str] = set()
    for one in found if isinstance(found, list) else [found]:
        if isinstance(one, str):
            values |= {one} if isinstance(found, list) else {one, *one.split()}
        elif isinstance(one, bool | int):
            values.add(str(one).lower())
    return values


def _at(claims: Claims, claim: str) -> Any:
    """A name that is there as it is, dots included, before a path."""
    if claim in claims:
        return claims[claim]
    found: Any = claims
    for part in claim.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _read(text: str) -> _Signed:
    if len(text) > MAX_TOKEN:
        raise refused(f"it is longer than {MAX_TOKEN} characters")
    header, claims, _ = text.split(".")
    return _Signed(text, _object(header), _object(claims))


def _object(part: str) -> Claims:
    try:
        found = msgspec.json.decode(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        raise refused("it is no JSON Web Token") from None
    if not isinstance(found, dict):
        raise refused("it is no JSON Web Token")
    return found


def _algorithm(header: Claims) -> str:
    name = header.get("alg")
    if not isinstance(name, str) or name not in ALGORITHMS:
        raise refused(f"only signatures of these kinds count: {', '.join(ALGORITHMS)}")
    if "crit" in header or "b64" in header:
        raise refused("its header demands what is not understood")
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower().removeprefix("application/") not in _TYPES:
        raise refused("it is a token for something else (typ)")
    return name


def _fits(key: "PublicKey", algorithm: str) -> bool:
    return key.key_type == ALGORITHMS[algorithm] and key.get("alg", algorithm) == algorithm


def _checked(text: str, key: "PublicKey", algorithm: str, issuer: Issuer, now: float) -> Claims:
    from reconciler.serve.signature import SignatureError, check, payload

    try:
        claims = payload(text, key, algorithm)
        check(claims, issuer.url, issuer.audience, now)
    except SignatureError as error:
        raise refused(str(error)) from None
    return claims
