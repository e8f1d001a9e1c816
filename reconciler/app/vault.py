"""The master key: credentials obtained at run time are sealed with it, fingerprints are keyed by it.

AES-256-GCM; the ciphertext's associated data binds it to its integration and name, so that a row moved elsewhere does not
open. In embedded mode the key is made at first start, mode 0600; `RECONCILER_MASTER_KEY` or a file may give it instead.
"""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from pathlib import Path

from reconciler.model.secret import Secret
from reconciler.settings import Settings, SettingsError
from reconciler.store.state_directory import private_file

KEY_BYTES = 32
_NONCE_BYTES = 12


class VaultError(Exception):
    """A sealed credential cannot be opened: sealed with another key, or altered."""


class Vault:
    """Seals and opens with one master key of 32 bytes."""

    def __init__(self, key: bytes) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._cipher = AESGCM(_derive(key, b"credentials"))
        self.fingerprint_key = _derive(key, b"fingerprints")
        self.key_id = key_id(key)

    def seal(self, value: Secret, place: str) -> bytes:
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, value.reveal().encode(), place.encode())

    def open(self, sealed: bytes, place: str) -> Secret:
        from cryptography.exceptions import InvalidTag

        try:
            clear = self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], place.encode())
        except InvalidTag:
            raise VaultError(
                f"the stored credential of {place} was sealed with another master key, or altered"
            ) from None
        return Secret(clear.decode())


def key_id(key: bytes) -> str:
    """Names a key without telling it; what is sealed says by it which key opens it."""
    return hashlib.sha256(key).hexdigest()[:8]


def _derive(key: bytes, purpose: bytes) -> bytes:
    return hmac.new(key, b"reconciler " + purpose, hashlib.sha256).digest()


def load_key(settings: Settings, env: Mapping[str, str], keys: Path, *, is_shared: bool = False) -> bytes:
    """The master key from the environment, a file, or the state directory, where it is made if there is none.

    `is_shared`: several processes use the database, so none of them may make a key of its own.
    """
    if env.get("RECONCILER_MASTER_KEY"):
        return _decode(env["RECONCILER_MASTER_KEY"], "RECONCILER_MASTER_KEY")
    if is_shared and settings.master_key_file is None:
        raise SettingsError(
            "on PostgreSQL the master key must be given, the same to every daemon: RECONCILER_MASTER_KEY or "
            f"RECONCILER_MASTER_KEY_FILE; make one: openssl rand -base64 {KEY_BYTES}"
        )
    path = settings.master_key_file or own_key_file(keys)
    if settings.master_key_file is None:
        keys.mkdir(mode=0o700, exist_ok=True)
        private_file(path, base64.b64encode(secrets.token_bytes(KEY_BYTES)) + b"\n")
    return read_key(path)


def own_key_file(keys: Path) -> Path:
    """Where an embedded daemon keeps the key that it made."""
    return keys / "master.key"


def given_key(settings: Settings, env: Mapping[str, str]) -> bytes | None:
    """The key that every process would be given here; None where each state directory has its own."""
    if env.get("RECONCILER_MASTER_KEY") or settings.master_key_file is not None:
        return load_key(settings, env, settings.state_dir, is_shared=True)
    return None


def read_key(path: Path) -> bytes:
    """Raises SettingsError."""
    try:
        return _decode(path.read_text().strip(), str(path))
    except OSError as error:
        raise SettingsError(f"master key {path}: {error.strerror}") from None


def _decode(text: str, where: str) -> bytes:
    try:
        key = base64.b64decode(text, validate=True)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise SettingsError(
            f"{where}: expected {KEY_BYTES} bytes in base64; make one: openssl rand -base64 {KEY_BYTES}"
        )
    return key
