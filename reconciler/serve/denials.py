"""Which refusals get a line of the audit of their own: who is refused over and over must not fill the disk with it.

In: who was refused what, with which code. Out: whether that is told, and how many of the caller's were left out since the last
one that was. Called by `once`, for what is refused before it begins. Per process and bounded, as `limits` is.
"""

from collections import OrderedDict

from reconciler.model.clock import Clock
from reconciler.serve.buckets import MOST_KEPT, Buckets, Flow

MINUTE = 60.0
SAME = Flow(1 / MINUTE, 1)
"""The same caller, operation, target and code."""
OF_ONE = Flow(1 / MINUTE, 60)
"""All that one caller is refused: in a year of nothing else some half a million lines."""


class Denials:
    def __init__(self, clock: Clock) -> None:
        self._same = Buckets(clock)
        self._of_one = Buckets(clock)
        self._left_out: OrderedDict[str, int] = OrderedDict()

    def take(self, identity: str, action: str, target: str, code: str) -> int | None:
        """How many were left out before this one; None where this one is left out as well."""
        is_new = not self._same.take(f"{identity}\0{action}\0{target}\0{code}", SAME).wait
        if is_new and not self._of_one.take(identity, OF_ONE).wait:
            return self._left_out.pop(identity, 0)
        self._left_out[identity] = self._left_out.get(identity, 0) + 1
        if len(self._left_out) > MOST_KEPT:
            self._left_out.popitem(last=False)
        return None
