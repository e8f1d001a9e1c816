"""Canary secrets in every kind of place, and a search for them through everything that comes out or is kept.

Credentials come from SOPS values in manifests, from SOPS files, from the environment and from an OAuth server; the
remotes echo what they are sent in their error bodies; an internal error has the secret in its text. Then every byte of
the state directory, every output of the commands, the log in both forms and the HTTP answers are searched, in all spellings.
"""

import base64
import contextlib
import io
import json
import urllib.parse
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest

from reconciler.app import logging as daemon_logging
from reconciler.cli.main import main
from reconciler.model.condition import ConditionType, Reason
from reconciler.model.secret import MASK
from reconciler.sdk.testing.simulator import Call, Reply
from reconciler.settings import Log
from simulators.servicenow import ServiceNow
from simulators.slack import Slack
from tests.e2e.keys import Keys
from tests.e2e.stage import ENV, PATIENCE, PUBLIC_URL, Running, Stage, git
from tests.e2e.writing import Place, writable

PASSWORD = "canary-pass/word+77?<é>"
FILE_SECRET = "canary-file-secret-0815"
TOKEN = "xoxb-canary-0815-in-manifest"
CANARIES = {"manifest": TOKEN, "file": FILE_SECRET, "password": PASSWORD, **ENV}


def echoed(call: Call) -> str:
    """What a careless vendor writes into its error body: the credential as it came, and decoded."""
    sent = call.headers.get("authorization", "")
    clear = base64.b64decode(sent[6:]).decode() if sent.startswith("Basic ") else sent
    return f"bad credential {sent} ({clear}, {urllib.parse.quote(clear)}) in {call.body.decode()}"


class EchoingServiceNow(ServiceNow):
    def admit(self, call: Call) -> Reply | None:
        if super().admit(call) is None and not self.is_hibernating:
            return None
        return Reply(status=401, json={"error": {"message": echoed(call), "detail": echoed(call)}, "status": "failure"})


class EchoingSlack(Slack):
    def post(self, call: Call) -> Reply:
        return Reply(status=500, body=echoed(call).encode(), content_type="text/plain")

    post.routes = Slack.post.routes  # type: ignore[attr-defined]


@pytest.fixture
def keys() -> Keys:
    return Keys()


@pytest.fixture
def stage(tmp_path: Path, keys: Keys) -> Iterator[Stage]:
    made = Stage(tmp_path)
    made.servicenow, made.slack = EchoingServiceNow(), EchoingSlack()
    made.servicenow.users |= {"recon": PASSWORD, "oauth": PASSWORD}
    made.servicenow.clients["client"] = FILE_SECRET
    made.slack.tokens[TOKEN] = "chat:write,channels:read,users:read"
    made.slack.put_channel("C0000000OPS", made.slack.now(), name="ops")
    with made.servicenow, made.slack, made.github:
        made.servicenow.put("incident", {"short_description": "One", "priority": "3"})
        _write(made, keys)
        yield made


def _write(stage: Stage, keys: Keys) -> None:
    (stage.repo / "secrets").mkdir(exist_ok=True)
    (stage.repo / "secrets" / "sn.yaml").write_text(f"client_secret: {FILE_SECRET}\n")
    oauth: dict[str, object] = {"type": "oauth2", "client_id": "client"}
    oauth |= {"client_secret": {"from_sops": {"file": "secrets/sn.yaml", "key": "client_secret"}}}
    stage.manifest("good", **stage.servicenow_spec(auth=oauth))
    stage.manifest("bad", **stage.servicenow_spec(auth={"type": "basic", "username": "else", "password": PASSWORD}))
    stage.manifest("chat", **stage.slack_spec(auth={"type": "bot_token", "token": TOKEN}))
    stage.manifest("gh", **stage.github_spec())
    files = [stage.repo / f"{n}.yaml" for n in ("bad", "chat")]
    keys.encrypt(*files, stage.repo / "secrets" / "sn.yaml", only="^(token|password|client_secret)$")
    stage.commit("all kinds of secrets")


