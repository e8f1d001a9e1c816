"""Why a source has no new revision: a closed list of faults, and what Git's own words mean.

In: the standard error of `git` (English, because it runs with LC_ALL=C). Out: `SourceError` with a fault, a message
without secrets and a remedy. Called by everything that touches a source. Wording that Git changes is worth no more
than a vaguer fault: an unknown text becomes FAILED, never a crash.
"""

import errno
import re
from enum import StrEnum

from reconciler.model.condition import Reason


class Fault(StrEnum):
    UNREACHABLE = "unreachable"
    AUTHENTICATION = "authentication"
    HOST_KEY = "host-key"
    TLS = "tls"
    REDIRECTED = "redirected"
    VANISHED = "vanished-ref"
    PATH_MISSING = "path-missing"
    CORRUPT = "corrupt"
    TIMEOUT = "timeout"
    OWNERSHIP = "ownership"
    REFUSED = "refused"
    TOO_LARGE = "too-large"
    FULL = "disk-full"
    PROGRAM_MISSING = "program-missing"
    FAILED = "failed"


_REASONS = {
    Fault.UNREACHABLE: Reason.REMOTE_UNAVAILABLE,
    Fault.AUTHENTICATION: Reason.AUTHENTICATION_FAILED,
    Fault.HOST_KEY: Reason.AUTHENTICATION_FAILED,
    Fault.TLS: Reason.TLS_FAILED,
    Fault.REDIRECTED: Reason.HOST_NOT_PERMITTED,
    Fault.VANISHED: Reason.REJECTED,
    Fault.PATH_MISSING: Reason.REJECTED,
    Fault.TIMEOUT: Reason.TIMED_OUT,
    Fault.OWNERSHIP: Reason.PERMISSION_DENIED,
    Fault.REFUSED: Reason.REJECTED,
    Fault.FULL: Reason.STORE_FULL,
    Fault.PROGRAM_MISSING: Reason.MISSING_DEPENDENCY,
}


class SourceError(Exception):
    """A source cannot be read now. The message bears no secret and says how to mend it."""

    def __init__(self, fault: Fault, message: str, remedy: str = "") -> None:
        super().__init__(f"{message} ({remedy})" if remedy else message)
        self.fault = fault
        self.message = message

    @property
    def reason(self) -> Reason:
        return _REASONS.get(self.fault, Reason.PROTOCOL_ERROR)


_MAKE_ROOM = "free space on the disk of the state directory; it is tried again by itself"
_CHECK_DISK = "check owner and mode of the state directory"

# The first that matches decides, so what is special stands before what Git says along with everything.
_MEANINGS: tuple[tuple[Fault, str, str], ...] = (
    (Fault.FULL, r"No space left on device|[Dd]isk quota exceeded", _MAKE_ROOM),
    (
        Fault.OWNERSHIP,
        r"dubious ownership|not owned by current user",
        "let the user who runs reconciler own the repository, or name it in safe.directory (setting trust_owner)",
    ),
    (
        Fault.HOST_KEY,
        r"Host key verification failed|REMOTE HOST IDENTIFICATION HAS CHANGED|host key is known",
        "put the server's host key into known_hosts_file, after comparing it with what the server's owner published",
    ),
    (
        Fault.AUTHENTICATION,
        (
            r"Authentication failed|could not read (Username|Password)|terminal prompts disabled|Permission denied \("
            r"|error: 40[13]\b|UNPROTECTED PRIVATE KEY|Load key |access denied|Too many authentication failures"
        ),
        "check that the token or deploy key is valid, not expired, and may read this repository",
    ),
    (
        Fault.TLS,
        (
            r"SSL certificate|certificate verif|server certificate|local issuer|SSL_|gnutls|[Cc]ertificate problem"
            r"|error setting certificate|\bCAfile\b"
        ),
        "set ca_file to the certificate authority that signed the server's certificate",
    ),
    (
        Fault.REDIRECTED,
        r"error: 30[12378]\b|update url base from redirection",
        "the server answers with a redirect, which is not followed so that the token stays here; write the final URL",
    ),
    (Fault.REFUSED, r"transport '[^']*' not allowed", "permitted are file, https and ssh, and http where allowed"),
    (
        Fault.VANISHED,
        r"find remote ref|not our ref|unadvertised object|no such remote ref",
        "check that the branch, tag or commit still exists",
    ),
    (
        Fault.CORRUPT,
        (
            r"corrupt|bad object|bad tree|bad signature|missing (blob|tree|commit)|index-pack|unpack-objects|inflate"
            r"|does not match|mismatch|did not send all necessary|unable to read [0-9a-f]{40}|File exists"
            r"|shallow file|not a git repository: '|unable to parse object|invalid object|object file .* is empty"
            r"|bad config|could not parse|broken"
        ),
        "the mirror is built anew at the next try; if this stays, run git fsck in the remote",
    ),
    (
        Fault.UNREACHABLE,
        (
            r"resolve host|[Cc]onnect|unable to access|does not appear to be a git repository|not found"
            r"|Network is unreachable|No route|hung up|early EOF|RPC failed|No such file|Repository not found|[Pp]roxy"
        ),
        "check the URL, that the server runs, and that this source may see the repository",
    ),
)
_COMPILED = tuple((fault, re.compile(pattern), remedy) for fault, pattern, remedy in _MEANINGS)
_NOISE = re.compile(r"^(warning|hint|Warning): |^\s*$|^Please make sure|^and the repository exists|^remote: *$|^@+")


def explain(stderr: str, doing: str) -> SourceError:
    """What `git` meant; `stderr` has been redacted."""
    text = printable(stderr)
    for fault, pattern, remedy in _COMPILED:
        if pattern.search(text):
            return SourceError(fault, f"{doing} failed: {_telling_line(text, pattern)}", remedy)
    return SourceError(Fault.FAILED, f"{doing} failed: {_telling_line(text, None)}")


def full(error: SourceError) -> SourceError:
    """The same, where what is left of the disk explains it."""
    return SourceError(Fault.FULL, f"{error.message}; no room is left on the disk", _MAKE_ROOM)


def unwritable(error: OSError) -> SourceError:
    """The disk of the state directory refuses what the copy of a source needs."""
    is_full = error.errno in {errno.ENOSPC, errno.EDQUOT}
    message = f"{error.filename or 'the mirror'} cannot be written: {error.strerror or error}"
    return SourceError(Fault.FULL, message, _MAKE_ROOM) if is_full else SourceError(Fault.FAILED, message, _CHECK_DISK)


def _telling_line(text: str, pattern: re.Pattern[str] | None) -> str:
    lines = [line.strip() for line in text.splitlines() if not _NOISE.search(line)]
    telling = [line for line in lines if pattern and pattern.search(line)]
    return (telling or lines or ["git said nothing"])[0][:300]


def printable(text: str) -> str:
    """Without control characters: a remote must not write escape sequences into a log or terminal."""
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)
