"""What was synced: records as they are and were, versions, what differs between two, and bringing one back.

Records and differences hold data: they want a grant of the manifest, or `admin`.
"""

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Path, Query
from starlette.responses import Response

from reconciler.api.dataset import (
    DiffPage,
    DiffQuery,
    RecordAtQuery,
    RecordDetail,
    RecordPage,
    RecordQuery,
    RollbackRequest,
    RollbackStarted,
    VersionList,
)
from reconciler.api.paging import Paging
from reconciler.api.problem import problems
from reconciler.model.access import Operation
from reconciler.model.difference import field_changes
from reconciler.model.plan import FieldChange
from reconciler.serve.dataset_pages import Dataset, Found, Place
from reconciler.serve.forms import run_form, to_json
from reconciler.serve.once import Done, Edits, order
from reconciler.serve.paging import answer, cut, number_of
from reconciler.serve.parts import Parts, ReadableEntry, RefPath, TheParts, ViewedEntry, entry_for
from reconciler.serve.problem import ProblemError
from reconciler.serve.snapshot import Entry
from reconciler.store import history, runs
from reconciler.store.database import Tx
from reconciler.store.history import Cut, DatasetVersion, Difference, LineageStep

router = APIRouter(prefix="/v1/integrations", tags=["dataset"])
MOST_STEPS = 100
VersionPath = Annotated[int, Path(ge=1, lt=1 << 31, description="Number of a dataset version.")]


@router.get(
    "/{ref}/records",
    summary="List records",
    responses={200: {"model": RecordPage}, **problems(400, 404, 409)},
    response_class=Response,
)
async def list_records(parts: TheParts, entry: ReadableEntry, query: Annotated[RecordQuery, Query()]) -> Response:
    """As they are now or as a version has them. Pages that follow each other show one moment, while syncs go on."""
    dataset = _dataset(parts, entry)
    moment, start = await _start(dataset, query.cursor, query.version)
    entities = await dataset.entities(query.entity)
    listed = await dataset.page(entities, dataset.records(moment, query.q), start, query.limit)
    rows = [
        {"entity": one.entity, "key": one.key, "at": one.row.at, "record": msgspec.Raw(one.row.payload)}
        for one in listed.rows
    ]
    return answer(rows, listed.place, version=moment.version)


async def _start(dataset: Dataset, cursor: str | None, version: int | None) -> tuple[Cut, Place]:
    """The moment of the first page, and where this one begins."""
    if cursor is None:
        moment = await dataset.cut(version)
        return moment, Place(moment.last, moment.version, "", "")
    place = dataset.place(cursor)
    return dataset.moment(place), place


def _dataset(parts: Parts, entry: Entry) -> Dataset:
    return Dataset(parts.database, parts.clock, entry.id)


@router.get(
    "/{ref}/records/{entity}/{key:path}",
    summary="One record and its history",
    responses={200: {"model": RecordDetail}, **problems(400, 404, 409)},
    response_class=Response,
)
async def get_record(
    parts: TheParts, entry: ReadableEntry, entity: str, key: str, query: Annotated[RecordAtQuery, Query()]
) -> Response:
    """Whole, with the runs that made each of its versions."""
    dataset = _dataset(parts, entry)
    known = {one.name: one for one in await dataset.entities(None)}
    if entity not in known or "\0" in key:
        raise _no_such_record(entity, key)
    found_at, entity_id = await dataset.cut(query.version), known[entity].id
    steps = await dataset.read(lambda tx: history.lineage(tx, entry.id, entity_id, key, MOST_STEPS))
    if not steps:
        raise _no_such_record(entity, key)
    found = await dataset.read(lambda tx: history.record(tx, found_at, entity_id, key))
    shown = {
        "entity": entity,
        "key": key,
        "at": found.at if found else None,
        "record": msgspec.Raw(found.payload) if found else None,
        "history": [_step(one) for one in steps],
        "has_older": steps[-1].has_older,
    }
    return Response(to_json(shown), media_type="application/json")


def _no_such_record(entity: str, key: str) -> ProblemError:
    return ProblemError(404, "record-not-found", f"there is no record {key[:200]!r} of an entity {entity[:100]!r}")


