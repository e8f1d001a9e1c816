"""Keys that kept us waiting in vain: a key service that is away costs its wait once a minute, not once for every file.

In: the keys that a run of the sops program was for, how long it took, and why it failed. Out: the same failure, until it is
worth another try. Belongs to a keyring. What fails quickly is not kept: it costs little and may be mended at any moment.
What is wrong with a file itself is not kept either: its keys are those of other files.
"""

import time
from collections.abc import Callable

from reconciler.desired.sops.errors import SopsError
from reconciler.model.finding import Code

SLOW_SECONDS = 1.0
AGAIN_SECONDS = 60.0


class Waits:
    """Safe between threads as far as a dict is: at worst two of them wait."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._failed: dict[str, tuple[float, SopsError]] = {}

    def run(self, keys: str, work: Callable[[], bytes]) -> bytes:
        """What `work` gives, or its `SopsError`; where these keys were waited for in vain lately, that one at once."""
        began = self._now()
        at, known = self._failed.get(keys, (0.0, None))
        if known is not None and began < at + AGAIN_SECONDS:
            raise SopsError(known.code, known.message, known.remedy)
        try:
            return work()
        except SopsError as failure:
            if failure.code is Code.SOPS_KEY_MISSING and self._now() - began >= SLOW_SECONDS:
                self._failed[keys] = (self._now(), failure)
            raise
