"""GitHub: the conformance kit, then what only GitHub does."""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from connectors.github import GitHub
from reconciler.model.record import Scope
from reconciler.model.secret import Secret
from reconciler.sdk.contract import Channel, Entity, RemoteObject
from reconciler.sdk.errors import ForbiddenError, RateLimitedError, RejectedError, TransientError, UnauthorizedError
from reconciler.sdk.jwt import rs256, signing_input
from reconciler.sdk.testing.case import CANARY, Case, Dispatch, message
from reconciler.sdk.testing.conformance import Conformance
from reconciler.sdk.testing.faults import status
from reconciler.sdk.testing.room import START
from reconciler.sdk.testing.trial import Dataset, Trial, trial
from simulators._github_state import Installed, Repo
from simulators.github import GitHub as Vendor

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PEM = KEY.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
).decode()
SHOP = "acme/shop"
HOOKED = "other/web"  # outside of the organization that is read
PERMISSIONS = {
    "metadata": "read", "issues": "write", "pull_requests": "read", "contents": "read", "deployments": "write",
    "repository_hooks": "write",
}  # fmt: skip
APP = {"type": "app", "app_id": "Iv23liEXAMPLE", "installation_id": 7, "private_key": f"{CANARY}\n{PEM}"}


def shop(sim: Vendor) -> Repo:
    return sim.repos.get(SHOP) or sim.add_repo(SHOP)


CONSENT = {"type": "oauth", "client_id": "Iv1.example", "client_secret": f"{CANARY}-client"}


class GitHubCase(Case):
    connector = GitHub
    reads_all = frozenset({"repositories"})
    finds_by_content = frozenset({"deployment_status"})
    renews = True
    revokes = True

    def simulator(self, now: Callable[[], datetime]) -> Vendor:
        sim = Vendor(now=now)
        sim.orgs.add("acme")
        sim.add_repo(HOOKED)
        sim.tokens[f"{CANARY}-ghp"] = "repo, admin:repo_hook"
        sim.token_prefix = f"{CANARY}-ghs_"
        sim.oauth_clients["Iv1.example"] = f"{CANARY}-client"
        sim.installations[7] = Installed(7, "Iv23liEXAMPLE", 3, KEY.public_key(), PERMISSIONS)
        return sim

    def config(self, sim: Any) -> Mapping[str, Any]:
        hook = {"events": ["push", "issues"], "secret": f"{CANARY}-hook", "repositories": [HOOKED]}
        return {"base_url": sim.url, "organizations": ["acme"], "webhook": hook}

    def auth(self, sim: Any) -> Mapping[str, Any]:
        return {"type": "token", "token": f"{CANARY}-ghp"}

    def auths(self, sim: Any) -> Sequence[Mapping[str, Any]]:
        return (self.auth(sim), APP, CONSENT)

    def renewable_auth(self, sim: Any) -> Mapping[str, Any]:
        return APP

    def wrong_auth(self, sim: Any) -> Mapping[str, Any]:
        return {"type": "token", "token": f"{CANARY}-wrong"}

    def expire(self, sim: Any) -> None:
        sim.minted.clear()

    def put(self, sim: Any, entity: Entity, number: int, at: datetime | None, text: str = "") -> str:
        assert at is not None
        repo, one = shop(sim), number + 1
        match entity.name:
            case "repositories":
                # The shop itself is the first of them.
                name = SHOP if number == 0 else f"acme/repo-{number}"
                made = sim.repos.get(name) or sim.add_repo(name)
                made.shape |= {"description": text, "updated_at": at.strftime("%Y-%m-%dT%H:%M:%SZ")}
                return str(made.shape["id"])
            case "issues":
                return str(sim.put_issue(repo, one, at, title=text)["id"])
            case "pulls":
                return str(sim.put_pull(repo, one, at, title=text)["id"])
            case "issue_comments":
                return str(sim.put_comment(repo, one, at, body=text)["id"])
            case "commits":
                return str(sim.put_commit(repo, f"{one:040x}", at, text)["node_id"])
        made = sim.put_deployment(repo, one, at, description=text)
        return str(made["id"])

    def remove(self, sim: Any, entity: Entity, key: str) -> None:
        if entity.name == "repositories":
            sim.repos = {n: r for n, r in sim.repos.items() if str(r.shape["id"]) != key}
            return
        part = {"issue_comments": "comments"}.get(entity.name, entity.name)
        records = getattr(shop(sim), part)
        for number in [n for n, r in records.items() if key in (str(r["id"]) if "id" in r else "", r["node_id"])]:
            del records[number]

    def listing(self, entity: Entity) -> str:
        return "*/orgs/*/repos" if entity.name == "repositories" else super().listing(entity)

    def dispatch(self, sim: Any, channel: Channel) -> Dispatch:
        repo = shop(sim)
        sim.put_issue(repo, 7, START - timedelta(days=1), title="existing")
        sim.put_deployment(repo, 42, START - timedelta(days=1))
        there = {"repository": SHOP, "number": 7}
        return {
            "create_issue": Dispatch(
                fields={"repository": SHOP, "title": "Disk full \U0001f4a5", "body": "db1", "labels": ["incident"]},
                arrived=lambda s: sum(i["title"].startswith("Disk") for i in s.repos[SHOP].issues.values()),
            ),
            "update_issue": Dispatch(
                fields={**there, "state": "closed", "state_reason": "completed"},
                arrived=lambda s: int(s.repos[SHOP].issues[7]["state"] == "closed"),
            ),
            "comment_issue": Dispatch(fields={**there, "body": "seen"}, arrived=lambda s: len(s.repos[SHOP].comments)),
            "create_deployment": Dispatch(
                fields={"repository": SHOP, "ref": "main", "environment": "prod"},
                arrived=lambda s: len(s.repos[SHOP].deployments) - 1,
            ),
            "deployment_status": Dispatch(
                fields={"repository": SHOP, "deployment_id": 42, "state": "success"},
                arrived=lambda s: len(s.repos[SHOP].statuses.get(42, ())),
            ),
        }[channel.name]

    def disturb(self, sim: Any, found: RemoteObject) -> None:
        hooks = sim.repos[HOOKED].hooks
        hooks[int(found.remote_id.rsplit("/", 1)[1])] |= {"active": False, "events": ["push"]}

    def objects_path(self) -> str:
        return "*/hooks"


