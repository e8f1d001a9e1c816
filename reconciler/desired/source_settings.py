"""What an operator says about one source of desired state, checked before anything is started.

In: the daemon's settings or the command line. Out: a frozen `SourceSettings`, or ValueError with the remedy. Nothing
here touches disk or network beyond telling a directory from a bare repository. Which workspaces a source may speak for is
no matter of reading it: validation asks.
"""

import re
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from reconciler.desired.snapshot import MAX_FILE_BYTES
from reconciler.model.secret import Secret

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SCP = re.compile(r"(?:[A-Za-z0-9._-]+@)?[A-Za-z0-9][A-Za-z0-9._-]*:(?!//|:)[^-].*")
_WRONG_IN_REF = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|\.lock(/|$)|^[-/.]|[/.]$")
_SCHEMES = ("file", "https", "http", "ssh")


class Scheme(StrEnum):
    """How the token is put into the request. Basic is what GitHub, GitLab, Bitbucket, Gitea and Azure take for Git."""

    BASIC = "basic"
    BEARER = "bearer"


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSettings:
    """One source. `url` is a path (folder, working tree, bare repository) or file://, https://, ssh://, user@host:path.

    Without `ref` a local folder or working tree is read as it lies there, uncommitted files included; with `ref`, and
    for every remote, the commit counts. A name that is branch and tag means the branch. `use_user_config` is for a
    person's own command line: their Git and SSH configuration, agent and credential helpers then apply.
    """

    name: str
    url: str
    ref: str = ""
    path: str = ""
    interval: timedelta = timedelta(minutes=1)
    timeout: timedelta = timedelta(minutes=2)
    token: Secret | None = field(default=None, repr=False)
    token_file: Path | None = None
    username: str = ""
    token_scheme: Scheme = Scheme.BASIC
    key_file: Path | None = None
    known_hosts_file: Path | None = None
    ca_file: Path | None = None
    client_certificate_file: Path | None = None
    client_key_file: Path | None = None
    proxy: Secret | None = field(default=None, repr=False)
    allow_http: bool = False
    use_user_config: bool = False
    trust_owner: bool = False
    with_history: bool = True
    max_file_bytes: int = MAX_FILE_BYTES

    def __post_init__(self) -> None:
        _check_name(self.name)
        _check_url(self)
        _check_ref(self.ref)
        _check_path(self.path)
        _check_credentials(self)
        if self.interval < timedelta(seconds=1) or self.timeout < timedelta(seconds=1):
            raise ValueError(f"source {self.name}: interval and timeout are at least 1s")

    @property
    def scheme(self) -> str:
        """`file`, `https`, `http` or `ssh`; a plain path counts as file."""
        if "://" in self.url:
            return urlsplit(self.url).scheme
        return "ssh" if not _is_path(self.url) else "file"

    @property
    def local_path(self) -> Path | None:
        """Where the source lies on this machine; None for a remote."""
        if self.scheme != "file":
            return None
        text = unquote(urlsplit(self.url).path) if "://" in self.url else self.url
        return Path(text).expanduser().absolute()

    @property
    def remote(self) -> str:
        """What is handed to `git`."""
        return str(self.local_path) if self.local_path else self.url

    @property
    def origin(self) -> str:
        """Scheme, host and port: the only place the token is sent to."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/"

    @property
    def is_commit(self) -> bool:
        return bool(_COMMIT.fullmatch(self.ref))

    @property
    def is_as_is(self) -> bool:
        """True where files are read in place instead of from a commit."""
        local = self.local_path
        return local is not None and not self.ref and not _is_bare(local)


def _is_path(url: str) -> bool:
    return url.startswith(("/", ".", "~")) or not _SCP.fullmatch(url)


def _is_bare(path: Path) -> bool:
    return (path / "HEAD").is_file() and (path / "objects").is_dir() and (path / "refs").is_dir()


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(f"source name {name!r} is not lower-case letters, digits and dashes, at most 63")


def _check_url(settings: SourceSettings) -> None:
    where, url = f"source {settings.name}", settings.url
    if not url or url.startswith("-") or not url.isprintable():
        raise ValueError(f"{where}: url is empty, starts with a dash or holds control characters")
    if "::" in url.partition("/")[0]:
        raise ValueError(f"{where}: a transport helper (such as ext::) would run programs; use https, ssh or file")
    if "://" not in url:
        return
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES:
        raise ValueError(f"{where}: {parts.scheme}:// is not supported; use https, ssh or file")
    if parts.scheme == "http" and not settings.allow_http:
        raise ValueError(f"{where}: http:// shows the token and the manifests to the network; use https or allow_http")
    if parts.password is not None:
        raise ValueError(f"{where}: the url holds a password; take it out and set token (or token_file) instead")
    if parts.scheme != "file" and (not parts.hostname or parts.hostname.startswith("-")):
        raise ValueError(f"{where}: the url names no valid host")
    if parts.scheme == "file" and parts.netloc not in ("", "localhost"):
        raise ValueError(f"{where}: file:// takes no host; write file:///path")


def _check_ref(ref: str) -> None:
    if ref and _WRONG_IN_REF.search(ref):
        raise ValueError(f"ref {ref!r} is not the name of a branch, a tag, or a commit of 40 digits")


def _check_path(path: str) -> None:
    parts = PurePosixPath(path)
    if path and (parts.is_absolute() or ".." in parts.parts or not path.isprintable()):
        raise ValueError(f"path {path!r} is not a relative path inside the source")


def _check_credentials(settings: SourceSettings) -> None:
    where = f"source {settings.name}"
    if settings.token and settings.token_file:
        raise ValueError(f"{where}: token and token_file exclude each other")
    if (settings.token or settings.token_file) and settings.scheme not in ("https", "http"):
        raise ValueError(f"{where}: a token is for https; use key_file for ssh")
    if settings.token and not settings.token.reveal().isprintable():
        raise ValueError(f"{where}: the token holds a line break or control character")
    if settings.scheme != "ssh" or settings.use_user_config:
        return
    if not (settings.key_file and settings.known_hosts_file):
        raise ValueError(f"{where}: ssh needs key_file and known_hosts_file (a host key is never accepted unseen)")
