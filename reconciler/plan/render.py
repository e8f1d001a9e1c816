"""A plan as text for a terminal, JSON for programs, markdown for a pull request. Nothing here knows a secret's value."""

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from reconciler.model.finding import Severity
from reconciler.model.plan import Action, FieldChange, Plan, PlannedAction

FORMAT_VERSION = 1
COMMENT_LIMIT = 60_000
MARKER = "<!-- reconciler-plan -->"
_SIGN = {
    Action.CONNECT: "+",
    Action.UPDATE: "~",
    Action.RECONNECT: "±",
    Action.DISCONNECT: "-",
    Action.PURGE: "-",
    Action.ADOPT: "=",
    Action.NONE: " ",
}
_VERB = {
    Action.CONNECT: "will be connected",
    Action.UPDATE: "will be updated in place",
    Action.RECONNECT: "will be reconnected",
    Action.DISCONNECT: "will be disconnected",
    Action.PURGE: "will be disconnected and purged",
    Action.ADOPT: "will be adopted",
}
Output = Literal["text", "json", "markdown"]


def exit_code(plan: Plan) -> int:
    """1 error, else 3 blocked, else 2 changes, else 0."""
    if any(f.severity is Severity.ERROR for f in plan.findings):
        return 1
    if plan.blocks:
        return 3
    return 2 if plan.actions else 0


def summary(plan: Plan) -> str:
    """One line, in the manner of Terraform; every kind of action that occurs is counted."""
    if not plan.actions:
        are = "integration is" if plan.unchanged == 1 else "integrations are"
        is_read = not any(f.severity is Severity.ERROR for f in plan.findings)
        return f"No changes. {plan.unchanged} {are} as Git wants them{'' if is_read else ', as far as it can be read'}."
    shown = (Action.CONNECT, Action.UPDATE, Action.RECONNECT, Action.DISCONNECT, Action.PURGE, Action.ADOPT)
    always = (Action.CONNECT, Action.UPDATE, Action.DISCONNECT)
    parts = [f"{plan.counts.get(a, 0)} to {a}" for a in shown if a in always or plan.counts.get(a)]
    return f"Plan: {', '.join(parts)}; {plan.unchanged} unchanged."


def render(plan: Plan, output: Output) -> str:
    renderers: Mapping[str, Callable[[Plan], str]] = {"text": text, "json": as_json, "markdown": markdown}
    return renderers[output](plan)


def text(plan: Plan) -> str:
    blocks = [_text_action(a) for a in plan.actions]
    findings = [f"{f.severity}: {f}" for f in plan.findings]
    held = [f"blocked: {b.message}\n  {b.remedy}" for b in plan.blocks]
    dues = [f"to do: {d.ref}: {d.message}\n  {d.remedy}" for d in plan.dues]
    lines = [*blocks, *findings, *held, *dues]
    return "\n".join([*lines, *([""] if lines else []), summary(plan)]) + "\n"


def _text_action(action: PlannedAction) -> str:
    where = f"  ({action.file}:{action.line})" if action.file else ""
    head = f"  # {action.ref} {_VERB[action.action]}: {action.reason}{where}"
    lines = [head, f"  {_SIGN[action.action]} {action.type} {action.ref.name}"]
    width = max((len(c.path) for c in action.changes), default=0)
    lines += [f"      {_text_change(c, width)}" for c in action.changes]
    return "\n".join(lines) + "\n"


def _text_change(change: FieldChange, width: int) -> str:
    if change.before is None:
        return f"+ {change.path:<{width}} = {change.after}"
    if change.after is None:
        return f"- {change.path:<{width}} = {change.before}"
    return f"~ {change.path:<{width}} = {change.before} -> {change.after}"


def as_json(plan: Plan) -> str:
    return msgspec.json.format(msgspec.json.encode(plan_form(plan)), indent=2).decode() + "\n"


