"""1,000 SOPS files with four values each: opened for the first time, and again unchanged.

The bare loop does the cryptography alone: the age identity unwraps the data key, AES-GCM opens the four values and the
MAC. No parsing, no tree rules, no digest over the values.
"""

import re
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyrage
import yaml
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from benchmarks.measure import Bench, here, in_turn
from benchmarks.rows import Row
from reconciler.desired.sops.cache import DecryptionCache
from reconciler.desired.sops.document import decrypt
from reconciler.desired.sops.encrypt import Sealing, encrypt
from reconciler.desired.sops.keys import Keyring, parse_identities
from reconciler.desired.sops.rules import Rules

_AT = datetime(2026, 1, 1, tzinfo=UTC)
_VALUE = re.compile(r"ENC\[AES256_GCM,data:([^,]+),iv:([^,]+),tag:([^,]+),type:")


@dataclass(frozen=True, slots=True)
class _Sealed:
    """What the bare loop needs of one file, parsed beforehand."""

    data_key: bytes
    values: tuple[tuple[bytes, bytes, bytes], ...]


def measure(bench: Bench) -> Iterator[Row]:
    count = bench.size(1_000, 20)
    identity = pyrage.x25519.Identity.generate()
    keyring = Keyring(tuple(parse_identities(str(identity), "benchmark")))
    files = _files(count, str(identity.to_public()))
    sealed = [_parsed(content) for content in files]
    first, bare = in_turn(
        bench.runs,
        lambda: here(lambda: _open(files, keyring, DecryptionCache())),
        lambda: here(lambda: _bare(sealed, identity)),
    )
    cache: DecryptionCache[Any] = DecryptionCache()
    _open(files, keyring, cache)
    (again,) = in_turn(bench.runs, lambda: here(lambda: _open(files, keyring, cache)))
    yield Row(
        name=f"{count:,} SOPS files, first time",
        figure=first.cpu * 1000,
        unit="ms",
        compared_with="bare age unwrap and AES-GCM",
        compared=bare.cpu * 1000,
        limit=350,
    )
    yield Row(
        name=f"{count:,} SOPS files, unchanged",
        figure=again.cpu * 1000,
        unit="ms",
        compared_with="the first time",
        compared=first.cpu * 1000,
        note=f"{_open(files, keyring, cache)} files were decrypted",
    )


def _files(count: int, recipient: str) -> list[bytes]:
    sealing = Sealing((recipient,), Rules(), _AT)
    text = "client_id: id-{0}\nclient_secret: secret-{0}\nusername: user-{0}\npassword: password-{0}\n"
    return [encrypt(text.format(number).encode(), "yaml", sealing) for number in range(count)]


def _open(files: list[bytes], keyring: Keyring, cache: DecryptionCache[Any]) -> int:
    """How many files were decrypted."""
    opened = []

    def one(content: bytes) -> Any:
        opened.append(content)
        return decrypt(content, "yaml", keyring).tree

    for number, content in enumerate(files):
        cache.get(str(number), "yaml", keyring, lambda content=content: one(content))  # type: ignore[misc]
    return len(opened)


def _parsed(content: bytes) -> _Sealed:
    tree = yaml.safe_load(content)
    block = tree.pop("sops")
    values = [_value(text, f"{key}:") for key, text in tree.items()]
    return _Sealed(block["age"][0]["enc"].encode(), (*values, _value(block["mac"], block["lastmodified"])))


def _value(text: str, aad: str) -> tuple[bytes, bytes, bytes]:
    match = _VALUE.match(text)
    if match is None:
        raise ValueError("not an encrypted value")
    body, nonce, tag = (b64decode(part) for part in match.groups())
    return nonce, body + tag, aad.encode()


def _bare(files: list[_Sealed], identity: Any) -> None:
    for one in files:
        cipher = AESGCM(pyrage.decrypt(one.data_key, [identity]))
        for nonce, body, aad in one.values:
            cipher.decrypt(nonce, body, aad)