class TestGitHub(Conformance):
    case = GitHubCase()


CASE = GitHubCase()
QUIET = {"webhook": None}


async def read(t: Trial, name: str, scope: Scope = Scope.FULL, **more: Any) -> Any:
    return await t.read(t.entity(name), scope, **more)


def incremental(t: Trial, dataset: Any) -> Any:
    """A request after `dataset`, with the validators that its read handed out."""
    validators = {url: tag for page in dataset.pages for url, tag in page.validators.items()}
    return replace(t.request(Scope.INCREMENTAL, dataset.watermarks), validators=validators)


async def test_nothing_new_costs_nothing() -> None:
    async with trial(CASE) as t:
        issues = t.entity("issues")
        t.seed(issues, 2)
        first = await read(t, "issues")
        # The watermark moved, and with it the URL: one more read learns the validator of the new one.
        pages = [p async for p in t.connector.read(issues, incremental(t, first))]
        first.pages = pages
        used = t.sim.used
        again = [p async for p in t.connector.read(issues, incremental(t, first))]
        assert [p.keys for p in pages] == [tuple(first.records)]
        assert [p.keys for p in again] == [()]
        assert again[0].validators == pages[0].validators, "the next run needs them again"
        assert t.sim.used == used + 1, "only the list of repositories was counted"
        t.put(issues, 1, t.clock.now(), "changed")
        (page,) = [p async for p in t.connector.read(issues, incremental(t, first))]
        assert len(page.keys) == 2


async def test_a_full_read_is_never_conditional() -> None:
    async with trial(CASE) as t:
        t.seed(t.entity("issues"), 2)
        first = await read(t, "issues")
        full = replace(incremental(t, first), scope=Scope.FULL)
        assert [len(p.keys) async for p in t.connector.read(t.entity("issues"), full)] == [2]
        assert not any("if-none-match" in call.headers for call in t.sim.requests)


