"""GitHub's REST API: tokens and Apps, listings with Link and ETag, limits, issues, deployments and repository hooks.

In: requests of the connector. Out: what GitHub answers, including: pull requests among the issues, 403 for limits and for
missing rights, 404 for what may not be seen, 304 that costs nothing, 409 for commits of an empty repository, hooks whose
secret reads back as asterisks and is lost by a PATCH that does not repeat it, deliveries that are signed and keep their
id. Used by the connector's tests and the demo. Not done: search, GraphQL, organization hooks, `type` filters.
"""

import hashlib
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, cast
from urllib.parse import urlencode

from reconciler.sdk.testing.simulator import Call, Reply, route
from simulators import _github_records as make
from simulators import description, signed_by
from simulators._consent import CONSENT, EXCHANGE, back, basic, proves
from simulators._github_state import DOCS, GitHubState, Installed, Repo, Shape, refuse

PAGING = ("per_page", "page", "after")
SORTED = ("sort", "direction", "since", "state", *PAGING)
HEADERS = {"accept": "application/vnd.github+json", "x-github-api-version": "*", "user-agent": "?*"}
HOUR = timedelta(hours=1)


class GitHub(GitHubState):
    """The endpoints."""

    descriptions = description("github/openapi.json")
    token_prefix = "ghs_"

    # Apps.

    def _claims(self, call: Call) -> Installed | Reply:
        """The installation whose App signed the request."""
        token = call.headers.get("authorization", "").removeprefix("Bearer ")
        for found in self.installations.values():
            claims = signed_by(found.key, token)
            if claims is None or claims.get("iss") != found.app_id:
                continue
            now = self.now().timestamp()
            if claims["exp"] - now > 600:
                return refuse(401, "'Expiration time' claim ('exp') is too far in the future")
            if claims["iat"] > now or claims["exp"] <= now:
                return refuse(
                    401,
                    "'Issued at' claim ('iat') is not a time at which the assertion was issued",
                )
            return found
        return refuse(401, "A JSON web token could not be decoded")

    @route("GET", "/app", headers=HEADERS, is_open=True)
    def app(self, call: Call) -> Reply:
        by = self._claims(call)
        return by if isinstance(by, Reply) else Reply(json=make.app(self.url, by.app_number, by.permissions))

    @route("GET", "/app/installations/{installation}", headers=HEADERS, is_open=True)
    def installation(self, call: Call) -> Reply:
        by = self._claims(call)
        if isinstance(by, Reply):
            return by
        found = self.installations.get(int(call.path["installation"]))
        if found is None:
            return self.error(404)
        return Reply(
            json=make.installation(self.url, found.number, found.app_number, found.permissions, found.suspended_at)
        )

    @route("POST", "/app/installations/{installation}/access_tokens", headers=HEADERS, is_open=True)
    def access_tokens(self, call: Call) -> Reply:
        by = self._claims(call)
        if isinstance(by, Reply):
            return by
        found = self.installations.get(int(call.path["installation"]))
        if found is None:
            return self.error(404)
        if found.suspended_at:
            return refuse(403, "This installation has been suspended")
        token = f"{self.token_prefix}{found.number}_{self.new_id()}_" + "x" * 300
        self.minted[token] = self.now() + HOUR
        shown = {"token": token, "expires_at": make.stamp(self.minted[token]), "permissions": dict(found.permissions)}
        return Reply(status=201, json={**shown, "repository_selection": "selected"})

    @route("DELETE", "/installation/token", headers=HEADERS, is_described=False)
    def revoked(self, call: Call) -> Reply:
        self.minted.pop(call.headers["authorization"].removeprefix("Bearer "), None)
        return Reply(status=204)

    @route("GET", "/login/oauth/authorize", query=CONSENT,
           required=("client_id", "redirect_uri", "state"), is_open=True, is_described=False)  # fmt: skip
    def authorize(self, call: Call) -> Reply:
        """A person who allows what is asked for, or declines where `declines` is set."""
        asked = call.query
        if asked["client_id"] not in self.oauth_clients:
            return self.error(404)
        if self.declines:
            words = "The user has denied your application access."
            return back(asked["redirect_uri"], error="access_denied", error_description=words, state=asked["state"])
        code = f"{self.oauth_clients[asked['client_id']]}-code-{self.new_id()}"
        self.oauth_codes[code] = asked
        return back(asked["redirect_uri"], code=code, state=asked["state"])

    @route("POST", "/login/oauth/access_token", body="form", headers={"accept": "application/json"}, is_open=True,
           is_described=False, fields=EXCHANGE)  # fmt: skip
    def oauth_token(self, call: Call) -> Reply:
        """Refusals have status 200, as GitHub's do."""
        form = call.form
        if self.oauth_clients.get(form.get("client_id", "")) != form.get("client_secret"):
            return _no("incorrect_client_credentials")
        if form.get("grant_type") == "refresh_token":
            if form.get("refresh_token") not in self.oauth_refresh:
                return _no("bad_refresh_token")
            self.oauth_tokens.pop(self.oauth_refresh.pop(form["refresh_token"]), None)
            return self._allowed(form["client_secret"], "")
        asked = self.oauth_codes.pop(form.get("code", ""), None)
        if asked is None or not proves(asked.get("code_challenge"), form.get("code_verifier")):
            return _no("bad_verification_code")
        if asked["redirect_uri"] != form.get("redirect_uri"):
            return _no("redirect_uri_mismatch")
        given = asked.get("scope", "").replace(" ", ",") if self.oauth_scopes is None else self.oauth_scopes
        return self._allowed(form["client_secret"], given)

    def _allowed(self, secret: str, scopes: str) -> Reply:
        """Tokens of an OAuth App do not expire, those of a GitHub App do."""
        number = self.new_id()
        if not self.oauth_expires:
            self.tokens[token := f"{secret}-gho_{number}"] = scopes
            return Reply(json={"access_token": token, "token_type": "bearer", "scope": scopes})
        token, refresh = f"{secret}-ghu_{number}", f"{secret}-ghr_{number}"
        self.oauth_tokens[token] = self.now() + 8 * HOUR
        self.oauth_refresh[refresh] = token
        life = {"expires_in": 28800, "refresh_token": refresh, "refresh_token_expires_in": 15811200}
        return Reply(json={"access_token": token, "token_type": "bearer", "scope": "", **life})

    @route("DELETE", "/applications/{client}/token", body="json", headers=HEADERS, is_open=True, is_described=False)
    def oauth_revoked(self, call: Call) -> Reply:
        client = call.path["client"]
        if call.headers.get("authorization") != basic(client, self.oauth_clients.get(client, "")):
            return self.error(401)
        token = call.json["access_token"]
        if self.tokens.pop(token, None) is None and self.oauth_tokens.pop(token, None) is None:
            return refuse(422, "Validation Failed")
        self.oauth_revocations.append(token)
        return Reply(status=204)

    @route("GET", "/user", headers=HEADERS)
    def user(self, call: Call) -> Reply:
        return Reply(json=make.person(self.url, "octocat"))

    @route("GET", "/rate_limit", headers=HEADERS)
    def rate_limit(self, call: Call) -> Reply:
        core = {
            "limit": self.hour_limit,
            "used": self.used,
            "remaining": self.hour_limit - self.used,
            "reset": self.reset(),
        }
        return Reply(json={"resources": {"core": core, "search": core}, "rate": core})

    # Listings.

    def _page(self, call: Call, found: list[Shape], envelope: str = "", path: str = "") -> Reply:
        """One page, its Link header and its ETag."""
        asked = min(int(call.query.get("per_page", 30)), 100)
        size = call.size(asked)
        page = int(call.query.get("page", 1))
        cursor, _, turn = call.query.get("after", "").partition("-")
        start = int(cursor) if cursor else (page - 1) * asked
        is_empty = call.wants_empty() and start < len(found)
        shown = [] if is_empty else found[start : start + size]
        end = start if is_empty else start + size
        headers = {}
        if end < len(found):
            rest = {k: v for k, v in call.query.items() if k not in ("page", "after")}
            further = {"page": page + 1} if end == page * asked else {"after": f"{end}-{int(turn or 0) + 1}"}
            url = f"{self.url}{path or call.url_path}?{urlencode({**rest, **further})}"
            headers["Link"] = f'<{url}>; rel="next", <{url}>; rel="last"'
        body = {"total_count": len(found), envelope: shown} if envelope else shown
        return self._tagged(call, Reply(json=body, headers=headers))

    def _tagged(self, call: Call, reply: Reply) -> Reply:
        tag = f'W/"{hashlib.sha256(reply.content).hexdigest()}"'
        if call.headers.get("if-none-match") == tag:
            self.used -= 1
            return Reply(status=304, headers={"ETag": tag})
        return Reply(json=reply.json, headers={**reply.headers, "ETag": tag})

    @route("GET", "/orgs/{org}/repos", query=("type", "sort", "direction", *PAGING), headers=HEADERS)
    def org_repos(self, call: Call) -> Reply:
        found = [r.shape for name, r in sorted(self.repos.items()) if name.startswith(call.path["org"] + "/")]
        return self._page(call, found) if call.path["org"] in self.orgs else self.error(404)

    @route("GET", "/installation/repositories", query=PAGING, headers=HEADERS)
    def installation_repos(self, call: Call) -> Reply:
        return self._page(call, [r.shape for _, r in sorted(self.repos.items())], "repositories")

    def _in(self, call: Call, part: str = "") -> Repo | Reply:
        """The repository of a request; a renamed one redirects, a forbidden one looks absent."""
        name = f"{call.path['owner']}/{call.path['repo']}"
        if name in self.moved:
            place = call.url_path.replace(f"/repos/{name}", f"/repos/{self.moved[name]}")
            query = f"?{urlencode(call.query_list)}" if call.query_list else ""
            return Reply(status=301, json={"url": place}, headers={"Location": f"{self.url}{place}{query}"})
        repo = self.repos.get(name)
        if repo is None:
            return self.error(404)
        return self.error(403) if part in repo.denied else repo

    @route("GET", "/repos/{owner}/{repo}", headers=HEADERS)
    def repo(self, call: Call) -> Reply:
        repo = self._in(call)
        return repo if isinstance(repo, Reply) else self._tagged(call, Reply(json=repo.shape))

    @route("GET", "/repositories/{id}/{part}", query=SORTED, headers=HEADERS, is_described=False)
    def by_id(self, call: Call) -> Reply:
        """Where rewritten Link URLs lead."""
        name = next(n for n, r in self.repos.items() if str(r.shape["id"]) == call.path["id"])
        owner, _, repo = name.partition("/")
        call.path = {"owner": owner, "repo": repo}
        return cast("Reply", getattr(self, PARTS[call.url_path.rsplit("/", 1)[1]])(call))

    def _listed(self, call: Call, part: str, records: Callable[[Repo], Any]) -> Reply:
        repo = self._in(call, part)
        if isinstance(repo, Reply):
            return repo
        if part in ("issues", "comments") and not repo.shape["has_issues"]:
            return refuse(410, "Issues are disabled for this repo")
        found = [r for r in records(repo) if call.query.get("state", "open") in (r.get("state", "open"), "all")]
        since = call.query.get("since", "")
        found = [r for r in found if not since or since <= r["updated_at"]]
        key = {"updated": "updated_at"}.get(call.query.get("sort", ""), "created_at")
        usual = "asc" if part == "comments" else "desc"
        found.sort(key=lambda r: (r[key], r["id"]), reverse=call.query.get("direction", usual) == "desc")
        rewritten = f"/repositories/{repo.shape['id']}/{part}" if self.rewrites_links else ""
        return self._page(call, found, path=rewritten)

    @route("GET", "/repos/{owner}/{repo}/issues", query=SORTED, headers=HEADERS)
    def issues(self, call: Call) -> Reply:
        return self._listed(call, "issues", lambda repo: repo.issues.values())

    @route("GET", "/repos/{owner}/{repo}/pulls", query=("state", "sort", "direction", *PAGING), headers=HEADERS)
    def pulls(self, call: Call) -> Reply:
        return self._listed(call, "pulls", lambda repo: repo.pulls.values())

    @route(
        "GET", "/repos/{owner}/{repo}/issues/comments", query=("sort", "direction", "since", *PAGING), headers=HEADERS
    )
    def comments(self, call: Call) -> Reply:
        return self._listed(call, "comments", lambda repo: repo.comments.values())

    @route("GET", "/repos/{owner}/{repo}/deployments", query=PAGING, headers=HEADERS)
    def deployments(self, call: Call) -> Reply:
        return self._listed(call, "deployments", lambda repo: repo.deployments.values())

    @route("GET", "/repos/{owner}/{repo}/commits", query=("since", "until", "sha", *PAGING), headers=HEADERS)
    def commits(self, call: Call) -> Reply:
        repo = self._in(call, "commits")
        if isinstance(repo, Reply):
            return repo
        if not repo.commits:
            return refuse(409, "Git Repository is empty.")
        since = call.query.get("since", "")
        found = [c for c in repo.commits.values() if since <= c["commit"]["committer"]["date"]]
        return self._page(call, sorted(found, key=lambda c: c["commit"]["committer"]["date"], reverse=True))

    @route("GET", "/repos/{owner}/{repo}/issues/{number}", headers=HEADERS)
    def issue(self, call: Call) -> Reply:
        return self._single(call, "issues", "number")

    @route("GET", "/repos/{owner}/{repo}/issues/comments/{number}", headers=HEADERS)
    def comment(self, call: Call) -> Reply:
        return self._single(call, "comments", "number")

    @route("GET", "/repos/{owner}/{repo}/deployments/{number}", headers=HEADERS)
    def one_deployment(self, call: Call) -> Reply:
        return self._single(call, "deployments", "number")

    def _single(self, call: Call, part: str, name: str) -> Reply:
        """Issues that are deleted answer 410 at github.com, anything else 404."""
        repo = self._in(call, part)
        if isinstance(repo, Reply):
            return repo
        found = getattr(repo, part).get(int(call.path[name]))
        gone = refuse(410, "This issue was deleted") if part == "issues" else self.error(404)
        return Reply(json=found) if found is not None else gone

    # Writes.

    @route("POST", "/repos/{owner}/{repo}/issues", headers=HEADERS, body="json",
           fields=("title", "body", "labels", "assignees", "milestone", "type"))  # fmt: skip
    def create_issue(self, call: Call) -> Reply:
        repo = self._in(call, "issues:write")
        if isinstance(repo, Reply):
            return repo
        if not repo.shape["has_issues"]:
            return refuse(410, "Issues are disabled for this repo")
        given = call.json
        if not given.get("title"):
            return invalid("Issue", field="title", code="missing_field")
        if "nobody" in given.get("assignees", ()):
            return invalid("Issue", field="assignees", code="invalid")
        number = max(repo.issues, default=0) + 1
        labels = [{"id": 1, "node_id": "L", "url": "https://github.test/l", "name": n, "color": "d73a4a", "default": False,
                   "description": None} for n in given.get("labels", ())]  # fmt: skip
        made = self.put_issue(repo, number, self.now(), title=given["title"], body=given.get("body"), labels=labels)
        return Reply(status=201, json=made)

    @route("PATCH", "/repos/{owner}/{repo}/issues/{number}", headers=HEADERS, body="json",
           fields=("title", "body", "state", "state_reason", "labels", "assignees"))  # fmt: skip
    def update_issue(self, call: Call) -> Reply:
        repo = self._in(call, "issues:write")
        if isinstance(repo, Reply):
            return repo
        number = int(call.path["number"])
        if number not in repo.issues:
            return self.error(404)
        given = {k: v for k, v in call.json.items() if k in ("title", "body", "state", "state_reason")}
        return Reply(json=self.put_issue(repo, number, self.now(), **given))

    @route("GET", "/repos/{owner}/{repo}/issues/{number}/comments", query=("since", *PAGING), headers=HEADERS)
    def comments_of(self, call: Call) -> Reply:
        number = int(call.path["number"])
        at = f"/issues/{number}"
        return self._listed(
            call, "comments", lambda repo: [c for c in repo.comments.values() if c["issue_url"].endswith(at)]
        )

    @route("POST", "/repos/{owner}/{repo}/issues/{number}/comments", headers=HEADERS, body="json", fields=("body",))
    def create_comment(self, call: Call) -> Reply:
        repo = self._in(call, "issues:write")
        if isinstance(repo, Reply):
            return repo
        number = int(call.path["number"])
        if number not in repo.issues:
            return self.error(404)
        return Reply(status=201, json=self.put_comment(repo, self.new_id(), self.now(), number, body=call.json["body"]))

    @route("POST", "/repos/{owner}/{repo}/deployments", headers=HEADERS, body="json",
           fields=("ref", "task", "auto_merge", "required_contexts", "payload", "environment", "description"))  # fmt: skip
    def create_deployment(self, call: Call) -> Reply:
        repo = self._in(call, "deployments:write")
        if isinstance(repo, Reply):
            return repo
        if call.json["ref"] == "behind":
            return Reply(status=202, json={"message": "Auto-merged main into behind on deployment."})
        if call.json["ref"] == "conflict":
            return refuse(409, "Conflict merging main into conflict.")
        given = {k: v for k, v in call.json.items() if k not in ("auto_merge", "required_contexts")}
        return Reply(status=201, json=self.put_deployment(repo, self.new_id(), self.now(), **given))

    @route("GET", "/repos/{owner}/{repo}/deployments/{id}/statuses", query=PAGING, headers=HEADERS)
    def statuses(self, call: Call) -> Reply:
        repo = self._in(call)
        return repo if isinstance(repo, Reply) else self._page(call, repo.statuses.get(int(call.path["id"]), [])[::-1])

    @route("POST", "/repos/{owner}/{repo}/deployments/{id}/statuses", headers=HEADERS, body="json",
           fields=("state", "description", "environment_url", "log_url", "environment", "auto_inactive"))  # fmt: skip
    def create_status(self, call: Call) -> Reply:
        repo = self._in(call, "deployments:write")
        if isinstance(repo, Reply):
            return repo
        identity = int(call.path["id"])
        if identity not in repo.deployments:
            return self.error(404)
        made = make.deployment_status(repo.deployments[identity], self.new_id(), self.now(), **call.json)
        repo.statuses.setdefault(identity, []).append(made)
        self.put_deployment(repo, identity, self.now())
        return Reply(status=201, json=made)

    # Hooks.

    @route("GET", "/repos/{owner}/{repo}/hooks", query=PAGING, headers=HEADERS)
    def hooks(self, call: Call) -> Reply:
        repo = self._in(call, "hooks")
        return repo if isinstance(repo, Reply) else self._page(call, list(repo.hooks.values()))

    @route(
        "POST",
        "/repos/{owner}/{repo}/hooks",
        headers=HEADERS,
        body="json",
        fields=("name", "active", "events", "config"),
    )
    def create_hook(self, call: Call) -> Reply:
        repo = self._in(call, "hooks")
        if isinstance(repo, Reply):
            return repo
        given = call.json
        for other in repo.hooks.values():
            if other["config"]["url"] == given["config"]["url"] and set(other["events"]) & set(given["events"]):
                return invalid("Hook", code="custom", message="Hook already exists on this repository")
        identity = self.new_id()
        return Reply(
            status=201, json=self._keep(repo, identity, given["events"], given["config"], active=given["active"])
        )

    def _keep(
        self, repo: Repo, identity: int, events: list[str], config: Mapping[str, Any], *, active: bool = True
    ) -> Shape:
        is_new = identity not in repo.hooks
        repo.hooks[identity] = make.hook(repo.shape, identity, self.now(), events, config, active=active)
        repo.secrets.pop(identity, None)
        if config.get("secret"):
            repo.secrets[identity] = config["secret"]
        if is_new:
            self._send(repo, identity, "ping", {"zen": "Keep it logically awesome.", "hook_id": identity})
        return repo.hooks[identity]

    def _hook(self, call: Call) -> tuple[Repo, int] | Reply:
        repo = self._in(call, "hooks")
        if isinstance(repo, Reply):
            return repo
        identity = int(call.path["id"])
        return (repo, identity) if identity in repo.hooks else self.error(404)

    @route(
        "PATCH", "/repos/{owner}/{repo}/hooks/{id}", headers=HEADERS, body="json", fields=("active", "events", "config")
    )
    def update_hook(self, call: Call) -> Reply:
        found = self._hook(call)
        if isinstance(found, Reply):
            return found
        repo, identity = found
        kept, given = repo.hooks[identity], call.json
        config = {**kept["config"], "secret": None, **given.get("config", {})}
        active = given.get("active", kept["active"])
        return Reply(json=self._keep(repo, identity, given.get("events", kept["events"]), config, active=active))

    @route("DELETE", "/repos/{owner}/{repo}/hooks/{id}", headers=HEADERS)
    def delete_hook(self, call: Call) -> Reply:
        found = self._hook(call)
        if isinstance(found, Reply):
            return found
        repo, identity = found
        del repo.hooks[identity]
        return Reply(status=204)


PARTS = {"issues": "issues", "pulls": "pulls", "comments": "comments", "deployments": "deployments"}


def invalid(resource: str, **error: str) -> Reply:
    said = {"message": "Validation Failed", "errors": [{"resource": resource, **error}], "documentation_url": DOCS}
    return Reply(status=422, json=said)


def _no(error: str) -> Reply:
    return Reply(json={"error": error, "error_description": "It was not accepted.", "error_uri": DOCS})
