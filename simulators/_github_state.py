"""What a simulated GitHub holds: repositories and their parts, hooks, credentials, what is left of the hour.

Tests and the demo change it by `put_...`; the endpoints in `simulators.github` answer from it.
"""

import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from reconciler.sdk.testing.simulator import Call, Reply, Simulator
from simulators import _github_records as make
from simulators._github_limits import SecondaryLimits

Shape = make.Shape
DOCS = "https://docs.github.com/rest"
TOO_FAST = "You have exceeded a secondary rate limit. Please wait a few minutes before you try again."


def refuse(status: int, message: str, **headers: str) -> Reply:
    said = {"message": message, "documentation_url": DOCS, "status": str(status)}
    return Reply(status=status, json=said, headers={k.replace("_", "-"): v for k, v in headers.items()})


@dataclass
class Repo:
    """One repository. `denied` are the parts (`issues`, `commits`, ...) that the credential may not use."""

    shape: Shape
    issues: dict[int, Shape] = field(default_factory=dict)
    pulls: dict[int, Shape] = field(default_factory=dict)
    comments: dict[int, Shape] = field(default_factory=dict)
    commits: dict[str, Shape] = field(default_factory=dict)
    deployments: dict[int, Shape] = field(default_factory=dict)
    statuses: dict[int, list[Shape]] = field(default_factory=dict)
    hooks: dict[int, Shape] = field(default_factory=dict)
    secrets: dict[int, str] = field(default_factory=dict)
    denied: set[str] = field(default_factory=set)


@dataclass
class Installed:
    """An App's installation."""

    number: int
    app_id: str
    app_number: int
    key: RSAPublicKey
    permissions: Mapping[str, str]
    suspended_at: str | None = None