def plan_form(plan: Plan) -> dict[str, Any]:
    """As plain values. `format_version` rises when a field changes its meaning or goes; new fields may come without that."""
    return {
        "format_version": FORMAT_VERSION,
        "digest": plan.digest,
        "base_revision": plan.base_revision,
        "head_revision": plan.head_revision,
        "summary": {str(a): plan.counts.get(a, 0) for a in Action if a is not Action.NONE} | {"none": plan.unchanged},
        "exit_code": exit_code(plan),
        "actions": [
            {
                "workspace": a.ref.workspace,
                "name": a.ref.name,
                "type": a.type,
                "action": a.action,
                "reason": a.reason,
                "risk": a.risk,
                "file": a.file,
                "line": a.line,
                "depends_on": [str(r) for r in a.depends_on],
                "changes": [
                    {"path": c.path, "before": c.before, "after": c.after, "is_secret": c.is_secret} for c in a.changes
                ],
            }
            for a in plan.actions
        ],
        "findings": [
            {
                "severity": f.severity,
                "code": f.code,
                "file": f.file,
                "line": f.line,
                "column": f.column,
                "message": f.message,
                "remedy": f.remedy,
            }
            for f in plan.findings
        ],
        "blocks": [
            {"code": b.code, "message": b.message, "remedy": b.remedy, "integrations": [str(r) for r in b.refs]}
            for b in plan.blocks
        ],
        "dues": [
            {
                "workspace": d.ref.workspace,
                "name": d.ref.name,
                "code": d.code,
                "message": d.message,
                "remedy": d.remedy,
            }
            for d in plan.dues
        ],
    }


def markdown(plan: Plan) -> str:
    """A comment under the size limits of the code hosts; MARKER lets a bot find and replace its own comment."""
    head = [MARKER, f"### reconciler: {summary(plan)}", ""]
    head += [f"> **Blocked** ({b.code}): {b.message}. {b.remedy}" for b in plan.blocks]
    head += [f"> **{f.severity}** {_code(str(f))}" for f in plan.findings[:50]]
    if len(plan.findings) > 50:
        head.append(f"> and {len(plan.findings) - 50} more findings")
    head += [f"> **To do** {d.ref}: {d.message}. {_code(d.remedy)}" for d in plan.dues[:50]]
    if len(plan.dues) > 50:
        head.append(f"> and {len(plan.dues) - 50} more to do")
    table = ["", "| | integration | type | action | why |", "|---|---|---|---|---|"]
    rows = [f"| {_SIGN[a.action]} | {a.ref} | {a.type} | {a.action} | {_cell(a.reason)} |" for a in plan.actions]
    details = [_details(a) for a in plan.actions if a.changes]
    foot = f"\nPlan digest `{plan.digest[:16]}`, `{plan.base_revision[:12] or '(nothing)'}` → `{plan.head_revision[:12]}`\n"
    return _fit(head, (table + rows) if rows else [], details, foot)


def _code(value: str) -> str:
    """A code span, whatever is in it (CommonMark 6.1): fenced by one more backtick than stand together inside."""
    fence = "`" * (max(map(len, re.findall("`+", value)), default=0) + 1)
    room = " " if value.startswith("`") or value.endswith("`") else ""
    return f"{fence}{room}{' '.join(value.split())}{room}{fence}"


def _cell(value: str) -> str:
    return value.replace("|", "\\|").replace("\n", " ")


def _details(action: PlannedAction) -> str:
    body = "\n".join(_text_change(c, 0) for c in action.changes).replace("```", "` ` `")
    return f"<details><summary>{action.ref}</summary>\n\n```diff\n{body}\n```\n</details>"


def _fit(head: list[str], table: list[str], details: list[str], foot: str) -> str:
    """Keeps the head, then as many rows, then as many details as fit, and says what was left out."""
    kept, left = list(head), COMMENT_LIMIT - len(foot) - 200 - sum(len(h) + 1 for h in head)
    dropped = 0
    for piece in [*table, "", *details] if table else details:
        left -= len(piece) + 1
        if left < 0:
            dropped += 1
        else:
            kept.append(piece)
    if dropped:
        kept.append(f"\n_{dropped} rows or details did not fit; run `reconciler plan` for all of them._")
    return "\n".join(kept) + foot
