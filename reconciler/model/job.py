"""Jobs: what is to be done, the right to do it, and what came of it. Shared by the store and the job engine seam."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

QueueName = Literal["work", "deliver"]
QUEUES: tuple[QueueName, ...] = ("work", "deliver")


def queue_of(kind: str) -> QueueName:
    """Deliveries have lanes of their own, and so has an authorization, whose code does not live as long as a sync may take.

    Everything else of one integration excludes each other.
    """
    return "deliver" if kind in {"deliver", "authorize"} else "work"


@dataclass(frozen=True, slots=True)
class Job:
    """One row of work. `ref` is what it is about, `key` the integration whose lane it takes.

    `attempt` is a number no other start ever had or will have; `failures` counts exceptions in a row.
    """

    id: int
    kind: str
    queue: QueueName
    key: str
    ref: str
    attempt: int
    failures: int = 0
    is_asked: bool = False

    @property
    def workflow_id(self) -> str:
        """What the engine knows it by; never used twice, because the engine runs an id once."""
        return f"{self.kind}:{self.ref}:{self.attempt}"


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to work in one lane until somebody holds a higher `fence`; other transactions check it before commit."""

    job_id: int
    attempt: int
    queue: QueueName
    key: str
    owner: str
    fence: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """A job ended as it should; with `again_at` its row becomes due again, without it the row goes."""

    again_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Window:
    """How much one process takes from the due rows: few waiting (order, quick starts), more of them running."""

    queued: int = 32
    running: int = 128
    least: int = 8


@dataclass(frozen=True, slots=True)
class Pulse:
    """What a beat says: the store's time, claims that are no longer ours, and how many processes run jobs."""

    now: datetime
    lost: tuple[Claim, ...] = ()
    workers: int = 1


@dataclass(frozen=True, slots=True)
class JobCount:
    """Rows of one queue and state, and since when the oldest has been due."""

    queue: str
    state: str
    count: int
    oldest_due_at: datetime | None
