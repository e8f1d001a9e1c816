"""What Git would change, as callers are answered: the part of a plan that is theirs, and problems where Git cannot be asked.

Called by `routes.plans` and `manifest_change`. Pure.
"""

from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import replace
from typing import TypeVar

from reconciler.model.access import Caller
from reconciler.model.plan import Plan
from reconciler.serve.ports import Foreseen, NotReadableError
from reconciler.serve.problem import ProblemError

T = TypeVar("T")


def demanded(port: T | None) -> T:
    """Raises ProblemError (503) in a process that does not read Git."""
    if port is None:
        message = "this process has no source of manifests; ask one with role all or controller, or give it sources"
        raise ProblemError(503, "git-not-read", message)
    return port


def not_readable(error: NotReadableError) -> ProblemError:
    status, code = (422, "not-readable") if error.is_request else (503, "git-not-readable")
    return ProblemError(status, code, str(error))


def seen_by(caller: Caller, found: Foreseen, known: Collection[str] = ()) -> Plan:
    """The part of the caller's workspace. Findings of a file in which another one has manifests, too, are not shown.

    `known` are files of which the caller has seen everything: it sent them. Also there a finding about a manifest of another
    workspace is not shown: it could say that there is one of that name already.
    """
    plan, mine = found.plan, caller.workspace
    if mine is None:
        return plan
    owners: dict[str, set[str]] = defaultdict(set)
    for ref, wanted in found.desired.integrations.items():
        owners[wanted.origin.file].add(ref.workspace)
    actions = tuple(action for action in plan.actions if action.ref.workspace == mine)
    named = {ref for ref in found.desired.integrations if ref.workspace == mine}
    blocks = [replace(block, refs=tuple(r for r in block.refs if r.workspace == mine)) for block in plan.blocks]
    return replace(
        plan,
        actions=actions,
        findings=tuple(
            one
            for one in plan.findings
            if one.workspace in ("", mine) and (one.file in known or owners.get(one.file) == {mine})
        ),
        blocks=tuple(block for block in blocks if block.refs),
        dues=tuple(due for due in plan.dues if due.ref.workspace == mine),
        unchanged=len(named - {action.ref for action in actions}),
        counts=Counter(action.action for action in actions),
    )
