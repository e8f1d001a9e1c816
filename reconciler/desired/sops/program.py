"""The `sops` program, for data keys that only it can open: PGP, cloud KMS, Vault and key groups with shares.

In: the whole file on stdin, its format. Out: the clear tree as JSON. Called by `document.py` in a worker thread, never on
the event loop. What the program writes to stderr may quote values and is dropped; its exit code says what happened. The
program runs without a shell, with a deadline, and only for sources whose network addresses the file cannot choose freely:
a Vault server must be one of the keyring's, and unknown (plugin) sources are refused.
"""

import contextlib
import json
import subprocess
from typing import Any

from reconciler.desired.sops.errors import SopsError
from reconciler.desired.sops.keys import Keyring
from reconciler.desired.sops.metadata import Metadata
from reconciler.model.finding import Code

DEADLINE_SECONDS = 30.0
_INPUT_TYPE = {"env": "dotenv"}
_MAC_MISMATCH, _MAC_MISSING, _NO_KEY = 51, 52, 128
_BY_EXIT_CODE = {
    _MAC_MISMATCH: (Code.SOPS_MAC_MISMATCH, "the MAC does not match", "restore the file from Git or encrypt it again"),
    _MAC_MISSING: (Code.SOPS_MAC_MISSING, "the MAC is missing", "restore the file from Git or encrypt it again"),
    _NO_KEY: (
        Code.SOPS_KEY_MISSING,
        "the sops program could not open the data key",
        "run `sops --decrypt FILE` as the daemon's user to see why, or add an age recipient",
    ),
}


def needs_program(metadata: Metadata, keyring: Keyring) -> bool:
    """Whether the data key is not for `keys.unwrap`: shares, or no age recipient that an identity at hand could open.
    Without the program a file with age recipients too is left to `unwrap`, whose message names them."""
    if metadata.shares:
        return True
    if not metadata.other_sources or (metadata.age and keyring.program is None):
        return False
    held = frozenset(keyring.recipients)
    by_ssh = any(not one.recipient for one in keyring.identities)
    return not any(one.recipient in held or (by_ssh and one.recipient.startswith("ssh-")) for one in metadata.age)


def run_program(content: bytes, fmt: str, metadata: Metadata, keyring: Keyring) -> Any:
    """Decrypt with the sops program. Raises `SopsError` when it is absent, not permitted, too slow or fails."""
    program = _permitted(metadata, keyring)
    arguments = [program, "--decrypt", "--input-type", _INPUT_TYPE.get(fmt, fmt), "--output-type", "json", "/dev/stdin"]
    try:
        ended = subprocess.run(  # noqa: S603 - fixed arguments, no shell; the file goes to stdin
            arguments, input=content, capture_output=True, timeout=DEADLINE_SECONDS, check=False
        )
    except (subprocess.TimeoutExpired, OSError) as cause:
        slow = isinstance(cause, subprocess.TimeoutExpired)
        reason = f"did not end within {DEADLINE_SECONDS:.0f} s" if slow else "could not be started"
        failure = SopsError(Code.SOPS_KEY_MISSING, f"the sops program {reason}", "see whether the key service answers")
    else:
        return _result(ended.returncode, ended.stdout)
    raise failure


def _permitted(metadata: Metadata, keyring: Keyring) -> str:
    sources = ", ".join(metadata.other_sources) or "age"
    if metadata.unknown_sources:
        names = ", ".join(metadata.unknown_sources)
        raise SopsError(Code.SOPS_KEY_MISSING, f"the file names key sources that are not known: {names}", _AGE_REMEDY)
    strangers = [one for one in metadata.vault_addresses if one.rstrip("/") not in keyring.vault_addresses]
    if strangers:
        message = f"the Vault server {strangers[0]} of the file is not the one this process may talk to"
        raise SopsError(Code.NOT_PERMITTED, message, "set VAULT_ADDR to it, or " + _AGE_REMEDY)
    if keyring.program is None:
        what = f"key groups with shares ({sources})" if metadata.shares else f"{sources} recipients"
        message = f"{what} need the sops program, which is not installed"
        raise SopsError(Code.SOPS_PROGRAM_MISSING, message, "install sops and put it on PATH, or " + _AGE_REMEDY)
    return keyring.program


_AGE_REMEDY = "add an age recipient: sops --rotate --in-place --add-age age1... FILE"


def _result(exit_code: int, stdout: bytes) -> Any:
    if exit_code:
        other = (Code.SOPS_MALFORMED, f"the sops program ended with exit code {exit_code}", "run `sops --decrypt FILE`")
        raise SopsError(*_BY_EXIT_CODE.get(exit_code, other))
    with contextlib.suppress(ValueError):
        return json.loads(stdout)
    raise SopsError(Code.SOPS_MALFORMED, "the sops program did not answer with JSON", "update the sops program")
