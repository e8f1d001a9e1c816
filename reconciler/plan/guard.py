"""What a plan may not do without a person: prune from an incomplete checkout, empty the set, or prune many at once."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import msgspec

from reconciler.model.finding import Severity
from reconciler.model.ids import Ref
from reconciler.model.plan import Block, Plan, PlannedAction
from reconciler.model.state import DesiredState, ObservedState

PRUNE_SHARE = 0.2
PRUNE_LEAST = 1
PRUNE_MOST = 10


def guard(
    desired: DesiredState,
    observed: ObservedState,
    actions: tuple[PlannedAction, ...],
    unchanged: int,
    approved: frozenset[str],
) -> Plan:
    """The plan with its blocks, counts and digest. Blocked are removals of integrations that Git no longer names."""
    removed = [a for a in actions if a.ref not in desired.integrations]
    blocks = tuple(_blocks(desired, observed, removed, approved))
    counts = Counter(a.action for a in actions)
    plan = Plan(
        base_revision=observed.revision,
        head_revision=desired.revision,
        actions=actions,
        findings=desired.findings,
        blocks=blocks,
        unchanged=unchanged,
        counts=counts,
    )
    return replace(plan, digest=_digest(plan))


def prune_digest(revision: str, refs: Sequence[Ref]) -> str:
    """Names exactly these removals at exactly this revision: what an approval is bound to."""
    names = "\n".join(sorted(str(r) for r in refs))
    return hashlib.sha256(f"{revision}\n{names}".encode()).hexdigest()[:16]


def prune_limit(total: int) -> int:
    """How many of a workspace's `total` integrations one revision may remove: 20 %, at least 1, at most 10."""
    return max(PRUNE_LEAST, min(PRUNE_MOST, int(total * PRUNE_SHARE)))


def _blocks(
    desired: DesiredState, observed: ObservedState, removed: list[PlannedAction], approved: frozenset[str]
) -> list[Block]:
    if not removed:
        return []
    refs = tuple(a.ref for a in removed)
    digest = prune_digest(desired.revision, refs)
    if not desired.is_complete:
        errors = sum(1 for f in desired.findings if f.severity is Severity.ERROR)
        message = f"{len(refs)} integrations are missing from an incomplete checkout ({errors} errors)"
        return [Block("incomplete", message, "mend the findings; nothing is removed until then", refs)]
    if digest in approved:
        return []
    remedy = f"if this is meant: reconciler approve {digest}"
    total = observed.connected
    if not desired.integrations and sum(total.values()) > 1:
        return [Block("empty", f"Git names no integration any more; all {len(refs)} would go", remedy, refs)]
    gone = Counter(r.workspace for r in refs)
    return [
        Block(
            "prune-limit",
            f"{count} of {total[name]} integrations of workspace {name} would go; the limit is {prune_limit(total[name])}",
            remedy,
            tuple(r for r in refs if r.workspace == name),
        )
        for name, count in sorted(gone.items())
        if count > prune_limit(total[name])
    ]


def _digest(plan: Plan) -> str:
    essence = [[str(a.ref), a.action, a.type, [[c.path, c.before, c.after] for c in a.changes]] for a in plan.actions]
    return hashlib.sha256(msgspec.json.encode([plan.base_revision, plan.head_revision, essence])).hexdigest()
