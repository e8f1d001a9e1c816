"""A new age key in a file of its own, as `age-keygen` writes it. Called by `init` and `secrets keygen`."""

import os
from datetime import datetime
from pathlib import Path

PRIVATE = 0o600


def new_key(path: Path, now: datetime) -> str:
    """Readable by its owner only; returns the public key. Raises FileExistsError, never overwrites, and other OSErrors."""
    import pyrage

    from reconciler.model.clock import rfc3339

    identity = pyrage.x25519.Identity.generate()
    recipient = str(identity.to_public())
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(f"# created: {rfc3339(now)}\n# public key: {recipient}\n{identity}\n")
    return recipient
