"""From settings to the parts of a daemon: sources, policy, network, guard. Pure wiring, no loops."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from reconciler.desired.policy import TenantPolicy, WorkspaceRule
from reconciler.desired.source_settings import Scheme, SourceSettings
from reconciler.desired.validate import Inputs
from reconciler.desired.writing.forge import Forge, GitHub, GitLab, RestForge
from reconciler.desired.writing.rules import Mode, WriteRules
from reconciler.desired.writing.signing import Signing, SigningFormat
from reconciler.desired.writing.terms import Author, WriteError, WriteFault
from reconciler.model.secret import Secret
from reconciler.sdk import registry
from reconciler.sdk.contract import Http
from reconciler.sdk.guard import GuardSettings, HostGuard
from reconciler.sdk.network import NetworkSettings
from reconciler.settings import Settings, SettingsError, Source


def source_settings(source: Source, env: Mapping[str, str]) -> SourceSettings:
    """Raises SettingsError for what the source refuses."""
    token = env.get(source.token_env) if source.token_env else None
    if source.token_env and not token:
        raise SettingsError(f"source {source.name}: the variable {source.token_env} (token_env) is not set")
    try:
        return SourceSettings(
            name=source.name,
            url=source.url,
            ref=source.ref,
            path=source.path,
            interval=source.interval,
            timeout=source.timeout,
            token=Secret(token) if token else None,
            token_file=source.token_file,
            username=source.username,
            token_scheme=Scheme(source.token_scheme),
            key_file=source.key_file,
            known_hosts_file=source.known_hosts_file,
            ca_file=source.ca_file,
            client_certificate_file=source.client_certificate_file,
            client_key_file=source.client_key_file,
            proxy=Secret(source.proxy) if source.proxy else None,
            allow_http=source.allow_http,
            trust_owner=source.trust_owner,
        )
    except ValueError as error:
        raise SettingsError(str(error)) from None


def write_rules(source: Source) -> WriteRules:
    """How changes are written to the source; raises SettingsError for what that refuses."""
    given = source.write_back
    signing = Signing(given.signing_key_file, SigningFormat(given.signing_format)) if given.signing_key_file else None
    try:
        return WriteRules(
            mode=Mode(given.mode),
            path=given.path,
            committer=Author(given.committer_name, given.committer_email),
            signing=signing,
            has_forge=given.forge is not None,
        )
    except ValueError as error:
        raise SettingsError(f"source {source.name}: {error}") from None


def forge_of(source: Source, env: Mapping[str, str], http: Http) -> Forge | None:
    """Where the source's pull requests are opened; None where none are. Raises SettingsError without a token."""
    given = source.write_back.forge
    if given is None or source.write_back.mode != "pull-request":
        return None
    token = env.get(given.token_env, "")
    if given.token_env and not token:
        raise SettingsError(f"source {source.name}: the variable {given.token_env} (write_back.forge) is not set")
    held = Secret(token)
    read = partial(_token, given.token_file) if given.token_file else held.reveal
    if given.kind == "github":
        return RestForge(GitHub(given.api_url or "https://api.github.com", given.repository, read), http)
    return RestForge(GitLab(given.api_url or "https://gitlab.com/api/v4", given.repository, read), http)


def _token(path: Path) -> str:
    """Read each time, because tokens are rotated."""
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        message = f"token_file {path} of write_back.forge cannot be read: {type(error).__name__}"
        raise WriteError(WriteFault.FORGE, message, "check that it exists and is readable") from None
    return token


def source_inputs(settings: Settings, policy: TenantPolicy) -> dict[str, Inputs]:
    """What the manifests of each source are checked against."""
    return {
        source.name: Inputs(
            source=source.name,
            registry=registry,
            policy=policy,
            workspaces=source.workspaces,
            is_alone=len(settings.sources) == 1,
        )
        for source in settings.sources
    }


def tenant_policy(settings: Settings) -> TenantPolicy:
    return TenantPolicy(
        tuple(
            WorkspaceRule(t.workspaces, t.paths, t.types, t.hosts, t.env_prefix, t.secret_folder)
            for t in settings.tenants
        )
    )


def host_guard(settings: Settings) -> HostGuard:
    h = settings.hosts
    return HostGuard(GuardSettings(allow=h.allow, deny=h.deny, only=h.only, allow_private=h.allow_private))


def network_settings(settings: Settings) -> NetworkSettings:
    n = settings.network
    return NetworkSettings(
        proxy=n.proxy, no_proxy=n.no_proxy, ca_file=n.ca_file, client_cert=n.client_cert, client_key=n.client_key
    )
