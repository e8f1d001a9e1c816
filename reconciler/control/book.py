"""What the control loop knows of Git: the desired state in force, as the composition root keeps it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from reconciler.model.condition import Reason
from reconciler.model.finding import Code, Finding
from reconciler.model.ids import Ref
from reconciler.model.state import DesiredIntegration, DesiredState
from reconciler.plan.compare import Resolved


class Book(Protocol):
    """The last good desired state; None before the first revision was read."""

    @property
    def state(self) -> DesiredState | None: ...

    def get(self, ref: Ref) -> DesiredIntegration | None:
        """Also one that Git no longer names, while it is being let go."""
        ...


@dataclass(frozen=True, slots=True)
class Resolution:
    """What decrypting all of a desired state gave: hashes and fingerprints, or findings where it failed."""

    resolved: Mapping[Ref, Resolved]
    failed: Mapping[Ref, Sequence[Finding]]


class Resolver(Protocol):
    async def resolve(self, desired: DesiredState) -> Resolution:
        """Decrypt what is new; unchanged specs cost nothing."""
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


SECRET_REASONS = frozenset(_REASONS.values())
