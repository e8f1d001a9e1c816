"""A person's consent at a remote, as it is asked for and as it comes back: nouns shared by the service, the API and commands."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from reconciler.model.ids import Ref
from reconciler.model.secret import Secret


class NotAuthorizableError(Exception):
    """Nobody can be sent to the remote now; the message says why and what to do."""


class StateRefusedError(Exception):
    """A callback that nobody asked for, that came too late, or that came before. Nothing was done."""


@dataclass(frozen=True, slots=True)
class Authorization:
    """`url` is for the person alone: it holds the state. `id` is that of the attempt, for `outcome`."""

    id: str
    url: str = field(repr=False)
    state: Secret
    redirect_uri: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Returned:
    """What a callback brings: `state` and `code`, or `state` and `error`, as they stand in its query.

    State and code do not show in a traceback.
    """

    state: str = field(repr=False)
    code: str = field(default="", repr=False)
    error: str = ""
    description: str = ""


@dataclass(frozen=True, slots=True)
class AuthorizationOutcome:
    """How an attempt stands. `waiting`: the code is being exchanged still. `message` is for a person.

    `begun_by`, `begun_at`: whoever finishes it need not be the one who began it.
    """

    status: Literal["waiting", "authorized", "denied", "failed"]
    integration: Ref
    message: str
    begun_by: str
    begun_at: datetime
