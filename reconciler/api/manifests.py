"""Requests that change manifests, and what became of them."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from reconciler.api.integrations import IntegrationDetail, Shown
from reconciler.api.plans import PlanShown
from reconciler.model.condition import Status
from reconciler.model.manifest import API_VERSION, Name, Spec

_SECRETS = "A secret in clear is encrypted before it is committed; `********` keeps the one that is there."
Labels = dict[str, str]


class MetadataGiven(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Name
    workspace: Name = Field("default")
    labels: Labels = {}
    annotations: Labels | None = Field(None, description="Where they are not given, those that are there stay.")


class ManifestGiven(BaseModel):
    """A manifest. What else `GET` shows of an integration may be there, and is ignored."""

    model_config = ConfigDict(extra="forbid")

    apiVersion: Literal["reconciler.dev/v1"] = API_VERSION  # type: ignore[assignment]
    kind: Literal["Integration"] = "Integration"
    metadata: MetadataGiven
    spec: dict[str, Any] = Field(description=f"As in a manifest. {_SECRETS}")

    @property
    def tree(self) -> dict[str, Any]:
        """As it is written, without what was not given; no labels are none to write."""
        metadata = self.metadata.model_dump(exclude_unset=True)
        if not metadata.get("labels"):
            metadata.pop("labels", None)
        return {"apiVersion": self.apiVersion, "kind": self.kind, "metadata": metadata, "spec": self.spec}


_READ_ONLY = {name: (Any, None) for name in IntegrationDetail.model_fields if name not in ManifestGiven.model_fields}
ManifestSentBack = create_model("ManifestSentBack", __base__=ManifestGiven, **_READ_ONLY)  # type: ignore[call-overload]


class ManifestPatch(BaseModel):
    """RFC 7396: what is null goes, lists are replaced as a whole."""

    model_config = ConfigDict(extra="forbid")

    metadata: dict[str, Any] = {}
    spec: dict[str, Any] = Field({}, description=_SECRETS)


_SETTINGS = {name: (Any, None) for name in (f.alias or n for n, f in Spec.model_fields.items()) if name != "type"}


class _Connection(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Name
    workspace: Name = Field("default")
    labels: Labels = {}


ConnectRequest = create_model(
    "ConnectRequest",
    __base__=_Connection,
    __doc__="The fields of `spec` beside name and workspace; the type is in the path.",
    **_SETTINGS,  # type: ignore[call-overload]
)


class SynchronizationGiven(BaseModel):
    model_config = ConfigDict(extra="forbid")

    event_type: str = Field(max_length=200, examples=["incident.created", "order.*"])
    from_: list[str] | None = Field(None, alias="from")
    when: str | None = Field(None, max_length=2000)
    action: str = Field(max_length=100, description="A channel of this integration's connector.")
    template: str | None = Field(None, max_length=20_000)
    map: dict[str, Any] = {}
    enabled: bool = Field(True, strict=True)


class Synchronizations(Shown):
    data: list[dict[str, Any]]


class Schedule(BaseModel):
    model_config = ConfigDict(extra="forbid")

    schedule: str | None = Field(None, max_length=200, description="Cron expression with five fields.")
    every: str | None = Field(None, max_length=50, description="Interval such as 15m.")
    time_zone: str | None = Field(None, max_length=100, description="IANA name.")


class DisconnectRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    purge_data: bool = Field(False, strict=True, description="Delete its records once it is disconnected.")


class IntegrationNamed(Shown):
    """`id` is null until the commit is taken over."""

    id: str | None
    workspace: str
    name: str
    type: str
    status: Status | None


class ChangeShown(Shown):
    mode: Literal["commit", "pull-request"]
    commit: str = Field(description="Empty where the manifest says that already.")
    branch: str
    pull_request_url: str | None
    files: list[str]
    diff: str = Field(description="Secrets are encrypted in it.")
    plan: PlanShown
    integration: IntegrationNamed


class Disconnected(Shown):
    id: str
    commit: str
    disconnected_at: datetime
    purge_data: bool
    logs_retained_until: datetime
