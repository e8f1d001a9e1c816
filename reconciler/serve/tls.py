"""The certificate of the web server: files in, a TLS context out that follows the files without a restart.

`server` hands `context` to its sockets; the daemon calls `renew` every second. Each new certificate is read into a context of
its own first: one that cannot be used, or whose key has not come yet, changes nothing. Not done here: client certificates.
"""

import ssl
from dataclasses import dataclass
from pathlib import Path

import structlog

from reconciler.serve.errors import ListenError

_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """`key` None: it stands in the file of the certificate."""

    certificate: Path
    key: Path | None = None
    min_version: str = "1.2"


class Certificate:
    """Raises ListenError when it is made of files that cannot be used."""

    def __init__(self, files: CertificateFiles) -> None:
        self._files = files
        self._logger = structlog.get_logger("api")
        self._seen = self._look()
        self._current = self._read()
        self.context = self._current
        self.context.sni_callback = self._choose

    def renew(self) -> None:
        """Takes what changed on disk; says once what cannot be taken."""
        seen = self._look()
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._current = self._read()
        except ListenError as error:
            self._logger.warning("the new certificate is not taken, the one before stays", why=str(error))
        else:
            self._logger.info("a new certificate is served", file=str(self._files.certificate))

    def _choose(self, connection: ssl.SSLObject | ssl.SSLSocket, *_: object) -> None:
        """Called for each handshake, whether or not the client names a host."""
        if self._current is not self.context:
            connection.context = self._current

    def _look(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_mark(path) for path in (self._files.certificate, self._files.key) if path)

    def _read(self) -> ssl.SSLContext:
        files = self._files
        for name, path in (("cert_file", files.certificate), ("key_file", files.key)):
            _check_readable(name, path)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = _VERSIONS[files.min_version]
        context.set_alpn_protocols(["http/1.1"])
        try:
            # A password is refused instead of asked for on the terminal.
            context.load_cert_chain(files.certificate, files.key, password=lambda: b"")
        except (ssl.SSLError, OSError, ValueError) as error:
            raise ListenError(_explained(files, error)) from None
        return context


def _mark(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def _check_readable(name: str, path: Path | None) -> None:
    try:
        if path is not None:
            path.read_bytes()
    except OSError as error:
        raise ListenError(
            f"tls.{name}: {path}: {error.strerror}; it must be a PEM file that this user may read"
        ) from None


def _explained(files: CertificateFiles, error: Exception) -> str:
    reason = getattr(error, "reason", None) or ""
    if reason == "KEY_VALUES_MISMATCH":
        return f"tls: {files.key or files.certificate} is not the key of {files.certificate}; name the two that belong together"
    key = f" and {files.key}" if files.key else ", which must hold the key too where key_file is not set,"
    return f"tls: {files.certificate}{key} cannot be used ({reason or type(error).__name__}); they must be PEM without a password"
