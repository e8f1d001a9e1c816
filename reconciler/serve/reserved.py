"""What the daemon's settings keep for `admin`: fields of manifests by JSON pointer, and operations by name. Pure.

In: `api.reserved`, and a manifest (`metadata` and `spec`) before and after. `*` in a pointer stands for anything within one
member, `**` for any number of members; a pointer means what is below it too. Routes call `refuse_change` before a change is
written and `refuse_operation` before anything else. A manifest that goes as a whole is an operation, not a change. Grants
(`spec.access`) that were not there before want `admin` whatever the settings say.
"""

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from reconciler.model.access import Caller, Operation, Permission
from reconciler.model.tree import encode_tree
from reconciler.plan.access import widened
from reconciler.serve.problem import ProblemError

Path = tuple[str, ...]


def reserved(patterns: Sequence[str], before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[str, ...]:
    """Pointers of what differs and is reserved, in order. What was not there and what is there no more differ as well."""
    wanted = [_members(pattern) for pattern in patterns if pattern.startswith("/")]
    if not wanted:
        return ()
    old, new = dict(_leaves(before)), dict(_leaves(after))
    changed = {path for path in old.keys() | new.keys() if old.get(path) != new.get(path)}
    return tuple(sorted(_pointer(path) for path in changed if any(_fits(pattern, path) for pattern in wanted)))


def reserved_operation(patterns: Sequence[str], operation: Operation) -> bool:
    return str(operation) in patterns


def refuse_change(patterns: Sequence[str], caller: Caller, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Raises ProblemError (403) where a caller without `admin` touches what is reserved, or gives somebody a grant.

    A permission of the workspace never gives data, so whoever may edit must not be able to let himself in.
    """
    if caller.may(Permission.ADMIN):
        return
    if more := widened(before.get("spec", {}), after.get("spec", {})):
        said = f"{more}: only a caller with the permission admin gives grants over the API, or a commit does"
        raise ProblemError(403, "reserved", said, {"errors": [_error("/spec/access", said)]})
    touched = reserved(patterns, before, after)
    if touched:
        said = "the daemon's settings reserve this field for callers with the permission admin"
        errors = [_error(pointer, said) for pointer in touched]
        raise ProblemError(403, "reserved", f"reserved for admin: {', '.join(touched)}", {"errors": errors})


def _error(pointer: str, said: str) -> dict[str, str]:
    return {"pointer": pointer, "code": "reserved", "detail": said}


def refuse_operation(patterns: Sequence[str], caller: Caller, operation: Operation) -> None:
    """Raises ProblemError (403) where the operation is reserved and the caller has not `admin`."""
    if reserved_operation(patterns, operation) and not caller.may(Permission.ADMIN):
        message = f"the daemon's settings reserve {operation} for callers with the permission admin"
        raise ProblemError(403, "reserved", message, {"operation": str(operation)})


def _members(pointer: str) -> Path:
    return tuple(_unescaped(part) for part in pointer.split("/")[1:] if part)


def _unescaped(part: str) -> str:
    return part.replace("~1", "/").replace("~0", "~")


def _pointer(path: Path) -> str:
    return "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in path)


def _leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, str]]:
    """As text: in Python 1 and true are equal. An empty mapping or list is a value of its own."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(inner, (*path, str(key)))
    elif isinstance(value, list | tuple) and value:
        for place, inner in enumerate(value):
            yield from _leaves(inner, (*path, str(place)))
    else:
        yield path, encode_tree({"": value})


def _fits(pattern: Path, path: Path) -> bool:
    """Whether the pattern means this place or one above it."""
    if not pattern:
        return True
    head, *rest = pattern
    if head == "**":
        return any(_fits(tuple(rest), path[start:]) for start in range(len(path) + 1))
    return bool(path) and fnmatchcase(path[0], head) and _fits(tuple(rest), path[1:])
