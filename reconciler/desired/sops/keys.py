"""Identities, and the data key they open.

In: an environment (as a mapping) and the key files it names, read once into a frozen `Keyring`; the `Metadata` of a file.
Out: the file's data key. Native identities are age X25519 keys and SSH keys (ed25519, RSA); everything else is for the
sops program (`program.py`). Not done: `~/.ssh` is not searched (name a key in `SOPS_AGE_SSH_PRIVATE_KEY_FILE`), key
commands are not run, plugin identities and files under a passphrase are refused.
"""

import hashlib
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyrage

from reconciler.desired.sops.cipher import KEY_BYTES
from reconciler.desired.sops.errors import SopsError
from reconciler.desired.sops.metadata import Metadata
from reconciler.desired.sops.waits import Waits
from reconciler.model.finding import Code

KEY_FILE = Path("sops", "age", "keys.txt")
_NATIVE = "AGE-SECRET-KEY-1"
_PEM_START = "-----BEGIN "
_PEM_END = "-----END "
# What pinentry would ask through, since a daemon has nobody to answer; and the daemon's own secrets.
_KEPT_BACK = re.compile("(GPG_TTY|DISPLAY|WAYLAND_DISPLAY)$|RECONCILER_")


@dataclass(frozen=True, slots=True)
class Identity:
    """One private key. `recipient` is its public side, empty for SSH keys."""

    key: Any = field(repr=False)
    recipient: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Keyring:
    """Everything that may open a data key. `program` is the sops binary and `environment` what it runs in;
    `vault_addresses` are the Vault servers it may be sent to, since a file names its own server and would otherwise receive
    the daemon's token. `faults` says which keys should be here and are not; `waits` which were waited for in vain."""

    identities: tuple[Identity, ...] = ()
    program: str | None = None
    vault_addresses: frozenset[str] = frozenset()
    faults: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    waits: Waits = field(default_factory=Waits, repr=False, compare=False)

    @property
    def fingerprint(self) -> str:
        """Changes when what could be opened changes; tells nothing about the keys. Part of every cache key."""
        parts = (*(one.fingerprint for one in self.identities), self.program or "", *sorted(self.vault_addresses))
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]

    @property
    def recipients(self) -> tuple[str, ...]:
        return tuple(one.recipient for one in self.identities if one.recipient)


def keyring_from_env(env: Mapping[str, str]) -> Keyring:
    """Read the keys that SOPS itself would find through these variables. Raises `SopsError` for a key file that is named
    but unreadable, and for text that is no identity."""
    return _keyring(env, [identity for read in _places(env) for identity in read()], [])


def keys_at_hand(env: Mapping[str, str]) -> Keyring:
    """The same for a daemon, which works on with what there is: what cannot be read is a fault, told where a key is missed."""
    identities: list[Identity] = []
    faults: list[str] = []
    for read in _places(env):
        try:
            identities += read()
        except SopsError as error:
            faults.append(error.message)
    return _keyring(env, identities, faults)


def _keyring(env: Mapping[str, str], identities: Iterable[Identity], faults: Iterable[str]) -> Keyring:
    vault = env.get("VAULT_ADDR", "").rstrip("/")
    return Keyring(
        identities=tuple(identities),
        program=shutil.which("sops", path=env.get("PATH")),
        vault_addresses=frozenset({vault} if vault else ()),
        faults=tuple(faults),
        environment={name: value for name, value in env.items() if not _KEPT_BACK.match(name)},
    )


def default_key_file(env: Mapping[str, str]) -> Path:
    """Where SOPS looks for age identities when nothing else is said."""
    config = env.get("XDG_CONFIG_HOME")
    return (Path(config) if config else Path(env.get("HOME", "/")) / ".config") / KEY_FILE


def parse_identities(text: str, source: str) -> list[Identity]:
    """All identities of a key file. `source` names it in messages."""
    return [_identity(lines, source, number) for number, lines in _entries(text.splitlines())]


def unwrap(metadata: Metadata, keyring: Keyring) -> bytes:
    """The data key of a file with age recipients. Raises `SopsError` when no identity opens one of them."""
    keys = [one.key for one in keyring.identities]
    held = frozenset(keyring.recipients)
    for recipient in sorted(metadata.age, key=lambda one: one.recipient not in held) if keys else ():
        try:
            return _checked(pyrage.decrypt(recipient.enc.encode(), keys))
        except pyrage.DecryptError:
            continue
    raise SopsError(Code.SOPS_KEY_MISSING, _unopened(metadata, keyring), _KEY_REMEDY)


