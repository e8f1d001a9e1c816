"""The `sops` program, for data keys that only it can open: PGP, cloud KMS, Vault and key groups with shares.

In: a file as YAML, whatever its own format was, so that the program reads the names in its `sops` block as we have checked
them: in the other formats it takes them in any case. Out: the clear file, by default as JSON. Called by `document.py` and
`clear_text.py` in a worker thread, never on the event loop.

What the program writes to stderr may quote values: known reasons are looked for in it, and it is dropped. The program runs
without a shell, a terminal or a file of its own, with a deadline that its children share, and only for keys whose addresses
the file cannot choose freely: a Vault server must be one of the keyring's, a cloud's key must be at that cloud, and unknown
(plugin) sources are refused.
"""

import contextlib
import os
import re
import signal
import subprocess
from typing import Literal

from reconciler.desired.sops.errors import SopsError
from reconciler.desired.sops.keys import Keyring
from reconciler.desired.sops.metadata import Metadata, OtherRecipient
from reconciler.model.finding import Code

DEADLINE_SECONDS = 30.0
Output = Literal["json", "yaml", "binary"]
_AGE_REMEDY = "add an age recipient: sops rotate --in-place --add-age age1... FILE"
_RESTORE = "restore the file from Git or encrypt it again"
_LASTING = {
    4: (Code.SOPS_MALFORMED, "the file holds a number that JSON cannot hold", "put .inf and .nan in quotes"),
    25: (Code.SOPS_MAC_MISMATCH, "a value was changed, or moved from another key, or stands in clear", _RESTORE),
    51: (Code.SOPS_MAC_MISMATCH, "the MAC does not match", _RESTORE),
    52: (Code.SOPS_MAC_MISSING, "the MAC is missing", _RESTORE),
}
_NO_KEY = 128
# The first that is found in stderr says why: what gpg says of a passphrase is followed by what it says of a missing key.
_REASONS = (
    (
        "inappropriate ioctl|no pinentry|operation cancelled",
        "the PGP key is under a passphrase, and there is nobody to ask for it",
        "use a key without one, or have gpg-agent hold it (gpg-preset-passphrase)",
    ),
    ("no secret key", "gpg holds none of the secret keys", "import one for the user that runs this (GNUPGHOME)"),
    ("executable file not found|with pgp: (recovery failed|$)", "gpg is not installed", "install gnupg"),
    (
        "connection refused|no such host|i/o timeout|no route to host|network is unreachable|deadline exceeded",
        "the key service cannot be reached",
        "see whether it answers from here",
    ),
    (
        "get credentials|default credentials|missing client token",
        "there are no credentials for the key service",
        "give them to the process that runs this, as sops asks for them",
    ),
    (
        "permission denied|accessdenied|code: 40[13]|statuscode: 40[13]",
        "the key service refuses these credentials",
        "permit them to decrypt with the key",
    ),
)
_WRAPPED = re.compile(r"\s*\n[ \t]*\|?[ \t]*")
_AZURE = re.compile(
    r"https://[A-Za-z0-9-]+\.(vault|managedhsm)\.(azure\.net|azure\.cn|usgovcloudapi\.net|microsoftazure\.de)/?"
)
_ARN = re.compile(r"arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]+:(key|alias)/\S+")


def run_program(content: bytes, metadata: Metadata, keyring: Keyring, output: Output = "json") -> bytes:
    """Decrypt with the sops program. Raises `SopsError` when it is absent, not permitted, too slow or fails."""
    program = _permitted(metadata, keyring)
    # The nearest .sops.yaml above the working directory, which the program would read otherwise, is not about this file.
    words = ["--config", os.devnull, "--decrypt", "--input-type", "yaml", "--output-type", output, "/dev/stdin"]
    keys = " ".join((*map(str, metadata.others), *(one.recipient for one in metadata.age)))
    return keyring.waits.run(keys, lambda: _answer([program, *words], content, metadata, keyring))


def _names(metadata: Metadata) -> str:
    named = [*map(str, metadata.others), *(f"age {one.recipient}" for one in metadata.age)]
    return ", ".join(named[:5]) + (f" and {len(named) - 5} more" if len(named) > 5 else "")


