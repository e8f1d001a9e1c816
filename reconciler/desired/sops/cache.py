"""Decrypted files, kept by blob: a file that did not change costs no cryptography.

In: the Git blob id, the format, the keyring, and a way to decrypt. Out: what decrypting gave, or the same `SopsError`
again. Errors that may pass by themselves (a key or a program that is missing now) are not kept. Not thread-safe: one
caller at a time, such as the one thread that reads a revision. Lives as long as its owner; nothing is written anywhere.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from reconciler.desired.sops.errors import SopsError
from reconciler.desired.sops.keys import Keyring
from reconciler.model.finding import Code

_PASSING = frozenset({Code.SOPS_KEY_MISSING, Code.SOPS_PROGRAM_MISSING, Code.NOT_PERMITTED, Code.SOURCE_UNAVAILABLE})
Clear = TypeVar("Clear")


class DecryptionCache(Generic[Clear]):
    """Keeps the `capacity` files that were asked for last."""

    def __init__(self, capacity: int = 20_000) -> None:
        self._capacity = capacity
        self._kept: OrderedDict[tuple[str, str, str], Clear | SopsError] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, blob_id: str, fmt: str, keyring: Keyring, decrypt: Callable[[], Clear]) -> Clear:
        """What `decrypt` gave for this blob under this keyring; calls it only the first time."""
        key = (blob_id, fmt, keyring.fingerprint)
        if key in self._kept:
            self._kept.move_to_end(key)
        else:
            self._keep(key, _outcome(decrypt))
        outcome = self._kept[key]
        if isinstance(outcome, SopsError):
            raise SopsError(outcome.code, outcome.message, outcome.remedy)
        return outcome

    def _keep(self, key: tuple[str, str, str], outcome: Clear | SopsError) -> None:
        if isinstance(outcome, SopsError) and outcome.code in _PASSING:
            raise outcome
        self._kept[key] = outcome
        while len(self._kept) > self._capacity:
            self._kept.popitem(last=False)


def _outcome(decrypt: Callable[[], Clear]) -> Clear | SopsError:
    try:
        return decrypt()
    except SopsError as error:
        return error
