"""Vendor simulators: real HTTP servers on loopback that behave like the remote systems. Not in the wheel.

Where the vendors' published API descriptions lie beside the checkout, simulators judge requests and their own answers by them.
"""

import base64
import json
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256

_VENDOR = Path(__file__).parents[2] / "shared" / "vendor"


def description(*names: str) -> tuple[Path, ...]:
    """Those of the vendors' descriptions (`github/openapi.json`) that are on this machine."""
    return tuple(_VENDOR / name for name in names if (_VENDOR / name).is_file())


def signed_by(key: RSAPublicKey | None, token: str) -> dict[str, Any] | None:
    """The claims of an RS256 JSON Web Token whose signature is right, else None."""
    head, _, signature = token.rpartition(".")
    if key is None or head.count(".") != 1:
        return None
    try:
        key.verify(_decoded(signature), head.encode(), PKCS1v15(), SHA256())
    except InvalidSignature:
        return None
    claims: dict[str, Any] = json.loads(_decoded(head.split(".")[1]))
    return claims


def key_id(token: str) -> str:
    """Which key a JSON Web Token says it is signed with."""
    return str(json.loads(_decoded(token.split(".", maxsplit=1)[0])).get("kid", ""))


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
