"""What the control loop knows of Git: the desired state in force, as the composition root keeps it.

A spec whose secrets cannot be read does not come into force: its last good one stays, and `Unread` says why.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from reconciler.model.condition import ConditionType, Reason, Truth
from reconciler.model.finding import Code, Finding
from reconciler.model.ids import Ref
from reconciler.model.state import DesiredIntegration, DesiredState
from reconciler.plan.compare import Resolved
from reconciler.store.conditions import Say


@dataclass(frozen=True, slots=True)
class Unread:
    """Why what Git wants cannot be read. `kept` is the revision of the last good spec, empty where none is in force."""

    findings: Sequence[Finding]
    kept: str = ""


class Book(Protocol):
    """The desired state in force; None before the first revision was read."""

    @property
    def state(self) -> DesiredState | None: ...

    @property
    def unread(self) -> Mapping[Ref, Unread]: ...

    def get(self, ref: Ref) -> DesiredIntegration | None:
        """What is in force; also of one that Git no longer names, while it is being let go."""
        ...


@dataclass(frozen=True, slots=True)
class Resolution:
    """What decrypting all of a desired state gave: the state that is in force by it, with hashes and fingerprints.

    The resolutions of a book are numbered. `touched` are the names that may differ, in wish or secrets, from the one before;
    None where any may.

    `resolved` lacks those of which nothing could be decrypted, neither what Git wants nor a last good spec.
    """

    state: DesiredState
    resolved: Mapping[Ref, Resolved]
    unread: Mapping[Ref, Unread]
    number: int = 0
    touched: frozenset[Ref] | None = None


class Resolver(Protocol):
    async def resolve(self, desired: DesiredState) -> Resolution:
        """Decrypt what is new, and put in force what can be read; unchanged specs cost nothing."""
        ...

    def authored(self, desired: DesiredIntegration) -> DesiredIntegration:
        """The same with `created_by` and `updated_at` as Git tells them."""
        ...


_REASONS = {
    Code.SOPS_KEY_MISSING: Reason.KEY_MISSING,
    Code.SOPS_PROGRAM_MISSING: Reason.KEY_MISSING,
    Code.SOPS_MAC_MISMATCH: Reason.MAC_MISMATCH,
    Code.SOPS_MAC_MISSING: Reason.MAC_MISMATCH,
    Code.SECRET_MISSING: Reason.SECRET_MISSING,
    Code.SOPS_MALFORMED: Reason.DECRYPTION_FAILED,
    Code.SOPS_CLEAR_VALUE: Reason.DECRYPTION_FAILED,
}


def reason_of(findings: Sequence[Finding]) -> Reason:
    """The condition reason for findings that keep a spec from being used."""
    return _REASONS.get(findings[0].code, Reason.VALIDATION_FAILED) if findings else Reason.VALIDATION_FAILED


SECRET_CODES = frozenset(_REASONS)
SECRET_REASONS = frozenset(_REASONS.values())


def secrets_said(unread: Unread | None) -> Say:
    """What `SecretsDecrypted` says: in short what is wrong, where, how to mend it, and what is used meanwhile."""
    if unread is None:
        return Say(ConditionType.SECRETS_DECRYPTED, Truth.TRUE, Reason.SUCCEEDED, "all secrets are readable")
    kept = f"; its last good spec, of {unread.kept[:12]}, stays in force" if unread.kept else ""
    message = f"{unread.findings[0]}{kept}"
    return Say(ConditionType.SECRETS_DECRYPTED, Truth.FALSE, reason_of(unread.findings), message)
