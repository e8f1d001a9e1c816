"""What a manifest shall be, from what it is and what somebody sent.

In: the tree in the file (none for a new one) and a `Put` or a `Patch`. Out: the wanted tree, `sops` block included, with every
mask replaced by what stands in the file: ciphertext stays the same text. Called by `edits`. Pure; all that is wrong with what
was sent is told at once, by JSON pointers. What no mask covers may still be a secret in clear: `sealing` sees to that.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from reconciler.desired.sops.formats import BLOCK
from reconciler.desired.sops.marks import looks_encrypted
from reconciler.desired.unresolved import MAY_HOLD_SECRETS, REFERENCES
from reconciler.desired.writing.operations import Path, canonical, same
from reconciler.desired.writing.terms import Patch, Pointed, Put, WriteError, WriteFault
from reconciler.model.ids import Ref
from reconciler.model.manifest import API_VERSION
from reconciler.model.secret import MASK
from reconciler.model.tree import json_pointer

Tree = dict[str, Any]
_NOTHING = object()
_DEEPEST = 50
_LONGEST_KEY = 500
_PARTS = frozenset({"apiVersion", "kind", "metadata", "spec"})


def wanted_tree(now: Tree | None, edit: Put | Patch, defaults: Mapping[str, Any] | None = None) -> Tree:
    """`defaults`: what a spec has of its workspace. Raises WriteError with every place that is wrong."""
    sent = dict(edit.manifest if isinstance(edit, Put) else edit.patch)
    _refuse(_misplaced(sent))
    tree = _put(now, sent, edit.ref, defaults or {}) if isinstance(edit, Put) else _patched(now or {}, sent)
    problems: list[Pointed] = []
    wanted: Tree = _unmasked(tree, now if now is not None else _NOTHING, (), problems)
    problems += _renamed(wanted, edit.ref)
    _refuse(problems)
    return wanted


def _put(now: Tree | None, sent: Tree, ref: Ref, defaults: Mapping[str, Any]) -> Tree:
    """In the order of the file that is there, else in the usual one."""
    before = now or {}
    old = before.get("metadata") if isinstance(before.get("metadata"), dict) else {}
    metadata = sent.get("metadata", {})
    if isinstance(metadata, dict) and isinstance(old, dict):
        metadata = {"name": ref.name, "workspace": ref.workspace, **metadata}
        if "workspace" not in old and ref.workspace == "default":
            del metadata["workspace"]
        if notes := _notes(old, metadata):
            metadata["annotations"] = notes
    tree = {
        "apiVersion": sent.get("apiVersion", before.get("apiVersion", API_VERSION)),
        "kind": sent.get("kind", before.get("kind", "Integration")),
        "metadata": metadata,
        "spec": _own(sent.get("spec", {}), before.get("spec"), defaults) if now is not None else sent.get("spec", {}),
    }
    return {**tree, BLOCK: before[BLOCK]} if BLOCK in before else tree


def _own(sent: Any, now: Any, inherited: Any) -> Any:
    """Without what the manifest did not say itself and was only shown with: it still goes with its workspace."""
    if not isinstance(sent, dict) or not isinstance(inherited, Mapping):
        return sent
    said = now if isinstance(now, dict) else {}
    result = {}
    for key, value in sent.items():
        if key in said or key not in inherited:
            result[key] = _own(value, said.get(key), inherited.get(key))
        elif not same(value, inherited[key]):
            result[key] = _own(value, None, inherited[key])
    return result


def _notes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Any:
    kept, given = old.get("annotations"), new.get("annotations", {})
    return {**kept, **given} if isinstance(kept, dict) and isinstance(given, dict) else given


def _patched(now: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    is_reference = len(patch) == 1 and next(iter(patch)) in REFERENCES
    result = dict(now) if isinstance(now, dict) and not is_reference and not _is_reference(now) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _patched(result.get(key), value)
    return result


def _is_reference(value: Mapping[str, Any]) -> bool:
    return len(value) == 1 and next(iter(value)) in REFERENCES


# Masks.


def _unmasked(sent: Any, now: Any, path: Path, problems: list[Pointed]) -> Any:
    if len(path) > _DEEPEST:
        raise WriteError(WriteFault.INVALID, f"the manifest is nested deeper than {_DEEPEST} levels", "make it flatter")
    if isinstance(sent, dict):
        problems += [Pointed(json_pointer(path), "invalid", wrong) for key in sent if (wrong := _wrong_key(key))]
        below = now if isinstance(now, dict) else {}
        return {key: _unmasked(one, below.get(key, _NOTHING), (*path, key), problems) for key, one in sent.items()}
    if isinstance(sent, list):
        return [
            _unmasked(one, _counterpart(sent, now, index), (*path, index), problems) for index, one in enumerate(sent)
        ]
    if isinstance(sent, str):
        _check_text(sent, now, path, problems)
    elif not _is_number_held(sent):
        problems.append(Pointed(json_pointer(path), "invalid", "a number that no manifest can hold; send it as text"))
    return now if sent == MASK and now is not _NOTHING else sent


def _check_text(sent: str, now: Any, path: Path, problems: list[Pointed]) -> None:
    where = json_pointer(path)
    if sent == MASK and now is _NOTHING:
        detail = f"{MASK} stands for the value in the file, and there is none here: send the value, or a reference"
        problems.append(Pointed(where, "masked", detail))
    elif sent != MASK and MASK in sent and path[:1] == ("spec",) and path[1:2] and path[1] in MAY_HOLD_SECRETS:
        problems.append(
            Pointed(where, "masked", f"{MASK} inside a text: send the whole value, or {MASK} alone to keep it")
        )
    elif looks_encrypted(sent) and path[:1] != (BLOCK,) and sent != now:
        detail = "encrypted text of another place or file: send the value in clear, it is encrypted here"
        problems.append(Pointed(where, "ciphertext", detail))
    if not _is_text(sent):
        problems.append(Pointed(where, "invalid", "half a surrogate pair is no text"))


def _is_number_held(sent: Any) -> bool:
    if isinstance(sent, float):
        return math.isfinite(sent)
    return not isinstance(sent, int) or -(2**63) <= sent < 2**63


def _wrong_key(key: str) -> str:
    if len(key) > _LONGEST_KEY:
        return f"a key is longer than {_LONGEST_KEY} characters"
    return "" if _is_text(key) else "half a surrogate pair is no key"


def _is_text(text: str) -> bool:
    return not any("\ud800" <= c <= "\udfff" for c in text)


def _counterpart(sent: list[Any], now: Any, index: int) -> Any:
    """The item in the file that an item of a list speaks of: of the same name, else equal but for masks, else by its place
    where the lists are of one length."""
    if not isinstance(now, list):
        return _NOTHING
    item = sent[index]
    name = item.get("name") if isinstance(item, dict) else None
    if isinstance(name, str):
        named = [one for one in now if isinstance(one, dict) and one.get("name") == name]
        return named[0] if len(named) == 1 else _NOTHING
    alike = [one for one in now if not isinstance(item, str) and _covered(item, one)]
    if len(alike) == 1:
        return alike[0]
    return now[index] if len(now) == len(sent) else _NOTHING


def _covered(sent: Any, now: Any) -> bool:
    """Whether all that is not masked is the same."""
    if isinstance(sent, dict) and isinstance(now, dict):
        return sent.keys() == now.keys() and all(_covered(sent[key], now[key]) for key in sent)
    return sent == MASK or same(sent, now)


# What may not be sent.


def _misplaced(sent: Tree) -> Iterator[Pointed]:
    for name in sorted(sent.keys() - _PARTS):
        yield Pointed(
            json_pointer((name,)), "unknown-field", f"unknown field {name[:60]}; a manifest has metadata and spec"
        )
    for name in ("metadata", "spec"):
        if name in sent and not isinstance(sent[name], dict):
            yield Pointed(json_pointer((name,)), "invalid", f"{name} is not a mapping")
    try:
        canonical(sent)
    except (TypeError, ValueError, RecursionError):
        yield Pointed("", "invalid", "not plain JSON")


def _renamed(wanted: Tree, ref: Ref) -> Iterator[Pointed]:
    """A manifest stays what it is: another name, and above all another kind, is another document."""
    for part, fixed in (("apiVersion", API_VERSION), ("kind", "Integration")):
        if wanted.get(part) != fixed:
            yield Pointed(json_pointer((part,)), "immutable", f"{part} is {fixed}")
    metadata = wanted.get("metadata")
    given = metadata if isinstance(metadata, dict) else {}
    for name, value in (("name", ref.name), ("workspace", ref.workspace)):
        if given.get(name, "default" if name == "workspace" else None) != value:
            detail = f"{name} is part of the identity and stays {value}; remove this manifest and make another one"
            yield Pointed(json_pointer(("metadata", name)), "immutable", detail)


def _refuse(found: Iterator[Pointed] | list[Pointed]) -> None:
    if pointed := list(found):
        first = pointed[0]
        raise WriteError(WriteFault.INVALID, f"{first.pointer or 'the manifest'}: {first.detail}", pointed=pointed)
