"""The daemon's own settings: a YAML file, then environment, then flags; later ones win.

Everything a tenant may not decide for itself is here: sources, which paths belong to which workspace, permitted types,
hosts, environment names and secret folders. A wrong setting is a `SettingsError` that names the setting.
"""

import os
from collections.abc import Mapping
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator, model_validator

from reconciler.model.access import Operation, Permission
from reconciler.model.manifest import Duration, Metadata, Name, Spec
from reconciler.model.secret import Secret
from reconciler.model.written import Written


class SettingsError(Exception):
    """A setting is missing or wrong; the message names it and says what is expected."""


class Forge(Written):
    """Where pull requests are opened. The token may open them; it is named, never written here."""

    kind: Literal["github", "gitlab"]
    repository: str = Field(pattern=r"^[^\s?#]+$", description="`owner/name`, or the path of a GitLab project.")
    api_url: str = Field("", description="Root of the API; default: that of github.com or gitlab.com.")
    token_env: str = ""
    token_file: Path | None = None

    @model_validator(mode="after")
    def _one_token(self) -> Self:
        if bool(self.token_env) == bool(self.token_file):
            raise ValueError("set one of token_env and token_file: the token that may open pull requests")
        if self.kind == "github" and self.repository.count("/") != 1:
            raise ValueError("repository is owner/name at GitHub")
        if self.api_url and not self.api_url.startswith(("https://", "http://")):
            raise ValueError("api_url is a URL, such as https://git.example.org/api/v4")
        return self


class WriteBack(Written):
    """How changes made over the API come into the repository."""

    mode: Literal["off", "commit", "pull-request"] = "off"
    path: str = Field("{workspace}/{name}.yaml", description="Where new manifests go, below `path` of the source.")
    committer_name: str = "reconciler"
    committer_email: str = "reconciler@localhost"
    signing_key_file: Path | None = Field(None, description="Private key without a passphrase that signs the commits.")
    signing_format: Literal["ssh", "openpgp"] = "ssh"
    forge: Forge | None = None

    @field_validator("mode", mode="before")
    @classmethod
    def _off_is_a_word(cls, value: Any) -> Any:
        """The settings file is read as YAML 1.1, where `off` is false."""
        return "off" if value is False else value

    @field_validator("committer_name", "committer_email")
    @classmethod
    def _on_one_line(cls, value: str) -> str:
        if not value.strip(" .,:;<>\"'") or not value.isprintable() or "<" in value or ">" in value:
            raise ValueError("expected text on one line without < and >")
        return value

    @model_validator(mode="after")
    def _has_forge(self) -> Self:
        if self.mode == "pull-request" and self.forge is None:
            raise ValueError("mode pull-request needs forge: {kind: github, repository: owner/name, token_env: NAME}")
        return self


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
    write_back: WriteBack = WriteBack()

    @model_validator(mode="after")
    def _forge_is_safe(self) -> Self:
        forge = self.write_back.forge
        if forge is not None and forge.api_url.startswith("http://") and not self.allow_http:
            raise ValueError(
                "write_back.forge.api_url: http:// shows the token to the network; use https or allow_http"
            )
        return self


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


class Tls(Written):
    """The certificate of `listen`; both files are read again when they change."""

    cert_file: Path | None = Field(None, description="PEM: the certificate, then those between it and its authority.")
    key_file: Path | None = Field(None, description="PEM without a password; default: it is in cert_file.")
    min_version: Literal["1.2", "1.3"] = "1.2"

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.key_file and not self.cert_file:
            raise ValueError("key_file is set and cert_file is not")
        return self


class Rate(Written):
    """How much one caller may ask: `burst` at once, then `requests` in each `window`. No requests: no limit.

    A hundred a second is more than any dashboard, pipeline or agent needs, and a fiftieth of what one process answers: a
    loop that went wrong is stopped long before others feel it.
    """

    requests: int = Field(6000, ge=0)
    window: Duration = timedelta(minutes=1)
    burst: int = Field(200, ge=1)

    @field_validator("window")
    @classmethod
    def _some(cls, value: timedelta) -> timedelta:
        if value <= timedelta(0):
            raise ValueError("expected more than nothing, such as 1m")
        return value


Origin = Annotated[str, Field(pattern=r"^https?://[a-z0-9.-]+(:[0-9]{1,5})?$", max_length=300)]