def spellings(secret: str) -> set[bytes]:
    """As it is, quoted for a URL and for JSON, and in base64 at each of the three offsets, alone and behind a user name."""
    raw = secret.encode()
    found = {raw, urllib.parse.quote(secret, safe="").encode(), urllib.parse.quote_plus(secret).encode()}
    found |= {urllib.parse.quote(secret).encode(), json.dumps(secret)[1:-1].encode(), secret.encode("utf-16-le")}
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        for lead in range(3):
            middle = encode(b"x" * lead + raw)[(lead * 8 + 5) // 6 :].rstrip(b"=")
            found.add(middle[:-1])
    return {s for s in found if len(s) >= 8}


def leaks(where: str, content: bytes) -> list[str]:
    return [
        f"{name} in {where}: ...{content[max(0, content.find(s) - 60) : content.find(s) + 20]!r}"
        for name, secret in CANARIES.items()
        for s in spellings(secret)
        if s in content
    ]


def command(*words: str) -> bytes:
    """Everything a command prints; its exit code does not matter here."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        main(words)
    assert printed.getvalue()
    return printed.getvalue().encode()


def outputs(stage: Stage) -> Iterator[tuple[str, bytes]]:
    state, repo = ("--state-dir", str(stage.state)), ("--repo", str(stage.repo))
    for form in ("text", "json", "markdown"):
        yield f"plan {form}", command("plan", *repo, *state, "--output", form)
        yield f"plan --base {form}", command("plan", *repo, "--base", "HEAD~1", "--head", "HEAD", "--output", form)
    for form in ("text", "json", "github"):
        yield f"validate {form}", command("validate", str(stage.repo), "--output", form)
    for form in ("text", "json"):
        yield f"status {form}", command("status", *state, "--output", form)
        for name in ("good", "bad", "chat", "gh"):
            yield f"status {name} {form}", command("status", name, *state, "--output", form)
            yield f"logs {name} {form}", command("logs", name, *state, "--level", "debug", "--output", form)
        yield f"deliveries {form}", command("deliveries", *state, "--output", form)


async def answers(address: str, token: str) -> list[tuple[str, bytes]]:
    paths = ["/metrics", "/healthz", "/readyz", "/v1/integrations"]
    paths += [f"/v1/integrations/{name}" for name in ("good", "bad", "chat", "gh", "nothing")]
    sent = {"authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=address, trust_env=False, headers=sent, timeout=PATIENCE) as client:
        got = [await client.get(path) for path in paths]
    assert [a.status_code for a in got] == [200] * 8 + [404]
    return [(p, a.content + str(dict(a.headers)).encode()) for p, a in zip(paths, got, strict=True)]


async def unlucky(running: Running, log: io.StringIO) -> None:
    """Wrong credentials, a delivery that the remote answers with an echo, and an internal error that quotes a secret."""
    bad = await running.until_view("bad", "is stalled", lambda v: ConditionType.STALLED in v.conditions)
    assert bad.ready.reason is Reason.AUTHENTICATION_FAILED

    async def tried() -> bool:
        return bool(await running.read(lambda tx: tx.value("SELECT count(*) FROM attempt WHERE outcome <> 'sending'")))

    await running.until("a delivery failed", tried)
    live = await running.daemon.connections.live((await running.view("good")).row.id)

    async def broken(_: object) -> None:
        raise RuntimeError(f"lost my head over {PASSWORD} and {FILE_SECRET}")

    async def told() -> bool:
        return "lost my head over" in log.getvalue()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(live.connector), "probe", broken)
        await running.order("reconcile", "good")
        await running.until("the error is told", told)


@pytest.mark.parametrize("form", ["json", "console"])
async def test_no_secret_comes_out_or_is_kept_in_clear(
    stage: Stage, keys: Keys, form: Literal["json", "console"], quiet_logging: None
) -> None:
    log = io.StringIO()
    async with stage.daemon(env=keys.env, public_url=PUBLIC_URL, listen="127.0.0.1:0") as running:
        daemon_logging.configure(Log(format=form, level="debug"), running.daemon.redactor, log)
        await running.until_synced("good", "gh")
        stage.servicenow.put("incident", {"short_description": "Mail is down", "priority": "1"})
        await running.order("sync", "good")
        await unlucky(running, log)
        await running.daemon.window.board.reload()  # what lists show may be two seconds old
        token = _token(stage)
        found = [leak for where, text in await answers(_url(running), token) for leak in leaks(where, text)]
        found += [leak for where, text in outputs(stage) for leak in leaks(where, text)]
        found += _kept(stage)  # the WAL as it is while the daemon works
    found += [*_kept(stage), *leaks("the log", log.getvalue().encode())]
    assert found == []
    assert not [f for f, content in stage.kept().items() if token.encode() in content]
    assert token not in log.getvalue()
    said = log.getvalue()
    assert said.count("bad credential ") >= 2, "the vendors' echoes did not come this far: nothing was proved"
    assert f"lost my head over {MASK} and {MASK}" in said


def _token(stage: Stage) -> str:
    """A canary itself: only its hash is kept."""
    made = command("token", "create", "canary", "--every-workspace", "--state-dir", str(stage.state)).decode()
    return made.splitlines()[0]


def _url(running: Running) -> str:
    address = running.daemon.window.address
    return address if address.startswith("http") else f"http://{address}"


def _kept(stage: Stage) -> list[str]:
    """Raw bytes: databases, WAL files, caches, the mirror of Git."""
    files = stage.kept()
    assert {"reconciler.db", "jobs.db", "master.key"} <= {f.name for f in files}
    return [leak for f, content in files.items() for leak in leaks(str(f.relative_to(stage.state)), content)]


SENT = {
    name: f"canary-{name}-of-a-request-0815" for name in ("connect", "put", "patch", "typo", "place", "number", "off")
}


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with writable(tmp_path) as made:
        yield made


@pytest.fixture
def push(place: Place) -> Path:
    """One that others push to, beside the chat."""
    document = {
        "apiVersion": "reconciler.dev/v1",
        "kind": "Integration",
        "metadata": {"name": "push", "workspace": "it-ops"},
        "spec": {"type": "custom", "auth": {"type": "generated_api_key"}},
    }
    path = place.stage.repo / "it-ops" / "push.yaml"
    path.write_text(json.dumps(document))
    place.stage.commit()
    git(place.stage.repo, "push", "-q", str(place.remote), "main")
    return path


async def written(place: Place) -> list[httpx.Response]:
    """Secrets in bodies that are taken, and in bodies that are refused for every kind of reason."""
    client, key = place.client, {"idempotency-key": "once"}
    new = {"name": "talk", "workspace": "it-ops", "config": {"base_url": f"{place.stage.slack.url}/api"}}
    auth: dict[str, Any] = {"type": "bot_token", "token": SENT["connect"]}
    got = [
        await client.post("/v1/integrations/slack/connect", json={**new, "auth": auth}, headers=key) for _ in range(2)
    ]
    for wrong in (
        {**auth, "tokn": SENT["typo"]},
        {**auth, "token": [SENT["number"]]},
        {**auth, "token": {"from_env": SENT["number"]}},
        {**auth, "type": SENT["typo"]},
    ):
        body = {**new, "name": "other", "auth": wrong}
        got.append(await client.post("/v1/integrations/slack/connect", json=body))
        got.append(await client.patch("/v1/integrations/chat", json={"spec": {"auth": wrong}}))
    got.append(await client.post("/v1/integrations/slack/connect", json={**new, "token": SENT["place"]}))
    got.append(await client.post("/v1/integrations", json={"metadata": new, "spec": SENT["place"]}))
    got.append(await client.patch("/v1/integrations/chat", json={"spec": {"auth": {"token": SENT["patch"]}}}))
    shown = (await client.get("/v1/integrations/chat")).json()
    shown["spec"]["auth"]["token"] = SENT["put"]
    got.append(await client.put("/v1/integrations/chat", json=shown, headers={"if-match": "stale"}))
    got.append(await client.put("/v1/integrations/chat", json=shown))
    plan = {"files": [{"path": "it-ops/plan.yaml", "content": json.dumps({**shown, "x": SENT["off"]})}]}
    got.append(await client.post("/v1/plan", json=plan))
    return got


async def pushed(place: Place) -> tuple[str, list[httpx.Response]]:
    """The new key, and all answers but the one that shows it."""
    client = place.client

    async def is_there() -> bool:
        found = await client.get("/v1/integrations", params={"status": "connected", "type": "custom"})
        return bool(found.json()["data"])

    await client.post("/v1/reconcile")
    await place.running.until("it takes what is pushed", is_there)
    again = {"idempotency-key": "key"}
    first, *got = [await client.post("/v1/integrations/push/regenerate-key", headers=again) for _ in range(2)]
    key = str(first.json()["key"])
    sent = {"authorization": f"Bearer {key}"}
    got.append(await client.get("/ingest/v1/push/ping", headers=sent))
    got.append(await client.put("/ingest/v1/push/records/orders/1", headers=sent, json={"data": {"a": 1}}))
    got.append(await client.get("/ingest/v1/chat/ping", headers=sent))
    got.append(await client.get(f"/ingest/v1/push/ping?key={key}"))
    got.append(await client.get("/v1/integrations", headers=sent))
    got.append(await client.get("/ingest/v1/push/ping", headers={"authorization": f"Bearer {key}x"}))
    return key, got


async def test_no_secret_of_a_request_comes_out_or_is_kept(place: Place, push: Path, quiet_logging: None) -> None:
    """Of manifests that are written, keys of those who push, and tokens: in answers, log, store, audit, Git and metrics."""
    log = io.StringIO()
    daemon_logging.configure(Log(format="json", level="debug"), place.running.daemon.redactor, log)
    answers = await written(place)
    assert {202, 422} <= {one.status_code for one in answers}
    key, more = await pushed(place)
    paths = ("/v1/audit?limit=100", "/v1/integrations/talk", "/v1/integrations/push/api-keys", "/v1/plan", "/metrics")
    answers += [*more, *[await place.client.get(path) for path in paths]]
    token = place.client.headers["authorization"].removeprefix("Bearer ")
    texts = {f"answer {n} {one.url.path}": one.content + str(one.headers).encode() for n, one in enumerate(answers)}
    texts |= {"the log": log.getvalue().encode(), "Git": git(place.remote, "log", "-p", "--all").encode()}
    texts |= {str(file): content for file, content in place.stage.kept().items()}
    secrets = {**SENT, "key": key, "token": token, "the end of the key": key[-24:], "the end of the token": token[-24:]}
    found = [
        (name, where, text[max(0, text.find(s) - 60) : text.find(s)])
        for name, secret in secrets.items()
        for s in spellings(secret)
        for where, text in texts.items()
        if s in text
    ]
    assert found == []
    assert "talk" in git(place.remote, "ls-tree", "-r", "--name-only", "main")
