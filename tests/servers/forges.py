"""GitHub and GitLab as far as requests to merge a branch go: real HTTP servers that judge every request.

GitHub's published description here has the listing of pull requests only, so their creation is judged by what is declared;
GitLab's has both. A branch must be there, a second open request for it is refused as the vendors do.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from starlette.types import Receive, Scope, Send

from reconciler.sdk.testing.simulator import Call, Reply, Simulator, route
from simulators import _github_records as make
from simulators import description
from simulators._github_state import refuse
from simulators.github import HEADERS, PAGING, GitHub

PULLS = "/repos/{owner}/{repo}/pulls"


class GitHubForge(GitHub):
    """`branches` are those that were pushed to the repository `acme/shop`."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.branches: set[str] = {"main"}
        self.tokens = {"good": None}

    def start(self) -> "GitHubForge":
        super().start()
        self.add_repo("acme/shop")
        return self

    @route("GET", PULLS, query=("state", "head", "base", "sort", "direction", *PAGING), headers=HEADERS)
    def pulls(self, call: Call) -> Reply:
        listed = self._listed(call, "pulls", lambda repo: repo.pulls.values())
        head, base = call.query.get("head", ""), call.query.get("base", "")
        rows = listed.json if isinstance(listed.json, list) else None
        if rows is None:
            return listed
        found = [r for r in rows if head in ("", r["head"]["label"]) and base in ("", r["base"]["ref"])]
        return replace(listed, json=found)

    @route(
        "POST",
        PULLS,
        body="json",
        fields=("title", "head", "base", "body", "draft"),
        headers=HEADERS,
        is_described=False,
    )
    def create(self, call: Call) -> Reply:
        repo = self.repos[f"{call.path['owner']}/{call.path['repo']}"]
        head, base = call.json["head"], call.json["base"]
        for name, branch in (("head", head), ("base", base)):
            if branch not in self.branches:
                return _invalid({"resource": "PullRequest", "field": name, "code": "invalid"})
        label = f"acme:{head}"
        if any(one["head"]["label"] == label and one["state"] == "open" for one in repo.pulls.values()):
            return _invalid(
                {"resource": "PullRequest", "code": "custom", "message": f"A pull request already exists for {label}."}
            )
        number = self.new_id()
        shape = make.pull(
            repo.shape, number, self.new_id(), self.now(), title=call.json["title"], body=call.json["body"]
        )
        shape["head"] = {**shape["head"], "label": label, "ref": head}
        repo.pulls[number] = shape
        return Reply(status=201, json=shape)


def _invalid(error: Mapping[str, str]) -> Reply:
    return replace(refuse(422, "Validation Failed"), json={"message": "Validation Failed", "errors": [error]})


class GitLabForge(Simulator):
    """One project, `acme/tools/shop`."""

    descriptions = description("gitlab/openapi.json")
    project = "acme%2Ftools%2Fshop"

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.branches: set[str] = {"main"}
        self.requests_to_merge: list[dict[str, Any]] = []
        self.checks_answers = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Paths as they were sent: `%2F` decoded is another project."""
        await super().__call__({**scope, "path": scope["raw_path"].decode()}, receive, send)

    def admit(self, call: Call) -> Reply | None:
        if call.headers.get("private-token") != "good":
            return Reply(status=401, json={"message": "401 Unauthorized"})
        return None if call.path["id"] == self.project else Reply(status=404, json={"message": "404 Project Not Found"})

    @route("GET", "/api/v4/projects/{id}/merge_requests", query=("source_branch", "target_branch", "state", "per_page"))
    def listed(self, call: Call) -> Reply:
        asked = {name: call.query[name] for name in ("source_branch", "target_branch") if name in call.query}
        state = call.query.get("state", "all")
        found = [r for r in self.requests_to_merge if asked.items() <= r.items() and state in ("all", r["state"])]
        return Reply(json=found[::-1])

    @route(
        "POST",
        "/api/v4/projects/{id}/merge_requests",
        body="json",
        fields=("title", "description", "source_branch", "target_branch", "remove_source_branch"),
    )
    def create(self, call: Call) -> Reply:
        sent = call.json
        if sent["source_branch"] not in self.branches:
            return Reply(status=422, json={"message": ["Source branch does not exist"]})
        same = [
            r for r in self.requests_to_merge if r["source_branch"] == sent["source_branch"] and r["state"] == "opened"
        ]
        if same:
            said = f"Another open merge request already exists for this source branch: !{same[0]['iid']}"
            return Reply(status=409, json={"message": [said]})
        number = len(self.requests_to_merge) + 1
        made = {**sent, "iid": number, "state": "opened", "web_url": f"{self.url}/acme/shop/-/merge_requests/{number}"}
        self.requests_to_merge.append(made)
        return Reply(status=201, json=made)
