"""What requests of GitHub and Slack mean: records to be read again, events, and what is refused."""

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import pytest

from connectors.github import GitHub
from connectors.slack import Slack
from reconciler.model.clock import rfc3339
from reconciler.model.record import Page, ReadRequest, Scope
from reconciler.sdk.contract import Verifies
from reconciler.sdk.errors import RejectedError, UnauthorizedError
from reconciler.sdk.inbound import Inbound, Rereads, Touched
from reconciler.sdk.testing.room import START, Bench
from simulators.github import GitHub as GitHubSimulator

TOKEN = {"type": "token", "token": "canary-token"}
REPOSITORY = {"full_name": "acme/shop"}
AT = "2026-03-01T09:00:00Z"
SLACK_SECRET = "8f742231b10e8888abcd99yyyzzz85a5"
SLACK_BODY = (
    b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V"
    b"&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text="
    b"&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN"
    b"&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"
)


def github(bench: Bench, **config: Any) -> GitHub:
    hook = {"secret": "It's a Secret to Everybody"}
    made = bench.connector(GitHub, {"repositories": ["acme/shop"], "webhook": hook, **config}, TOKEN)
    assert isinstance(made, GitHub)
    return made


def headers(event: str) -> dict[str, str]:
    return {"X-GitHub-Event": event, "X-GitHub-Delivery": "d-1", "Content-Type": "application/json"}


def received(event: str, said: Mapping[str, Any], **config: Any) -> Inbound:
    body = json.dumps({"repository": REPOSITORY, **said}).encode()
    return github(Bench(), **config).receive(headers(event), body)


def test_they_have_the_capabilities() -> None:
    made = github(Bench())
    assert isinstance(made, Verifies)
    assert isinstance(made, Rereads)
    assert isinstance(slack(Bench()), Verifies)


def test_the_vendors_vector() -> None:
    signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    github(Bench()).verify({"X-Hub-Signature-256": signature}, b"Hello, World!")
    with pytest.raises(UnauthorizedError):
        github(Bench()).verify({"X-Hub-Signature-256": signature}, b"Hello, World")


ISSUE = {"id": 101, "number": 7, "updated_at": AT}
COMMENT = {"id": 5, "updated_at": AT}


@pytest.mark.parametrize(
    ("event", "said", "touched"),
    [
        ("issues", {"action": "edited", "issue": ISSUE}, [("issues", "101", None)]),
        ("issues", {"action": "transferred", "issue": ISSUE}, [("issues", "101", True)]),
        ("issues", {"action": "edited", "issue": {**ISSUE, "pull_request": {}}}, [("pulls", "101", None)]),
        ("issue_comment", {"action": "deleted", "issue": ISSUE, "comment": COMMENT},
         [("issue_comments", "5", True), ("issues", "101", None)]),
        ("pull_request", {"action": "opened", "pull_request": ISSUE}, [("pulls", "101", None)]),
        ("deployment_status", {"deployment": {"id": 9, "created_at": AT}}, [("deployments", "9", None)]),
        ("push", {"ref": "refs/heads/main", "after": "a" * 40, "commits": [{"timestamp": AT}]},
         [("commits", "a" * 40, None)]),
        ("push", {"ref": "refs/tags/v1", "after": "a" * 40, "commits": [{"timestamp": AT}]}, []),
        ("push", {"ref": "refs/heads/main", "deleted": True, "commits": []}, []),
        ("ping", {"zen": "x"}, []),
    ],
)  # fmt: skip
def test_what_a_delivery_touches(event: str, said: Mapping[str, Any], touched: Sequence[Any]) -> None:
    found = received(event, said)
    assert [(t.entity, t.key, t.place.get("gone")) for t in found.touched] == touched
    assert (found.delivery_id, found.events) == ("d-1", ())


def test_what_is_not_read_is_not_read_again() -> None:
    said = {"action": "edited", "issue": ISSUE}
    assert received("issues", said, repositories=["acme/other"]).touched == ()
    assert received("issues", said, repositories=["ACME/Shop"]).touched
    assert received("issues", said, repositories=[], organizations=["Acme"]).touched
    assert received("issues", said, repositories=[]).touched  # an App reads what it is installed on


def test_what_is_no_record_is_an_event() -> None:
    (told,) = received("workflow_run", {"action": "completed", "workflow_run": {"id": 1}}).events
    assert (told.id, told.type, told.subject) == ("d-1", "github.workflow_run.completed", "acme/shop")
    (odd,) = received("check.suite", {"action": "re-run"}).events
    assert odd.type == "github.check_suite"


@pytest.mark.parametrize(
    ("event", "body"),
    [
        ("issues", b""),
        ("issues", b"[1]"),
        ("issues", b'{"issue": {"id": "x", "number": 1, "updated_at": "2026-03-01T09:00:00Z"}}'),
        ("issues", b'{"issue": {"id": 1, "number": 1, "updated_at": "soon"}}'),
        ("issues", b'{"issue": {"id": 1, "number": "../7", "updated_at": "2026-03-01T09:00:00Z"}}'),
        ("release", b'{"a": "' + b"x" * 300_000 + b'"}'),
        ("", b"{}"),
    ],
)
def test_what_cannot_be_understood_is_rejected(event: str, body: bytes) -> None:
    with pytest.raises(RejectedError):
        github(Bench(), repositories=[]).receive(headers(event), body)


