"""What a manifest says to the GitHub connector: config, credentials and the fields of its channels."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from reconciler.model.secret import Secret
from reconciler.sdk.authorize import AuthorizationCode
from reconciler.sdk.contract import AuthSettings, Settings

EVENTS = ("push", "pull_request", "issues", "issue_comment", "deployment_status")
# Two names; neither can be `..` and climb out of the path it is put into.
Repository = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+/[A-Za-z0-9._-]*[A-Za-z0-9_-][A-Za-z0-9._-]*$")]


class Webhook(Settings):
    """Hooks on repositories. Where none are named nothing is registered, and an App's own hook is verified."""

    events: tuple[str, ...] = Field(EVENTS, min_length=1)
    secret: Secret = Field(description="Signs deliveries; stored at GitHub, never readable there.")
    repositories: tuple[Repository, ...] = Field((), description="Default: `config.repositories`.")


class Config(Settings):
    base_url: str = Field(
        "https://api.github.com", pattern=r"^https?://[^/?#\s]+(/[^?#\s]*)?$",
        description="https://<host>/api/v3 for GitHub Enterprise Server.",
    )  # fmt: skip
    api_version: str = Field("2022-11-28", description="Value of X-GitHub-Api-Version.")
    organizations: tuple[str, ...] = Field((), description="Every repository of these that the credential sees.")
    repositories: tuple[Repository, ...] = Field(
        (), description="owner/name. Without both, an App reads the repositories it is installed on."
    )
    branch: str | None = Field(None, description="Branch whose commits are read; default each repository's own.")
    webhook: Webhook | None = None

    @field_validator("base_url")
    @classmethod
    def _without_slash(cls, url: str) -> str:
        return url.rstrip("/")


class Token(AuthSettings):
    """A classic or fine-grained personal access token."""

    type: Literal["token"] = "token"
    aliases: ClassVar = ("pat", "api_token", "bearer")
    token: Secret


class App(AuthSettings):
    """A GitHub App; short-lived tokens are obtained with its key."""

    type: Literal["app"] = "app"
    aliases: ClassVar = ("github_app",)
    app_id: str | int = Field(description="App id (a number) or client id.")
    installation_id: int
    private_key: Secret = Field(description="PEM as downloaded from GitHub.")


class OAuth(AuthorizationCode):
    """A person's consent to an OAuth App or a GitHub App: tokens that expire are renewed.

    Callback URL at GitHub: `<public_url>/v1/oauth/callback`.
    """

    type: Literal["oauth"] = "oauth"
    aliases: ClassVar = ("oauth_app", "oauth2")
    scopes: tuple[str, ...] = Field(
        (),
        description="Of an OAuth App: `[repo]`, and for hooks `admin:repo_hook`. A GitHub App has permissions instead.",
    )


class CreateIssue(Settings):
    repository: Repository
    title: str = Field(min_length=1, max_length=256)
    body: str = Field("", max_length=65_000)
    labels: tuple[str, ...] = ()
    assignees: tuple[str, ...] = ()


class UpdateIssue(Settings):
    repository: Repository
    number: int
    title: str | None = Field(None, max_length=256)
    body: str | None = Field(None, max_length=65_000)
    state: Literal["open", "closed"] | None = None
    state_reason: Literal["completed", "not_planned", "duplicate", "reopened"] | None = None
    labels: tuple[str, ...] | None = None
    assignees: tuple[str, ...] | None = None


class CommentIssue(Settings):
    repository: Repository
    number: int
    body: str = Field(min_length=1, max_length=65_000)


class CreateDeployment(Settings):
    repository: Repository
    ref: str
    environment: str = "production"
    description: str = Field("", max_length=140)
    task: str = "deploy"
    auto_merge: bool = False
    required_contexts: tuple[str, ...] = ()


class DeploymentStatus(Settings):
    repository: Repository
    deployment_id: int
    state: Literal["error", "failure", "inactive", "in_progress", "queued", "pending", "success"]
    description: str = Field("", max_length=140)
    environment_url: str = ""
    log_url: str = ""
