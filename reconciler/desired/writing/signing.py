"""What `git commit-tree` is told so that it signs: with an SSH key, or with an OpenPGP key in a home of its own.

In: the key file of the settings. Out: words and variables for one run of git. Called by `repository`. An OpenPGP key is
imported into a folder that is removed, its agent with it, when the commit is made: the daemon keeps no keyring.
"""

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from reconciler.desired.writing.terms import WriteError, WriteFault

Words = tuple[tuple[str, ...], tuple[str, ...], Mapping[str, str]]


class SigningFormat(StrEnum):
    SSH = "ssh"
    OPENPGP = "openpgp"


@dataclass(frozen=True, slots=True)
class Signing:
    """A private key without a passphrase: an OpenSSH key file, or an exported OpenPGP secret key."""

    key_file: Path
    format: SigningFormat = SigningFormat.SSH

    @property
    def path(self) -> Path:
        return self.key_file.absolute()


@contextlib.asynccontextmanager
async def signing_words(signing: Signing | None) -> AsyncIterator[Words]:
    """Options of git, options of `commit-tree`, and variables. Raises WriteError."""
    if signing is None:
        yield (), (), {}
    elif signing.format is SigningFormat.SSH:
        yield ("-c", "gpg.format=ssh"), (f"-S{signing.path}",), {}
    else:
        # The path of the agent's socket may be a hundred characters long, so this is not in the state directory.
        home = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="rec-gpg-"))
        try:
            key = await _imported(signing.path, home)
            yield ("-c", "gpg.format=openpgp"), (f"-S{key}",), {"GNUPGHOME": str(home)}
        finally:
            await _run("gpgconf", "--homedir", str(home), "--kill", "all")
            await asyncio.to_thread(shutil.rmtree, home, ignore_errors=True)


async def _imported(key_file: Path, home: Path) -> str:
    """The fingerprint of the key, once it is in the home."""
    gpg = ("gpg", "--homedir", str(home), "--batch", "--quiet", "--no-tty")
    code, _ = await _run(*gpg, "--import", str(key_file))
    _, listed = await _run(*gpg, "--list-secret-keys", "--with-colons")
    fields = [line.split(":") for line in listed.decode(errors="replace").splitlines()]
    found = next((one[9] for one in fields if one[0] == "fpr"), "")
    if code or not found:
        message = f"signing_key_file {key_file} holds no OpenPGP secret key that gpg takes"
        raise WriteError(
            WriteFault.UNSIGNED, message, "gpg --armor --export-secret-keys ID, of a key without a passphrase"
        )
    return found


async def _run(*arguments: str) -> tuple[int, bytes]:
    try:
        process = await asyncio.create_subprocess_exec(
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except FileNotFoundError:
        message = f"{arguments[0]} is not installed, and signing_format is openpgp"
        raise WriteError(WriteFault.UNSIGNED, message, "install gnupg, or sign with an SSH key") from None
    output, _ = await process.communicate()
    return process.returncode or 0, output