def wrap(data_key: bytes, recipient: str) -> str:
    """The data key encrypted to one recipient, armoured."""
    armoured: bytes = pyrage.encrypt(data_key, [parse_recipient(recipient)], armored=True)
    return armoured.decode()


def parse_recipient(text: str) -> Any:
    """An age recipient for pyrage. Raises `SopsError` for anything but `age1...` and SSH public keys."""
    source = pyrage.ssh if text.startswith("ssh-") else pyrage.x25519
    try:
        return source.Recipient.from_str(text)
    except pyrage.RecipientError:
        short = text if len(text) < 80 else text[:40] + "..."
        remedy = "give an age1... recipient or an SSH public key (ed25519, RSA); plugin keys need the sops program"
        raise SopsError(Code.SOPS_KEY_MISSING, f"{short!r} is not an age recipient", remedy) from None


def _places(env: Mapping[str, str]) -> Iterator[Callable[[], list[Identity]]]:
    """Where identities may be, each as a way to read them."""
    if env.get("SOPS_AGE_KEY"):
        yield partial(parse_identities, env["SOPS_AGE_KEY"], "SOPS_AGE_KEY")
    named = [name for name in ("SOPS_AGE_KEY_FILE", "SOPS_AGE_SSH_PRIVATE_KEY_FILE") if env.get(name)]
    for name in named:
        yield partial(_from_file, Path(env[name]), f"{env[name]} ({name})")
    default = default_key_file(env)
    if default.is_file():
        yield partial(_from_file, default, str(default))


def _from_file(path: Path, shown: str) -> list[Identity]:
    try:
        return parse_identities(path.read_text(encoding="utf-8"), shown)
    except (OSError, UnicodeDecodeError) as cause:
        reason = cause.strerror if isinstance(cause, OSError) else "is not text"
        remedy = "name a readable file of age identities"
    raise SopsError(Code.SOPS_KEY_MISSING, f"the key file {shown} cannot be read: {reason}", remedy)


def _entries(lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """Line number and lines of each identity: one line, or a PEM block."""
    block: list[str] = []
    for number, line in enumerate(map(str.strip, lines), 1):
        if block or line.startswith(_PEM_START):
            block.append(line)
            if line.startswith(_PEM_END):
                yield number, block
                block = []
        elif line and not line.startswith("#"):
            yield number, [line]
    if block:
        yield 0, block


def _identity(lines: list[str], source: str, number: int) -> Identity:
    text = "\n".join(lines)
    digest = hashlib.sha256(b"reconciler sops identity\n" + text.encode()).hexdigest()
    try:
        if text.startswith(_PEM_START):
            return Identity(pyrage.ssh.Identity.from_buffer(text.encode() + b"\n"), "", digest)
        if text.startswith(_NATIVE):
            key = pyrage.x25519.Identity.from_str(text)
            return Identity(key, str(key.to_public()), digest)
    except pyrage.IdentityError:
        pass
    raise SopsError(
        Code.SOPS_KEY_MISSING,
        f"{source}: the text that ends in line {number} is not an age identity",
        "each line holds one AGE-SECRET-KEY-1...; SSH keys are unencrypted PEM blocks; # starts a comment",
    )


def _checked(data_key: bytes) -> bytes:
    if len(data_key) != KEY_BYTES:
        message = f"the data key has {len(data_key)} bytes instead of {KEY_BYTES}"
        raise SopsError(Code.SOPS_MALFORMED, message, "encrypt the file again")
    return data_key


_KEY_REMEDY = (
    "set SOPS_AGE_KEY_FILE (or SOPS_AGE_KEY) to an identity of one of them, or add this daemon's recipient to .sops.yaml and "
    "run: reconciler secrets rotate -i FILE"
)


def _unopened(metadata: Metadata, keyring: Keyring) -> str:
    named = ", ".join(one.recipient for one in metadata.age[:5]) or "none"
    more = f" and {len(metadata.age) - 5} more" if len(metadata.age) > 5 else ""
    held = ", ".join(keyring.recipients[:5]) or ("SSH keys only" if keyring.identities else "no age identity at all")
    why = "".join(f"; {fault}" for fault in keyring.faults)
    return f"no identity opens the data key; age recipients of the file: {named}{more}; held: {held}{why}"
