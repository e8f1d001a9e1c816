"""What working and leading both stand on: the parts of a process that follows Git, made once by the daemon."""

from dataclasses import dataclass
from datetime import timedelta
from random import Random

from reconciler.app.book import SourceBook
from reconciler.app.connections import ConnectionPool
from reconciler.app.keeping import StoreJournal
from reconciler.control.authorize import Unseal
from reconciler.control.stopping import Halt
from reconciler.model.clock import Clock
from reconciler.serve.metrics import Metrics
from reconciler.store.database import Database


@dataclass(frozen=True, kw_only=True)
class Ground:
    """`halt` stops runs, wherever they run. `redirect_uri`: where remotes send people back to, as far as this process knows."""

    database: Database
    book: SourceBook
    connections: ConnectionPool
    journal: StoreJournal
    metrics: Metrics
    clock: Clock
    random: Random
    halt: Halt
    probe_interval: timedelta
    credential_warning: timedelta
    redirect_uri: str
    unseal: Unseal
