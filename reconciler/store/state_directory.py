"""The folder of an embedded daemon: who may read it, who works on it now, and where its files are.

Made by the composition root before the databases are opened. On PostgreSQL only the lock and the keys are not used.
"""

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from reconciler.store.errors import StateLockedError, StoreUnavailableError

OWNER_ONLY = 0o700


class StateDirectory:
    """`with StateDirectory(path) as state:` holds the lock; offline readers use the paths without it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.database = path / "reconciler.db"
        self.jobs = path / "jobs.db"
        self.keys = path / "keys"
        self._lock_file = path / "lock"
        self._lock: int | None = None

    def acquire(self) -> None:
        """Create the folder where it is missing and take the lock; it ends with the process at the latest."""
        try:
            self.path.mkdir(mode=OWNER_ONLY, parents=True, exist_ok=True)
            self.path.chmod(OWNER_ONLY)
            descriptor = os.open(self._lock_file, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StoreUnavailableError(
                f"state directory {self.path} cannot be used ({error.strerror}); "
                "check that this user owns it, or choose another in the settings"
            ) from error
        self._lock = self._locked(descriptor)

    def release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _locked(self, descriptor: int) -> int:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise StateLockedError(
                f"state directory {self.path} is in use by process {holder}; "
                "stop that daemon first, or give this one a state directory of its own"
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
        return descriptor


def private_file(path: Path, content: bytes) -> None:
    """Write `content` where no file is yet, readable by the owner only; keeps an existing file."""
    with suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
