"""Jobs that other processes run: rows are put in order here, whoever works on the database finds them. Called by the daemon."""

from reconciler.work.ports import JobStore


class Elsewhere:
    """Implements `Dispatch` without an engine."""

    def __init__(self, store: JobStore) -> None:
        self._store = store

    async def ask(self, kind: str, ref: str) -> bool:
        return await self._store.ask(kind, ref)

    async def cancel(self, kind: str, ref: str) -> bool:
        """Who runs it is told, and if it does not hear of it, sees within a second, or at the fence of its next commit."""
        return await self._store.drop(kind, ref) is not None

    def wake(self) -> None:
        """The others look by themselves."""
