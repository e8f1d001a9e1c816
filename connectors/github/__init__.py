"""GitHub over its REST API: repositories, issues, pulls, comments, commits, deployments; writes; repository webhooks.

In: a personal access token, a GitHub App's private key, or a person's consent to an App (`consent`). Out: pages per repository,
deliveries and hooks. What is sent carries `<!-- reconciler:<delivery id> -->`, because GitHub has no idempotency key; `find`
looks for it. Listings that GitHub sorts by change are continued from the last change seen instead of by page number, which
skips records that move.
Not done: organization hooks, GraphQL, per-commit details; commits merged later than a week after they were made and
status changes of deployments older than a week come with the next full run.
"""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from connectors.github.answers import classify, expiry, permits, scope_rights
from connectors.github.arrivals import Arrivals
from connectors.github.consent import code_flow, give_back
from connectors.github.limits import LIMITS
from connectors.github.messages import deployment, is_ours, marked, plain
from connectors.github.settings import (
    App,
    CommentIssue,
    Config,
    CreateDeployment,
    CreateIssue,
    OAuth,
    Token,
    UpdateIssue,
)
from connectors.github.settings import DeploymentStatus as Status
from reconciler.model.clock import from_rfc3339
from reconciler.model.event import Message, Receipt
from reconciler.model.record import LogLevel, Page, Position, ReadRequest
from reconciler.model.secret import Secret
from reconciler.sdk.answer import HttpAnswer
from reconciler.sdk.auth import Authenticator, Grant, Granted, bearer
from reconciler.sdk.authorize import Authorized, CodeFlow
from reconciler.sdk.contract import Answer, Channel, Probe, Repeat, Right, Room
from reconciler.sdk.errors import ConnectorError, ForbiddenError, RejectedError, UnauthorizedError
from reconciler.sdk.jwt import rs256
from reconciler.sdk.paging import LinkHeader, SinglePage, dig
from reconciler.sdk.rest import Lane, Partition, RestChannel, RestEntity, skew_of

MEDIA = "application/vnd.github+json"
SKEW = timedelta(minutes=5)


def _since(at: datetime) -> dict[str, str]:
    return {"since": _second(at)}


