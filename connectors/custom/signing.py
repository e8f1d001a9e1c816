"""The signing scheme of Standard Webhooks (standardwebhooks.com), for what comes in and what goes out. Pure."""

import base64
import binascii
import hmac
from collections.abc import Mapping
from datetime import datetime

from reconciler.model.secret import Secret
from reconciler.sdk.errors import UnauthorizedError

TOLERANCE_SECONDS = 300
PREFIX = "whsec_"


def key_of(secret: Secret) -> bytes:
    """Base64 behind `whsec_`, else the text itself; raises UnauthorizedError for what is neither, or nothing."""
    text = secret.reveal()
    try:
        key = base64.b64decode(text.removeprefix(PREFIX), validate=True) if text.startswith(PREFIX) else text.encode()
    except (binascii.Error, ValueError):
        raise UnauthorizedError(f"the secret begins with {PREFIX}, but what follows is no base64") from None
    if not key:
        raise UnauthorizedError("the secret that signs is empty: anybody could sign with it")
    return key


def signature(secret: Secret, name: str, stamp: str, body: bytes) -> str:
    signed = f"{name}.{stamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key_of(secret), signed, "sha256")).decode()


def check(secret: Secret, headers: Mapping[str, str], body: bytes, now: datetime) -> str:
    """The message's id; raises UnauthorizedError. One of several signatures has to fit: secrets are replaced one by one."""
    given = {name.lower(): value for name, value in headers.items()}
    name, stamp = given.get("webhook-id", ""), given.get("webhook-timestamp", "")
    wanted = signature(secret, name, stamp, body).encode()
    found = [hmac.compare_digest(wanted, one.encode()) for one in given.get("webhook-signature", "").split()[:10]]
    if not any(found):
        raise UnauthorizedError("webhook-signature is missing or does not fit the body and auth.signing_secret")
    if not stamp.isascii() or not stamp.isdigit() or abs(now.timestamp() - int(stamp)) > TOLERANCE_SECONDS:
        raise UnauthorizedError("webhook-timestamp is more than five minutes away from our clock")
    if not name or len(name) > 255:
        raise UnauthorizedError("webhook-id is missing or too long")
    return name
