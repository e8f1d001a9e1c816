"""Numbers of the seam, each measured or with its reason; tests shorten them."""

import os
import secrets
import socket
from dataclasses import dataclass, field
from datetime import timedelta

from reconciler.model.job import Window


def new_owner() -> str:
    """A name no process ever had before: a restarted one must not be taken for its dead predecessor."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


@dataclass(frozen=True, slots=True)
class WorkSettings:
    """`engine_url`: the engine's own database, never ours. `is_alone`: this process holds the state directory's lock."""

    engine_url: str
    is_alone: bool = True
    owner: str = field(default_factory=new_owner)
    window: Window = Window()
    slots: int = 256
    # More jobs at once than this go through the engine's queues where other processes live, for them to share; the rest starts
    # right here, for less CPU and without waiting for a poll.
    share_above: int = 8
    busy_poll: timedelta = timedelta(seconds=0.1)
    idle_poll: timedelta = timedelta(seconds=0.5)
    idle_engine_poll: timedelta = timedelta(seconds=1)
    calm_after: timedelta = timedelta(seconds=5)
    beat: timedelta = timedelta(seconds=3)
    # How soon a job that was cancelled in another process is stopped here, where no notice of it comes.
    look: timedelta = timedelta(seconds=1)
    lease: timedelta = timedelta(seconds=15)
    dead_after: timedelta = timedelta(seconds=10)
    # The engine should have a row for what was taken so long ago.
    missing_after: timedelta = timedelta(seconds=5)
    # After the clock jumped, leases mean nothing until everyone alive has renewed them.
    jump: timedelta = timedelta(seconds=5)
    distrust: timedelta = timedelta(seconds=20)
    retry_first: timedelta = timedelta(seconds=1)
    retry_most: timedelta = timedelta(minutes=5)
    prune_every: timedelta = timedelta(minutes=5)
    keep_finished: timedelta = timedelta(hours=1)
    executor_threads: int = 16
