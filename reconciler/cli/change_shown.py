"""What became of a change that was made over the API: for a person or a program. And the words such commands share."""

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from reconciler.cli.options import add_output
from reconciler.cli.server_access import REF, add_server
from reconciler.cli.store_access import CommandError

if TYPE_CHECKING:
    from reconciler.api.manifests import ChangeShown, Disconnected
    from reconciler.api.plans import PlanShown
    from reconciler.model.plan import Plan

MOST_WAIT = 30.0


def add_change(parser: argparse.ArgumentParser, name: str | None = REF) -> None:
    """Name, and how long to wait."""
    if name:
        parser.add_argument("name", metavar="NAME", help=name)
    what = f"how long to wait for what the commit brings about, at most {MOST_WAIT:g} (default: as the server has it)"
    parser.add_argument("--wait", type=float, metavar="SECONDS", help=what)
    add_output(parser)
    add_server(parser)


def wait_of(args: argparse.Namespace) -> float | None:
    if args.wait is not None and not 0 <= args.wait <= MOST_WAIT:
        raise CommandError(f"--wait {args.wait:g}: expected 0 to {MOST_WAIT:g} seconds")
    return None if args.wait is None else float(args.wait)


def agree(args: argparse.Namespace, question: str) -> None:
    """Raises CommandError unless a person wants it."""
    if args.yes:
        return
    if not sys.stdin.isatty():
        raise CommandError("nothing was done; --yes does it without being asked")
    print(f"{question} [y/N] ", end="", flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise CommandError("nothing was done")


def show(change: "ChangeShown | Disconnected", args: argparse.Namespace, done: str = "disconnected") -> None:
    if args.output == "json":
        print(json.dumps(json.loads(change.model_dump_json()), indent=2))
    else:
        print(_text(change, f"{args.name} is {done}"))


def _text(change: "ChangeShown | Disconnected", done: str) -> str:
    from reconciler.api.manifests import Disconnected
    from reconciler.plan.render import text

    if isinstance(change, Disconnected):
        purged = "; its records are being deleted" if change.purge_data else ""
        kept = f"{change.logs_retained_until:%Y-%m-%d}"
        return f"{done} since {change.disconnected_at:%Y-%m-%dT%H:%M:%SZ}{purged}; its log is kept until {kept}"
    its = change.integration
    ref = f"{its.workspace}/{its.name}"
    if change.pull_request_url:
        return f"{text(plan_of(change.plan))}\n{ref}: proposed, merge it: {change.pull_request_url}"
    if not change.commit:
        return f"{ref}: nothing to change, Git says that already"
    stands = f" ({its.id})" if its.id else ", and is taken over soon"
    status = f", is {its.status}" if its.status else ""
    return f"{text(plan_of(change.plan))}\n{ref}: committed {change.commit[:12]} to {change.branch}{status}{stands}"


def plan_of(shown: "PlanShown") -> "Plan":
    """The plan as it was before it became JSON, so that it is rendered as any other."""
    from reconciler.model.finding import Finding
    from reconciler.model.ids import Ref
    from reconciler.model.plan import Action, Block, Due, FieldChange, Plan, PlannedAction

    actions = tuple(
        PlannedAction(
            ref=Ref(one.workspace, one.name),
            changes=tuple(FieldChange(c.path, c.before, c.after, c.is_secret) for c in one.changes),
            depends_on=tuple(map(Ref.parse, one.depends_on)),
            **_fields(one, "type", "action", "reason", "risk", "file", "line"),
        )
        for one in shown.actions
    )
    findings = tuple(Finding(f.file, f.line, f.column, f.code, f.message, f.remedy, f.severity) for f in shown.findings)
    blocks = tuple(Block(b.code, b.message, b.remedy, tuple(map(Ref.parse, b.integrations))) for b in shown.blocks)
    counts: dict[Action, int] = {
        action: number for action, number in shown.summary.items() if action is not Action.NONE and number
    }
    unchanged = shown.summary.get(Action.NONE, 0)
    dues = tuple(Due(Ref(d.workspace, d.name), d.code, d.message, d.remedy) for d in shown.dues)
    return Plan(
        shown.base_revision, shown.head_revision, actions, findings, blocks, unchanged, shown.digest, counts, dues
    )


def _fields(of: object, *names: str) -> dict[str, Any]:
    return {name: getattr(of, name) for name in names}