async def test_a_validator_is_handed_out_only_where_it_stands_for_the_whole_listing() -> None:
    async with trial(CASE) as t:
        t.seed(t.entity("issues"), 7)
        assert all(not p.validators for p in (await read(t, "issues")).pages), "a change on page 3 would stay unseen"


async def test_rewritten_links_are_followed() -> None:
    async with trial(CASE) as t:
        t.sim.rewrites_links = True
        keys = t.seed(t.entity("pulls"))
        assert (await read(t, "pulls")).keys == set(keys)
        assert any(call.url_path.startswith("/repositories/") for call in t.sim.requests)


async def test_pull_requests_are_no_issues() -> None:
    async with trial(CASE) as t:
        issue = t.put(t.entity("issues"), 0, START - timedelta(hours=2))
        pull = t.put(t.entity("pulls"), 5, START - timedelta(hours=1))
        assert (await read(t, "issues")).keys == {issue}
        assert (await read(t, "pulls")).keys == {pull}


async def test_pulls_are_read_down_to_the_watermark_only() -> None:
    async with trial(CASE) as t:
        pulls = t.entity("pulls")
        t.seed(pulls, 30)
        first = await read(t, "pulls")
        t.put(pulls, 4, t.clock.now(), "moved")
        asked = len(t.sim.requests)
        again = await read(t, "pulls", Scope.INCREMENTAL, since=first.watermarks)
        assert len(again.pages) < 5
        assert len(t.sim.requests) - asked < 6
        assert any(b"moved" in p for p in again.records.values())


async def test_a_record_that_moves_shifts_nobody_out_of_the_listing() -> None:
    """Page 2 by number would begin one record too late after a record of page 1 has moved to the end."""
    async with trial(CASE) as t:
        issues = t.entity("issues")
        keys = t.seed(issues)
        read_keys = (await t.read(issues, between=lambda n: _touch(t, issues) if n == 1 else None)).keys
        assert read_keys == set(keys)


def _touch(t: Trial, issues: Entity) -> None:
    t.put(issues, 0, t.clock.now(), "touched")


async def test_many_issues_of_one_second_are_paged_through() -> None:
    async with trial(CASE) as t:
        keys = t.seed(t.entity("issues"), 11, step=timedelta(0))
        assert (await read(t, "issues")).keys == set(keys)


async def test_commits_of_an_empty_repository_are_none() -> None:
    async with trial(CASE) as t:
        shop(t.sim)
        assert (await read(t, "commits")).is_complete


async def test_forks_share_hashes_but_not_records() -> None:
    async with trial(CASE) as t:
        for name in (SHOP, "acme/fork"):
            t.sim.put_commit(t.sim.add_repo(name), "a" * 40, START, "same")
        assert len((await read(t, "commits")).keys) == 2


async def test_disabled_issues_are_none_and_the_rest_is_read() -> None:
    async with trial(CASE) as t:
        key = t.put(t.entity("issues"), 0, START)
        t.sim.add_repo("acme/closed", has_issues=False)
        assert (await read(t, "issues")).keys == {key}


async def test_one_repository_out_of_reach_does_not_hide_the_others() -> None:
    async with trial(CASE, config={"repositories": ["acme/gone"]}) as t:
        keys = t.seed(t.entity("issues"), 2)
        found = Dataset()
        with pytest.raises(ForbiddenError, match="may not see"):
            await read(t, "issues", into=found)
        assert found.keys == set(keys)


async def test_a_renamed_repository_is_followed() -> None:
    async with trial(CASE, config={"organizations": [], "repositories": ["acme/old"], **QUIET}) as t:
        key = t.put(t.entity("issues"), 0, START)
        t.sim.moved["acme/old"] = SHOP
        assert (await read(t, "issues")).keys == {key}
        assert (await read(t, "repositories")).keys == {str(shop(t.sim).shape["id"])}
        assert [line.message for line in t.bench.log] == [f"acme/old is called {SHOP} now: change the manifest"]
        channel = t.connector.channel("comment_issue")
        assert channel
        with pytest.raises(RejectedError, match="redirect"):
            await t.connector.deliver(channel, message(channel, {"repository": "acme/old", "number": 1, "body": "x"}))


