"""Rejected records tried again: kept ones out of the store, through today's connector and fields, into the dataset.

Called by `run` for a run that replays; asks no remote. A stretch is one transaction with the place to go on from, so a
killed process goes on where it was. What passes is part of the run's dataset version, what does not stays with its new reason.
"""

from collections.abc import Sequence
from dataclasses import replace

from reconciler.model.record import LogLevel, Page
from reconciler.sdk.errors import ConnectorError, place_of
from reconciler.store import progress as telling
from reconciler.store import rejects, run_entities
from reconciler.store.database import Tx
from reconciler.store.progress import Batch
from reconciler.store.rejects import Kept, Retried
from reconciler.store.runs import EntityProgress
from reconciler.sync.entity import Reading, keep_schema, page_commit, tell_schema
from reconciler.sync.fields import field_filter
from reconciler.sync.schema import Policy, SchemaWatch, watch

TOO_MUCH = ("too large to be kept; the next sync that reads it tries it again",)


async def replay_entity(reading: Reading, progress: EntityProgress) -> None:
    """Raises FencedError where the run may not go on. A frozen schema stops nothing here: what does not fit stays."""
    policy: Policy = "evolve" if reading.sync.schema_ == "evolve" else "reject"
    watching = watch(policy, progress.shape, reading.sync.fields, accepts=reading.run.accepts_schema)
    place: int | None = int(progress.position["behind"]) if progress.position else 0
    while place is not None:
        place = await _stretch(reading, progress, watching, place)


async def _stretch(reading: Reading, progress: EntityProgress, watching: SchemaWatch, place: int) -> int | None:
    found = await reading.database.read(lambda tx: rejects.behind(tx, progress.entity_id, place))
    watching.begin()
    tried = _held(watching, try_again(reading, found))
    following = found[-1].id if len(found) == rejects.STRETCH else None
    commit = page_commit(reading, progress, 0)

    def store(tx: Tx) -> None:
        for is_silent in (True, False):
            taken = [(kept, page) for kept, page in tried.taken if kept.is_silent is is_silent]
            left = {} if is_silent else tried.left
            rejects.settle(tx, replace(commit, is_full=False, is_silent=is_silent), Retried(taken, left))
        keep_schema(tx, reading, watching, commit)
        at = None if following is None else {"behind": following}
        if run_entities.keep_place(tx, reading.run, progress.entity_id, at, len(tried.taken)):
            ids = [key for _, page in tried.taken for key in page.keys]
            telling.batch(tx, reading.run.id, Batch(progress.entity_id, ids), commit.at)

    await reading.database.write(store, guarded=True)
    tell_schema(reading, watching)
    return following


def try_again(reading: Reading, kept: Sequence[Kept]) -> Retried:
    """What the connector and the fields of today make of them."""
    apply = field_filter(reading.sync.fields, reading.entity)
    taken: list[tuple[Kept, Page]] = []
    left: dict[int, tuple[str, ...]] = {}
    for one in kept:
        page = _retaken(reading, one)
        if isinstance(page, Page) and not page.rejects:
            taken.append((one, apply(page) if apply else page))
        else:
            left[one.id] = page.rejects[0].violations if isinstance(page, Page) else page
    return Retried(taken, left)


def _held(watching: SchemaWatch, tried: Retried) -> Retried:
    """Without those that do not fit the schema."""
    fresh = [record for _, page in tried.taken for record in zip(page.keys, page.payloads, strict=True)]
    refused = {reject.key: reject.violations for reject in watching.look(fresh)} if fresh else {}
    left = {kept.id: refused[key] for kept, page in tried.taken for key in page.keys if key in refused}
    return Retried([(kept, page) for kept, page in tried.taken if kept.id not in left], {**tried.left, **left})


def _retaken(reading: Reading, kept: Kept) -> Page | tuple[str, ...]:
    """Its page, or why there is none."""
    if not kept.is_whole:
        return TOO_MUCH
    try:
        return reading.live.connector.retake(reading.entity, kept.payload, kept.key, kept.listing)
    except ConnectorError as error:
        return (error.message,)
    except Exception as error:  # noqa: BLE001 - a connector's own fault: this record stays, the others are tried
        where = place_of(error)
        reading.journal(reading.live.integration_id, LogLevel.ERROR, f"{where}: {error}", entity=reading.entity.name)
        return (f"unexpected {where}; the log of the run has more",)
