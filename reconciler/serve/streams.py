"""Everything that streams in a process, put together: what runs tell, what changes, and who is listening.

Made once by `app`; routes ask it for answers, the server ends it when it stops.
"""

from collections.abc import Mapping
from functools import partial

from starlette.requests import Request

from reconciler.model.access import Permission
from reconciler.model.clock import Clock
from reconciler.serve.admission import Admission
from reconciler.serve.run_events import RunEvents
from reconciler.serve.snapshot import Board
from reconciler.serve.state_changes import Changes, Measures
from reconciler.serve.streaming import Beat, EventStream, OpenStreams, Source
from reconciler.store.database import Database


class Streams:
    def __init__(
        self,
        database: Database,
        clock: Clock,
        board: Board,
        admission: Admission,
        beat: Beat | None = None,
        measures: Measures | None = None,
    ) -> None:
        self.open = OpenStreams(beat or Beat())
        self.runs = RunEvents(database, clock)
        self.changes = Changes(database, board, measures)
        self._admission = admission

    def answer(
        self, request: Request, permission: Permission | None, source: Source, headers: Mapping[str, str] | None = None
    ) -> EventStream:
        """The stream lasts as long as the token of the request has that permission; None: as long as it counts."""
        stands = partial(self._admission.stands, request.headers.get("authorization"), permission)
        return EventStream(self.open, source, stands, headers)

    def end(self) -> None:
        self.open.end()
        self.changes.end()
