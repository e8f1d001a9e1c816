"""Pull requests at GitHub and merge requests at GitLab: opened once for a branch, found again after that.

In: the HTTP client of the sdk, handed in, and a branch that is pushed. Out: the address of the request for a person, or
WriteError. Called by `writing`. Whatever became of a call whose answer was lost is looked up, never guessed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote

from reconciler.desired.writing.terms import WriteError, WriteFault
from reconciler.sdk.contract import Answer, Http
from reconciler.sdk.errors import ConnectorError, ForbiddenError, TransientError, UnauthorizedError

Token = Callable[[], str]
_TAKEN = (409, 422)
_AGAIN = "repeat the request: the branch is there and only the rest is done"


@dataclass(frozen=True, slots=True)
class Proposal:
    """What shall be merged: `branch` into `into`."""

    branch: str
    into: str
    title: str
    text: str


class Forge(Protocol):
    async def open(self, proposal: Proposal) -> str:
        """The URL of the request for the branch: the one that is there, else a new one. Raises WriteError."""
        ...


class Api(Protocol):
    """What differs between the forges."""

    def headers(self) -> Mapping[str, str]: ...

    def listing(self, proposal: Proposal) -> tuple[str, Mapping[str, Any]]: ...

    def creation(self, proposal: Proposal) -> tuple[str, Mapping[str, Any]]: ...

    def url_of(self, found: Any) -> str: ...

    def is_open(self, found: Any) -> bool: ...


class RestForge:
    """Implements `Forge`."""

    def __init__(self, api: Api, http: Http) -> None:
        self._api = api
        self._http = http

    async def open(self, proposal: Proposal) -> str:
        try:
            return await self._found(proposal) or await self._created(proposal)
        except ConnectorError as error:
            raise _explained(error, proposal) from None

    async def _created(self, proposal: Proposal) -> str:
        url, body = self._api.creation(proposal)
        refused: ConnectorError | None = None
        try:
            answer = await self._http.send(
                "POST", url, headers=self._api.headers(), json=body, expect=_TAKEN, lane="deliver"
            )
        except TransientError as error:
            refused = error
        else:
            if answer.status not in _TAKEN:
                return self._api.url_of(answer.json())
        if found := await self._found(proposal):
            return found
        if refused is not None:
            raise refused
        message = f"the forge refuses a request to merge {proposal.branch} into {proposal.into}: {_said(answer)}"
        raise WriteError(WriteFault.FORGE, message, _AGAIN)

    async def _found(self, proposal: Proposal) -> str:
        """The open one; else the newest of those that were merged or closed."""
        url, params = self._api.listing(proposal)
        answer = await self._http.send("GET", url, params=params, headers=self._api.headers(), lane="deliver")
        listed: Sequence[Any] = answer.json() or ()
        chosen = next((one for one in listed if self._api.is_open(one)), listed[0] if listed else None)
        return self._api.url_of(chosen) if chosen is not None else ""


@dataclass(frozen=True, slots=True)
class GitHub:
    """`repository` is `owner/name`."""

    api_url: str
    repository: str
    token: Token

    def headers(self) -> Mapping[str, str]:
        return {
            "Accept": "application/vnd.github+json",
            "X-GitHub-Api-Version": "2022-11-28",
            "Authorization": f"Bearer {self.token()}",
        }

    def listing(self, proposal: Proposal) -> tuple[str, Mapping[str, Any]]:
        owner = self.repository.partition("/")[0]
        params = {"state": "all", "head": f"{owner}:{proposal.branch}", "base": proposal.into, "per_page": 100}
        return self._pulls, params

    def creation(self, proposal: Proposal) -> tuple[str, Mapping[str, Any]]:
        body = {"title": proposal.title, "body": proposal.text, "head": proposal.branch, "base": proposal.into}
        return self._pulls, body

    def url_of(self, found: Any) -> str:
        return str(found["html_url"])

    def is_open(self, found: Any) -> bool:
        return bool(found["state"] == "open")

    @property
    def _pulls(self) -> str:
        return f"{self.api_url.rstrip('/')}/repos/{quote(self.repository)}/pulls"


@dataclass(frozen=True, slots=True)
class GitLab:
    """`repository` is the path of the project (`group/sub/name`) or its number."""

    api_url: str
    repository: str
    token: Token

    def headers(self) -> Mapping[str, str]:
        return {"PRIVATE-TOKEN": self.token()}

    def listing(self, proposal: Proposal) -> tuple[str, Mapping[str, Any]]:
        return self._requests, {
            "source_branch": proposal.branch,
            "target_branch": proposal.into,
            "state": "all",
            "per_page": 100,
        }

    def creation(self, proposal: Proposal) -> tuple[str, Mapping[str, Any]]:
        body = {"title": proposal.title, "description": proposal.text, "remove_source_branch": True}
        return self._requests, {**body, "source_branch": proposal.branch, "target_branch": proposal.into}

    def url_of(self, found: Any) -> str:
        return str(found["web_url"])

    def is_open(self, found: Any) -> bool:
        return bool(found["state"] == "opened")

    @property
    def _requests(self) -> str:
        return f"{self.api_url.rstrip('/')}/projects/{quote(self.repository, safe='')}/merge_requests"


def _said(answer: Answer) -> str:
    """The forge's own words, in one line."""
    told = answer.json()
    parts = [told.get("message")] if isinstance(told, dict) else []
    errors = told.get("errors") if isinstance(told, dict) else None
    parts += [one.get("message") if isinstance(one, dict) else one for one in errors or ()]
    return " ".join(" ".join(map(str, filter(None, parts))).split())[:300] or f"status {answer.status}"


def _explained(error: ConnectorError, proposal: Proposal) -> WriteError:
    remedy = _AGAIN
    if isinstance(error, UnauthorizedError | ForbiddenError):
        remedy = (
            "let the token of write_back.forge open pull requests (GitHub: pull requests, write; GitLab: scope api)"
        )
    message = f"the branch {proposal.branch} is pushed, but no request to merge it is open: {error.message}"
    return WriteError(WriteFault.FORGE, message, remedy)
