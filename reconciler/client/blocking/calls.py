"""Made by tools/client.py from docs/openapi.json: all groups of calls of the blocking client."""

from reconciler.client.blocking.access import AccessCalls
from reconciler.client.blocking.connectors import ConnectorsCalls
from reconciler.client.blocking.credentials import CredentialsCalls
from reconciler.client.blocking.dataset import DatasetCalls
from reconciler.client.blocking.deliveries import DeliveriesCalls
from reconciler.client.blocking.events import EventsCalls
from reconciler.client.blocking.git import GitCalls
from reconciler.client.blocking.inbound import InboundCalls
from reconciler.client.blocking.ingest import IngestCalls
from reconciler.client.blocking.integrations import IntegrationsCalls
from reconciler.client.blocking.plan import PlanCalls
from reconciler.client.blocking.streams import StreamsCalls
from reconciler.client.blocking.synchronizations import SynchronizationsCalls
from reconciler.client.blocking.syncs import SyncsCalls
from reconciler.client.blocking.wire import Wire


class Calls:
    def __init__(self, wire: Wire) -> None:
        self.access = AccessCalls(wire)
        self.connectors = ConnectorsCalls(wire)
        self.credentials = CredentialsCalls(wire)
        self.dataset = DatasetCalls(wire)
        self.deliveries = DeliveriesCalls(wire)
        self.events = EventsCalls(wire)
        self.git = GitCalls(wire)
        self.inbound = InboundCalls(wire)
        self.ingest = IngestCalls(wire)
        self.integrations = IntegrationsCalls(wire)
        self.plan = PlanCalls(wire)
        self.streams = StreamsCalls(wire)
        self.synchronizations = SynchronizationsCalls(wire)
        self.syncs = SyncsCalls(wire)
