"""What a revision comes to, in the daemon's log: the summary, what is wrong with it, what is blocked.

A daemon that only observes also says what it would do, integration by integration; one that acts tells that by acting.
"""

from typing import Any

from reconciler.model.plan import Plan
from reconciler.plan.render import summary

MOST = 50


def announce(logger: Any, plan: Plan, *, is_observing: bool = False) -> None:
    """`logger` is structlog's. Long lists are cut: `reconciler status` and `reconciler plan` show all."""
    log = logger.warning if plan.blocks or plan.findings else logger.info
    log(summary(plan), revision=plan.head_revision[:12], findings=len(plan.findings))
    for finding in plan.findings[:MOST]:
        logger.warning("finding", what=str(finding))
    for block in plan.blocks:
        logger.warning("blocked", why=block.message, remedy=block.remedy)
    wished = plan.actions if is_observing else ()
    for action in wished[:MOST]:
        where = f"{action.file}:{action.line}" if action.file else ""
        logger.info("would be done", action=action.action, integration=str(action.ref), why=action.reason, where=where)
    left = {"findings": len(plan.findings) - MOST, "actions": len(wished) - MOST}
    if any(count > 0 for count in left.values()):
        logger.info("more is left out here", **{what: count for what, count in left.items() if count > 0})
