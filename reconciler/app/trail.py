"""Which names may differ between two desired states that were taken, as told by the differences of their trees.

In: each state as it is taken, with the names that the files which changed speak of. Out: the names between an earlier state
and a later one. Kept by the book. Not here: what secrets and the store add to them.
"""

from reconciler.model.ids import Ref
from reconciler.model.state import DesiredState

Names = frozenset[Ref] | None
"""None: any name."""


class Trail:
    """From the state that was put in force last up to the newest; states are told apart by identity."""

    def __init__(self) -> None:
        self._steps: list[tuple[DesiredState, Names]] = []

    def add(self, state: DesiredState, touched: Names) -> None:
        """`touched`: what may differ from the state added before."""
        self._steps.append((state, touched))

    def between(self, older: DesiredState | None, newer: DesiredState) -> Names:
        start, end = self._place(older), self._place(newer)
        if start is None or end is None or start > end:
            return None
        every: set[Ref] = set()
        for _, touched in self._steps[start + 1 : end + 1]:
            if touched is None:
                return None
            every |= touched
        return frozenset(every)

    def begin_at(self, state: DesiredState) -> None:
        """What came before it will not be asked for any more."""
        place = self._place(state)
        if place is not None:
            del self._steps[:place]

    def _place(self, state: DesiredState | None) -> int | None:
        return next((place for place, (known, _) in enumerate(self._steps) if known is state), None)
