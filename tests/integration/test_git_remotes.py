"""The Git source over HTTPS and SSH: credentials, certificates, host keys, and what must never be seen."""

import asyncio
import logging
import os
import socket
import traceback
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from reconciler.desired.source import GitSource
from reconciler.desired.source_error import Fault, SourceError
from reconciler.desired.source_settings import Scheme, SourceSettings
from reconciler.model.secret import Secret
from tests.conftest import find_program
from tests.integration.git_remote import GitHttps, Repo, Sshd, StepClock, https_server, ssh_server

CANARY = "canary-3f9d-token-of-nobody"


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    made = Repo.make(tmp_path / "work")
    made.commit("first", files={"integrations/jira.yaml": None})
    made.bare(tmp_path / "served" / "r.git")
    return made


@pytest.fixture
def https(repo: Repo, tmp_path: Path) -> Iterator[GitHttps]:
    with https_server(tmp_path / "served", tmp_path) as server:
        yield server


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with ssh_server(find_program("sshd") or "sshd", tmp_path_factory.mktemp("ssh") / "server") as server:
        yield server


def over_https(https: GitHttps, tmp_path: Path, **settings: Any) -> GitSource:
    values = {"name": "web", "url": f"{https.url}/r.git", "ca_file": https.ca_file, **settings}
    return GitSource(SourceSettings(**values), tmp_path / "cache", StepClock())


def over_ssh(sshd: Sshd, tmp_path: Path, **settings: Any) -> GitSource:
    values = {
        "name": "deploy",
        "url": f"ssh://{sshd.user}@127.0.0.1:{sshd.port}{tmp_path}/served/r.git",
        "key_file": sshd.key_file,
        "known_hosts_file": sshd.known_hosts_file,
        **settings,
    }
    return GitSource(SourceSettings(**values), tmp_path / "cache", StepClock())


async def fault_of(source: GitSource) -> SourceError:
    with pytest.raises(SourceError) as caught:
        await source.fetch()
    return caught.value


async def test_https_with_a_private_ca_and_a_basic_token(https: GitHttps, repo: Repo, tmp_path: Path) -> None:
    https.expected = https.basic(CANARY)
    source = over_https(https, tmp_path, token=Secret(CANARY))
    first = await source.fetch()
    assert b"jira" in first.read("integrations/jira.yaml")
    assert first.history("integrations/jira.yaml").created_by == "ada@example.test"
    assert {given for _, given in https.seen} == {https.expected}  # no request without it, so no extra round
    head = repo.commit("second", files={"integrations/new.yaml": None})
    repo.git("push", "--quiet", "origin", "main")
    second = await source.fetch()
    assert (second.revision, set(second.changes(first))) == (head, {"integrations/new.yaml"})
    repo.git("reset", "--quiet", "--hard", "HEAD~1")
    repo.commit("rewritten")
    repo.git("push", "--quiet", "--force", "origin", "main")
    await source.fetch()
    assert source.state.is_rewritten is True


