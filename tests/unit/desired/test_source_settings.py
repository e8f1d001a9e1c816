"""What an operator may write about a source, and what Git is then told."""

import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from reconciler.desired.git_environment import git_environment, redact, secrets_of
from reconciler.desired.source_error import Fault, SourceError, explain
from reconciler.desired.source_settings import SourceSettings
from reconciler.model.condition import Reason
from reconciler.model.secret import Secret

SSH = {"key_file": Path("/keys/id"), "known_hosts_file": Path("/keys/hosts")}


def settings(url: str = "https://git.example.test/team/r.git", **more: Any) -> SourceSettings:
    return SourceSettings(name="main", url=url, **more)


@pytest.mark.parametrize(
    ("url", "scheme"),
    [
        ("/srv/git/r.git", "file"),
        ("./manifests", "file"),
        ("manifests", "file"),
        ("file:///srv/git/r.git", "file"),
        ("https://git.example.test/r.git", "https"),
        ("https://git@git.example.test/r.git", "https"),
        ("ssh://git@git.example.test:2222/r.git", "ssh"),
        ("git@git.example.test:team/r.git", "ssh"),
    ],
)
def test_urls_that_are_taken(url: str, scheme: str) -> None:
    made = settings(url, **(SSH if scheme == "ssh" else {}))
    assert made.scheme == scheme
    assert (made.local_path is not None) == (scheme == "file")


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("ext::sh -c id", "transport helper"),
        ("fd::17", "transport helper"),
        ("git://git.example.test/r.git", "use https, ssh or file"),
        ("ftp://git.example.test/r.git", "use https, ssh or file"),
        ("http://git.example.test/r.git", "allow_http"),
        ("--upload-pack=touch /tmp/x", "starts with a dash"),
        ("ssh://-oProxyCommand=id/r.git", "no valid host"),
        ("https:///r.git", "no valid host"),
        ("https://git.example.test/r.git\n", "control characters"),
        ("file://server/share", "file:///path"),
        ("", "empty"),
    ],
)
def test_urls_that_are_refused_say_what_to_write(url: str, remedy: str) -> None:
    with pytest.raises(ValueError, match=remedy):
        settings(url, **SSH)


def test_a_password_in_the_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(ValueError, match="set token") as caught:
        settings("https://user:canary-secret@git.example.test/r.git")
    assert "canary-secret" not in str(caught.value)


@pytest.mark.parametrize("ref", ["", "main", "feature/x-1", "v1.0", "refs/heads/main", "0123456789" * 4, "größe"])
def test_refs_that_are_taken(ref: str) -> None:
    assert settings(ref=ref).is_commit == (len(ref) == 40)


@pytest.mark.parametrize(
    "ref", ["-x", "--upload-pack=id", "a b", "a..b", "a~1", "a^{}", "a:b", "x.lock", "/x", "x/", "@{1}"]
)
def test_refs_that_are_refused(ref: str) -> None:
    with pytest.raises(ValueError, match="not the name of a branch"):
        settings(ref=ref)


@pytest.mark.parametrize("path", ["../up", "/abs", "a/../../b", "a\nb"])
def test_paths_that_lead_out_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match="inside the source"):
        settings(path=path)


@pytest.mark.parametrize(
    ("more", "remedy"),
    [
        ({"url": "ssh://git@h.test/r.git"}, "key_file and known_hosts_file"),
        ({"url": "/srv/r.git", "token": Secret("x" * 9)}, "a token is for https"),
        ({"token": Secret("x"), "token_file": Path("/t")}, "exclude each other"),
        ({"token": Secret("one\r\nX-Evil: 1")}, "line break"),
        ({"interval": timedelta(0)}, "at least 1s"),
        ({"name": "Not A Name"}, "lower-case"),
    ],
)
def test_settings_that_contradict_themselves(more: dict[str, Any], remedy: str) -> None:
    with pytest.raises(ValueError, match=remedy):
        SourceSettings(**{"name": "main", "url": "https://h.test/r.git", **more})


def variables(made: SourceSettings, **inherited: str) -> dict[str, str]:
    return git_environment(made, {"PATH": "/bin", **inherited}, Path("/cache"))


def configuration(environment: dict[str, str]) -> list[tuple[str, str]]:
    count = int(environment["GIT_CONFIG_COUNT"])
    return [(environment[f"GIT_CONFIG_KEY_{n}"], environment[f"GIT_CONFIG_VALUE_{n}"]) for n in range(count)]


def test_the_token_goes_to_the_origin_of_the_source_only() -> None:
    made = settings("https://git.example.test:8443/team/r.git", token=Secret("canary"))
    keys = [key for key, value in configuration(variables(made)) if "Authorization" in value]
    assert keys == ["http.https://git.example.test:8443/.extraHeader"]


