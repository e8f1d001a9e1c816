"""Signature and dates of a JSON Web Token, checked by the library. In: the token, a key, what is wanted. Out: its claims.

Imported by `oidc` with the first token that comes: whoever has no issuer does without the library's memory.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from joserfc.errors import ClaimError, ExpiredTokenError, JoseError
from joserfc.jws import JWSRegistry, deserialize_compact
from joserfc.jwt import JWTClaimsRegistry

if TYPE_CHECKING:
    from joserfc._rfc7515.model import JWSAlgModel

    from reconciler.sdk.issuer import PublicKey

LEEWAY = 30
"""Seconds by which the issuer's clock may differ from ours."""
_MAX_PART = 8 * 1024
Claims = Mapping[str, Any]


class SignatureError(Exception):
    """The token does not count; the message says why."""


class _Registry(JWSRegistry):
    """Knows the one algorithm that it was made for, and does not warn of the name EdDSA, which most issuers use."""

    max_header_length = _MAX_PART

    def __init__(self, algorithm: str) -> None:
        super().__init__(algorithms=[algorithm], strict_check_header=False)
        self._algorithm = algorithm

    def get_alg(self, name: str) -> "JWSAlgModel":
        if name != self._algorithm:
            raise SignatureError("its header is not what it was")
        return self.algorithms[name]


def payload(text: str, key: "PublicKey", algorithm: str) -> Claims:
    """Raises SignatureError unless this key signed it with this algorithm."""
    try:
        signed = deserialize_compact(text, key, registry=_Registry(algorithm)).payload
        found = msgspec.json.decode(signed or b"")
    except (JoseError, ValueError, TypeError, RecursionError):
        raise SignatureError("its signature is not that of its issuer") from None
    if not isinstance(found, dict):
        raise SignatureError("its claims are no JSON object")
    return found


def check(claims: Claims, issuer: str, audience: str, now: float) -> None:
    """Raises SignatureError where they are another's, too old, or not to be used yet."""
    wanted = JWTClaimsRegistry(
        now=int(now),
        leeway=LEEWAY,
        iss={"essential": True, "value": issuer},
        aud={"essential": True, "value": audience},
        exp={"essential": True},
    )
    try:
        wanted.validate(dict(claims))
    except ExpiredTokenError:
        raise SignatureError("it has expired") from None
    except ClaimError as error:
        raise SignatureError(f"its claim {error.claim} is missing or wrong") from None
