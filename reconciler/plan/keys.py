"""Keys with which others push, as a plan tells of them: one is to be made, or is older than its manifest wants.

Pure. In: a plan, the state it leads to, and which keys there are. Out: the plan with its `dues`. Making a key is a person's:
it is shown once, so whatever applies a plan makes none.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from datetime import timedelta

from reconciler.model.duration import render_duration
from reconciler.model.ids import Ref
from reconciler.model.ingest_key import AUTH_TYPE, rotation_in
from reconciler.model.plan import Action, Due, DueCode, Plan
from reconciler.model.state import DesiredIntegration, DesiredState, KeysSeen, Tree


def with_dues(plan: Plan, desired: DesiredState, keys: KeysSeen | None) -> Plan:
    """`keys` None: nothing is known of the installation, so only what the plan brings along has none for certain."""
    pushed_to = {ref: wanted for ref, wanted in desired.integrations.items() if _is_pushed_to(wanted)}
    if not pushed_to:
        return plan
    dues = _new(plan, pushed_to.keys()) if keys is None else _seen(pushed_to, keys)
    return replace(plan, dues=tuple(sorted(dues, key=lambda due: (due.ref, due.code))))


def _is_pushed_to(wanted: DesiredIntegration) -> bool:
    auth = wanted.tree.get("auth")
    return isinstance(auth, Mapping) and auth.get("type") == AUTH_TYPE and wanted.tree.get("enabled") is not False


def _new(plan: Plan, pushed_to: Collection[Ref]) -> Iterator[Due]:
    for action in plan.actions:
        is_new = action.action is Action.CONNECT and all(change.before is None for change in action.changes)
        if is_new and action.ref in pushed_to:
            yield _create(action.ref)


def _seen(pushed_to: Mapping[Ref, DesiredIntegration], keys: KeysSeen) -> Iterator[Due]:
    for ref, wanted in pushed_to.items():
        active = keys.active.get(ref, ())
        if not active and not _brings_its_own(wanted.tree):
            yield _create(ref)
        rotation = rotation_in(wanted.tree)
        for key in active:
            due_at = rotation.due_at(key.created_at)
            if due_at is not None and due_at <= keys.at:
                yield _rotate(ref, key.key_id, rotation.max_age or timedelta())


def _brings_its_own(tree: Tree) -> bool:
    return bool(tree["auth"].get("pinned_hashes"))


def _create(ref: Ref) -> Due:
    return Due(ref, DueCode.CREATE_KEY, "create api key", f"reconciler key create {ref}")


def _rotate(ref: Ref, key_id: str, max_age: timedelta) -> Due:
    message = f"key older than max_age: rotation due (key {key_id}, max_age {render_duration(max_age)})"
    return Due(ref, DueCode.ROTATE_KEY, message, f"reconciler key regenerate {ref} --instead-of {key_id}")
