"""The environment `git` runs in: no repository, server or habit makes it do more than fetch.

In: `SourceSettings`, the process's own environment, a private folder. Out: a complete environment for one child. Called
by `git_transport` before each run, in a thread, so that a rotated token file counts at once.

The token travels as an `Authorization` header set through `GIT_CONFIG_COUNT`, bound to the source's own origin. Weighed
against GIT_ASKPASS and credential helpers: no script on disk, no second program that sees it, no unauthenticated first
request, and bearer tokens work. It is in no argument list, no URL and no file; the environment of a child is readable
to the same user only. The header is also why redirects are refused: git would carry it to the new host.
"""

import base64
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from reconciler.desired.source_error import Fault, SourceError
from reconciler.desired.source_settings import Scheme, SourceSettings
from reconciler.model.secret import MASK

_INHERITED = ("PATH", "TMPDIR", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "http_proxy", "SSH_AUTH_SOCK")
_USERS_OWN = ("GIT_SSH_COMMAND", "GIT_SSH", "GIT_SSH_VARIANT", "GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM")
_MAX_TOKEN_BYTES = 64 * 1024

# Nothing here may be changed by a repository: configuration of the command scope beats every file.
_ALWAYS = (
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.askPass", ""),
    ("submodule.recurse", "false"),
    ("fetch.recurseSubmodules", "false"),
    ("protocol.ext.allow", "never"),
    ("protocol.version", "2"),
    ("http.followRedirects", "false"),
    ("http.sslVerify", "true"),
    ("transfer.bundleURI", "false"),
    ("log.showSignature", "false"),
    ("maintenance.auto", "false"),
    ("gc.autoDetach", "false"),
)


def git_environment(settings: SourceSettings, inherited: Mapping[str, str], home: Path) -> dict[str, str]:
    """All variables of one child. Reads the token file, if there is one."""
    environment = _users_own(inherited) if settings.use_user_config else _private(settings, inherited, home)
    environment |= {
        "LC_ALL": "C",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "",
        "SSH_ASKPASS_REQUIRE": "never",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_LITERAL_PATHSPECS": "1",
        "GIT_ALLOW_PROTOCOL": "file:https:ssh" + (":http" if settings.allow_http else ""),
    }
    return environment | _as_variables(_configuration(settings))


def _users_own(inherited: Mapping[str, str]) -> dict[str, str]:
    # Without GIT_DIR and its kin (set inside a hook) and without GIT_TRACE_*, which prints headers.
    kept = {k: v for k, v in inherited.items() if not k.startswith("GIT_") or k in _USERS_OWN}
    kept.setdefault("GIT_SSH_COMMAND", "ssh -o BatchMode=yes")
    return kept


def _private(settings: SourceSettings, inherited: Mapping[str, str], home: Path) -> dict[str, str]:
    environment = {name: inherited[name] for name in _INHERITED if name in inherited}
    environment.pop("SSH_AUTH_SOCK", None)
    # HOME is ours: else ~/.netrc, ~/.config/git and the like would speak for the daemon.
    return environment | {
        "HOME": str(home),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": str(home / "gitconfig") if settings.trust_owner else "/dev/null",
        "GIT_SSH_VARIANT": "ssh",
        "GIT_SSH_COMMAND": _ssh_command(settings),
    }


def trusted_owner_file(settings: SourceSettings) -> str:
    """The configuration that lets `upload-pack` read a repository of another user; no environment variable can."""
    path = str(settings.local_path or "").replace("\\", "\\\\").replace('"', '\\"')
    return "".join(f'[safe]\n\tdirectory = "{path}{tail}"\n' for tail in ("", "/.git"))


def _ssh_command(settings: SourceSettings) -> str:
    options = {
        "BatchMode": "yes",
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": _ssh_path(settings.known_hosts_file),
        "GlobalKnownHostsFile": "/dev/null",
        "UpdateHostKeys": "no",
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "IdentityFile": _ssh_path(settings.key_file),
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "ClearAllForwardings": "yes",
        "PermitLocalCommand": "no",
        "ConnectTimeout": str(max(1, int(settings.timeout.total_seconds()))),
    }
    words = ["ssh", "-F", "none"]
    for name, value in options.items():
        words += ["-o", f"{name}={value}"]
    return shlex.join(words)


def _ssh_path(path: Path | None) -> str:
    # ssh splits these values at spaces and expands %: quote for it as well as for the shell.
    return '"' + str(path.absolute()).replace("%", "%%") + '"' if path else "none"


def _configuration(settings: SourceSettings) -> list[tuple[str, str]]:
    found = list(_ALWAYS)
    if not settings.use_user_config:
        found.append(("credential.helper", ""))
    files = {
        "http.sslCAInfo": settings.ca_file,
        "http.sslCert": settings.client_certificate_file,
        "http.sslKey": settings.client_key_file,
    }
    found += [(key, str(path.absolute())) for key, path in files.items() if path]
    if settings.proxy:
        found.append(("http.proxy", settings.proxy.reveal()))
    if token := read_token(settings):
        found.append((f"http.{settings.origin}.extraHeader", f"Authorization: {_authorization(settings, token)}"))
    return found


def _as_variables(configuration: Iterable[tuple[str, str]]) -> dict[str, str]:
    variables: dict[str, str] = {}
    count = 0
    for count, (key, value) in enumerate(configuration, start=1):
        variables |= {f"GIT_CONFIG_KEY_{count - 1}": key, f"GIT_CONFIG_VALUE_{count - 1}": value}
    return variables | {"GIT_CONFIG_COUNT": str(count)}


def _authorization(settings: SourceSettings, token: str) -> str:
    if settings.token_scheme is Scheme.BEARER:
        return f"Bearer {token}"
    # Hosts that look at the token only take any name; GitHub's app tokens want this one.
    return f"Basic {_basic(settings, token)}"


def _basic(settings: SourceSettings, token: str) -> str:
    name = settings.username or urlsplit(settings.url).username or "x-access-token"
    return base64.b64encode(f"{name}:{token}".encode()).decode()


def read_token(settings: SourceSettings) -> str:
    """The token of the moment; empty where there is none."""
    if settings.token:
        return settings.token.reveal()
    if settings.token_file is None:
        return ""
    try:
        with settings.token_file.open("rb") as file:
            token = file.read(_MAX_TOKEN_BYTES).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        message = f"token_file {settings.token_file} cannot be read: {type(error).__name__}"
        raise SourceError(Fault.AUTHENTICATION, message, "check that it exists and is readable") from None
    if not token or not token.isprintable():
        raise SourceError(Fault.AUTHENTICATION, f"token_file {settings.token_file} is empty or holds several lines")
    return token


def secrets_of(settings: SourceSettings) -> tuple[str, ...]:
    """Every text that must not be seen in a message, longest first."""
    token = read_token(settings)
    found = {token, _basic(settings, token)} if token else set()
    if settings.proxy:
        parts = urlsplit(settings.proxy.reveal())
        found |= {settings.proxy.reveal(), parts.password or ""}
    return tuple(sorted((text for text in found if text), key=len, reverse=True))


def redact(text: str, secrets: Iterable[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, MASK)
    return text
