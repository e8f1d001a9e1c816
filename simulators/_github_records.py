"""Records as GitHub shapes them: what a test says plus everything that GitHub's own schema demands."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

Shape = dict[str, Any]
_REPOSITORY_URLS = (
    "archive", "assignees", "blobs", "branches", "collaborators", "comments", "commits", "compare", "contents",
    "contributors", "deployments", "downloads", "events", "forks", "git_commits", "git_refs", "git_tags", "hooks",
    "issue_comment", "issue_events", "issues", "keys", "labels", "languages", "merges", "milestones", "notifications",
    "pulls", "releases", "stargazers", "statuses", "subscribers", "subscription", "tags", "teams", "trees",
)  # fmt: skip
_USER_URLS = (
    "avatar", "events", "followers", "following", "gists", "organizations", "received_events", "repos", "starred",
    "subscriptions",
)  # fmt: skip


def stamp(at: datetime) -> str:
    """A time as GitHub writes it."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def user(api: str, login: str, number: int = 1, kind: str = "User") -> Shape:
    root = f"{api}/users/{login}"
    return {
        "login": login, "id": number, "node_id": f"U_{number}", "gravatar_id": "", "type": kind, "site_admin": False,
        "url": root, "html_url": f"https://github.test/{login}", **{f"{n}_url": f"{root}/{n}" for n in _USER_URLS},
    }  # fmt: skip


def person(api: str, login: str) -> Shape:
    """The signed-in user."""
    return {
        **user(api, login), "name": login, "company": None, "blog": "", "location": None, "email": None, "bio": None,
        "hireable": None, "public_repos": 1, "public_gists": 0, "followers": 0, "following": 0,
        "created_at": "2020-01-01T00:00:00Z", "updated_at": "2020-01-01T00:00:00Z",
    }  # fmt: skip


def repository(api: str, full_name: str, number: int, at: datetime, **more: Any) -> Shape:
    owner, name = full_name.split("/")
    root = f"{api}/repos/{full_name}"
    counts = dict.fromkeys(
        ("forks", "forks_count", "open_issues", "open_issues_count", "size", "stargazers_count", "watchers",
         "watchers_count", "network_count", "subscribers_count"), 0,
    )  # fmt: skip
    flags = {f"has_{n}": True for n in ("issues", "projects", "wiki", "downloads")}
    return {
        "id": number, "node_id": f"R_{number}", "name": name, "full_name": full_name, "private": True, "fork": False,
        "owner": user(api, owner, 9, "Organization"), "description": None, "default_branch": "main", "archived": False,
        "disabled": False, "homepage": None, "language": None, "mirror_url": None, "license": None, "has_pages": False,
        "has_discussions": False, "url": root, "html_url": f"https://github.test/{full_name}",
        "clone_url": f"https://github.test/{full_name}.git", "git_url": f"git://github.test/{full_name}.git",
        "ssh_url": f"git@github.test:{full_name}.git", "svn_url": f"https://github.test/{full_name}",
        "pushed_at": stamp(at), "created_at": stamp(at), "updated_at": stamp(at),
        **counts, **flags, **{f"{n}_url": f"{root}/{n}" for n in _REPOSITORY_URLS}, **more,
    }  # fmt: skip


def issue(repo: Shape, number: int, identity: int, at: datetime, **more: Any) -> Shape:
    root = f"{repo['url']}/issues/{number}"
    return {
        "id": identity, "node_id": f"I_{identity}", "number": number, "state": "open", "state_reason": None,
        "title": "", "body": None, "user": repo["owner"], "labels": [], "assignee": None, "assignees": [],
        "milestone": None, "locked": False, "comments": 0, "author_association": "MEMBER", "url": root,
        "repository_url": repo["url"], "html_url": f"{repo['html_url']}/issues/{number}", "closed_at": None,
        **{f"{n}_url": f"{root}/{n}" for n in ("comments", "events", "labels")},
        "created_at": stamp(at), "updated_at": stamp(at), **more,
    }  # fmt: skip


def pull(repo: Shape, number: int, identity: int, at: datetime, **more: Any) -> Shape:
    root = f"{repo['url']}/pulls/{number}"
    html = f"{repo['html_url']}/pull/{number}"
    links = ("comments", "commits", "statuses", "html", "issue", "review_comments", "review_comment", "self")
    branch = {"label": "acme:fix", "ref": "fix", "repo": repo, "sha": f"{identity:040x}", "user": repo["owner"]}
    return {
        "id": identity, "node_id": f"PR_{identity}", "number": number, "state": "open", "draft": False, "title": "",
        "body": None, "user": repo["owner"], "labels": [], "assignee": None, "assignees": [], "milestone": None,
        "locked": False, "merged_at": None, "merge_commit_sha": None, "closed_at": None, "auto_merge": None,
        "author_association": "MEMBER", "url": root, "html_url": html, "diff_url": f"{html}.diff",
        "patch_url": f"{html}.patch", "issue_url": f"{repo['url']}/issues/{number}", "head": branch,
        "base": {**branch, "label": "acme:main", "ref": "main"}, "_links": {n: {"href": f"{root}/{n}"} for n in links},
        **{f"{n}_url": f"{root}/{n}" for n in ("comments", "commits", "review_comment", "review_comments", "statuses")},
        "created_at": stamp(at), "updated_at": stamp(at), **more,
    }  # fmt: skip


