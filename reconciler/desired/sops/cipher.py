"""One encrypted value: `ENC[AES256_GCM,data:...,iv:...,tag:...,type:...]`, authenticated with its path.

In: a data key, once per file (key set-up costs more than a value). Out: typed values from text and text from values.
The nonce has 32 bytes, not the customary 12. Integers, floats and booleans keep the spellings that SOPS hashes.
"""

import binascii
import math
import os
import re
from collections.abc import Callable
from decimal import Decimal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from reconciler.desired.sops.errors import SopsError
from reconciler.model.finding import Code

Scalar = str | int | float | bool
Entropy = Callable[[int], bytes]
KEY_BYTES = 32
_NONCE_BYTES = 32
_TAG_BYTES = 16
_VALUE = re.compile(r"ENC\[AES256_GCM,data:([^,]+),iv:([^,]+),tag:([^,]+),type:([^,\]]+)\]")
_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")
_TRUTH = dict.fromkeys(("1", "t", "T", "TRUE", "true", "True"), True)
_TRUTH |= dict.fromkeys(("0", "f", "F", "FALSE", "false", "False"), False)
_TEXTS = frozenset({"str", "bytes", "time"})
_TYPES = ("str", "int", "float", "bool", "bytes", "time")


class ValueCipher:
    """Opens and seals the values of one file. `place` in messages is the value's path, which stands in clear anyway."""

    __slots__ = ("_aead",)

    def __init__(self, data_key: bytes) -> None:
        if len(data_key) != KEY_BYTES:
            raise SopsError(Code.SOPS_MALFORMED, f"the data key has {len(data_key)} bytes instead of {KEY_BYTES}")
        self._aead = AESGCM(data_key)

    def open_raw(self, text: str, aad: str) -> tuple[str, bytes]:
        """The value's type and its bytes, before any reading of them."""
        match = _VALUE.fullmatch(text)
        if match is None:
            raise _malformed(aad, "is not of the form ENC[AES256_GCM,data:...,iv:...,tag:...,type:...]")
        body, nonce, tag = (_decoded(part, aad) for part in match.group(1, 2, 3))
        if len(nonce) != _NONCE_BYTES or len(tag) != _TAG_BYTES:
            raise _malformed(aad, f"has a nonce of {len(nonce)} and a tag of {len(tag)} bytes instead of 32 and 16")
        try:
            return match[4], self._aead.decrypt(nonce, body + tag, aad.encode("utf-8", "surrogatepass"))
        except InvalidTag:
            raise SopsError(
                Code.SOPS_MAC_MISMATCH,
                f"the value at {_place(aad)} fails authentication: it was changed, or moved from another key",
                "restore it from Git, or encrypt the value again",
            ) from None

    def open(self, text: str, aad: str) -> Scalar:
        kind, raw = self.open_raw(text, aad)
        value = _typed(kind, raw)
        if value is None:
            raise _malformed(aad, _mistyped(kind))
        return value

    def seal(self, value: Scalar | bytes, aad: str, random: Entropy = os.urandom, kind: str | None = None) -> str:
        """`kind` overrides the type's name: `comment`, or `float` for the numbers of JSON."""
        nonce = random(_NONCE_BYTES)
        sealed = self._aead.encrypt(nonce, plain_bytes(value), aad.encode("utf-8", "surrogatepass"))
        body, tag = sealed[:-_TAG_BYTES], sealed[-_TAG_BYTES:]
        fields = f"data:{_encoded(body)},iv:{_encoded(nonce)},tag:{_encoded(tag)},type:{kind or _kind_of(value)}"
        return f"ENC[AES256_GCM,{fields}]"


def plain_bytes(value: Scalar | bytes) -> bytes:
    """The bytes of a value as SOPS encrypts and hashes them."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if isinstance(value, bool):
        return b"True" if value else b"False"
    if isinstance(value, int):
        return str(value).encode()
    return _float_text(value).encode()


def _float_text(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    text = format(Decimal(repr(value)), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _typed(kind: str, raw: bytes) -> Scalar | None:
    """None where the bytes are not of that type: an exception from here would carry the clear value as its context."""
    try:
        text = raw.decode()
        if kind in _TEXTS:
            return text
        if kind == "int":
            number = int(text) if _INTEGER.fullmatch(text) else 2**63
            return number if -(2**63) <= number < 2**63 else None
        if kind == "float":
            return float(text)
    except ValueError:
        return None
    return _TRUTH.get(text) if kind == "bool" else None


def _mistyped(kind: str) -> str:
    return f"is not a valid {kind}" if kind in _TYPES else "is of an unknown type: known are " + ", ".join(_TYPES)


def _kind_of(value: Scalar | bytes) -> str:
    return type(value).__name__


def _encoded(raw: bytes) -> str:
    return binascii.b2a_base64(raw, newline=False).decode()


def _decoded(text: str, aad: str) -> bytes:
    try:
        raw = binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        raise _malformed(aad, "is not valid base64") from None
    if _encoded(raw) != text:
        raise _malformed(aad, "is not canonical base64")
    return raw


def _malformed(aad: str, reason: str) -> SopsError:
    return SopsError(Code.SOPS_MALFORMED, f"the value at {_place(aad)} {reason}", "encrypt the value again")


def _place(aad: str) -> str:
    return aad.removesuffix(":").replace(":", ".") or "the top"
