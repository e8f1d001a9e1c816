"""The master key: credentials obtained at run time are sealed with it, fingerprints are keyed by it.

AES-256-GCM; the ciphertext's associated data binds it to its integration and name, so that a row moved elsewhere does not
open. In embedded mode the key is made at first start, mode 0600; `RECONCILER_MASTER_KEY` or a file may give it instead, and
several while one takes the place of another (`app/rekeying`). Processes without a master key seal for the vault with its
public half (`seal_for`); only the vault opens that.
"""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reconciler.model.secret import Secret
from reconciler.settings import Settings, SettingsError
from reconciler.store.state_directory import private_file

KEY_BYTES = 32
_NONCE_BYTES = 12


class VaultError(Exception):
    """A sealed credential cannot be opened: sealed with another key, or altered."""


@dataclass(frozen=True, slots=True)
class Lasting:
    """Keys that stay the same when the master key becomes another one.

    `fingerprints` keys the hashes that tell secrets apart. `transit` opens what processes without a master key sealed.
    """

    fingerprints: bytes
    transit: Secret | None = None


class Vault:
    """Seals with the first of the master keys, of 32 bytes each; opens with whichever it was sealed with."""

    def __init__(self, *keys: bytes, lasting: Lasting | None = None) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._ciphers = {key_id(key): AESGCM(_derive(key, b"credentials")) for key in reversed(keys)}
        self._lasting = lasting or Lasting(first_fingerprint_key(keys))
        self.fingerprint_key = self._lasting.fingerprints
        self.key_id = key_id(keys[0])

    @property
    def key_ids(self) -> tuple[str, ...]:
        """Those whose seals it opens."""
        return tuple(self._ciphers)

    def opens(self, key_id: str) -> bool:
        return key_id in self._ciphers

    def seal(self, value: Secret, place: str) -> bytes:
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._ciphers[self.key_id].encrypt(nonce, value.reveal().encode(), place.encode())

    def open(self, sealed: bytes, place: str, key_id: str = "") -> Secret:
        """`key_id` is that of the master key it was sealed with; by default the first."""
        from cryptography.exceptions import InvalidTag

        try:
            cipher = self._ciphers[key_id or self.key_id]
            clear = cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], place.encode())
        except (InvalidTag, KeyError):
            raise VaultError(
                f"the stored credential of {place} was sealed with another master key, or altered"
            ) from None
        return Secret(clear.decode())

    def open_transit(self, sealed: bytes, place: str) -> Secret:
        """What `seal_for` sealed for that very place; raises VaultError."""
        import pyrage

        if self._lasting.transit is None:
            raise VaultError("what was sealed for this installation cannot be opened here: its master key is not known")
        try:
            identity = pyrage.x25519.Identity.from_str(self._lasting.transit.reveal())
            clear = pyrage.decrypt(sealed, [identity]).decode()
        except (pyrage.DecryptError, ValueError):
            clear = ""
        found, _, value = clear.partition("\n")
        if found != place:
            raise VaultError(f"what was sealed for {place} is altered, or of another installation")
        return Secret(value)


def seal_for(public: str, value: Secret, place: str) -> bytes:
    """For the vault of an installation, by a process that does not have its master key."""
    import pyrage

    recipient = pyrage.x25519.Recipient.from_str(public)
    return bytes(pyrage.encrypt(f"{place}\n{value.reveal()}".encode(), [recipient]))


def first_fingerprint_key(keys: Sequence[bytes]) -> bytes:
    """Of an installation that has none yet: of its oldest master key, so that what was hashed with it stays known."""
    return _derive(keys[-1], b"fingerprints")


def key_id(key: bytes) -> str:
    """Names a key without telling it; what is sealed says by it which key opens it."""
    return hashlib.sha256(key).hexdigest()[:8]


def _derive(key: bytes, purpose: bytes) -> bytes:
    return hmac.new(key, b"reconciler " + purpose, hashlib.sha256).digest()


def load_keys(settings: Settings, env: Mapping[str, str], keys: Path, *, is_shared: bool = False) -> tuple[bytes, ...]:
    """The master keys from the environment, a file, or the state directory, where one is made if there is none.

    The first one seals. `is_shared`: several processes use the database, so none of them may make a key of its own.
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
        private_file(path, written(new_key()))
    return read_keys(path)


def new_key() -> bytes:
    return secrets.token_bytes(KEY_BYTES)


def written(*keys: bytes) -> bytes:
    """The content of a key file."""
    return b"".join(base64.b64encode(key) + b"\n" for key in keys)


def own_key_file(keys: Path) -> Path:
    """Where an embedded daemon keeps the key that it made."""
    return keys / "master.key"


def given_keys(settings: Settings, env: Mapping[str, str]) -> tuple[bytes, ...]:
    """Those that every process would be given here; none where each state directory has its own."""
    if env.get("RECONCILER_MASTER_KEY") or settings.master_key_file is not None:
        return load_keys(settings, env, settings.state_dir, is_shared=True)
    return ()


def read_keys(path: Path) -> tuple[bytes, ...]:
    """Raises SettingsError."""
    try:
        return _decode(path.read_text(), str(path))
    except OSError as error:
        raise SettingsError(f"master key {path}: {error.strerror}") from None


def _decode(text: str, where: str) -> tuple[bytes, ...]:
    """One or several keys, apart by spaces, line ends or commas."""
    found = tuple(_key(part, where) for part in text.replace(",", " ").split())
    return found or (_key("", where),)


def _key(text: str, where: str) -> bytes:
    try:
        key = base64.b64decode(text, validate=True)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise SettingsError(
            f"{where}: expected {KEY_BYTES} bytes in base64; make one: openssl rand -base64 {KEY_BYTES}"
        )
    return key