def test_the_daemon_takes_nothing_from_the_users_environment() -> None:
    users = {
        "HOME": "/home/u",
        "GIT_DIR": "/x",
        "GIT_TRACE_CURL": "1",
        "GIT_SSH_COMMAND": "evil",
        "SSH_AUTH_SOCK": "/s",
    }
    environment = variables(settings(), **users, HTTPS_PROXY="http://p.test")
    assert environment["HOME"] == "/cache"
    assert not {"GIT_DIR", "GIT_TRACE_CURL", "SSH_AUTH_SOCK"} & environment.keys()
    assert "evil" not in environment["GIT_SSH_COMMAND"]
    assert environment["HTTPS_PROXY"] == "http://p.test"
    fixed = dict(configuration(environment))
    assert (fixed["core.hooksPath"], fixed["protocol.ext.allow"], fixed["credential.helper"]) == (
        "/dev/null",
        "never",
        "",
    )
    assert environment["GIT_ALLOW_PROTOCOL"] == "file:https:ssh"


def test_a_users_own_run_keeps_their_configuration_but_no_prompt() -> None:
    users = {"HOME": "/home/u", "GIT_DIR": "/x", "GIT_TRACE": "1", "SSH_AUTH_SOCK": "/s"}
    environment = variables(settings(use_user_config=True), **users)
    assert (environment["HOME"], environment["SSH_AUTH_SOCK"]) == ("/home/u", "/s")
    assert not {"GIT_DIR", "GIT_TRACE", "GIT_CONFIG_NOSYSTEM", "GIT_CONFIG_GLOBAL"} & environment.keys()
    assert (environment["GIT_TERMINAL_PROMPT"], environment["GIT_ASKPASS"]) == ("0", "")
    assert "credential.helper" not in dict(configuration(environment))
    assert "BatchMode=yes" in environment["GIT_SSH_COMMAND"]


def test_everything_secret_is_redacted_and_nothing_is_shown() -> None:
    made = settings(token=Secret("canary-token"), proxy=Secret("http://u:canary-proxy@p.test"))
    basic = next(value for _, value in configuration(variables(made)) if "Basic" in value).split()[-1]
    text = redact(f"a canary-token b {basic} c canary-proxy d http://u:canary-proxy@p.test", secrets_of(made))
    assert "canary" not in text + repr(made)
    assert basic not in text


@pytest.mark.parametrize(
    ("said", "fault", "reason"),
    [
        ("fatal: Authentication failed for 'https://h/'", Fault.AUTHENTICATION, Reason.AUTHENTICATION_FAILED),
        ("fatal: unable to access 'https://h/': The requested URL returned error: 403", Fault.AUTHENTICATION, None),
        (
            "git@h: Permission denied (publickey).\nfatal: Could not read from remote repository.",
            Fault.AUTHENTICATION,
            None,
        ),
        (
            "fatal: unable to access 'https://h/': Could not resolve host: h",
            Fault.UNREACHABLE,
            Reason.REMOTE_UNAVAILABLE,
        ),
        ("ssh: connect to host h port 22: Connection refused", Fault.UNREACHABLE, None),
        ("fatal: unable to access 'https://h/': SSL certificate problem: self-signed", Fault.TLS, Reason.TLS_FAILED),
        ("No ED25519 host key is known for h and you have requested strict checking.", Fault.HOST_KEY, None),
        ("fatal: couldn't find remote ref refs/heads/x", Fault.VANISHED, Reason.REJECTED),
        ("error: inflate: data stream error\nfatal: loose object a is corrupt", Fault.CORRUPT, Reason.PROTOCOL_ERROR),
        ("fatal: detected dubious ownership in repository at '/r'", Fault.OWNERSHIP, Reason.PERMISSION_DENIED),
        ("fatal: transport 'ext' not allowed", Fault.REFUSED, None),
        (
            "error: unable to write file objects/ab/cd: No space left on device\nfatal: unpack-objects failed",
            Fault.FULL,
            Reason.STORE_FULL,
        ),
        ("fatal: something new", Fault.FAILED, Reason.PROTOCOL_ERROR),
        ("", Fault.FAILED, None),
    ],
)
def test_what_git_said_is_understood(said: str, fault: Fault, reason: Reason | None) -> None:
    error = explain(said, "fetching")
    assert error.fault is fault
    assert reason in (None, error.reason)
    assert str(error).startswith("fetching failed: ")


def test_a_remote_cannot_write_escape_sequences_into_a_log() -> None:
    assert "\x1b" not in str(explain("remote: \x1b[31mhaha\x07 fatal: something", "fetching"))


def test_a_token_file_that_is_gone_says_so(tmp_path: Path) -> None:
    made = replace(settings(), token_file=tmp_path / "none")
    with pytest.raises(SourceError, match="token_file"):
        git_environment(made, os.environ, tmp_path)
