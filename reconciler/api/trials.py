"""The answer to a test."""

from datetime import datetime

from reconciler.api.integrations import Shown
from reconciler.model.condition import Reason


class RightFound(Shown):
    """`granted` null: the remote does not say."""

    name: str
    granted: bool | None
    detail: str | None


class TestResult(Shown):
    """`ok` false with a `reason`: it could not be signed in, or something is missing that the manifest uses (`missing`)."""

    ok: bool
    reason: Reason | None
    detail: str | None
    tested_at: datetime
    identity: str | None
    account: str | None
    version: str | None
    latency_ms: float | None
    clock_skew_ms: float | None
    credential_expires_at: datetime | None
    rights: list[RightFound]
    entities: dict[str, bool]
    missing: list[str]
    warnings: list[str]
