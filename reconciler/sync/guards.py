"""Guards on what a reader yields: a remote that repeats itself, never ends or promises one thing and brings another.

Each guard raises a TransientError: the entity is tried again from its last good position, and never counted complete.
"""

from hashlib import blake2b

import msgspec

from reconciler.model.condition import Reason
from reconciler.model.record import Page
from reconciler.sdk.errors import TransientError

MAX_PAGES = 1_000_000
SINGLE_REPEATS = 2
_ENCODE = msgspec.json.Encoder(order="sorted").encode


class PageGuard:
    """Looks at the pages of one entity of one run, in order."""

    def __init__(self) -> None:
        self._positions: set[bytes] = set()
        self._last: tuple[bytes, ...] = ()
        self._repeats = 0
        self._pages = 0

    def check(self, page: Page) -> None:
        self._pages += 1
        if self._pages > MAX_PAGES:
            raise TransientError(f"more than {MAX_PAGES} pages", reason=Reason.PROTOCOL_ERROR)
        if len(page.keys) != len(page.payloads):
            raise TransientError("a page with more keys than records", reason=Reason.PROTOCOL_ERROR)
        self._check_position(page)
        self._check_repeat(page)

    def _check_position(self, page: Page) -> None:
        if page.position is None:
            return
        mark = blake2b(_ENCODE(dict(page.position)), digest_size=16).digest()
        if mark in self._positions:
            raise TransientError("the remote gave the same page token twice", reason=Reason.PROTOCOL_ERROR)
        self._positions.add(mark)

    def _check_repeat(self, page: Page) -> None:
        last, self._last = self._last, page.payloads if page.position is not None else ()
        self._repeats = self._repeats + 1 if last and page.payloads == last else 0
        # One record may end one window and begin the next; a remote that gives nothing else has no end.
        if self._repeats > (0 if len(page.payloads) > 1 else SINGLE_REPEATS):
            raise TransientError("the remote gave the same page again and again", reason=Reason.PROTOCOL_ERROR)