async def _pages(connector: GitHub, name: str, *touched: Touched) -> list[Page]:
    entity = connector.entity(name)
    assert entity is not None
    return [page async for page in connector.reread(entity, touched)]


@pytest.mark.asyncio
@pytest.mark.parametrize("name", ["issues", "pulls", "issue_comments", "deployments", "commits"])
async def test_a_record_is_read_as_a_sync_reads_it(name: str) -> None:
    with GitHubSimulator(now=lambda: START) as sim:
        sim.tokens["canary-token"] = "repo"
        repo, at = sim.add_repo("acme/shop"), START - timedelta(minutes=1)
        put: Any = {"issues": sim.put_issue, "pulls": sim.put_pull, "issue_comments": sim.put_comment,
               "deployments": sim.put_deployment}  # fmt: skip
        shape = sim.put_commit(repo, "a" * 40, at) if name == "commits" else put[name](repo, 7, at)
        key = shape["node_id"] if name == "commits" else str(shape["id"])
        async with Bench() as bench:
            connector = github(bench, base_url=sim.url)
            place = {"number": 7, "at": rfc3339(at)}
            pages = await _pages(connector, name, Touched(name, key, place, "ACME/shop"))
            entity = connector.entity(name)
            assert entity is not None
            synced = [p async for p in connector.read(entity, ReadRequest(Scope.FULL, rfc3339(START)))]
        assert {k: v for p in pages for k, v in zip(p.keys, p.payloads, strict=True)}[key] == {
            k: v for p in synced for k, v in zip(p.keys, p.payloads, strict=True)
        }[key]
        assert sim.violations == []


@pytest.mark.asyncio
async def test_only_what_is_really_gone_is_deleted() -> None:
    with GitHubSimulator(now=lambda: START) as sim:
        sim.tokens["canary-token"] = "repo"
        repo = sim.add_repo("acme/shop")
        there = sim.put_issue(repo, 7, START)
        async with Bench() as bench:
            connector = github(bench, base_url=sim.url)

            async def gone(key: str, number: int, repository: str = "acme/shop") -> list[str]:
                place = {"number": number, "at": rfc3339(START), "gone": True}
                pages = await _pages(connector, "issues", Touched("issues", key, place, repository))
                return [k for p in pages for k in p.deleted]

            assert await gone(str(there["id"]), 7) == []
            assert await gone("1", 8) == ["1"]
            assert await gone("999", 7) == ["999"]  # transferred: another issue is under this number now
            assert await gone("1", 8, "acme/hidden") == []


def slack(bench: Bench) -> Slack:
    made = bench.connector(Slack, {}, {"type": "bot_token", "token": "xoxb-canary", "signing_secret": SLACK_SECRET})
    assert isinstance(made, Slack)
    return made


FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def test_a_slash_command_of_the_vendors_documentation() -> None:
    found = slack(Bench()).receive(FORM, SLACK_BODY)
    (told,) = found.events
    assert (told.type, told.data["command"]) == ("slack.slash_command", "/webhook-collect")
    assert not {"token", "response_url"} & told.data.keys()
    assert found.reply is not None
    assert found.reply.body == b""


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ({"type": "message", "subtype": "message_changed", "channel": "C1"}, "slack.message.message_changed"),
        ({"type": "team_join", "user": {"id": "U1"}}, "slack.team_join"),
    ],
)
def test_events_of_slack(said: Mapping[str, Any], kind: str) -> None:
    body = {"type": "event_callback", "event_id": "Ev1", "event_time": 1515449522, "event": said, "token": "t"}
    (told,) = slack(Bench()).receive({}, json.dumps(body).encode()).events
    assert (told.type, told.id, told.at.year) == (kind, "Ev1", 2018)


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b'{"type":"x"}', b'{"type":"url_verification"}', b'{"type":"event_callback","event":{}}',
     b'{"type":"event_callback","event_id":"E","event_time":1,"event":{"type":"a.b"}}', b"{" + b" " * 300_000],
)  # fmt: skip
def test_what_slack_would_not_send_is_rejected(body: bytes) -> None:
    with pytest.raises(RejectedError):
        slack(Bench()).receive({}, body)


def test_an_interaction_is_an_event() -> None:
    said = {"type": "block_actions", "trigger_id": "1.2", "user": {"id": "U1"}, "response_url": "https://secret"}
    from urllib.parse import urlencode

    (told,) = slack(Bench()).receive(FORM, urlencode({"payload": json.dumps(said)}).encode()).events
    assert (told.type, told.subject) == ("slack.block_actions", "U1")
    assert "response_url" not in told.data
