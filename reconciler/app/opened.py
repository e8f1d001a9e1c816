"""A spec with its clear values, as the daemon uses it. It lives in memory only; the store sees hashes and fingerprints."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from reconciler.desired.resolve import ResolvedSpec
from reconciler.desired.unresolved import unresolved_paths
from reconciler.model.finding import Finding
from reconciler.model.secret import Secret
from reconciler.model.state import DesiredIntegration
from reconciler.plan.compare import Resolved


class SpecUnusableError(Exception):
    """The spec cannot be decrypted or does not hold with its real values; `findings` say where and why."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        super().__init__("; ".join(map(str, findings)))
        self.findings = tuple(findings)


@dataclass(frozen=True, slots=True)
class Opened:
    """`spec` was made from `desired`. A volatile one is partly read from outside of Git, and anew for each question."""

    desired: DesiredIntegration
    spec: ResolvedSpec
    hashes: Resolved
    is_volatile: bool

    @classmethod
    def make(cls, desired: DesiredIntegration, spec: ResolvedSpec) -> "Opened":
        hashes = Resolved(spec.effective_hash, spec.fingerprints)
        is_volatile = any(leaf.kind in {"from_env", "from_file"} for _, leaf in unresolved_paths(desired.tree))
        return cls(desired, spec, hashes, is_volatile)

    def is_of(self, desired: DesiredIntegration) -> bool:
        """Whether that wish is the one that was opened."""
        return self.desired is desired or self.desired.source_hash == desired.source_hash

    def serves(self, desired: DesiredIntegration) -> bool:
        """Whether it answers for that wish without another look."""
        is_of = (
            self.desired is desired or self.desired.source_hash == desired.source_hash
        )  # asked of ten thousand a time
        return is_of and not self.is_volatile

    def under(self, desired: DesiredIntegration) -> "Opened":
        """The same for the same wish in another place or with other labels."""
        return self if self.desired is desired or not self.is_of(desired) else replace(self, desired=desired)

    def secrets(self) -> Iterator[Secret]:
        yield from _secrets(self.spec.auth)
        yield from _secrets(self.spec.config)


def _secrets(node: Any) -> Iterator[Secret]:
    if isinstance(node, Secret):
        yield node
    elif isinstance(node, Mapping):
        for value in node.values():
            yield from _secrets(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _secrets(value)
