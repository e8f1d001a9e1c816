"""The daemon's settings: file, environment and flags as one, and a wrong one told with its name."""

from datetime import timedelta
from pathlib import Path

import pytest

from reconciler.settings import SettingsError, load_settings

FORGE = "{mode: pull-request, forge: {kind: github, %s}}"


def test_later_places_win(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("state_dir: /from/file\nlisten: 127.0.0.1:1\nlog: {format: json}\n")
    env = {"RECONCILER_LISTEN": "127.0.0.1:2", "RECONCILER_REPO": "/repo", "RECONCILER_REPO_TOKEN": "t"}
    settings = load_settings(env, file, {"listen": "127.0.0.1:3", "log.level": None})
    assert (settings.listen, settings.log.format, str(settings.state_dir)) == ("127.0.0.1:3", "json", "/from/file")
    assert [(s.url, s.token_env) for s in settings.sources] == [("/repo", "RECONCILER_REPO_TOKEN")]


@pytest.mark.parametrize("written", ["true", "'true'", "yes", "'yes'", "1"])
def test_settings_are_no_manifest_and_take_text_for_what_it_stands_for(tmp_path: Path, written: str) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(f"sources: [{{url: a, allow_http: {written}, interval: 5m}}]")
    settings = load_settings({"RECONCILER_STATE_DIR": "/5", "RECONCILER_PROBE_INTERVAL": "30s"}, file)
    assert settings.sources[0].allow_http is True
    assert (settings.sources[0].interval, settings.probe_interval) == (timedelta(minutes=5), timedelta(seconds=30))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lisen: x", "unknown setting lisen, did you mean listen?"),
        ("listen: nowhere", "listen: expected host:port"),
        ("sources: [{url: a}, {url: b}]", "sources: two sources have the same name"),
        ("sources: [{url: a, write_back: {mode: pull-request}}]", "write_back: mode pull-request needs forge"),
        (
            "sources: [{url: a, write_back: {mod: commit}}]",
            "unknown setting sources.0.write_back.mod, did you mean mode?",
        ),
        ("sources: [{url: a, write_back: {mode: yes}}]", "sources.0.write_back.mode: "),
        ('sources: [{url: a, write_back: {committer_name: "a\\nb"}}]', "expected text on one line"),
        (
            f"sources: [{{url: a, write_back: {FORGE % 'repository: a/b'}}}]",
            "forge: set one of token_env and token_file",
        ),
        (f"sources: [{{url: a, write_back: {FORGE % 'repository: a, token_env: T'}}}]", "repository is owner/name"),
        (
            f"sources: [{{url: a, write_back: {FORGE % 'repository: a/b, token_env: T, api_url: x'}}}]",
            "api_url is a URL",
        ),
        (
            f"sources: [{{url: a, write_back: {FORGE % 'repository: a/b, token_env: T, api_url: http://x'}}}]",
            "use https or allow_http",
        ),
        ("probe_interval: often", "probe_interval: a duration is a number and a unit"),
        ("[1]", "expected a mapping"),
        ("tls: {key_file: /x}", "tls: key_file is set and cert_file is not"),
        ("tls: {min_version: 1.1}", "tls.min_version: Input should be '1.2' or '1.3'"),
        ("api: {rate: {window: 0s}}", "api.rate.window: expected more than nothing"),
        ("api: {max_body: 1}", "api.max_body: Input should be greater than or equal to 1024"),
        ("api: {timeout: 1ms}", "api.timeout: expected at least 1s"),
        ("api: {trusted_proxies: [proxy.example]}", "proxy.example is neither an address nor a CIDR"),
        ("api: {reserved: [/spec/netwrok/**]}", "/spec/netwrok/** is neither a field"),
        ("api: {reserved: [/status]}", "/status is neither a field"),
        ("api: {reserved: [prune]}", "nor one of: create, edit, disconnect, delete, purge"),
        (
            "oidc: [{issuer: 'http://i.example', audience: a, workspace: w, permissions: [{claim: c, value: v}]}]",
            "oidc.0: issuer must be an https:// URL",
        ),
        (
            "oidc: [{issuer: 'https://i', audience: a, permissions: [{claim: c, value: v}]}]",
            "which workspace its callers belong to",
        ),
        (
            "oidc: [{issuer: 'https://i', audience: a, workspace: w, workspace_claim: x, permissions: [{claim: c, value: v}]}]",
            "set workspace or workspace_claim, not both",
        ),
        ("oidc: [{issuer: 'https://i', audience: a, workspace: w, permissions: []}]", "oidc.0.permissions"),
        (
            "oidc: [{issuer: 'https://i', audience: a, workspace: w, permissions: [{claim: c, value: v, grant: [x]}]}]",
            "oidc.0.permissions.0.grant.0",
        ),
        (
            "oidc: [{issuer: 'https://i', audience: a, workspce: w, permissions: [{claim: c, value: v, workspace: '*'}]}]",
            "unknown setting oidc.0.workspce, did you mean workspace?",
        ),
        ("a: [", "not valid YAML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=r"settings\.yaml") as raised:
        load_settings({}, file)
    assert said in str(raised.value)


def test_who_may_call_and_how_much(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    rule = "{claim: groups, value: ops, grant: [integration.view], workspace: '*'}"
    file.write_text(
        "api: {rate: {requests: 60, window: 1m, burst: 5}, reserved: [/spec/network/**, '/spec/*/url', '/**/url', purge]}\n"
        f"oidc: [{{issuer: 'http://127.0.0.1:1', audience: a, allow_http: true, permissions: [{rule}]}}]\n"
    )
    settings = load_settings({"RECONCILER_TLS_CERT_FILE": "/env"}, file, {"tls.key_file": Path("/flag")})
    assert (settings.tls.cert_file, settings.tls.key_file) == (Path("/env"), Path("/flag"))
    assert (settings.api.rate.burst, settings.api.max_body, settings.api.timeout) == (5, 2**20, timedelta(minutes=1))
    assert settings.oidc[0].permissions[0].workspace == "*"


def test_writing_to_git_is_off_unless_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("sources: [{name: a, url: a}, {name: b, url: b, write_back: {mode: off}}]")
    assert [source.write_back.mode for source in load_settings({}, file).sources] == ["off", "off"]
