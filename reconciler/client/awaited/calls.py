"""Made by tools/client.py from docs/openapi.json: all groups of calls of the awaited client."""

from reconciler.client.awaited.access import AsyncAccessCalls
from reconciler.client.awaited.connectors import AsyncConnectorsCalls
from reconciler.client.awaited.credentials import AsyncCredentialsCalls
from reconciler.client.awaited.dataset import AsyncDatasetCalls
from reconciler.client.awaited.deliveries import AsyncDeliveriesCalls
from reconciler.client.awaited.events import AsyncEventsCalls
from reconciler.client.awaited.git import AsyncGitCalls
from reconciler.client.awaited.inbound import AsyncInboundCalls
from reconciler.client.awaited.ingest import AsyncIngestCalls
from reconciler.client.awaited.integrations import AsyncIntegrationsCalls
from reconciler.client.awaited.plan import AsyncPlanCalls
from reconciler.client.awaited.streams import AsyncStreamsCalls
from reconciler.client.awaited.synchronizations import AsyncSynchronizationsCalls
from reconciler.client.awaited.syncs import AsyncSyncsCalls
from reconciler.client.awaited.wire import Wire


class AsyncCalls:
    def __init__(self, wire: Wire) -> None:
        self.access = AsyncAccessCalls(wire)
        self.connectors = AsyncConnectorsCalls(wire)
        self.credentials = AsyncCredentialsCalls(wire)
        self.dataset = AsyncDatasetCalls(wire)
        self.deliveries = AsyncDeliveriesCalls(wire)
        self.events = AsyncEventsCalls(wire)
        self.git = AsyncGitCalls(wire)
        self.inbound = AsyncInboundCalls(wire)
        self.ingest = AsyncIngestCalls(wire)
        self.integrations = AsyncIntegrationsCalls(wire)
        self.plan = AsyncPlanCalls(wire)
        self.streams = AsyncStreamsCalls(wire)
        self.synchronizations = AsyncSynchronizationsCalls(wire)
        self.syncs = AsyncSyncsCalls(wire)
