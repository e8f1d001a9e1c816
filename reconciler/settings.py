"""The daemon's own settings: a YAML file, then environment, then flags; later ones win.

Everything a tenant may not decide for itself is here: sources, which paths belong to which workspace, permitted types,
hosts, environment names and secret folders. A wrong setting is a `SettingsError` that names the setting.
"""

import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from reconciler.model.manifest import Duration
from reconciler.model.secret import Secret
from reconciler.model.written import Written


class SettingsError(Exception):
    """A setting is missing or wrong; the message names it and says what is expected."""


class Source(Written):
    """Where manifests come from. A token is named by environment variable or file, never written here."""

    name: str = "main"
    url: str
    ref: str = Field("", description="Branch, tag or commit; default: the remote's HEAD.")
    path: str = Field("", description="Sub-folder that holds the manifests.")
    workspaces: tuple[str, ...] = ("*",)
    interval: Duration = timedelta(minutes=1)
    timeout: Duration = timedelta(minutes=2)
    token_env: str = Field("", description="Environment variable that holds the token.")
    token_file: Path | None = None
    username: str = ""
    token_scheme: Literal["basic", "bearer"] = "basic"
    key_file: Path | None = Field(None, description="Private deploy key for ssh.")
    known_hosts_file: Path | None = None
    ca_file: Path | None = None
    client_certificate_file: Path | None = None
    client_key_file: Path | None = None
    proxy: str = ""
    allow_http: bool = False
    trust_owner: bool = Field(False, description="Read a repository that belongs to another user of this machine.")


class Tenant(Written):
    """What workspaces with a matching name may do; the first entry that matches counts."""

    workspaces: tuple[str, ...] = ("*",)
    paths: tuple[str, ...] = ("**",)
    types: tuple[str, ...] = ("*",)
    hosts: tuple[str, ...] = ("*",)
    env_prefix: str = Field("", description="`from_env` may read variables that start with this; empty: none.")
    secret_folder: Path | None = Field(None, description="`from_file` may read files below this folder; unset: none.")


class Hosts(Written):
    """Which hosts the daemon connects to. Loopback, link-local and metadata addresses need an entry in `allow`."""

    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    allow_private: bool = True


class Network(Written):
    proxy: str = ""
    no_proxy: tuple[str, ...] = ()
    ca_file: str = ""
    client_cert: str = ""
    client_key: str = ""


class Log(Written):
    format: Literal["console", "json"] = "console"
    level: Literal["debug", "info", "warning", "error"] = "info"


DATABASE_ENV = "RECONCILER_DATABASE_URL"


def database_url(env: Mapping[str, str]) -> Secret | None:
    """Where state is kept instead of in the state directory: `RECONCILER_DATABASE_URL`, or a file that holds it."""
    url, path = env.get(DATABASE_ENV, ""), env.get(f"{DATABASE_ENV}_FILE", "")
    try:
        url = url or (Path(path).read_text(encoding="utf-8").strip() if path else "")
    except OSError as error:
        raise SettingsError(f"{DATABASE_ENV}_FILE: {path}: {error.strerror}") from None
    if url and not url.startswith(("postgresql://", "postgres://")):
        raise SettingsError(f"{DATABASE_ENV}: expected postgresql://user:password@host:5432/database")
    return Secret(url) if url else None


def default_state_dir(env: Mapping[str, str]) -> Path:
    """`$XDG_STATE_HOME/reconciler`, or `/var/lib/reconciler` for root."""
    if os.geteuid() == 0 and "XDG_STATE_HOME" not in env:
        return Path("/var/lib/reconciler")
    base = env.get("XDG_STATE_HOME") or str(Path(env.get("HOME", "~")).expanduser() / ".local" / "state")
    return Path(base) / "reconciler"


Role = Literal["all", "controller", "worker", "api"]