def comment(repo: Shape, number: int, identity: int, at: datetime, **more: Any) -> Shape:
    return {
        "id": identity, "node_id": f"IC_{identity}", "body": "", "user": repo["owner"], "author_association": "MEMBER",
        "url": f"{repo['url']}/issues/comments/{identity}", "issue_url": f"{repo['url']}/issues/{number}",
        "html_url": f"{repo['html_url']}/issues/{number}#issuecomment-{identity}",
        "created_at": stamp(at), "updated_at": stamp(at), **more,
    }  # fmt: skip


def commit(repo: Shape, sha: str, at: datetime, message: str) -> Shape:
    root, who = f"{repo['url']}/commits/{sha}", {"name": "Mona", "email": "mona@acme.test", "date": stamp(at)}
    return {
        "sha": sha, "node_id": f"C_{repo['id']}_{sha}", "url": root, "html_url": f"{repo['html_url']}/commit/{sha}",
        "comments_url": f"{root}/comments", "author": None, "committer": repo["owner"], "parents": [],
        "commit": {
            "url": f"{repo['url']}/git/commits/{sha}", "author": who, "committer": who, "message": message,
            "comment_count": 0, "tree": {"sha": sha, "url": f"{repo['url']}/git/trees/{sha}"},
        },
    }  # fmt: skip


def deployment(repo: Shape, identity: int, at: datetime, **more: Any) -> Shape:
    root = f"{repo['url']}/deployments/{identity}"
    return {
        "id": identity, "node_id": f"DE_{identity}", "url": root, "sha": f"{identity:040x}", "ref": "main",
        "task": "deploy", "payload": {}, "environment": "production", "description": None, "creator": repo["owner"],
        "statuses_url": f"{root}/statuses", "repository_url": repo["url"],
        "created_at": stamp(at), "updated_at": stamp(at), **more,
    }  # fmt: skip


def deployment_status(deployed: Shape, identity: int, at: datetime, **more: Any) -> Shape:
    return {
        "id": identity, "node_id": f"DES_{identity}", "url": f"{deployed['statuses_url']}/{identity}",
        "state": "pending", "description": "", "environment": deployed["environment"], "target_url": "", "log_url": "",
        "environment_url": "", "creator": deployed["creator"], "deployment_url": deployed["url"],
        "repository_url": deployed["repository_url"], "created_at": stamp(at), "updated_at": stamp(at), **more,
    }  # fmt: skip


def hook(repo: Shape, identity: int, at: datetime, events: list[str], config: Mapping[str, Any], **more: Any) -> Shape:
    """As it is read: the secret is asterisks."""
    root = f"{repo['url']}/hooks/{identity}"
    shown = {**config, **({"secret": "********"} if config.get("secret") else {})}
    return {
        "type": "Repository", "id": identity, "name": "web", "active": True, "events": events, "config": shown,
        "url": root, "test_url": f"{root}/test", "ping_url": f"{root}/pings", "deliveries_url": f"{root}/deliveries",
        "last_response": {"code": None, "status": "unused", "message": None},
        "created_at": stamp(at), "updated_at": stamp(at), **more,
    }  # fmt: skip


def app(api: str, number: int, permissions: Mapping[str, str]) -> Shape:
    return {
        "id": number, "slug": "recon", "node_id": f"A_{number}", "owner": user(api, "acme", 9, "Organization"),
        "name": "Recon", "description": None, "external_url": "https://recon.test", "html_url": "https://github.test/apps/recon",
        "permissions": dict(permissions), "events": [], "created_at": "2020-01-01T00:00:00Z",
        "updated_at": "2020-01-01T00:00:00Z",
    }  # fmt: skip


def installation(
    api: str, number: int, app_number: int, permissions: Mapping[str, str], suspended: str | None
) -> Shape:
    return {
        "id": number, "app_id": app_number, "app_slug": "recon", "target_id": 9, "target_type": "Organization",
        "single_file_name": None, "repository_selection": "selected", "account": user(api, "acme", 9, "Organization"),
        "access_tokens_url": f"{api}/app/installations/{number}/access_tokens", "events": [],
        "html_url": "https://github.test/settings", "repositories_url": f"{api}/installation/repositories",
        "permissions": dict(permissions), "suspended_by": None, "suspended_at": suspended,
        "created_at": "2020-01-01T00:00:00Z", "updated_at": "2020-01-01T00:00:00Z",
    }  # fmt: skip
