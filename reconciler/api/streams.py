"""What streams are asked for, and how the API's description shows them."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

SYNC_EVENTS = (
    "Server-sent events. `progress`: {sync_job_id, at, entity, batch, totalBatches (null where the remote does not say how much"
    " there is), ids, deleted, message}. The last one is `complete`: {sync_job_id, at, integration, result, reason, message,"
    " stats: {added, updated, deleted, rejected, total}, last_synced, dataset_version}, or `error`: the same with `code`"
    " (`configuration-missing`, `fetch-failed`, `cancelled`) and `detail`."
)
CHANGE_EVENTS = (
    "Server-sent events. `integration`: as in the list, one that is new or changed. `removed`: {id, workspace, name, type}."
    " `sync`: a run that began or ended. `delivery`: {integration, deliveries}, the counts by status. `resync`: events were"
    " missed, read the list again. `snapshot`, where it is asked for: {integrations, has_more}."
)


def stream_of(description: str) -> dict[str, Any]:
    """For `responses` of a route."""
    return {"description": description, "content": {"text/event-stream": {"schema": {"type": "string"}}}}


NOTHING_MORE: dict[str, Any] = {"description": "All of it was told: nothing more will come."}


class StreamQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    workspace: str | None = Field(None, max_length=63)
    type: str | None = Field(None, max_length=100)
    snapshot: bool = Field(False, description="Begin with all integrations as they are.")