class Settings(Written):
    """All of them, checked."""

    state_dir: Path
    role: Role = Field("all", description="What this process does; roles other than all need PostgreSQL.")
    sources: tuple[Source, ...] = ()
    listen: str = Field("127.0.0.1:8750", description="Address of metrics, health and the status API; empty: none.")
    public_url: str = Field("", description="Where remotes reach this daemon; empty: no webhooks are registered.")
    tenants: tuple[Tenant, ...] = (Tenant(),)
    hosts: Hosts = Hosts()
    network: Network = Network()
    log: Log = Log()
    probe_interval: Duration = timedelta(minutes=5)
    age_key_file: Path | None = None
    master_key_file: Path | None = None
    stop_timeout: Duration = timedelta(seconds=20)

    @field_validator("listen")
    @classmethod
    def _address(cls, value: str) -> str:
        host, _, port = value.rpartition(":")
        if value and not (host and port.isdigit() and int(port) < 65_536):
            raise ValueError("expected host:port, such as 127.0.0.1:8750")
        return value

    @field_validator("sources")
    @classmethod
    def _distinct(cls, value: tuple[Source, ...]) -> tuple[Source, ...]:
        names = [s.name for s in value]
        if len(set(names)) != len(names):
            raise ValueError("two sources have the same name")
        return value


_FROM_ENV = {
    "RECONCILER_STATE_DIR": "state_dir",
    "RECONCILER_ROLE": "role",
    "RECONCILER_LISTEN": "listen",
    "RECONCILER_PUBLIC_URL": "public_url",
    "RECONCILER_PROBE_INTERVAL": "probe_interval",
    "RECONCILER_AGE_KEY_FILE": "age_key_file",
    "RECONCILER_MASTER_KEY_FILE": "master_key_file",
    "RECONCILER_LOG_FORMAT": "log.format",
    "RECONCILER_LOG_LEVEL": "log.level",
    "RECONCILER_PROXY": "network.proxy",
    "RECONCILER_CA_FILE": "network.ca_file",
    "RECONCILER_REPO": "source.url",
    "RECONCILER_REPO_REF": "source.ref",
    "RECONCILER_REPO_PATH": "source.path",
    "RECONCILER_REPO_KEY_FILE": "source.key_file",
    "RECONCILER_REPO_KNOWN_HOSTS_FILE": "source.known_hosts_file",
    "RECONCILER_REPO_TOKEN_FILE": "source.token_file",
    "RECONCILER_REPO_INTERVAL": "source.interval",
}
TOKEN_ENV = "RECONCILER_REPO_TOKEN"


def load_settings(env: Mapping[str, str], file: Path | None = None, flags: Mapping[str, Any] | None = None) -> Settings:
    """File, environment and flags as one; raises SettingsError. Flags use the dotted names of the settings."""
    path = file or (Path(env["RECONCILER_CONFIG"]) if env.get("RECONCILER_CONFIG") else None)
    values = _read(path) if path else {}
    single: dict[str, Any] = {}
    for name, dotted in _FROM_ENV.items():
        if env.get(name):
            _put(values, single, dotted, env[name])
    for dotted, value in (flags or {}).items():
        if value is not None:
            _put(values, single, dotted, value)
    if single:
        if env.get(TOKEN_ENV) and "token_file" not in single:
            single["token_env"] = TOKEN_ENV
        values["sources"] = [single]
    values.setdefault("state_dir", default_state_dir(env))
    try:
        # Not strict: an environment variable is text, whatever it stands for.
        return Settings.model_validate(values, strict=False)
    except ValidationError as error:
        raise SettingsError("; ".join(_explain(e, path) for e in error.errors())) from None


def _put(values: dict[str, Any], source: dict[str, Any], dotted: str, value: Any) -> None:
    head, _, rest = dotted.partition(".")
    if head == "source":
        source[rest] = value
    elif rest:
        section = values.setdefault(head, {})
        section[rest] = value
    else:
        values[head] = value


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        loaded = yaml.safe_load(path.read_text())
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}; --config names the settings file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(loaded, dict | None):
        raise SettingsError(f"{path}: expected a mapping of settings")
    return loaded or {}


def _suggestion(word: str) -> str:
    from difflib import get_close_matches

    known = {name for part in (Settings, Source, Tenant, Hosts, Network, Log) for name in part.model_fields}
    close = get_close_matches(word, known, 1)
    return f", did you mean {close[0]}?" if close else ""


def _explain(error: Any, path: Path | None) -> str:
    where = ".".join(map(str, error["loc"])) or "settings"
    prefix = f"{path}: " if path else ""
    if error["type"] == "extra_forbidden":
        return f"{prefix}unknown setting {where}{_suggestion(str(error['loc'][-1]))}"
    return f"{prefix}{where}: {error['msg'].removeprefix('Value error, ')}"