def _answer(arguments: list[str], content: bytes, metadata: Metadata, keyring: Keyring) -> bytes:
    try:
        code, stdout, stderr = _run(arguments, content, keyring)
    except subprocess.TimeoutExpired:
        message = f"the sops program did not end within {DEADLINE_SECONDS:.0f} s, asked for {_names(metadata)}"
        failure = SopsError(Code.SOPS_KEY_MISSING, message, "see whether the key service, or gpg, answers")
    except OSError as cause:
        message = f"the sops program could not be started: {cause.strerror}"
        failure = SopsError(Code.SOPS_PROGRAM_MISSING, message, f"see what is at {arguments[0]}")
    else:
        if code == 0:
            return stdout
        failure = _failure(code, stderr.decode(errors="replace"), metadata)
    raise failure


def _run(arguments: list[str], content: bytes, keyring: Keyring) -> tuple[int, bytes, bytes]:
    with subprocess.Popen(  # noqa: S603 - fixed arguments, no shell; the file goes to stdin
        arguments,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=keyring.environment,
        start_new_session=True,
    ) as process:
        try:
            stdout, stderr = process.communicate(content, timeout=DEADLINE_SECONDS)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
        return process.returncode, stdout, stderr


def _permitted(metadata: Metadata, keyring: Keyring) -> str:
    if metadata.unknown_sources:
        names = ", ".join(metadata.unknown_sources)
        raise SopsError(Code.SOPS_KEY_MISSING, f"the file names key sources that are not known: {names}", _AGE_REMEDY)
    for recipient in metadata.others:
        _check_address(recipient, keyring)
    if keyring.program is None:
        sources = ", ".join(metadata.other_sources) or "age"
        what = f"key groups with shares ({sources})" if metadata.shares else f"{sources} recipients"
        message = f"{what} need the sops program, which is not installed"
        raise SopsError(Code.SOPS_PROGRAM_MISSING, message, "install sops and put it on PATH, or " + _AGE_REMEDY)
    return keyring.program


def _check_address(recipient: OtherRecipient, keyring: Keyring) -> None:
    address, *path = recipient.name
    if recipient.source == "hc_vault":
        if address.rstrip("/") not in keyring.vault_addresses:
            message = f"the Vault server {address} of the file is not the one this process may talk to"
            raise SopsError(Code.NOT_PERMITTED, message, "set VAULT_ADDR to it, or " + _AGE_REMEDY)
        # The program joins the path to the server's, steps upwards included, and asks with the token of this process.
        if any(step in ("", ".", "..") for part in path for step in part.strip("/").split("/")):
            raise SopsError(Code.NOT_PERMITTED, f"{recipient} of the file is not a transit key", _AGE_REMEDY)
    elif recipient.source == "azure_kv" and not _AZURE.fullmatch(address):
        raise SopsError(Code.NOT_PERMITTED, f"{address} of the file is no Azure Key Vault", _AGE_REMEDY)
    elif recipient.source == "kms" and not _ARN.fullmatch(address):
        raise SopsError(Code.NOT_PERMITTED, f"{address} of the file is not the ARN of an AWS KMS key", _AGE_REMEDY)


def _failure(exit_code: int, stderr: str, metadata: Metadata) -> SopsError:
    if exit_code in _LASTING:
        return SopsError(*_LASTING[exit_code])
    look = "run `sops decrypt FILE` as the user that runs this to see why"
    if exit_code != _NO_KEY:
        return SopsError(Code.SOPS_KEY_MISSING, f"the sops program ended with exit code {exit_code}", look)
    said = _WRAPPED.sub(" ", stderr).lower()
    known = ((why, remedy) for pattern, why, remedy in _REASONS if re.search(pattern, said))
    why, remedy = next(known, ("", look))
    message = f"the sops program could not open the data key for {_names(metadata)}" + (f": {why}" if why else "")
    return SopsError(Code.SOPS_KEY_MISSING, message, f"{remedy}, or {_AGE_REMEDY}")
