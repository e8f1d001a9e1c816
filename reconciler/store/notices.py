"""Word to other processes that rows wait for them: told in the transaction that writes the rows, heard after its commit.

PostgreSQL only (NOTIFY); on a file one process does everything. It is haste and nothing else: whoever hears nothing, because a
connection was cut or a pooler does not pass notices on, finds the rows at its next look. Called by the store and the daemon.
"""

from collections.abc import Callable
from typing import Literal, get_args

from reconciler.model.clock import Clock
from reconciler.model.secret import Secret
from reconciler.store.database import Tx
from reconciler.store.errors import StoreError

CHANNEL = "reconciler"
Topic = Literal["asked", "dropped", "order", "event", "due"]
"""A job that a person waits for; a job that is to stop; an order of an operator; events to route; jobs that came of events."""
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 30.0


def tell(tx: Tx, topic: Topic) -> None:
    if tx.dialect == "postgresql":
        tx.value("SELECT pg_notify(:channel, :topic)", channel=CHANNEL, topic=topic)


class Notices:
    """One connection that listens until it is cancelled, and comes back after it was cut.

    `hear` is called for each notice, and for every topic once the connection stands: what was told before is not heard.
    `report` is told why nothing is heard, once, and with None that it is over.
    """

    def __init__(
        self, url: Secret, clock: Clock, hear: Callable[[Topic], None], report: Callable[[str | None], None]
    ) -> None:
        self._url = url
        self._clock = clock
        self._hear = hear
        self._report = report
        self._is_cut = False

    async def listen(self) -> None:
        from reconciler.store.postgres import listening  # a daemon on a file does without the driver

        pause = FIRST_PAUSE
        while True:
            try:
                async with listening(self._url, CHANNEL) as heard:
                    pause = FIRST_PAUSE
                    self._stands()
                    async for topic in heard:
                        self._note(topic)
                self._fails("the server ended the connection")
            except StoreError as error:
                self._fails(str(error))
            await self._clock.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    def _stands(self) -> None:
        if self._is_cut:
            self._is_cut = False
            self._report(None)
        for topic in get_args(Topic):
            self._hear(topic)

    def _note(self, topic: str) -> None:
        """What a newer release tells is not for us."""
        for known in get_args(Topic):
            if topic == known:
                self._hear(known)

    def _fails(self, why: str) -> None:
        if not self._is_cut:
            self._is_cut = True
            self._report(why)