def _step(step: LineageStep) -> dict[str, Any]:
    return {"at": step.at, "change": step.op, "version": step.version, "sync_job_id": step.run}


@router.get(
    "/{ref}/dataset/versions",
    summary="List dataset versions",
    responses={200: {"model": VersionList}, **problems(400, 404, 409)},
    response_class=Response,
)
async def list_versions(parts: TheParts, entry: ViewedEntry, query: Annotated[Paging, Query()]) -> Response:
    """Every run that changed something made one."""
    before = number_of(query.cursor)
    found = await parts.database.read(lambda tx: history.versions(tx, entry.id, query.limit + 1, before))
    listed = cut(found, query.limit, lambda version: (version.number,))
    return answer([_version(one) for one in listed.rows], listed.place)


def _version(one: DatasetVersion) -> dict[str, Any]:
    return {
        "version": one.number,
        "at": one.at,
        "sync_job_id": one.run,
        "revision": one.revision or None,
        "connector": one.connector,
        "connector_version": one.connector_version,
        "added": one.counts.added,
        "updated": one.counts.updated,
        "deleted": one.counts.deleted,
        "restores": one.restores,
    }


@router.get(
    "/{ref}/dataset/versions/{version}/diff",
    summary="What a dataset version changed",
    responses={200: {"model": DiffPage}, **problems(400, 404, 409)},
    response_class=Response,
)
async def diff_versions(
    parts: TheParts, entry: ReadableEntry, version: VersionPath, query: Annotated[DiffQuery, Query()]
) -> Response:
    """Against the version before, or any other: records that came, changed and went, field by field."""
    dataset, against = _dataset(parts, entry), version - 1 if query.against is None else query.against
    after, before = await dataset.cut(version), await dataset.cut(against)
    start = dataset.place(query.cursor) if query.cursor else Place(after.last, version, "", "")
    if start.last != after.last:
        raise ProblemError(400, "invalid-cursor", "cursor is of another list; pass next_cursor of the page before")
    entities = await dataset.entities(query.entity)
    listed = await dataset.page(entities, dataset.differences(before, after), start, query.limit)
    return answer([_difference(one) for one in listed.rows], listed.place, before=against, after=version)


def _difference(one: Found[Difference]) -> dict[str, Any]:
    before, after = one.row.before, one.row.after
    shown = {"entity": one.entity, "key": one.key}
    if before is not None and after is not None:
        fields = [_field(change) for change in field_changes(before, after)]
        return {**shown, "change": "updated", "record": None, "fields": fields}
    whole = msgspec.Raw(after or before or b"null")
    return {**shown, "change": "added" if before is None else "deleted", "record": whole, "fields": []}


def _field(change: FieldChange) -> dict[str, Any]:
    return {
        "path": change.path,
        "before": msgspec.Raw(change.before.encode()) if change.before is not None else None,
        "after": msgspec.Raw(change.after.encode()) if change.after is not None else None,
        "is_added": change.before is None,
        "is_removed": change.after is None,
    }


@router.post(
    "/{ref}/dataset/rollback",
    summary="Bring a dataset version back",
    status_code=202,
    responses={202: {"model": RollbackStarted}, **problems(400, 404, 409, 422)},
    response_class=Response,
)
async def roll_back_dataset(mutation: Edits, ref: RefPath, body: RollbackRequest) -> Response:
    """A run of its own, that makes a new version; syncs under way end. The remote is not changed."""
    entry = await entry_for(mutation.parts, mutation.caller, ref)
    mutation.refuse_operation(Operation.ROLLBACK)
    params = body.model_dump()

    def do(tx: Tx) -> Done:
        carried = order(tx, mutation, "rollback", entry.id, params)
        run = runs.find(tx, str(carried.result["run"]))
        assert run is not None  # noqa: S101 - the order made it
        return Done(
            body={"sync_job_id": run.public_id, "run": run_form(run)},
            status=202,
            workspace=entry.workspace,
            target=entry.public_id,
            detail={"sync_job_id": run.public_id, **params},
            carried=carried,
        )

    return await mutation.in_store(do)
