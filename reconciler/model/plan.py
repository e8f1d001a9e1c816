"""A plan: what applying a desired state would do, action by action."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from reconciler.model.finding import Finding
from reconciler.model.ids import Ref


class Action(StrEnum):
    CONNECT = "connect"
    UPDATE = "update"
    RECONNECT = "reconnect"
    DISCONNECT = "disconnect"
    PURGE = "purge"
    ADOPT = "adopt"
    NONE = "none"


class DueCode(StrEnum):
    CREATE_KEY = "create-key"
    ROTATE_KEY = "rotate-key"


class Risk(StrEnum):
    NONE = "none"
    LOW = "low"
    HIGH = "high"


@dataclass(frozen=True, slots=True)
class FieldChange:
    """One field: JSON text before and after, None where absent. Secrets show as a remark, never as a value."""

    path: str
    before: str | None
    after: str | None
    is_secret: bool = False


@dataclass(frozen=True, slots=True)
class PlannedAction:
    ref: Ref
    type: str
    action: Action
    reason: str
    changes: tuple[FieldChange, ...] = ()
    risk: Risk = Risk.LOW
    file: str = ""
    line: int = 0
    depends_on: tuple[Ref, ...] = ()


@dataclass(frozen=True, slots=True)
class Due:
    """What a person has to do, because applying does not. It is no change: it counts in no summary and no exit code."""

    ref: Ref
    code: DueCode
    message: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Block:
    """Why a plan may not be applied, and how a person allows it."""

    code: str
    message: str
    remedy: str
    refs: tuple[Ref, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """Actions in the order in which they are applied. `digest` names exactly this plan."""

    base_revision: str
    head_revision: str
    actions: tuple[PlannedAction, ...]
    findings: tuple[Finding, ...] = ()
    blocks: tuple[Block, ...] = ()
    unchanged: int = 0
    digest: str = ""
    counts: Mapping[Action, int] = field(default_factory=dict)
    dues: tuple[Due, ...] = ()

    @property
    def is_empty(self) -> bool:
        return not self.actions
