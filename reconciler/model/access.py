"""Who may do what over the API: permissions, tokens, and the caller that a request turns out to be.

A token is `rct_<id>_<secret>`: the fixed prefix lets scanners find leaks, the id may be shown, the secret has 256 bits, so a
plain SHA-256 of the whole is stored. Nothing here reads or writes; `store.tokens` keeps them, `serve.admission` asks.
"""

import hashlib
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from reconciler.model.ids import new_id
from reconciler.model.secret import Secret

PREFIX = "rct"


class Permission(StrEnum):
    """`admin` stands for all of them, in its workspace, and for what the daemon's settings reserve."""

    INTEGRATION_VIEW = "integration.view"
    INTEGRATION_CREATE = "integration.create"
    INTEGRATION_EDIT = "integration.edit"
    INTEGRATION_DELETE = "integration.delete"
    INTEGRATION_SYNC = "integration.sync"
    EVENT_VIEW = "event.view"
    EVENT_PUBLISH = "event.publish"
    EVENT_RETRY = "event.retry"
    PLAN_VIEW = "plan.view"
    ADMIN = "admin"


class Grant(StrEnum):
    """What a manifest may let a client do with one integration: see its records, send through it, have it synced."""

    READ = "read"
    SEND = "send"
    SYNC = "sync"


class Operation(StrEnum):
    """What a call does, by the names that the daemon's settings reserve."""

    CREATE = "create"
    EDIT = "edit"
    DISCONNECT = "disconnect"
    DELETE = "delete"
    PURGE = "purge"
    ROLLBACK = "rollback"
    SYNC = "sync"
    CANCEL = "cancel"
    TEST = "test"
    RECONCILE = "reconcile"
    ROTATE = "rotate"
    AUTHORIZE = "authorize"
    REGENERATE_KEY = "regenerate-key"
    SEND = "send"
    PUBLISH = "publish"
    RETRY = "retry"
    REPLAY = "replay"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `workspace` None: the whole installation.

    `identity` outlives a change of name and is nobody else's: the id of a token, or issuer and subject. Both are empty for
    a token of ours.
    """

    name: str
    workspace: str | None
    permissions: frozenset[Permission]
    identity: str = ""
    issuer: str = ""
    subject: str = ""

    @property
    def known_as(self) -> str:
        """What is kept of who did something; a name is one of its workspace, also over a change of token."""
        return f"{self.workspace or '*'}/{self.name}"

    def may(self, permission: Permission) -> bool:
        return permission in self.permissions or Permission.ADMIN in self.permissions

    def sees(self, workspace: str) -> bool:
        """Whether anything of that workspace exists for this caller."""
        return self.workspace is None or self.workspace == workspace


@dataclass(frozen=True, slots=True)
class NewToken:
    """`clear` is shown once, to whoever asked for it."""

    public_id: str
    clear: Secret

    @property
    def sha256(self) -> str:
        return hash_of(self.clear.reveal())


def new_token() -> NewToken:
    public_id = new_id(PREFIX)
    return NewToken(public_id, Secret(f"{public_id}_{secrets.token_urlsafe(32)}"))


def hash_of(token: str) -> str:
    """What is stored of it, and written into `kind: Workspace`."""
    return hashlib.sha256(token.encode()).hexdigest()


def id_of(text: str) -> str:
    """What may be shown of a text that may be a whole token."""
    return "_".join(text.split("_", 2)[:2]) if text.startswith(f"{PREFIX}_") else text


def permissions_of(names: Collection[str]) -> frozenset[Permission]:
    """Those that this release knows: one that a newer release has is granted by that one only."""
    known = set(Permission)
    return frozenset(Permission(name) for name in names if name in known)