class Api(Written):
    """What callers of the API may ask of the daemon, whatever their tokens say."""

    rate: Rate = Rate()
    max_body: int = Field(2**20, ge=1024, le=64 * 2**20, description="Bytes of one request.")
    timeout: Duration = Field(timedelta(minutes=1), description="For one request, its body and its answer.")
    trusted_proxies: tuple[str, ...] = Field((), description="Addresses or CIDRs whose X-Forwarded-For is believed.")
    cors: tuple[Origin, ...] = Field((), description="Origins of web pages that may call the API; none unless set.")
    reserved: tuple[str, ...] = Field(
        (), description="Fields of manifests, as JSON pointers with * and **, and operations that need `admin`."
    )

    @field_validator("timeout")
    @classmethod
    def _enough(cls, value: timedelta) -> timedelta:
        if value < timedelta(seconds=1):
            raise ValueError("expected at least 1s")
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            try:
                ip_network(text, strict=False)
            except ValueError:
                raise ValueError(f"{text} is neither an address nor a CIDR, such as 10.0.0.0/8") from None
        return value

    @field_validator("reserved")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            if not (_is_pointer(text) if text.startswith("/") else text in set(Operation)):
                operations = ", ".join(Operation)
                raise ValueError(f"{text} is neither a field, such as /spec/network/**, nor one of: {operations}")
        return value


def _is_pointer(text: str) -> bool:
    """Whether manifests have such a field, as far as that is known here: a mistyped one would reserve nothing."""
    place, _, rest = text[1:].partition("/")
    field = rest.partition("/")[0]
    parts: Mapping[str, type[Written]] = {"spec": Spec, "metadata": Metadata}
    if place not in parts:
        return place in {"*", "**"}
    known = {one.alias or name for name, one in parts[place].model_fields.items()}
    return field in known or not field or "*" in field


class ClaimRule(Written):
    """A token that has `value` among the values of `claim` may do what `grant` says, in `workspace`."""

    claim: str = Field(min_length=1, description="Name, or dotted path inside the claims.")
    value: str
    grant: tuple[Permission, ...] = ()
    workspace: Name | Literal["*"] | None = Field(None, description="`*`: every workspace.")


class Oidc(Written):
    """An issuer whose tokens open the API."""

    issuer: str
    audience: str = Field(min_length=1, description="What `aud` of a token must be or contain.")
    jwks_url: str = Field("", description="Where its keys are; default: where its discovery document says.")
    name_claim: str = Field("sub", min_length=1, description="The caller's name, in audit, commits and spec.access.")
    name_prefix: str = Field("", description="Put before the name, so that it is never the name of a token of ours.")
    workspace: Name | Literal["*"] | None = Field(None, description="Of all its callers; `*`: every workspace.")
    workspace_claim: str = Field("", description="The claim that names the caller's workspace.")
    permissions: tuple[ClaimRule, ...] = Field(min_length=1)
    allow_http: bool = Field(False, description="Permit http://, where everybody on the way can let anyone in.")

    @model_validator(mode="after")
    def _sound(self) -> Self:
        for name, url in (("issuer", self.issuer), ("jwks_url", self.jwks_url)):
            parts = urlsplit(url)
            if url and not (parts.hostname and parts.scheme in ({"https", "http"} if self.allow_http else {"https"})):
                raise ValueError(f"{name} must be an https:// URL")
        if not self.issuer:
            raise ValueError("issuer must be an https:// URL")
        if self.workspace and self.workspace_claim:
            raise ValueError("set workspace or workspace_claim, not both")
        if not (self.workspace or self.workspace_claim or all(rule.workspace for rule in self.permissions)):
            raise ValueError(
                "which workspace its callers belong to: set workspace, workspace_claim or that of each rule"
            )
        return self


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
    credential_warning: Duration = Field(
        timedelta(days=7), description="How long before a credential ends, that nothing renews by itself, it is told."
    )
    age_key_file: Path | None = None
    master_key_file: Path | None = None
    stop_timeout: Duration = timedelta(seconds=20)
    api: Api = Api()
    oidc: tuple[Oidc, ...] = ()
    tls: Tls = Tls()

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

    @field_validator("oidc")
    @classmethod
    def _issuers(cls, value: tuple[Oidc, ...]) -> tuple[Oidc, ...]:
        seen = [(one.issuer, one.audience) for one in value]
        if len(set(seen)) != len(seen):
            raise ValueError("two entries have the same issuer and audience")
        return value


_FROM_ENV = {
    "RECONCILER_STATE_DIR": "state_dir",
    "RECONCILER_ROLE": "role",
    "RECONCILER_LISTEN": "listen",
    "RECONCILER_PUBLIC_URL": "public_url",
    "RECONCILER_TLS_CERT_FILE": "tls.cert_file",
    "RECONCILER_TLS_KEY_FILE": "tls.key_file",
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

    parts = (Settings, Source, WriteBack, Forge, Tenant, Hosts, Network, Log, Tls, Api, Rate, Oidc, ClaimRule)
    known = {name for part in parts for name in part.model_fields}
    close = get_close_matches(word, known, 1)
    return f", did you mean {close[0]}?" if close else ""


def _explain(error: Any, path: Path | None) -> str:
    where = ".".join(map(str, error["loc"])) or "settings"
    prefix = f"{path}: " if path else ""
    if error["type"] == "extra_forbidden":
        return f"{prefix}unknown setting {where}{_suggestion(str(error['loc'][-1]))}"
    return f"{prefix}{where}: {error['msg'].removeprefix('Value error, ')}"
