"""Desired x observed -> plan: which integrations are connected, changed or let go, and why, field by field.

Pure. Called with two revisions of Git by `reconciler plan --base`, with the store's applied state by `plan`, `apply` and
the daemon. Without keys a secret is compared by its ciphertext; with `resolved` also by its keyed fingerprint.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from reconciler.model.duration import parse_duration
from reconciler.model.ids import Ref
from reconciler.model.manifest import Spec, Synchronization
from reconciler.model.plan import Action, FieldChange, Plan, PlannedAction, Risk
from reconciler.model.secret import MASK, Unresolved
from reconciler.model.state import DesiredIntegration, DesiredState, ObservedIntegration, ObservedState
from reconciler.model.tree import encode_tree, leaves
from reconciler.plan.access import rights_of, widened
from reconciler.plan.guard import guard
from reconciler.plan.order import order

_RECONNECT_ROOTS = ("type", "auth", "config", "network")
_DURATIONS = frozenset({"sync.every", "sync.jitter", "sync.timeout", "objectives.freshness", "objectives.delivery"})
_NAMED = re.compile(r"\[[^\]]*\]")
_ABSENT = object()


@dataclass(frozen=True, slots=True)
class Resolved:
    """What decryption added to a spec: the keyed hash over clear values, and a fingerprint per secret path."""

    effective_hash: str
    fingerprints: Mapping[str, str]


def compare(
    desired: DesiredState,
    observed: ObservedState,
    *,
    resolved: Mapping[Ref, Resolved] | None = None,
    approved: frozenset[str] = frozenset(),
    names: Collection[Ref] | None = None,
) -> Plan:
    """The whole plan, ordered, guarded and with its digest. `approved` are digests of prunes a person allowed.

    `names` are all that may differ: the others are not looked at, and need not be in `observed`.
    """
    seen = observed.integrations
    asked = desired.integrations
    if names is not None:
        asked = {ref: desired.integrations[ref] for ref in names if ref in desired.integrations}
        seen = {ref: observed.integrations[ref] for ref in names if ref in observed.integrations}
    actions = [_desired_action(*one) for one in _unsettled(asked, seen, resolved or {})]
    actions = [action for action in actions if action.action is not Action.NONE]
    unchanged = len(desired.integrations) - len(actions)
    gone = [o for ref, o in seen.items() if ref not in desired.integrations]
    actions += [_removal(o) for o in gone if o.is_connected and o.ref not in desired.held]
    return guard(desired, observed, order(actions), unchanged, approved)


def base_as_observed(base: DesiredState) -> ObservedState:
    """A revision as if it had been applied: what a plan between two revisions compares with."""
    return ObservedState(
        base.revision,
        {
            ref: ObservedIntegration(
                ref=ref,
                type=i.tree["type"],
                tree=i.tree,
                source_hash=i.source_hash,
                is_connected=_is_enabled(i),
                deletion_policy=i.tree.get("deletion_policy", "disconnect"),
            )
            for ref, i in base.integrations.items()
        },
    )


def _is_enabled(wanted: DesiredIntegration) -> bool:
    """From the tree, which is always at hand: a manifest from the parse cache is built when it is first asked for."""
    written = wanted.tree.get("enabled", True)
    return written if isinstance(written, bool) else wanted.manifest.spec.enabled


def _unsettled(
    desired: Mapping[Ref, DesiredIntegration],
    observed: Mapping[Ref, ObservedIntegration],
    resolved: Mapping[Ref, Resolved],
) -> Iterator[tuple[DesiredIntegration, ObservedIntegration | None, Resolved | None]]:
    """All but those that are connected just as Git has them, with nothing drifted: of ten thousand nearly all."""
    for ref, wanted in desired.items():
        seen, known = observed.get(ref), resolved.get(ref)
        is_settled = (
            seen is not None
            and wanted.source_hash == seen.source_hash
            and seen.is_connected
            and not seen.drifted
            and (known is None or not seen.effective_hash or known.effective_hash == seen.effective_hash)
        )
        if not is_settled:
            yield wanted, seen, known


def _desired_action(
    wanted: DesiredIntegration, observed: ObservedIntegration | None, resolved: Resolved | None
) -> PlannedAction:
    spec = wanted.manifest.spec
    if spec.suspend:
        return _suspension(wanted, observed)
    if not spec.enabled:
        is_on = observed is not None and observed.is_connected
        return _action(wanted, Action.DISCONNECT if is_on else Action.NONE, "enabled: false", risk=Risk.HIGH)
    if observed is None:
        return _action(wanted, Action.CONNECT, "new", _added(wanted))
    changes = _changes(wanted, observed, resolved)
    more = widened(observed.tree, wanted.tree)
    if not observed.is_connected:
        reason = "enabled" if any(c.path == "enabled" for c in changes) else "not connected"
        return _action(wanted, Action.CONNECT, _and(reason, more), changes, Risk.HIGH if more else Risk.LOW)
    if not changes and observed.drifted and spec.drift.mode == "correct":
        return _action(wanted, Action.UPDATE, f"drift: {', '.join(observed.drifted)}")
    if not changes:
        return _action(wanted, Action.NONE, "unchanged")
    real = _roots(c for c in changes if c.before != c.after)
    action = Action.RECONNECT if real & set(_RECONNECT_ROOTS) else Action.UPDATE
    risk = Risk.HIGH if "type" in real or more else Risk.LOW
    return _action(wanted, action, _and(f"{', '.join(sorted(_roots(changes)))} changed", more), changes, risk)


def _and(reason: str, more: str) -> str:
    return f"{reason}: {more}" if more else reason


def _roots(changes: Iterable[FieldChange]) -> set[str]:
    return {c.path.split(".", 1)[0].split("[", 1)[0] for c in changes}


def _suspension(wanted: DesiredIntegration, observed: ObservedIntegration | None) -> PlannedAction:
    """Only the suspension itself is applied; whatever else changed waits until it is lifted."""
    is_new = observed is not None and observed.is_connected and dict(observed.tree.items()).get("suspend") is not True
    if not is_new:
        return _action(wanted, Action.NONE, "suspended")
    reason = "suspend: nothing is changed, synced or delivered until it is lifted"
    return _action(wanted, Action.UPDATE, reason, (FieldChange("suspend", None, "true"),))


def _action(
    wanted: DesiredIntegration,
    action: Action,
    reason: str,
    changes: tuple[FieldChange, ...] = (),
    risk: Risk = Risk.LOW,
) -> PlannedAction:
    spec, ref = wanted.manifest.spec, wanted.ref
    needs = tuple(Ref(ref.workspace, name) for name in spec.depends_on)
    origin = wanted.origin
    return PlannedAction(ref, spec.type, action, reason, changes, risk, origin.file, origin.line, needs)


def _removal(observed: ObservedIntegration) -> PlannedAction:
    purges = observed.deletion_policy == "purge"
    reasons = {
        "purge": "removed from Git; its records are deleted too (deletion_policy: purge)",
        "orphan": "removed from Git; remote objects stay (deletion_policy: orphan)",
    }
    reason = reasons.get(observed.deletion_policy, "removed from Git; records are kept")
    action = Action.PURGE if purges else Action.DISCONNECT
    names = dict(observed.tree.items()).get("depends_on") or ()
    needs = tuple(Ref(observed.ref.workspace, name) for name in names)
    return PlannedAction(observed.ref, observed.type, action, reason, risk=Risk.HIGH, depends_on=needs)


def _added(wanted: DesiredIntegration) -> tuple[FieldChange, ...]:
    return tuple(FieldChange(p, None, _show(v), isinstance(v, Unresolved)) for p, v in leaves(wanted.tree))


def _changes(
    wanted: DesiredIntegration, observed: ObservedIntegration, resolved: Resolved | None
) -> tuple[FieldChange, ...]:
    found: list[FieldChange] = []
    if wanted.source_hash != observed.source_hash:
        before, after = dict(leaves(observed.tree)), dict(leaves(wanted.tree))
        found = [_change(p, before, after, observed, resolved) for p in _differing(before, after)]
    if resolved and observed.effective_hash and resolved.effective_hash != observed.effective_hash:
        seen = {c.path for c in found}
        found += [c for c in _secret_changes(observed, resolved) if c.path not in seen]
        # fingerprints are short: two values may share one, and the whole is still known to differ
        found = found or [FieldChange("auth", "(secret value)", "(secret value changed)", is_secret=True)]
    return tuple(sorted(found, key=lambda c: c.path))


def _differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    paths = before.keys() | after.keys()
    return [p for p in paths if _effective(before, p) != _effective(after, p)]


def _effective(values: Mapping[str, Any], path: str) -> Any:
    """What the value means, so that a default written out, or a duration written differently, is no change."""
    value = values.get(path, _defaults().get(_NAMED.sub("[]", path), _ABSENT))
    if isinstance(value, Unresolved):
        return (Unresolved, value.digest)
    if path == "access":
        rights = rights_of({path: value})
        return sorted((client, sorted(given)) for client, given in rights.items()) or _ABSENT
    if path in _DURATIONS and value is not None and value is not _ABSENT:
        return parse_duration(value)
    if value is _ABSENT or (isinstance(value, Mapping | list | tuple | None) and not value):
        return _ABSENT
    return encode_tree({"": value})  # as text, because 1 and true are equal in Python


@cache
def _defaults() -> Mapping[str, Any]:
    """Path -> what an absent field means; `[]` stands for any name in a list of named objects."""
    spec = Spec(type="x").model_dump(by_alias=True, exclude={"type"})
    named = Synchronization(name="x", event_type="x.y", action="x").model_dump(
        by_alias=True, exclude={"name", "event_type", "action"}
    )
    return dict(leaves(spec)) | {f"synchronizations[].{path}": value for path, value in leaves(named)}


def _change(
    path: str,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    observed: ObservedIntegration,
    resolved: Resolved | None,
) -> FieldChange:
    old, new = before.get(path, _ABSENT), after.get(path, _ABSENT)
    is_secret = isinstance(old, Unresolved) or isinstance(new, Unresolved)
    if isinstance(old, Unresolved) and isinstance(new, Unresolved):
        return _secret_change(path, observed, resolved)
    return FieldChange(path, None if old is _ABSENT else _show(old), None if new is _ABSENT else _show(new), is_secret)


def _secret_change(path: str, observed: ObservedIntegration, resolved: Resolved | None) -> FieldChange:
    old = observed.fingerprints.get(path)
    new = resolved.fingerprints.get(path) if resolved else None
    if old and new and old == new:
        return FieldChange(path, "(encrypted again, same value)", "(encrypted again, same value)", is_secret=True)
    if old and new:
        return FieldChange(path, f"(secret, fp {old})", f"(secret, fp {new})", is_secret=True)
    return FieldChange(path, "(encrypted value)", "(encrypted value changed)", is_secret=True)


def _secret_changes(observed: ObservedIntegration, resolved: Resolved) -> list[FieldChange]:
    paths = {p for p, fp in resolved.fingerprints.items() if observed.fingerprints.get(p) != fp}
    return [_secret_change(p, observed, resolved) for p in sorted(paths & observed.fingerprints.keys())]


def _show(value: Any) -> str:
    """JSON text of a leaf. A secret shows the mask: length and content stay unknown."""
    return MASK if isinstance(value, Unresolved) else encode_tree({"v": value})[5:-1]
