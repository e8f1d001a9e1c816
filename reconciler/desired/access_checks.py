"""`spec.access`: whom a manifest lets in, as it is written. In: the list. Out: problems. Called by `manifests`.

Whether a client exists is not asked: tokens are made at run time, and other callers are known to an issuer only.
"""

from collections.abc import Iterator
from typing import Any

from reconciler.desired.positions import Path
from reconciler.desired.problem import Problem, shown
from reconciler.model.finding import Code

_BASE: Path = ("spec", "access")


def access_problems(written: Any) -> Iterator[Problem]:
    """A client named twice: whoever takes a right out of one entry would believe it gone."""
    seen: set[str] = set()
    for place, entry in enumerate(written if isinstance(written, list | tuple) else ()):
        client = entry.get("client") if isinstance(entry, dict) else None
        if not isinstance(client, str):
            continue
        if client in seen:
            message = f"two entries are for the client {shown(client)}"
            yield Problem((*_BASE, place, "client"), Code.DUPLICATE_NAME, message, "name all its rights in one entry")
        seen.add(client)
