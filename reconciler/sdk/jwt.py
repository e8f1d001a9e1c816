"""JSON Web Tokens that a connector signs for a token endpoint (RFC 7519, RS256).

In: claims and a private key in PEM. Out: the compact form. `cryptography` is imported on first use. Verifying tokens of
others is not done here.
"""

import base64
from collections.abc import Mapping
from typing import Any

import msgspec

from reconciler.model.secret import Secret
from reconciler.sdk.errors import UnauthorizedError


def rs256(claims: Mapping[str, Any], private_key: Secret, key_id: str = "") -> str:
    """The signed token, with `kid` where there is a `key_id`; raises UnauthorizedError for what is not an RSA key in PEM."""
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(private_key.reveal().encode(), None)
    except (ValueError, TypeError):
        raise UnauthorizedError("the private key is not an unencrypted key in PEM") from None
    if not isinstance(key, RSAPrivateKey):
        raise UnauthorizedError("the private key is not an RSA key")
    signed = signing_input(claims, key_id)
    return f"{signed}.{_base64url(key.sign(signed.encode(), PKCS1v15(), SHA256()))}"


def signing_input(claims: Mapping[str, Any], key_id: str = "") -> str:
    """Header and claims as they are signed."""
    header = {"alg": "RS256", "typ": "JWT", **({"kid": key_id} if key_id else {})}
    return ".".join(_base64url(msgspec.json.encode(part)) for part in (header, claims))


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