async def test_https_with_a_bearer_token_from_a_file_that_rotates(https: GitHttps, repo: Repo, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("one\n")
    https.expected = "Bearer one"
    source = over_https(https, tmp_path, token_file=token, token_scheme=Scheme.BEARER)
    await source.fetch()
    https.expected = "Bearer two"
    assert (await fault_of(source)).fault is Fault.AUTHENTICATION
    token.write_text("two\n")
    await source.fetch()
    assert source.state.error is None
    token.unlink()
    assert "token_file" in str(await fault_of(source))


@pytest.mark.parametrize("status", [401, 403])
async def test_a_wrong_token_is_told_without_a_prompt_and_without_the_token(
    status: int, https: GitHttps, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    https.expected, https.status = https.basic("the right one"), 0 if status == 401 else status
    source = over_https(https, tmp_path, token=Secret(CANARY))
    error = await fault_of(source)
    assert error.fault is Fault.AUTHENTICATION
    told = "".join(traceback.format_exception(error)) + repr(source.settings) + repr(source.state) + caplog.text
    assert CANARY not in told
    assert https.basic(CANARY).split()[1] not in told
    assert source.state.error
    assert source.state.error.reason == "AuthenticationFailed"


async def test_the_token_is_in_no_argument_list_and_in_no_file(https: GitHttps, repo: Repo, tmp_path: Path) -> None:
    https.expected = https.basic(CANARY)
    source = over_https(https, tmp_path, token=Secret(CANARY))
    https.gate.clear()
    task = asyncio.create_task(source.fetch())
    await asyncio.to_thread(https.arrived.wait, 10)
    lines = await asyncio.to_thread(_command_lines)
    https.gate.set()
    await task
    assert any("ls-remote" in line for line in lines)
    secrets = (CANARY, https.basic(CANARY).split()[1])
    assert not [line for line in lines if any(secret in line for secret in secrets)]
    written = [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]
    assert written
    assert not [p for p in written if any(secret.encode() in p.read_bytes() for secret in secrets)]
    assert all(folder.stat().st_mode & 0o077 == 0 for folder in (tmp_path / "cache").iterdir())


def _command_lines() -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(process.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return found


async def test_an_unknown_certificate_is_refused(https: GitHttps, tmp_path: Path) -> None:
    error = await fault_of(over_https(https, tmp_path, ca_file=None, token=Secret(CANARY)))
    assert error.fault is Fault.TLS
    assert "ca_file" in str(error)
    assert https.seen == []


async def test_a_redirect_is_not_followed_with_the_token(https: GitHttps, repo: Repo, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with https_server(tmp_path / "served", elsewhere) as other:
        https.status, https.location = 302, other.url
        error = await fault_of(over_https(https, tmp_path, token=Secret(CANARY)))
        assert error.fault is Fault.REDIRECTED
        assert other.seen == []


async def test_a_server_that_is_down_then_up(https: GitHttps, repo: Repo, tmp_path: Path) -> None:
    source = over_https(https, tmp_path)
    good = await source.fetch()
    https.status = 503
    assert (await fault_of(source)).fault is Fault.UNREACHABLE
    assert source.last_good is good
    https.status = 0
    assert await source.fetch() is good
    assert source.state.error is None


async def test_a_closed_port_an_unknown_host_and_no_repository(https: GitHttps, tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        gone = f"https://127.0.0.1:{closed.getsockname()[1]}/r.git"
        for url in (gone, "https://no-such-host.invalid/r.git", f"{https.url}/none.git"):
            assert (await fault_of(over_https(https, tmp_path, url=url))).fault is Fault.UNREACHABLE


async def test_a_server_that_never_answers_ends_at_the_deadline(https: GitHttps, tmp_path: Path) -> None:
    https.gate.clear()
    source = over_https(https, tmp_path, timeout=timedelta(seconds=1))
    assert (await fault_of(source)).fault is Fault.TIMEOUT


async def test_a_proxy_is_asked_and_its_password_not_told(https: GitHttps, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.settimeout(60)
        url = Secret(f"http://user:{CANARY}@127.0.0.1:{proxy.getsockname()[1]}")
        task = asyncio.create_task(fault_of(over_https(https, tmp_path, proxy=url)))
        asked = await asyncio.to_thread(_refuse_tunnel, proxy)
        error = await task
    assert asked.startswith(f"CONNECT 127.0.0.1:{https.port} ")
    assert CANARY not in str(error)
    assert https.seen == []


def _refuse_tunnel(proxy: socket.socket) -> str:
    connection, _ = proxy.accept()
    with connection:
        asked = connection.recv(4096).decode()
        connection.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
    return asked


async def test_http_only_where_permitted(repo: Repo, tmp_path: Path) -> None:
    with https_server(tmp_path / "served", tmp_path, tls=False) as server:
        with pytest.raises(ValueError, match="allow_http"):
            SourceSettings(name="s", url=f"{server.url}/r.git")
        permitted = SourceSettings(name="s", url=f"{server.url}/r.git", allow_http=True)
        assert (await GitSource(permitted, tmp_path / "cache", StepClock()).fetch()).files


async def test_a_users_traces_and_git_folder_do_not_reach_git(
    https: GitHttps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    https.expected = https.basic(CANARY)
    trace = tmp_path / "trace"
    for own in (False, True):
        environment = {**os.environ, "GIT_TRACE_CURL": str(trace), "GIT_TRACE_REDACT": "0", "GIT_DIR": "/nowhere"}
        settings = replace(
            over_https(https, tmp_path, token=Secret(CANARY), name=f"own-{own}".lower()).settings, use_user_config=own
        )
        source = GitSource(settings, tmp_path / "cache", StepClock(), environment)
        assert (await source.fetch()).files
    assert not trace.exists()


async def test_a_users_own_configuration_counts_only_when_asked(https: GitHttps, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text(f'[url "{https.url}/"]\n\tinsteadOf = https://short.invalid/\n')
    environment = {**os.environ, "HOME": str(home)}
    environment.pop("XDG_CONFIG_HOME", None)
    settings = over_https(https, tmp_path, url="https://short.invalid/r.git").settings
    refused = GitSource(settings, tmp_path / "cache", StepClock(), environment)
    assert (await fault_of(refused)).fault is Fault.UNREACHABLE
    taken = GitSource(replace(settings, use_user_config=True), tmp_path / "cache", StepClock(), environment)
    assert (await taken.fetch()).files


async def test_a_users_rewrite_to_a_transport_helper_is_refused(tmp_path: Path) -> None:
    home, proof = tmp_path / "home", tmp_path / "proof"
    home.mkdir()
    (home / ".gitconfig").write_text(
        f'[url "ext::sh -c touch% {proof}"]\n\tinsteadOf = https://short.invalid/r.git\n[protocol]\n\tallow = always\n'
    )
    settings = SourceSettings(name="s", url="https://short.invalid/r.git", use_user_config=True)
    source = GitSource(settings, tmp_path / "cache", StepClock(), {**os.environ, "HOME": str(home)})
    assert (await fault_of(source)).fault is Fault.REFUSED
    assert not proof.exists()


@pytest.mark.needs("sshd")
async def test_ssh_with_a_deploy_key(sshd: Sshd, repo: Repo, tmp_path: Path) -> None:
    source = over_ssh(sshd, tmp_path)
    first = await source.fetch()
    assert b"jira" in first.read("integrations/jira.yaml")
    head = repo.commit("second", author="bob", files={"integrations/new.yaml": None})
    repo.git("push", "--quiet", "origin", "main")
    second = await source.fetch()
    assert second.revision == head
    assert second.history("integrations/new.yaml").created_by == "bob@example.test"


@pytest.mark.needs("sshd")
async def test_ssh_refuses_an_unknown_and_a_changed_host_key(sshd: Sshd, repo: Repo, tmp_path: Path) -> None:
    unknown, changed = tmp_path / "unknown hosts", tmp_path / "changed"
    unknown.write_text("")
    key = (sshd.key_file.with_suffix(".pub")).read_text().split()[1]
    changed.write_text(f"[127.0.0.1]:{sshd.port} ssh-ed25519 {key}\n")
    for known in (unknown, changed):
        error = await fault_of(over_ssh(sshd, tmp_path, known_hosts_file=known))
        assert error.fault is Fault.HOST_KEY
        assert "known_hosts_file" in str(error)


@pytest.mark.needs("sshd")
async def test_ssh_with_a_key_the_server_does_not_know(sshd: Sshd, repo: Repo, tmp_path: Path) -> None:
    stranger = sshd.key_file.with_name("host")  # a valid key, but nobody's
    error = await fault_of(over_ssh(sshd, tmp_path, key_file=stranger))
    assert error.fault is Fault.AUTHENTICATION


@pytest.mark.needs("sshd")
async def test_ssh_paths_may_hold_blanks_and_quotes(sshd: Sshd, repo: Repo, tmp_path: Path) -> None:
    odd = tmp_path / "it's a folder 100%"
    odd.mkdir()
    for name, original in (("key", sshd.key_file), ("hosts", sshd.known_hosts_file)):
        (odd / name).write_bytes(original.read_bytes())
        (odd / name).chmod(0o600)
    source = over_ssh(sshd, tmp_path, key_file=odd / "key", known_hosts_file=odd / "hosts")
    assert (await source.fetch()).files