class GitHubState(Simulator):
    """`repos` is the state. `secondary` is what the next requests are refused with; `moved` are renamed repositories."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.repos: dict[str, Repo] = {}
        self.orgs: set[str] = set()
        self.moved: dict[str, str] = {}
        self.tokens: dict[str, str | None] = {}  # token -> classic scopes; None for fine-grained
        self.expires: str | None = None
        self.installations: dict[int, Installed] = {}
        self.minted: dict[str, datetime] = {}
        self.oauth_clients: dict[str, str] = {}  # client id -> secret
        self.oauth_codes: dict[str, dict[str, str]] = {}
        self.oauth_tokens: dict[str, datetime] = {}  # of a GitHub App's users -> when they end
        self.oauth_refresh: dict[str, str] = {}  # refresh token -> the token it came with
        self.oauth_expires = True  # as of a GitHub App; False as of an OAuth App
        self.oauth_scopes: str | None = None  # what a person gives, whatever is asked for
        self.oauth_revocations: list[str] = []
        self.declines = False
        self.hour_limit, self.used = 5000, 0
        self.secondary: list[Mapping[str, str]] = []  # headers of coming refusals
        self.pace = SecondaryLimits()
        self.deliveries: list[tuple[dict[str, str], bytes]] = []
        self.rewrites_links = False
        self._last = 100

    # State, for tests and the demo.

    def new_id(self) -> int:
        self._last += 1
        return self._last

    def add_repo(self, full_name: str, **more: Any) -> Repo:
        made = make.repository(self.url, full_name, self.new_id(), self.now(), **more)
        return self.repos.setdefault(full_name, Repo(made))

    def put_issue(self, repo: Repo, number: int, at: datetime, **more: Any) -> Shape:
        """Create an issue, or touch it."""
        kept = repo.issues.get(number) or make.issue(repo.shape, number, self.new_id(), at)
        repo.issues[number] = {**kept, "updated_at": make.stamp(at), **more}
        return repo.issues[number]

    def put_pull(self, repo: Repo, number: int, at: datetime, **more: Any) -> Shape:
        """Create a pull request and the issue that stands for it, or touch both."""
        kept = repo.pulls.get(number) or make.pull(repo.shape, number, self.new_id(), at)
        repo.pulls[number] = {**kept, "updated_at": make.stamp(at), **more}
        self.put_issue(repo, number, at, pull_request={
            "url": kept["url"], "html_url": kept["html_url"], "diff_url": kept["diff_url"], "patch_url": kept["patch_url"],
        })  # fmt: skip
        return repo.pulls[number]

    def put_comment(self, repo: Repo, identity: int, at: datetime, number: int = 1, **more: Any) -> Shape:
        kept = repo.comments.get(identity) or make.comment(repo.shape, number, identity, at)
        repo.comments[identity] = {**kept, "updated_at": make.stamp(at), **more}
        return repo.comments[identity]

    def put_commit(self, repo: Repo, sha: str, at: datetime, message: str = "") -> Shape:
        repo.commits[sha] = make.commit(repo.shape, sha, at, message)
        return repo.commits[sha]

    def put_deployment(self, repo: Repo, identity: int, at: datetime, **more: Any) -> Shape:
        kept = repo.deployments.get(identity) or make.deployment(repo.shape, identity, at)
        repo.deployments[identity] = {**kept, "updated_at": make.stamp(at), **more}
        return repo.deployments[identity]

    def happen(self, repo: Repo, event: str, payload: Mapping[str, Any]) -> None:
        """Something that hooks are told of: one signed delivery per active hook."""
        for identity, hook in repo.hooks.items():
            if hook["active"] and event in (*hook["events"], "ping"):
                self._send(repo, identity, event, payload)

    def redeliver(self, index: int = -1) -> None:
        """The same delivery once more, with the same id."""
        self.deliveries.append(self.deliveries[index])

    def _send(self, repo: Repo, identity: int, event: str, payload: Mapping[str, Any]) -> None:
        body = json.dumps(payload, ensure_ascii=False).encode()
        secret = repo.secrets.get(identity)
        signature = hmac.new((secret or "").encode(), body, "sha256").hexdigest()
        headers = {
            "X-GitHub-Event": event,
            "X-GitHub-Delivery": f"00000000-0000-4000-8000-{self.new_id():012}",
            "X-GitHub-Hook-ID": str(identity),
            "Content-Type": "application/json",
            "User-Agent": "GitHub-Hookshot/sim",
        }
        signed = {"X-Hub-Signature-256": f"sha256={signature}"} if secret else {}
        self.deliveries.append(({**headers, **signed}, body))

    # Credentials, limits, errors.

    def error(self, status: int) -> Reply:
        said = {401: "Bad credentials", 403: "Resource not accessible by integration", 404: "Not Found"}
        return refuse(status, said.get(status, f"Simulated {status}"))

    def admit(self, call: Call) -> Reply | None:
        if call.headers.get("x-github-api-version") not in ("2022-11-28", "2026-03-10"):
            return refuse(400, "API version is not supported")
        token = call.headers.get("authorization", "").removeprefix("Bearer ")
        until = self.minted.get(token) or self.oauth_tokens.get(token)
        if token not in self.tokens and (until is None or until <= self.now()):
            return self.error(401)
        if token in self.minted and call.url_path == "/user":
            return self.error(403)
        return self._limit(call)

    def _limit(self, call: Call) -> Reply | None:
        if self.secondary:
            return refuse(403, TOO_FAST, **self.secondary.pop(0))
        if call.url_path == "/rate_limit":
            return None
        token = call.headers.get("authorization", "")
        wait = self.pace.wait(token, call.method, call.url_path, self.now())
        if wait is not None:
            return refuse(403, TOO_FAST, retry_after=str(wait))
        if self.used >= self.hour_limit:
            return refuse(403, "API rate limit exceeded for user ID 1.")
        self.used += 1
        return None

    def usual_headers(self, call: Call) -> Mapping[str, str]:
        token = call.headers.get("authorization", "").removeprefix("Bearer ")
        scopes = self.tokens.get(token)
        return {
            "x-ratelimit-limit": str(self.hour_limit),
            "x-ratelimit-remaining": str(self.hour_limit - self.used),
            "x-ratelimit-used": str(self.used),
            "x-ratelimit-reset": str(self.reset()),
            "x-ratelimit-resource": "core",
            "x-github-request-id": f"SIM:{len(self.requests)}",
            **({"x-oauth-scopes": scopes} if scopes is not None else {}),
            **({"github-authentication-token-expiration": self.expires} if self.expires else {}),
        }

    def reset(self) -> int:
        """Epoch second at which the hour is over."""
        return (int(self.now().timestamp()) // 3600 + 1) * 3600

    def lets_pass(self, operation: str, complaint: str) -> bool:
        # The description leaves out redirects, 304 for most listings, cursors of Link URLs, and that an author may be unknown.
        return any(
            known in complaint for known in ("status 304", "status 301", "query parameter after", "author: None")
        )
