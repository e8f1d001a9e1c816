"""A spec with its clear values, as the daemon uses it. It lives in memory only; the store sees hashes and fingerprints."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from reconciler.desired.outside import Mark, Outside
from reconciler.desired.resolve import ResolvedSpec
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
    """`spec` was made from `desired`. `outside` is what was read from outside of Git; `mark` is how that was just before."""

    desired: DesiredIntegration
    spec: ResolvedSpec
    hashes: Resolved
    outside: Outside | None = None
    mark: Mark | None = None

    @classmethod
    def make(
        cls, desired: DesiredIntegration, spec: ResolvedSpec, outside: Outside | None, mark: Mark | None
    ) -> "Opened":
        return cls(desired, spec, Resolved(spec.effective_hash, spec.fingerprints), outside, mark)

    def is_of(self, desired: DesiredIntegration) -> bool:
        """Whether that wish is the one that was opened."""
        return self.desired is desired or self.desired.source_hash == desired.source_hash

    def serves(self, desired: DesiredIntegration) -> bool:
        """Whether it answers for that wish without another look."""
        return self.is_of(desired) and self.outside is None

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
