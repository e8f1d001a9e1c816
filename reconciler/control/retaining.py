"""How long things are kept, workspace by workspace, as their manifests say; what is older goes.

In: desired state, for `spec.retention` of each `kind: Workspace`. Called by the leader every hour. Nothing goes before Git
was read. A workspace whose file is broken keeps the setting it had, also over a restart: what is gone cannot be brought back.
"""

import asyncio
import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from functools import partial

from reconciler.model.clock import Clock, rfc3339
from reconciler.model.finding import Severity
from reconciler.model.manifest import Retention
from reconciler.model.state import DesiredState
from reconciler.store import inbox, requests, retention
from reconciler.store.database import Database, Tx
from reconciler.store.retention import Moments, Tenants

PAUSE_SECONDS = 0.05
LONGEST = timedelta(days=36_500)
DEFAULT = Retention()


class Retaining:
    """`tick` drops all that is due; others may write between its transactions. `turned`: settings are not what they were."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._noted: Mapping[str, Retention] | None = None
        self.turned = asyncio.Event()

    def note(self, desired: DesiredState) -> None:
        """Called for every desired state, the first after a start included."""
        said = _said(desired)
        if said != self._noted:
            self._noted = said
            self.turned.set()

    async def tick(self, desired: DesiredState | None) -> None:
        if desired is None:
            return
        settings, now = await self._settings(desired), self._clock.now()
        for tenants, kept in _groups(settings).items():
            await self._until_done(partial(retention.drop_history, tenants=tenants, before=_moments(kept, now)))
            await self._cut_versions(tenants, kept, now)
        await self._until_done(partial(retention.drop_shared, before=_ago(now, DEFAULT.events)))
        await self._until_done(partial(_drop_requests, now=now))
        await self._until_done(partial(inbox.drop_old, before=_ago(now, inbox.KEPT)))

    async def _settings(self, desired: DesiredState) -> Mapping[str, Retention]:
        """What each workspace says that does not keep things as usual."""
        said = _said(desired)
        before = await self._database.read(retention.remembered)
        if any(finding.severity is Severity.ERROR for finding in desired.findings):
            said = {**_read(before), **said}
        written = _written(said)
        if written != before:
            await self._database.write(partial(retention.remember, settings=written))
        return {name: kept for name, kept in said.items() if kept != DEFAULT}

    async def _cut_versions(self, tenants: Tenants, kept: Retention, now: datetime) -> None:
        keep, age = kept.versions.keep, kept.versions.age
        if keep is None and age is None:
            return
        before = _ago(now, age) if age is not None else None
        for one in await self._database.read(partial(retention.surplus, tenants=tenants, keep=keep, before=before)):
            await self._until_done(partial(retention.cut_versions, one=one))

    async def _until_done(self, bite: Callable[[Tx], int]) -> None:
        while await self._database.write(bite):
            await self._clock.sleep(PAUSE_SECONDS)


def _drop_requests(tx: Tx, now: datetime) -> int:
    return requests.drop_old(tx, _ago(now, requests.KEPT), _ago(now, requests.AUDIT_KEPT))


def logs_kept(tx: Tx, workspace: str) -> timedelta:
    """How long log lines of that workspace are kept, as its manifest said last."""
    return _read(retention.remembered(tx)).get(workspace, DEFAULT).logs


def _said(desired: DesiredState) -> dict[str, Retention]:
    return {name: workspace.spec.retention for name, workspace in desired.workspaces.items()}


def _groups(settings: Mapping[str, Retention]) -> Mapping[Tenants, Retention]:
    """Workspaces that keep things alike together; all others as usual."""
    alike: dict[Retention, list[str]] = defaultdict(list)
    for name, kept in sorted(settings.items()):
        alike[kept].append(name)
    groups = {Tenants(tuple(names), is_rest=False): kept for kept, names in alike.items()}
    return {**groups, Tenants(tuple(sorted(settings))): DEFAULT}


def _moments(kept: Retention, now: datetime) -> Moments:
    return Moments(_ago(now, kept.logs), _ago(now, kept.runs), _ago(now, kept.events))


def _ago(now: datetime, span: timedelta) -> str:
    return rfc3339(now - min(span, LONGEST))


def _written(settings: Mapping[str, Retention]) -> str:
    """Spans as their manifests would have them, in milliseconds."""
    spans = {name: kept.model_dump(exclude_defaults=True) for name, kept in sorted(settings.items())}
    return json.dumps(spans, default=lambda span: f"{span // timedelta(milliseconds=1)}ms")


def _read(written: str) -> dict[str, Retention]:
    return {name: Retention.model_validate(kept) for name, kept in json.loads(written or "{}").items()}
