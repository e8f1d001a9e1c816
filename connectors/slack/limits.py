"""What Slack takes: sizes in blocks, and the time of a scheduled message. Pure.

In: blocks as a manifest says or a template made them, `post_at` and our time. Out: what Slack would refuse, with its place.
The models of the channels ask about blocks, so that a constant is a finding of `validate`; a value that is not known yet passes.
Not done: the shape of the many kinds of blocks, which Slack judges.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from reconciler.sdk.errors import RejectedError

FARTHEST = timedelta(days=120)
EVERY = ""
# Where in a block of a type, and the most characters or elements that may be there.
_MOST: Mapping[str, tuple[tuple[str, int], ...]] = {
    EVERY: (("block_id", 255),),
    "header": (("text.text", 150),),
    "section": (
        ("text.text", 3000), ("fields", 10), ("fields.*.text", 2000), ("accessory.action_id", 255), ("accessory.value", 2000),
    ),
    "actions": (("elements", 25), ("elements.*.action_id", 255), ("elements.*.value", 2000)),
}  # fmt: skip


def too_large(blocks: Sequence[Any]) -> Iterator[str]:
    """Every part of `blocks` that is larger than Slack takes."""
    for index, block in enumerate(blocks):
        kind = block.get("type") if isinstance(block, Mapping) else None
        for path, most in _MOST[EVERY] + (_MOST.get(kind, ()) if isinstance(kind, str) else ()):
            for place, value in _found(block, path.split("."), f"blocks[{index}]"):
                if isinstance(value, str | list | tuple) and len(value) > most:
                    what = "characters" if isinstance(value, str) else "elements"
                    yield f"{place} has {len(value)} {what}, Slack takes {most}"


def _found(node: Any, path: Sequence[str], place: str) -> Iterator[tuple[str, Any]]:
    if not path:
        yield place, node
    elif path[0] == "*":
        for index, part in enumerate(node if isinstance(node, list | tuple) else ()):
            yield from _found(part, path[1:], f"{place}[{index}]")
    elif isinstance(node, Mapping) and path[0] in node:
        yield from _found(node[path[0]], path[1:], f"{place}.{path[0]}")


def check_time(post_at: int, now: datetime) -> None:
    """Raises RejectedError for a time at which Slack would not post."""
    ahead = timedelta(seconds=post_at - now.timestamp())
    if timedelta() < ahead <= FARTHEST:
        return
    wrong = "is not in the future" if ahead <= timedelta() else f"is more than {FARTHEST.days} days ahead"
    at = datetime.fromtimestamp(post_at, UTC)
    raise RejectedError(
        f"nothing was scheduled: post_at {post_at} ({at:%Y-%m-%d %H:%M:%S} UTC) {wrong}; look at what map.post_at is made of"
    )
