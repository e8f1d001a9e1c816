"""What a new revision makes the conditions of each integration say: whether its manifest is valid, its secrets readable.

In: the resolution of the revision, rows as they are after it was taken over. Out: conditions, and who has to be reconciled
though nothing changed. Called by `intake` in its transaction; what the remote says is stated by the reconcile.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from reconciler.control.book import SECRET_REASONS, Resolution, secrets_said
from reconciler.model.condition import Condition, ConditionType, Reason, Truth
from reconciler.model.finding import Severity
from reconciler.model.ids import Ref
from reconciler.store import conditions, integrations
from reconciler.store.conditions import Say
from reconciler.store.database import Tx
from reconciler.store.integrations import IntegrationRow


@dataclass(slots=True)
class Stating:
    """One revision. `turned` are the integrations whose secrets could be read before, or again."""

    tx: Tx
    resolution: Resolution
    at: str
    turned: list[tuple[IntegrationRow, Condition]] = field(default_factory=list)
    _invalid: frozenset[int] = frozenset()
    _unreadable: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        self._invalid = conditions.unwell(self.tx, ConditionType.VALID)
        self._unreadable = conditions.unwell(self.tx, ConditionType.SECRETS_DECRYPTED)

    def changed(self, integration_id: int) -> None:
        """Its wish is another one: a reconcile of it is due."""
        row = integrations.get(self.tx, integration_id)
        if row is None:
            return
        statements = [self._valid(row)]
        if row.ref in self.resolution.unread or row.ref not in self.resolution.state.held:
            statements.append(secrets_said(self.resolution.unread.get(row.ref)))
        if row.ref in self.resolution.resolved and row.ref not in self.resolution.state.held:
            statements += _applying(row)
        self._say(row, statements)

    def unchanged(self, rows: Iterable[IntegrationRow]) -> Iterator[int]:
        """Broken or mended files, keys that came or went. Gives back those that have to be reconciled for it."""
        state, unread = self.resolution.state, self.resolution.unread
        for row in rows:
            is_unwell = row.id in self._invalid or row.id in self._unreadable
            if not row.is_desired or not (is_unwell or row.ref in state.held or row.ref in unread):
                continue
            is_readable = row.id in self._unreadable and row.ref in self.resolution.resolved and row.ref not in unread
            statements = [self._valid(row)] if row.ref in state.held or row.ref in state.integrations else []
            if is_readable or row.ref in unread:
                statements.append(secrets_said(unread.get(row.ref)))
            stalled = conditions.conditions(self.tx, row.id).get(ConditionType.STALLED)
            if is_readable and stalled is not None and stalled.reason in SECRET_REASONS:
                statements += _applying(row)
            self._say(row, statements)
            self._note_revision(row)
            if is_readable or (stalled is None and self._is_stuck(row)):
                yield row.id

    def _note_revision(self, row: IntegrationRow) -> None:
        """Of a last good spec, the newest commit that still has it: an older one may be gone when it is asked for again."""
        desired = self.resolution.state.integrations.get(row.ref)
        if desired is not None and desired.source_hash == row.applied_hash:
            integrations.note_applied_revision(self.tx, row.id, desired.origin.revision)

    def _is_stuck(self, row: IntegrationRow) -> bool:
        """Not even a last good spec can be read: somebody has to say that work on it stops."""
        desired = self.resolution.state.integrations.get(row.ref)
        if desired is None or row.ref not in self.resolution.unread or row.ref in self.resolution.resolved:
            return False
        return desired.manifest.spec.enabled and not desired.manifest.spec.suspend

    def _say(self, row: IntegrationRow, statements: Iterable[Say]) -> None:
        for said in conditions.say(self.tx, row.id, row.generation, statements, self.at):
            if said.type is ConditionType.SECRETS_DECRYPTED and (
                said.truth is Truth.FALSE or row.id in self._unreadable
            ):
                self.turned.append((row, said))

    def _valid(self, row: IntegrationRow) -> Say:
        state, ref = self.resolution.state, row.ref
        if ref not in state.held:
            return Say(ConditionType.VALID, Truth.TRUE, Reason.SUCCEEDED, "the manifest is valid")
        file = _file(self.resolution, ref) or row.file
        wrong = [f for f in state.findings if f.file == file and f.severity is Severity.ERROR]
        message = str(wrong[0]) if wrong else "the manifest is not valid; the last good one stays in force"
        return Say(ConditionType.VALID, Truth.FALSE, Reason.VALIDATION_FAILED, message)


def _applying(row: IntegrationRow) -> list[Say]:
    progress = Say(ConditionType.RECONCILING, Truth.TRUE, Reason.PROGRESSING, f"applying {row.revision[:12]}")
    return [Say(ConditionType.STALLED, None), progress]


def _file(resolution: Resolution, ref: Ref) -> str:
    desired = resolution.state.integrations.get(ref)
    return desired.origin.file if desired else ""