@pytest.mark.parametrize(("headers", "wait"), [({"retry-after": "120"}, 120), ({}, 60), ({"retry-after": "3"}, None)])
async def test_secondary_limits(headers: dict[str, str], wait: int | None) -> None:
    async with trial(CASE) as t:
        keys = t.seed(t.entity("issues"), 2)
        t.sim.secondary = [headers]
        if wait is None:
            assert (await read(t, "issues")).keys == set(keys)
            assert t.clock.slept[0] >= 3
            return
        with pytest.raises(RateLimitedError) as caught:
            await read(t, "issues")
        assert caught.value.retry_after == timedelta(seconds=wait)


async def test_the_primary_limit_says_when_it_ends() -> None:
    async with trial(CASE) as t:
        shop(t.sim)
        t.sim.used = t.sim.hour_limit
        with pytest.raises(RateLimitedError) as caught:
            await read(t, "issues")
        assert caught.value.retry_after == datetime.fromtimestamp(t.sim.reset(), UTC) - t.clock.now()


async def test_a_missing_permission_is_no_rate_limit() -> None:
    async with trial(CASE) as t:
        t.put(t.entity("issues"), 0, START)
        t.sim.faults.add(status(403), path="*/issues", times=None)
        with pytest.raises(ForbiddenError, match="not accessible by integration"):
            await read(t, "issues")
        assert not t.clock.slept


async def test_an_invalid_field_is_named() -> None:
    async with trial(CASE) as t:
        shop(t.sim)
        channel = t.connector.channel("create_issue")
        assert channel
        with pytest.raises(RejectedError, match="assignees invalid"):
            await t.connector.deliver(
                channel, message(channel, {"repository": SHOP, "title": "T", "assignees": ["nobody"]})
            )


async def test_a_deployment_that_first_merges_is_tried_again() -> None:
    async with trial(CASE) as t:
        shop(t.sim)
        channel = t.connector.channel("create_deployment")
        assert channel
        with pytest.raises(TransientError, match="merged"):
            await t.connector.deliver(channel, message(channel, {"repository": SHOP, "ref": "behind"}))
        with pytest.raises(RejectedError):
            await t.connector.deliver(channel, message(channel, {"repository": SHOP, "ref": "conflict"}))


def test_the_json_web_token_is_the_documented_one() -> None:
    claims = {"iat": 1795175940, "exp": 1795176540, "iss": "Iv23liEXAMPLE"}
    wanted = (
        "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9."
        "eyJpYXQiOjE3OTUxNzU5NDAsImV4cCI6MTc5NTE3NjU0MCwiaXNzIjoiSXYyM2xpRVhBTVBMRSJ9"
    )
    assert signing_input(claims) == wanted
    token = rs256(claims, Secret(PEM))
    assert token.startswith(wanted + ".")
    assert len(base64.urlsafe_b64decode(token.rsplit(".", 1)[1] + "==")) == 256


@pytest.mark.parametrize("key", ["no key", "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----"])
async def test_a_key_that_is_none_is_said_so(key: str) -> None:
    async with trial(CASE, auth=lambda _: {**APP, "private_key": key}) as t:
        with pytest.raises(UnauthorizedError, match="private key"):
            await t.connector.probe()


async def test_an_app_reads_what_it_is_installed_on_with_one_token() -> None:
    async with trial(CASE, auth=lambda _: APP, config={"organizations": []}) as t:
        keys = t.seed(t.entity("issues"))
        assert (await read(t, "issues")).keys == set(keys)
        assert len(t.sim.minted) == 1
        (token,) = t.sim.minted
        assert len(token) > 300, "tokens are opaque and long"
        t.clock.advance(timedelta(minutes=56))
        await read(t, "issues")
        assert len(t.sim.minted) == 2, "renewed five minutes before it dies"
        outage = t.sim.faults.add(status(503), path="*/installation/token")
        with pytest.raises(TransientError):
            await t.connector.revoke()
        assert outage.struck
        t.sim.faults.clear()
        await t.connector.revoke()
        assert len(t.sim.minted) == 1


async def test_a_suspended_installation_is_a_bad_credential() -> None:
    async with trial(CASE, auth=lambda _: APP) as t:
        shop(t.sim)
        t.sim.installations[7].suspended_at = "2026-01-01T00:00:00Z"
        with pytest.raises(UnauthorizedError, match="suspended"):
            await read(t, "issues")


