"""The loop of a rollback: stretch by stretch, each in a transaction of its own, until every entity is as it was.

Called by `run` for a run that restores a dataset version. A killed process goes on where the last stretch ended.
"""

from functools import partial

from reconciler.model.clock import Clock, rfc3339
from reconciler.store import rollback
from reconciler.store.database import Database
from reconciler.store.rollback import Place
from reconciler.store.runs import Run


async def restore(database: Database, clock: Clock, run: Run) -> None:
    """Raises FencedError where the run may not go on, NotKeptError where what it needs is gone."""
    for place in await database.read(lambda tx: rollback.places(tx, run)):
        at: Place | None = place
        while at is not None:
            following = partial(rollback.restore_next, run=run, place=at, at=rfc3339(clock.now()))
            at = await database.write(following, guarded=True)
