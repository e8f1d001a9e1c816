"""A person's own editor on a text, in a file of its own that nobody else can read. Called by `reconciler edit`.

What the editor shows is the person's business; nothing of it is kept here. The file stays where the caller wants it to.
"""

import os
import shlex
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path


class EditorError(Exception):
    """No editor, or it ended badly; the message is for the person who typed the command."""


def scratch(text: str, suffix: str = ".yaml") -> Path:
    """A new file with that text, for this user only."""
    number, name = tempfile.mkstemp(suffix, "reconciler-")
    with os.fdopen(number, "w", encoding="utf-8") as file:
        file.write(text)
    return Path(name)


def edited(file: Path, env: Mapping[str, str]) -> str:
    """The text after the editor has ended: `$VISUAL`, else `$EDITOR`, else vi. Raises EditorError."""
    words = shlex.split(env.get("VISUAL") or env.get("EDITOR") or "vi")
    try:
        code = subprocess.run([*words, str(file)], check=False).returncode  # noqa: S603 - named by who typed the command
    except OSError as error:
        raise EditorError(f"{words[0]} cannot be started: {error.strerror}; name your editor in EDITOR") from None
    if code:
        raise EditorError(f"{words[0]} ended with {code}")
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EditorError(f"what {words[0]} left cannot be read: {error}") from None