def _second(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


BY_CHANGE = {"sort": "updated", "direction": "asc"}
ISSUES_READ, PULLS_READ = ("issues:read",), ("pull_requests:read",)
REPOSITORIES = RestEntity(
    name="repositories", path="{path}", records="", pager=LinkHeader(), cursor="updated_at", conditional=True,
    rights=("metadata:read",),
)  # fmt: skip
INSTALLED = replace(REPOSITORIES, records="repositories")
SINGLE = replace(REPOSITORIES, pager=SinglePage())


class GitHub(Arrivals):
    type = "github"
    title = "GitHub"
    docs_url = "https://docs.github.com/rest"
    Config = Config
    auth_types = (Token, App, OAuth)
    entities = (
        REPOSITORIES,
        RestEntity(
            name="issues", path="/repos/{repository}/issues", records="", pager=LinkHeader(), cursor="updated_at",
            params={"state": "all", **BY_CHANGE}, since=_since, ordered=True, keyset=True, conditional=True,
            also=("pull_request",), keep=lambda get: get("pull_request") is None, none_at=(410,), rights=ISSUES_READ,
        ),
        RestEntity(
            name="pulls", path="/repos/{repository}/pulls", records="", pager=LinkHeader(), cursor="updated_at",
            params={"state": "all", "sort": "updated", "direction": "desc"}, newest_first=True, conditional=True,
            rights=PULLS_READ,
        ),
        RestEntity(
            name="issue_comments", path="/repos/{repository}/issues/comments", records="", pager=LinkHeader(),
            cursor="updated_at", params=BY_CHANGE, since=_since, ordered=True, keyset=True, conditional=True,
            none_at=(410,), rights=ISSUES_READ,
        ),
        RestEntity(
            # Forks share hashes, node ids are unique to a repository.
            name="commits", path="/repos/{repository}/commits", records="", pager=LinkHeader(), key="node_id",
            cursor="commit.committer.date", since=_since, overlap=timedelta(days=7), conditional=True,
            none_at=(409,), rights=("contents:read",),
        ),
        RestEntity(
            name="deployments", path="/repos/{repository}/deployments", records="", pager=LinkHeader(),
            cursor="created_at", newest_first=True, overlap=timedelta(days=7), conditional=True,
            rights=("deployments:read",),
        ),
    )  # fmt: skip
    channels = (
        RestChannel(
            name="create_issue", fields=CreateIssue, text_field="body", repeat=Repeat.FIND, rights=("issues:write",),
            path="/repos/{repository}/issues", body=marked(CreateIssue), receipt="number", link="html_url",
        ),
        RestChannel(
            name="update_issue", fields=UpdateIssue, text_field="body", repeat=Repeat.SAFE, rights=("issues:write",),
            method="PATCH", path="/repos/{repository}/issues/{number}", receipt="number", link="html_url",
            body=plain(UpdateIssue),
        ),
        RestChannel(
            name="comment_issue", fields=CommentIssue, text_field="body", repeat=Repeat.FIND, rights=("issues:write",),
            path="/repos/{repository}/issues/{number}/comments", body=marked(CommentIssue), receipt="id",
            link="html_url",
        ),
        RestChannel(
            name="create_deployment", fields=CreateDeployment, text_field="description", repeat=Repeat.FIND,
            path="/repos/{repository}/deployments", body=deployment, receipt="id", link="url",
            rights=("deployments:write",),
        ),
        RestChannel(
            name="deployment_status", fields=Status, text_field="description", repeat=Repeat.FIND,
            path="/repos/{repository}/deployments/{deployment_id}/statuses", receipt="id", link="url",
            body=plain(Status), rights=("deployments:write",),
        ),
    )  # fmt: skip
    limits = LIMITS

    @property
    def headers(self) -> Mapping[str, str]:  # type: ignore[override]
        return {"Accept": MEDIA, "X-GitHub-Api-Version": self.config.api_version}

    def base_url(self) -> str:
        return self.config.base_url

    def authenticator(self) -> Authenticator:
        if isinstance(self.auth, Token):
            return bearer(self.auth.token)
        if flow := self.code_flow():
            return Authorized(flow, early=timedelta(minutes=5))
        return Granted(self._token_name, self._installation_token, early=timedelta(minutes=5))

    def code_flow(self) -> CodeFlow | None:
        return code_flow(self.auth, self.base_url()) if isinstance(self.auth, OAuth) else None

    def classify(self, answer: Answer) -> ConnectorError | None:
        return classify(answer, self.room.clock.now())

    @property
    def _token_name(self) -> str:
        return f"installation-{cast('App', self.auth).installation_id}"

    async def _as_app(self, method: str, path: str, *, lane: Lane = "sync") -> Answer:
        """One request signed with the App's own key, which three endpoints ask for."""
        app = cast("App", self.auth)
        now = int(self.room.clock.now().timestamp())
        # GitHub's own advice: a minute back for clocks that are ahead; at most ten minutes in all.
        token = rs256({"iat": now - 60, "exp": now + 540, "iss": str(app.app_id)}, app.private_key)
        headers = {**self.headers, "Authorization": f"Bearer {token}"}
        url = self.base_url() + path.format(installation=app.installation_id)
        return await self.room.http.send(method, url, headers=headers, safe=True, classify=self.classify, lane=lane)

    async def _installation_token(self, room: Room) -> Grant:
        try:
            said = (await self._as_app("POST", "/app/installations/{installation}/access_tokens")).json()
        except ForbiddenError as error:
            raise UnauthorizedError(f"the installation is unknown or suspended: {error.message}") from None
        return Grant(Secret(said["token"]), from_rfc3339(said["expires_at"]))

    async def revoke(self) -> None:
        if flow := self.code_flow():
            await give_back(self.room, flow, self.base_url(), self.headers)
            return
        kept = await self.room.tokens.get(self._token_name) if isinstance(self.auth, App) else None
        if kept is None:
            return
        headers = {**self.headers, **await bearer(kept[0]).headers(self.room)}
        await self.room.http.send("DELETE", self.base_url() + "/installation/token", headers=headers, expect=(401,))
        await self.room.tokens.drop(self._token_name)

    def _catalogs(self) -> list[Partition]:
        """The listings of repositories."""
        config = self.config
        listed = [Partition(f"org:{o}", {"path": f"/orgs/{o}/repos"}) for o in config.organizations]
        listed += [Partition(r, {"path": f"/repos/{r}"}, SINGLE) for r in config.repositories]
        if not listed and isinstance(self.auth, App):
            return [Partition("installation", {"path": "/installation/repositories"}, INSTALLED)]
        return listed

    async def _names(self, lane: Lane = "sync") -> AsyncIterator[str]:
        for name in self.config.repositories:
            yield name
        for catalog in self._catalogs():
            if catalog.entity is not SINGLE:
                async for found in self.elements(
                    catalog.fill["path"], LinkHeader(), records="repositories" if catalog.entity else "", lane=lane
                ):
                    yield found["full_name"]

    async def partitions(self, entity: RestEntity) -> Sequence[Partition]:
        catalogs = self._catalogs()
        if not catalogs:
            raise RejectedError("config names neither organizations nor repositories: a token reads nothing without")
        if entity is REPOSITORIES:
            return catalogs
        names = sorted({name async for name in self._names()})
        return [Partition(name, {"repository": name}) for name in names]

    def entity_params(self, entity: RestEntity, request: ReadRequest, since: datetime | None) -> Mapping[str, Any]:
        branch = {"sha": self.config.branch} if entity.name == "commits" and self.config.branch else {}
        return {**super().entity_params(entity, request, since), **branch}

    def cut(
        self, entity: RestEntity, answer: Answer, at: Position | None, partition: Partition
    ) -> tuple[Page, Position | None]:
        if entity is SINGLE:
            name = answer.json()["full_name"]
            if name != partition.name:
                self.room.log(LogLevel.WARN, f"{partition.name} is called {name} now: change the manifest")
            answer = HttpAnswer(answer.status, answer.headers, b"[" + answer.body + b"]", answer.url)
        return super().cut(entity, answer, at, partition)

    async def find(self, channel: Channel, message: Message) -> Receipt | None:
        rest = cast("RestChannel", channel)
        earliest = (message.first_attempt_at or self.room.clock.now() - timedelta(days=1)) - SKEW
        asked = {"create_issue": {"state": "all", **_since(earliest)}, "comment_issue": _since(earliest)}
        path = rest.path.format(**message.fields)
        async for found in self.elements(path, LinkHeader(), params=asked.get(rest.name), lane="deliver"):
            if rest.name not in asked and from_rfc3339(found["created_at"]) < earliest:
                return None  # newest first
            if is_ours(rest.name, message, found):
                return Receipt(str(found[rest.receipt]), str(found.get(rest.link) or ""))
        return None

    async def probe(self) -> Probe:
        answer, identity, rights = await (self._as_installation() if isinstance(self.auth, App) else self._as_user())
        warnings = list(self._warnings(answer))
        first = None
        async for name in self._names("probe"):
            first = name
            break
        if first is None:
            warnings.append("no repository is visible to this credential")
        entities = {e.name: await self._reads(e, first) for e in self.entities if isinstance(e, RestEntity) and first}
        return Probe(
            identity, rights=rights, entities=entities, skew=skew_of(answer, self.room.clock.now()),
            version=answer.headers.get("x-github-enterprise-version", self.config.api_version),
            credential_expires_at=expiry(answer.headers.get("github-authentication-token-expiration", "")),
            warnings=tuple(warnings),
        )  # fmt: skip

    async def _as_user(self) -> tuple[Answer, str, tuple[Right, ...]]:
        answer = await self.send("GET", "/user", lane="probe")
        # A GitHub App's user has permissions instead, and GitHub then names no scopes in that header.
        has_scopes = not isinstance(self.auth, OAuth) or bool(self.auth.scopes)
        scopes = answer.headers.get("x-oauth-scopes") if has_scopes else None
        return answer, answer.json()["login"], scope_rights(scopes, wants_hooks=bool(self.hooked()))

    async def _as_installation(self) -> tuple[Answer, str, tuple[Right, ...]]:
        app = (await self._as_app("GET", "/app", lane="probe")).json()
        said = (await self._as_app("GET", "/app/installations/{installation}", lane="probe")).json()
        answer = await self.send("GET", "/installation/repositories", params={"per_page": 1}, lane="probe")
        wanted = dict.fromkeys(r for part in (*self.entities, *self.channels) for r in part.rights)
        hooks = ("repository_hooks:write",) if self.hooked() else ()
        rights = tuple(Right(r, permits(said["permissions"], r)) for r in (*wanted, *hooks))
        return answer, f"{app['name']} on {dig(said, 'account.login')}", rights

    async def _reads(self, entity: RestEntity, repository: str) -> bool:
        """Whether one record of the entity may be read."""
        path = "/repos/{repository}" if entity is REPOSITORIES else entity.path
        params = {} if entity is REPOSITORIES else {"per_page": 1}
        try:
            await self.send(
                "GET", path.format(repository=repository), params=params or None, expect=entity.none_at, lane="probe"
            )
        except ForbiddenError as error:
            self.room.log(LogLevel.WARN, f"{entity.name} cannot be read", why=error.message)
            return False
        return True

    def _warnings(self, answer: Answer) -> Iterator[str]:
        left, most = (answer.headers.get(f"x-ratelimit-{n}", "") for n in ("remaining", "limit"))
        self.room.log(LogLevel.INFO, "rate limit", remaining=left, limit=most)
        if left.isdigit() and most.isdigit() and int(left) * 10 < int(most):
            yield f"{left} of {most} requests are left in this hour"
        if self.hooked() and self.room.inbound_url is None:
            yield "config.webhook registers nothing: the daemon has no public URL"
