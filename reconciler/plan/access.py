"""What a change of `spec.access` gives that was not given before. Pure; `compare` asks, because a right given is a risk.

In: two trees. What is not written as the manifest wants it, such as an encrypted name, gives nothing.
"""

from collections.abc import Mapping
from typing import Any

Rights = Mapping[str, frozenset[str]]


def rights_of(tree: Mapping[str, Any]) -> Rights:
    """Client -> what it may do."""
    written = tree.get("access")
    found: dict[str, frozenset[str]] = {}
    for entry in written if isinstance(written, list | tuple) else ():
        client, allow = (entry.get("client"), entry.get("allow")) if isinstance(entry, Mapping) else (None, None)
        if isinstance(client, str) and isinstance(allow, list | tuple):
            found[client] = found.get(client, frozenset()) | {str(one) for one in allow if isinstance(one, str)}
    return found


def widened(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """In words, empty where nobody may do more than before."""
    old = rights_of(before)
    more = {client: rights - old.get(client, frozenset()) for client, rights in rights_of(after).items()}
    return "; ".join(
        f"{client} may now {', '.join(sorted(rights))}" for client, rights in sorted(more.items()) if rights
    )