async def test_a_probe_tells_scopes_expiry_and_what_is_left() -> None:
    async with trial(CASE) as t:
        shop(t.sim)
        t.sim.tokens[f"{CANARY}-ghp"] = "public_repo"
        t.sim.expires = "2026-12-20 13:00:00 UTC"
        t.sim.used = 4900
        probe = await t.connector.probe()
        assert probe.identity == "octocat"
        assert probe.missing == ("admin:repo_hook",)
        assert probe.credential_expires_at == datetime(2026, 12, 20, 13, tzinfo=UTC)
        assert probe.skew is not None
        assert abs(probe.skew) < timedelta(seconds=1)
        assert any("requests are left" in w for w in probe.warnings)


async def test_a_probe_of_an_app_tells_missing_permissions() -> None:
    async with trial(CASE, auth=lambda _: APP) as t:
        t.sim.installations[7].permissions = {"issues": "read", "metadata": "read"}
        missing = set((await t.connector.probe()).missing)
        assert {"issues:write", "contents:read", "repository_hooks:write"} <= missing
        assert not {"issues:read", "metadata:read"} & missing
        t.sim.installations[7].permissions = PERMISSIONS
        probe = await t.connector.probe()
        assert (probe.missing, probe.identity.partition(" on ")[2]) == ((), "acme")


async def test_without_a_public_url_nothing_is_registered_and_the_probe_says_so() -> None:
    async with trial(CASE, inbound_url=None) as t:
        shop(t.sim)
        assert t.connector.wanted_objects() == ()  # type: ignore[attr-defined]
        assert any("no public URL" in w for w in (await t.connector.probe()).warnings)


async def test_texts_carry_the_delivery_and_nothing_else_of_ours() -> None:
    async with trial(CASE) as t:
        shop(t.sim)
        channel = t.connector.channel("create_issue")
        assert channel
        await t.connector.deliver(channel, message(channel, {"repository": SHOP, "title": "T", "body": "B"}))
        sent = json.loads(t.sim.requests[-1].body)
        assert sent == {"title": "T", "body": "B\n\n<!-- reconciler:dlv-1 -->", "labels": [], "assignees": []}


async def test_a_branch_is_that_of_commits_and_of_nothing_else() -> None:
    async with trial(CASE, config={"branch": "release"}) as t:
        for name in ("commits", "issues"):
            t.seed(t.entity(name), 1)
            await read(t, name)
        asked = {call.url_path.rpartition("/")[2]: call.query.get("sha") for call in t.sim.requests}
        assert (asked["commits"], asked["issues"]) == ("release", None)


async def test_what_arrived_is_found_behind_older_ones_and_after_it_was_closed() -> None:
    async with trial(CASE) as t:
        CASE.dispatch(t.sim, GitHub.channels[0])
        t.sim.put_comment(shop(t.sim), 1, START - timedelta(days=1), 7, body="older")
        for name in ("comment_issue", "create_issue"):
            channel = t.connector.channel(name)
            assert channel
            parcel = message(channel, CASE.dispatch(t.sim, channel).fields, is_repeat=True, at=t.clock.now())
            receipt = await t.connector.deliver(channel, parcel)
            if name == "create_issue":
                shop(t.sim).issues[int(receipt.remote_id)]["state"] = "closed"
            assert isinstance(t.connector, GitHub)
            assert await t.connector.find(channel, parcel) == receipt


async def test_an_older_status_of_the_same_words_is_not_taken_for_ours() -> None:
    async with trial(CASE) as t:
        channel = t.connector.channel("deployment_status")
        assert channel
        fields = CASE.dispatch(t.sim, channel).fields
        await t.connector.deliver(channel, message(channel, fields))
        t.clock.advance(timedelta(hours=1))
        again = message(channel, fields, number=2, is_repeat=True, at=t.clock.now())
        assert isinstance(t.connector, GitHub)
        assert await t.connector.find(channel, again) is None


@pytest.mark.parametrize("name", ["../..", "acme/..", "acme", "acme/shop/x", "acme/sh op"])
def test_names_that_would_leave_the_path_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="repositories"):
        GitHub.Config.model_validate({"repositories": [name]})
