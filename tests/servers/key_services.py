"""Key services as the sops program asks them: Vault's transit engine and AWS KMS, on loopback, with keys in memory.

What a key wrapped opens under that key only, and with the same context. `requests` has everything that was asked.
"""

import base64
import json
import os
import re
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from reconciler.sdk.testing.simulator import Call, Reply, Simulator

_TRANSIT = re.compile(r"/v1/(?P<engine>.+)/(?P<verb>encrypt|decrypt)/(?P<key>[^/]+)")
_VERSION = "vault:v1:"


class _Keys:
    def __init__(self) -> None:
        self._by_name: dict[str, bytes] = {}

    def wrap(self, name: str, clear: str, context: str = "") -> str:
        nonce = os.urandom(12)
        sealed = self._key(name).encrypt(nonce, base64.b64decode(clear), context.encode())
        return base64.b64encode(nonce + sealed).decode()

    def open(self, name: str, wrapped: str, context: str = "") -> str:
        raw = base64.b64decode(wrapped)
        return base64.b64encode(self._key(name).decrypt(raw[:12], raw[12:], context.encode())).decode()

    def _key(self, name: str) -> AESGCM:
        return AESGCM(self._by_name.setdefault(name, os.urandom(32)))


class TransitEngine(Simulator):
    """`token` is the only one that may do anything."""

    def __init__(self, token: str) -> None:
        super().__init__()
        self._token = token
        self._keys = _Keys()

    def key(self, name: str) -> str:
        """As sops wants it on its command line."""
        return f"{self.url}/v1/transit/keys/{name}"

    def answer(self, call: Call) -> Reply:
        self.requests.append(call)
        asked = _TRANSIT.fullmatch(call.url_path)
        if call.headers.get("x-vault-token") != self._token:
            return Reply(status=403, json={"errors": ["permission denied"]})
        if call.method not in ("PUT", "POST") or asked is None:
            return Reply(status=404, json={"errors": [f"no handler for route {call.url_path}"]})
        try:
            return Reply(
                json={"data": self._done(f"{asked['engine']}/{asked['key']}", asked["verb"], json.loads(call.body))}
            )
        except InvalidTag:
            return Reply(status=400, json={"errors": ["cipher: message authentication failed"]})

    def _done(self, name: str, verb: str, asked: dict[str, str]) -> dict[str, str]:
        if verb == "encrypt":
            return {"ciphertext": _VERSION + self._keys.wrap(name, asked["plaintext"])}
        return {"plaintext": self._keys.open(name, asked["ciphertext"].removeprefix(_VERSION))}


class CloudKeys(Simulator):
    """AWS KMS for one access key; whoever signs with another is denied. Signatures are not checked."""

    def __init__(self, access_key: str) -> None:
        super().__init__()
        self._access_key = access_key
        self._keys = _Keys()

    def answer(self, call: Call) -> Reply:
        self.requests.append(call)
        operation = call.headers.get("x-amz-target", "").removeprefix("TrentService.")
        if f"Credential={self._access_key}/" not in call.headers.get("authorization", ""):
            return _denied("AccessDeniedException", "not authorized to perform this")
        try:
            return Reply(json=self._done(operation, json.loads(call.body)), content_type="application/x-amz-json-1.1")
        except InvalidTag:
            return _denied("InvalidCiphertextException", "")

    def _done(self, operation: str, asked: dict[str, Any]) -> dict[str, str]:
        name, context = asked["KeyId"], json.dumps(asked.get("EncryptionContext", {}), sort_keys=True)
        if operation == "Encrypt":
            return {"KeyId": name, "CiphertextBlob": self._keys.wrap(name, asked["Plaintext"], context)}
        return {"KeyId": name, "Plaintext": self._keys.open(name, asked["CiphertextBlob"], context)}


def _denied(kind: str, message: str) -> Reply:
    return Reply(status=400, json={"__type": kind, "message": message}, content_type="application/x-amz-json-1.1")
