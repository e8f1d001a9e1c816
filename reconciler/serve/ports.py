"""What the routes ask of the running process beyond the store. `app` implements it; nothing here does anything.

A process without Git or connectors has `None` in the place of a port, and its routes answer 503 and say who can.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Protocol

from reconciler.control.carried import Carried
from reconciler.desired.policy import TenantPolicy
from reconciler.desired.writing.terms import Author, Edit, Written
from reconciler.events.inbound import Reception
from reconciler.model.authorization import Authorization, AuthorizationOutcome, Returned
from reconciler.model.ids import Ref
from reconciler.model.plan import Plan
from reconciler.model.state import DesiredState

Prompt = Callable[[Carried], Awaitable[None]]
"""Told what an order came to once it is stored: starts and stops what has to be, at once."""


async def leave_it_to_rows(_: Carried) -> None:
    """For a process that runs nothing: whoever does finds the rows."""


Probing = Callable[[int], Awaitable[Mapping[str, Any]]]
"""Probes an integration now, by its id: what `control.trial` tells of it. A failing remote is a result, not an error."""


def nothing_follows() -> None:
    """For a process that routes nothing: whoever does finds the rows."""


class NotReadableError(Exception):
    """A revision, a source or a file cannot be had; the message says which and why, `is_request` whose fault it is."""

    def __init__(self, message: str, *, is_request: bool = False) -> None:
        super().__init__(message)
        self.is_request = is_request


@dataclass(frozen=True, slots=True)
class Foreseen:
    """A plan of the whole installation, and the desired state that it would bring about."""

    plan: Plan
    desired: DesiredState


@dataclass(frozen=True, slots=True)
class SubmittedFile:
    """What a file of a source would hold; None where it would be gone. The path is that of the repository."""

    path: str
    content: str | None


class Planner(Protocol):
    """Every call raises NotReadableError."""

    async def pending(self) -> Foreseen:
        """What stands in Git and is not applied yet."""
        ...

    async def of_revision(self, revision: str, source: str | None) -> Foreseen:
        """What that branch, tag or commit would change; `source` None where there is only one."""
        ...

    async def of_files(self, files: tuple[SubmittedFile, ...], source: str | None) -> Foreseen:
        """What Git would change with these files as they are submitted, and all others as they are."""
        ...


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a change would come to, before it is made: the plan of it all, and the specs before and after of what it touches."""

    foreseen: Foreseen
    before: Mapping[Ref, Mapping[str, Any]]
    after: Mapping[Ref, Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestWish:
    """A change of manifests that a caller asks for. `agree` raises where it may not be; nothing is pushed before.

    `source` is asked for where several could hold a new manifest. `expected` is the ETag (`forms.etag_of`) of the manifest that
    is to be changed, empty for any.
    """

    edits: Sequence[Edit]
    author: Author
    subject: str
    marker: str
    marked_at: datetime
    request: str
    agree: Callable[[Outlook], Awaitable[None]]
    source: str | None = None
    expected: str = ""


@dataclass(frozen=True, slots=True)
class Committed:
    """A change that is in Git, on the branch that is read (`commit`) or on one that is asked to be merged."""

    mode: Literal["commit", "pull-request"]
    written: Written
    foreseen: Foreseen


class Manifests(Protocol):
    """Git, to be written to."""

    async def change(self, wish: ManifestWish) -> Committed:
        """Raises NotReadableError, WriteError, and whatever `agree` raises."""
        ...

    async def standing(self, ref: Ref) -> tuple[str, Mapping[str, Any]] | None:
        """Its tag and its manifest with secrets masked; None where Git does not name it. Raises NotReadableError, WriteError."""
        ...


class Authorizing(Protocol):
    """A person's consent at a remote."""

    async def begin(self, integration_id: int, by: str) -> Authorization:
        """Raises NotAuthorizableError."""
        ...

    async def finish(self, returned: Returned) -> AuthorizationOutcome:
        """Raises StateRefusedError; waits a while for the exchange."""
        ...

    async def outcome(self, attempt: str) -> AuthorizationOutcome:
        """Raises LookupError."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """What this process can do beside answering from the store."""

    prompt: Prompt = leave_it_to_rows
    planner: Planner | None = None
    manifests: Manifests | None = None
    probing: Probing | None = None
    authorizing: Authorizing | None = None
    reception: Reception | None = None
    """None in a process that does not follow Git: it can check no signature, and knows no manifest."""
    told: Callable[[], None] = nothing_follows
    """Called when events were stored: they are routed at once."""
    policy: TenantPolicy = TenantPolicy()
